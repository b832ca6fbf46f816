// Package replay remembers in Redis, for all instances, which dead letters are on their way again, and how many each
// user has sent within the last hour.
//
// A replay is under way from its record's storage until the event is settled for good. Ended forgets it then; what
// cannot be forgotten, as while Redis is away, expires.
package replay

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/outage"
)

const (
	// claimed is how long a claim lasts that nobody confirms, since the process that made it ended.
	claimed = 2 * time.Minute
	// batch is how many commands go to Redis in one pipeline.
	batch = 500
	// endedMost bounds the events that wait to be forgotten.
	endedMost = 10_000
	// again is the pause after Redis could not be reached.
	again = time.Second
	// answer bounds one call.
	answer = 2 * time.Second
	// scan is how long a user's scan is held at most, should the process that holds it end.
	scan = 45 * time.Second
)

// Config of a Memory.
type Config struct {
	KeyPrefix string
	Keep      time.Duration // the longest that a replay may be under way
	Limit     int           // events per user and hour, 0 = no limit
}

// Memory is what is remembered. It is safe for concurrent use.
type Memory struct {
	cfg   Config
	rdb   redis.UniversalClient
	log   *zap.Logger
	ended chan string // keys to delete
}

// New returns a Memory in Redis.
func New(cfg Config, rdb redis.UniversalClient, log *zap.Logger) *Memory {
	return &Memory{cfg: cfg, rdb: rdb, log: log, ended: make(chan string, endedMost)}
}

// Letter is a dead letter that is to be sent again.
type Letter struct {
	UserID    int64
	ID        string
	Partition int32
	Offset    int64 // of the newest dead letter of the event
	End       int64 // of its partition when the replay began
}

// All keys of a user lie in one slot of a cluster.
func (m *Memory) user(userID int64) string {
	return m.cfg.KeyPrefix + "replay:{" + strconv.FormatInt(userID, 10) + "}:"
}

func (m *Memory) event(userID int64, id string) string { return m.user(userID) + "event:" + id }

// Begin takes a user's turn to scan; ok is false if the user has it already, at any instance.
func (m *Memory) Begin(ctx context.Context, userID int64) (end func(), ok bool, err error) {
	key := m.user(userID) + "scan"
	err = m.rdb.SetArgs(ctx, key, "1", redis.SetArgs{Mode: "NX", TTL: scan}).Err()
	switch {
	case errors.Is(err, redis.Nil):
		return nil, false, nil
	case err != nil:
		return nil, false, fmt.Errorf("begin a scan: %w", err)
	}
	return func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answer)
		defer cancel()
		_ = m.rdb.Del(ctx, key).Err() // else it expires
	}, true, nil
}

// Claim reports for each letter whether it may be sent now: not if its replay is still under way. An event that died
// again after it was replayed is not. What is claimed is to be confirmed by Stored, or given back by Release.
func (m *Memory) Claim(ctx context.Context, letters []Letter) ([]bool, error) {
	free := make([]bool, len(letters))
	args := redis.SetArgs{Mode: "NX", Get: true, TTL: claimed}
	for begin := 0; begin < len(letters); begin += batch {
		part := letters[begin:min(begin+batch, len(letters))]
		cmds := make([]*redis.StatusCmd, len(part))
		_, err := m.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i := range part {
				cmds[i] = p.SetArgs(ctx, m.event(part[i].UserID, part[i].ID), part[i].mark(), args)
			}
			return nil
		})
		if err != nil && !errors.Is(err, redis.Nil) {
			return nil, fmt.Errorf("claim events to be replayed: %w", err)
		}
		for i, cmd := range cmds {
			former, err := cmd.Result()
			free[begin+i] = errors.Is(err, redis.Nil) || err == nil && part[i].diedAfter(former)
		}
	}
	return free, nil
}

// mark is what is remembered of a replay: which dead letters of the event were there when it began.
func (l *Letter) mark() string {
	return strconv.FormatInt(int64(l.Partition), 10) + ":" + strconv.FormatInt(l.End, 10)
}

// diedAfter reports whether the letter is newer than the replay that left mark.
func (l *Letter) diedAfter(mark string) bool {
	partition, end, ok := strings.Cut(mark, ":")
	p, err1 := strconv.ParseInt(partition, 10, 32)
	e, err2 := strconv.ParseInt(end, 10, 64)
	return !ok || err1 != nil || err2 != nil || int32(p) != l.Partition || l.Offset >= e
}

// Stored keeps the claims of letters whose records were stored. One that Ended has forgotten already stays forgotten:
// the first of many events may have been settled before the last one was stored.
func (m *Memory) Stored(ctx context.Context, letters []Letter) error {
	return m.each(ctx, letters, func(ctx context.Context, p redis.Pipeliner, l *Letter) {
		p.SetArgs(ctx, m.event(l.UserID, l.ID), l.mark(), redis.SetArgs{Mode: "XX", TTL: m.cfg.Keep})
	})
}

// Release gives claims back.
func (m *Memory) Release(ctx context.Context, letters []Letter) error {
	return m.each(ctx, letters, func(ctx context.Context, p redis.Pipeliner, l *Letter) {
		p.Del(ctx, m.event(l.UserID, l.ID))
	})
}

func (m *Memory) each(ctx context.Context, letters []Letter, do func(context.Context, redis.Pipeliner, *Letter)) error {
	for begin := 0; begin < len(letters); begin += batch {
		part := letters[begin:min(begin+batch, len(letters))]
		_, err := m.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i := range part {
				do(ctx, p, &part[i])
			}
			return nil
		})
		if err != nil && !errors.Is(err, redis.Nil) {
			return fmt.Errorf("remember replays: %w", err)
		}
	}
	return nil
}

// spend takes up to wanted events of a user's budget of the last hour, which is counted by minutes. It returns how many
// there are, and the minutes until some come back.
//
// KEYS: the user's budget. ARGV: this minute, wanted, limit.
var spend = redis.NewScript(`
local fields, minute = {}, tonumber(ARGV[1])
for i = 0, 60 do fields[i + 1] = tostring(minute - i) end
local counts, used, oldest = redis.call('HMGET', KEYS[1], unpack(fields)), 0, 0
for i = 1, 61 do
  local n = tonumber(counts[i] or '0') or 0
  used = used + n
  if n > 0 then oldest = 62 - i end
end
local granted = math.max(0, math.min(tonumber(ARGV[2]), tonumber(ARGV[3]) - used))
if granted > 0 then
  redis.call('HSET', KEYS[1], fields[1], (tonumber(counts[1] or '0') or 0) + granted)
  redis.call('PEXPIRE', KEYS[1], 3720000)
end
return {granted, oldest}`)

// Spend takes up to wanted events of a user's budget. It returns how many may be sent, and if that is fewer, in how
// long more may be.
func (m *Memory) Spend(ctx context.Context, userID int64, wanted int, now time.Time) (granted int, after time.Duration, err error) {
	if m.cfg.Limit == 0 || wanted == 0 {
		return wanted, 0, nil
	}
	minute := now.Unix() / 60
	got, err := spend.Run(ctx, m.rdb, []string{m.user(userID) + "budget"}, minute, wanted, m.cfg.Limit).Int64Slice()
	if err != nil || len(got) != 2 {
		return 0, 0, fmt.Errorf("budget of replays: %w", errors.Join(err))
	}
	granted = int(got[0])
	return granted, max(time.Duration(got[1])*time.Minute, time.Minute), nil
}

// Limit is how many events a user may replay per hour, 0 if there is no limit.
func (m *Memory) Limit() int { return m.cfg.Limit }

// Ended forgets a replay whose event was settled for good. It returns at once.
func (m *Memory) Ended(userID int64, id string) {
	select {
	case m.ended <- m.event(userID, id):
	default: // it expires
	}
}

// Run forgets what has ended until ctx ends.
func (m *Memory) Run(ctx context.Context) {
	unforgotten := outage.New(m.log, "cannot forget replays that have ended, trying again", "replays that have ended are forgotten again")
	for {
		var keys []string
		select {
		case <-ctx.Done():
			return
		case key := <-m.ended:
			keys = append(keys, key)
		}
		for len(keys) < batch && len(m.ended) > 0 {
			keys = append(keys, <-m.ended)
		}
		for {
			err := m.forget(ctx, keys)
			if err == nil {
				unforgotten.Recover()
				break
			}
			if ctx.Err() != nil {
				return
			}
			unforgotten.Fail(err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(again):
			}
		}
	}
}

func (m *Memory) forget(ctx context.Context, keys []string) error {
	ctx, cancel := context.WithTimeout(ctx, answer)
	defer cancel()
	_, err := m.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, key := range keys {
			p.Del(ctx, key)
		}
		return nil
	})
	return err
}
