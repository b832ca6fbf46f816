package app

import (
	"context"
	"time"

	"github.com/smshooks/smshooks/config"
	"github.com/smshooks/smshooks/internal/deadletter"
	"github.com/smshooks/smshooks/internal/replay"
)

// replayMargin is what a replay may be under way longer than its window or its delays: requests, and a service that
// is away for a while.
const replayMargin = time.Hour

// replayConfig says how replays are remembered by the settings.
func replayConfig(cfg *config.Config) replay.Config {
	delays := time.Duration(0)
	for _, d := range cfg.Retry.Schedule {
		delays += d
	}
	return replay.Config{KeyPrefix: cfg.Redis.KeyPrefix, Keep: max(cfg.Retry.Window, delays) + replayMargin, Limit: cfg.API.ReplayLimit}
}

// userReplays are the dead letters as users may send them again.
type userReplays struct {
	*deadletter.Store
	memory *replay.Memory
}

// Replay implements api.DeadLetters.
func (r userReplays) Replay(ctx context.Context, f deadletter.Filter) (int, error) {
	return r.Run(ctx, deadletter.Run{Filter: f, Guard: replayGuard{r.memory, f.UserID}})
}

// replayGuard admits no event whose replay is under way, and no more of a user's than the budget has.
type replayGuard struct {
	memory *replay.Memory
	userID int64 // whose budget counts, 0 = nobody's: an operator replays
}

// Admit implements deadletter.Guard.
func (g replayGuard) Admit(ctx context.Context, events []*deadletter.Candidate) ([]bool, error) {
	letters := lettersOf(events)
	admitted, err := g.memory.Claim(ctx, letters)
	if err != nil || g.userID == 0 {
		return admitted, err
	}
	wanted := 0
	for _, ok := range admitted {
		if ok {
			wanted++
		}
	}
	granted, after, err := g.memory.Spend(ctx, g.userID, wanted, time.Now())
	if err == nil && granted == wanted {
		return admitted, nil
	}
	if err == nil {
		err = &deadletter.LimitError{After: after}
	}
	var excess []replay.Letter
	for i, ok := range admitted {
		if ok && granted == 0 {
			admitted[i] = false
			excess = append(excess, letters[i])
		} else if ok {
			granted--
		}
	}
	if g.memory.Release(ctx, excess) != nil {
		return admitted, err // the claims expire soon
	}
	return admitted, err
}

// Stored implements deadletter.Guard.
func (g replayGuard) Stored(ctx context.Context, events []*deadletter.Candidate) {
	// Without Redis the claims expire soon, and the events may be sent again while they are under way.
	_ = g.memory.Stored(ctx, lettersOf(events))
}

func lettersOf(events []*deadletter.Candidate) []replay.Letter {
	letters := make([]replay.Letter, len(events))
	for i, e := range events {
		letters[i] = replay.Letter(*e)
	}
	return letters
}
