package app

import (
	"context"
	"errors"
	"time"

	"github.com/smshooks/smshooks/config"
	"github.com/smshooks/smshooks/internal/deadletter"
	"github.com/smshooks/smshooks/internal/replay"
)

// replayMargin is added to the longest time that a replay is under way: for requests, and for a service that is stopped
// for a while.
const replayMargin = time.Hour

// replayConfig returns how long replays are remembered and how many a user may make.
func replayConfig(cfg *config.Config) replay.Config {
	delays := time.Duration(0)
	for _, d := range cfg.Retry.Schedule {
		delays += d
	}
	paused := cfg.Retry.Window
	return replay.Config{KeyPrefix: cfg.Redis.KeyPrefix, Keep: max(cfg.Retry.Window, delays) + paused + replayMargin,
		Limit: cfg.API.ReplayLimit}
}

// userReplays replays dead letters for users.
type userReplays struct {
	*deadletter.Store
	memory *replay.Memory
}

// Replay implements api.DeadLetters.
func (r userReplays) Replay(ctx context.Context, f deadletter.Filter) (int, error) {
	return r.Run(ctx, deadletter.Run{Filter: f, Guard: replayGuard{r.memory, f.UserID}})
}

// Source implements api.Sources.
func (r userReplays) Source(ctx context.Context, o deadletter.Origin) ([]byte, error) {
	record, err := r.Store.Source(ctx, o)
	if record == nil || err != nil {
		return nil, err
	}
	return record.Value, nil
}

// Resend implements api.Sources.
func (r userReplays) Resend(ctx context.Context, userID int64, origins []deadletter.Origin) (int, error) {
	return r.Store.Resend(ctx, origins, replayGuard{r.memory, userID})
}

// replayGuard refuses events whose replay is under way, and events above the user's budget.
type replayGuard struct {
	memory *replay.Memory
	userID int64 // whose budget counts; 0 = no budget: an operator replays
}

// Admit implements deadletter.Guard.
func (g replayGuard) Admit(ctx context.Context, events []*deadletter.Candidate) ([]bool, error) {
	letters := lettersOf(events)
	admitted, unsure := g.memory.Claim(ctx, letters)
	if g.userID == 0 || unsure != nil && !errors.Is(unsure, replay.ErrUnconfirmed) {
		return admitted, unsure
	}
	wanted := 0
	for _, ok := range admitted {
		if ok {
			wanted++
		}
	}
	granted, after, err := g.memory.Spend(ctx, g.userID, wanted, time.Now())
	if err == nil && granted == wanted {
		return admitted, unsure
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
		return admitted, err // the claims expire by themselves
	}
	return admitted, err
}

// Stored implements deadletter.Guard.
func (g replayGuard) Stored(ctx context.Context, events []*deadletter.Candidate) {
	// If it fails, the claims expire soon, and the events may be replayed while they are under way.
	_ = g.memory.Stored(ctx, lettersOf(events))
}

// Failed implements deadletter.Guard.
func (g replayGuard) Failed(ctx context.Context, events []*deadletter.Candidate) {
	// If this fails, the claims expire soon, and the budget within the hour.
	_ = g.memory.Release(ctx, lettersOf(events))
	if g.userID != 0 {
		_ = g.memory.Refund(ctx, g.userID, len(events), time.Now())
	}
}

func lettersOf(events []*deadletter.Candidate) []replay.Letter {
	letters := make([]replay.Letter, len(events))
	for i, e := range events {
		letters[i] = replay.Letter(*e)
	}
	return letters
}
