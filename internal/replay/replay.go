// Package replay records in Redis, for all instances, which replays are under way and how many events each user has
// replayed within the last hour.
//
// A replay is under way from the time its record is stored until the event is settled with a final fate. Ended removes
// it then. If that fails, for example because Redis is not reachable, it expires.
//
// internal/app calls it for the API's replays and for those of the command, and calls Ended for settled events. Run
// removes ended replays in the caller's goroutine. A turn has a goroutine that renews it until it ends.
package replay

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/outage"
)

const (
	// claimed is the lifetime of a claim whose process ended before it confirmed it.
	claimed = 2 * time.Minute
	// batch is the number of commands in one pipeline to Redis.
	batch = 500
	// maxEnded is the largest number of ended replays that are queued for removal.
	maxEnded = 10_000
	// again is the pause after Redis could not be reached.
	again = time.Second
	// answer bounds one call.
	answer = 2 * time.Second
	// turn is the lifetime of a user's turn that is not renewed: its process ended, or Redis granted it too late for the
	// answer to be read. renewal is the pause between two renewals.
	turn, renewal = 5 * time.Second, time.Second
)

// turnScript sets the lifetime of a turn at KEYS[1] to ARGV[2] milliseconds if ARGV[1] still has it. 0 ends it.
var turnScript = redis.NewScript(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])`)

// Config of a Memory.
type Config struct {
	KeyPrefix string        // of every Redis key, e.g. "smshooks:"
	Keep      time.Duration // the longest time that a replay may be under way
	Limit     int           // events per user and hour; 0: no limit
}

// Memory remembers the replays under way. It is safe for concurrent use.
type Memory struct {
	cfg   Config
	rdb   redis.UniversalClient
	log   *zap.Logger
	ended chan string // keys to delete
}

// New returns a Memory in Redis; Run must be running for ended replays to be removed.
func New(cfg Config, rdb redis.UniversalClient, log *zap.Logger) *Memory {
	return &Memory{cfg: cfg, rdb: rdb, log: log, ended: make(chan string, maxEnded)}
}

// Letter is a dead letter, or an event with its source record, to replay.
type Letter struct {
	UserID    int64
	ID        string
	Partition int32 // of the dead letter; -1 if there is none
	Offset    int64 // of the newest dead letter of the event
	End       int64 // of its partition when the replay began
}

// user returns the prefix of all keys of a user, which are in one slot of a cluster.
func (m *Memory) user(userID int64) string {
	return m.cfg.KeyPrefix + "replay:{" + strconv.FormatInt(userID, 10) + "}:"
}

func (m *Memory) event(userID int64, id string) string { return m.user(userID) + "event:" + id }

// Begin takes a user's turn at something until end is called; ok is false if another request of the user has it, at
// any instance.
func (m *Memory) Begin(ctx context.Context, what string, userID int64) (end func(), ok bool, err error) {
	key, token := m.user(userID)+what, rand.Text()
	holder, err := m.rdb.SetArgs(ctx, key, token, redis.SetArgs{Mode: "NX", Get: true, TTL: turn}).Result()
	switch {
	case errors.Is(err, redis.Nil), err == nil && holder == token: // the client may have asked twice
	case err == nil:
		return nil, false, nil
	default:
		return nil, false, fmt.Errorf("reserve a turn in Redis: %w", err)
	}
	having, stop := context.WithCancel(context.WithoutCancel(ctx))
	go m.renew(having, key, token)
	return func() {
		stop()
		_ = m.setTurn(context.WithoutCancel(ctx), key, token, 0) // otherwise it expires
	}, true, nil
}

// renew keeps a turn until ctx ends.
func (m *Memory) renew(ctx context.Context, key, token string) {
	ticker := time.NewTicker(renewal)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			_ = m.setTurn(ctx, key, token, turn) // tried again
		}
	}
}

func (m *Memory) setTurn(ctx context.Context, key, token string, lasts time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, answer)
	defer cancel()
	return turnScript.Run(ctx, m.rdb, []string{key}, token, lasts.Milliseconds()).Err()
}

// ErrUnconfirmed means that another process has claimed some of the letters and not said whether their records were
// stored: it is still working, or was killed. Its claims end within two minutes.
var ErrUnconfirmed = errors.New("some of the events are being replayed now, or a replay of them was interrupted: " +
	"try again in two minutes")

// Claim reports for each letter whether it may be replayed now: not if its replay is still under way. A replay has
// ended if the event has a newer dead letter. The caller confirms claims with Stored or releases them with Release.
// With ErrUnconfirmed the answers count.
func (m *Memory) Claim(ctx context.Context, letters []Letter) ([]bool, error) {
	free := make([]bool, 0, len(letters))
	args := redis.SetArgs{Mode: "NX", Get: true, TTL: claimed}
	own := ":" + rand.Text() // the client may ask twice
	var unconfirmed error
	for part := range slices.Chunk(letters, batch) {
		cmds := make([]*redis.StatusCmd, len(part))
		// The first error, which Pipelined returns, may be the redis.Nil of a free event.
		_, _ = m.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i := range part {
				cmds[i] = p.SetArgs(ctx, m.event(part[i].UserID, part[i].ID), part[i].mark()+own, args)
			}
			return nil
		})
		for i, cmd := range cmds {
			previous, err := cmd.Result()
			if err != nil && !errors.Is(err, redis.Nil) {
				return nil, fmt.Errorf("claim replays in Redis: %w", err)
			}
			ok := errors.Is(err, redis.Nil) ||
				err == nil && (strings.HasSuffix(previous, own) || part[i].diedAfter(previous))
			free = append(free, ok)
			if !ok && strings.Count(previous, ":") > strings.Count(part[i].mark(), ":") {
				unconfirmed = ErrUnconfirmed
			}
		}
	}
	return free, unconfirmed
}

// mark returns the value stored for a replay: it identifies the dead letters of the event that existed when it began.
// In a claim, a colon and a unique text follow.
func (l *Letter) mark() string {
	return strconv.FormatInt(int64(l.Partition), 10) + ":" + strconv.FormatInt(l.End, 10)
}

// diedAfter reports whether the letter is newer than the replay that left mark.
func (l *Letter) diedAfter(mark string) bool {
	partition, rest, ok := strings.Cut(mark, ":")
	end, _, _ := strings.Cut(rest, ":")
	p, err1 := strconv.ParseInt(partition, 10, 32)
	e, err2 := strconv.ParseInt(end, 10, 64)
	if err1 == nil && (p < 0 || l.Partition < 0) {
		return false // without two dead letters none is newer
	}
	return !ok || err1 != nil || err2 != nil || int32(p) != l.Partition || l.Offset >= e
}

// Stored keeps the claims of letters whose records were stored. One that Ended has removed stays removed: the first of
// many events may have been settled before the last one was stored.
func (m *Memory) Stored(ctx context.Context, letters []Letter) error {
	return m.each(ctx, letters, func(ctx context.Context, p redis.Pipeliner, l *Letter) {
		p.SetArgs(ctx, m.event(l.UserID, l.ID), l.mark(), redis.SetArgs{Mode: "XX", TTL: m.cfg.Keep})
	})
}

// Release removes claims.
func (m *Memory) Release(ctx context.Context, letters []Letter) error {
	return m.each(ctx, letters, func(ctx context.Context, p redis.Pipeliner, l *Letter) {
		p.Del(ctx, m.event(l.UserID, l.ID))
	})
}

func (m *Memory) each(ctx context.Context, letters []Letter, do func(context.Context, redis.Pipeliner, *Letter)) error {
	for part := range slices.Chunk(letters, batch) {
		// The first error, which Pipelined returns, may be the redis.Nil of a claim that has ended.
		cmds, _ := m.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i := range part {
				do(ctx, p, &part[i])
			}
			return nil
		})
		for _, cmd := range cmds {
			if err := cmd.Err(); err != nil && !errors.Is(err, redis.Nil) {
				return fmt.Errorf("record replays in Redis: %w", err)
			}
		}
	}
	return nil
}

// spend takes up to wanted events of a user's budget of the last hour, which is counted by minutes. It returns how many
// were left, and the minutes until there are more. It deletes the minutes before that hour: the key exists for 62
// minutes after the last use, so none older than twice that is left, with some more for clocks that differ.
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
  local old = {}
  for i = 61, 180 do old[i - 60] = tostring(minute - i) end
  redis.call('HDEL', KEYS[1], unpack(old))
  redis.call('PEXPIRE', KEYS[1], 3720000)
end
return {granted, oldest}`)

// Spend takes up to wanted events of a user's budget. It returns how many may be replayed, and if these are fewer, the
// time until there are more.
func (m *Memory) Spend(ctx context.Context, userID int64, wanted int,
	now time.Time) (granted int, after time.Duration, err error) {
	if m.cfg.Limit == 0 || wanted == 0 {
		return wanted, 0, nil
	}
	minute := now.Unix() / 60
	got, err := spend.Run(ctx, m.rdb, []string{m.user(userID) + "budget"}, minute, wanted, m.cfg.Limit).Int64Slice()
	if err != nil || len(got) != 2 {
		return 0, 0, fmt.Errorf("read the budget of replays in Redis: %w", errors.Join(err))
	}
	granted = int(got[0])
	return granted, max(time.Duration(got[1])*time.Minute, time.Minute), nil
}

// refund gives events of a user's budget back, those spent last first.
//
// KEYS: the user's budget. ARGV: this minute, how many events.
var refund = redis.NewScript(`
local left = tonumber(ARGV[2])
for i = 0, 60 do
  local field = tostring(tonumber(ARGV[1]) - i)
  local n = tonumber(redis.call('HMGET', KEYS[1], field)[1] or '0') or 0
  local back = math.min(n, left)
  if back > 0 then redis.call('HSET', KEYS[1], field, n - back) end
  left = left - back
  if left == 0 then break end
end
return left`)

// Refund gives back n events of a user's budget that Spend has taken and that were not replayed.
func (m *Memory) Refund(ctx context.Context, userID int64, n int, now time.Time) error {
	if m.cfg.Limit == 0 || n == 0 {
		return nil
	}
	if err := refund.Run(ctx, m.rdb, []string{m.user(userID) + "budget"}, now.Unix()/60, n).Err(); err != nil {
		return fmt.Errorf("give the budget of replays back in Redis: %w", err)
	}
	return nil
}

// Limit is how many events a user may replay per hour, 0 if there is no limit.
func (m *Memory) Limit() int { return m.cfg.Limit }

// Ended removes a replay whose event has its final fate. It returns at once.
func (m *Memory) Ended(userID int64, id string) {
	select {
	case m.ended <- m.event(userID, id):
	default: // it expires
	}
}

// Run removes ended replays until ctx ends, and then those that are queued.
func (m *Memory) Run(ctx context.Context) {
	unforgotten := outage.New(m.log, "cannot remove ended replays from Redis; retrying",
		"ended replays are removed from Redis again")
	for {
		var keys []string
		select {
		case <-ctx.Done():
			m.forgetQueued(nil)
			return
		case key := <-m.ended:
			keys = m.gather([]string{key})
		}
		for {
			err := m.forget(ctx, keys)
			if err == nil {
				unforgotten.Recover()
				break
			}
			if ctx.Err() != nil {
				m.forgetQueued(keys)
				return
			}
			unforgotten.Fail(err)
			select {
			case <-ctx.Done():
				m.forgetQueued(keys)
				return
			case <-time.After(again):
			}
		}
	}
}

// gather adds keys from the queue, up to a batch.
func (m *Memory) gather(keys []string) []string {
	for len(keys) < batch && len(m.ended) > 0 {
		keys = append(keys, <-m.ended)
	}
	return keys
}

// forgetQueued removes keys and the queued ones without a retry, for at most answer. Those that remain expire.
func (m *Memory) forgetQueued(keys []string) {
	ctx, cancel := context.WithTimeout(context.Background(), answer)
	defer cancel()
	for keys = m.gather(keys); len(keys) > 0; keys = m.gather(nil) {
		if err := m.forget(ctx, keys); err != nil {
			m.log.Warn("cannot remove ended replays from Redis; they expire", zap.Int("replays", len(keys)+len(m.ended)),
				zap.Error(err))
			return
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
