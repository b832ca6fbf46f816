package settings

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/compacted"
)

const (
	// sweepPeriod is the time from the start of one sweep to the next one.
	sweepPeriod = 5 * time.Second
	// sweepBatch is the number of keys that a sweep compares in one round trip.
	sweepBatch = 250
	// sweepRate bounds a sweep, in keys per second, as long as nothing is wrong.
	sweepRate = 5000
	// muchLost is the number of keys that one sweep repairs one by one. Beyond it
	// Redis is filled again.
	muchLost = 1000
	// purgeWait bounds how long a start waits for outdated entries to be removed
	// from Redis. They are never used as an answer anyway.
	purgeWait = 10 * time.Second
)

// sweepLoop compares Redis with the topic, key by key, until ctx ends: nothing else notices that single keys were
// evicted or deleted. One instance at a time is enough. A sweep is slow unless a lookup has just found a lost key.
func (s *Store) sweepLoop(ctx context.Context) {
	for {
		hurry := false
		select {
		case <-ctx.Done():
			return
		case <-s.sweepNow:
			hurry = true
		case <-time.After(sweepPeriod):
		}
		if !s.ready() {
			continue
		}
		kept := max(sweepPeriod, time.Duration(s.index.Len()/sweepRate)*time.Second)
		if mine, err := s.rdb.claim(ctx, "sweep", kept); err != nil || !mine && !hurry {
			continue // other outages report that Redis is not reachable
		}
		if _, err := s.sweep(ctx, hurry); err != nil && ctx.Err() == nil {
			s.noSweep.Fail(err)
			continue
		}
		s.noSweep.Recover()
		if hurry && compacted.Sleep(ctx, time.Second) != nil {
			return
		}
	}
}

// sweepSoon starts a sweep now.
func (s *Store) sweepSoon() {
	select {
	case s.sweepNow <- struct{}{}:
	default:
	}
}

// sweep compares every user with Redis, and repairs the differences. It returns their number.
func (s *Store) sweep(ctx context.Context, hurry bool) (wrong int, err error) {
	var unchecked []int64
	for shard := range compacted.Shards {
		unchecked = append(unchecked, s.index.Keys(shard)...)
		for last := shard == compacted.Shards-1; len(unchecked) >= sweepBatch || last && len(unchecked) > 0; {
			users := unchecked[:min(len(unchecked), sweepBatch)]
			unchecked = unchecked[len(users):]
			found, err := s.compare(ctx, users)
			if err != nil {
				return wrong, err
			}
			if wrong += found; wrong > muchLost {
				s.fillAgain.Store(true)
				return wrong, nil
			}
			if hurry {
				continue
			}
			if err := compacted.Sleep(ctx, time.Second*time.Duration(len(users))/sweepRate); err != nil {
				return wrong, err
			}
		}
	}
	return wrong, nil
}

// compare compares the versions of some users in Redis.
func (s *Store) compare(ctx context.Context, users []int64) (wrong int, err error) {
	rows, err := s.rdb.read(ctx, users...)
	if err != nil {
		return 0, err
	}
	for i, userID := range users {
		ver, removed := s.newest(userID)
		if rows[i].seen == "" && rows[i].err == nil && (removed || ver.Offset == 0) {
			continue
		}
		is, err := s.rowState(ctx, userID, rows[i])
		if err != nil {
			return wrong, err
		}
		if is == current || is == outdated && rows[i].err == nil && !s.queue.idle() { // it is queued
			continue
		}
		wrong++
		s.repairing(userID, rows[i].seen)
	}
	return wrong, nil
}

// purge removes from Redis what the topic no longer holds: users whose tombstones were compacted away while no instance
// ran, and all that was written of the topic before it was deleted and created again.
func (s *Store) purge(ctx context.Context) error {
	var gone atomic.Int64
	err := s.rdb.scan(ctx, *s.rdb.id.Load(), func(ctx context.Context, names []string) error {
		var doubtful []int64
		for _, name := range names {
			id, isUser := strings.CutPrefix(name, "user:")
			userID, err := parseUserKey([]byte(id))
			if !isUser || err != nil {
				continue
			}
			if ver, _ := s.newest(userID); ver.Offset == 0 {
				doubtful = append(doubtful, userID)
			}
		}
		removals, err := s.foreign(ctx, doubtful)
		if err != nil {
			return err
		}
		gone.Add(int64(len(removals)))
		return s.rdb.remove(ctx, removals)
	})
	if err == nil {
		var n int64
		n, err = s.purgePrevious(ctx)
		gone.Add(n)
	}
	if n := gone.Load(); n > 0 {
		s.log.Info("removed from Redis what the settings topic no longer holds", zap.Int64("keys", n))
	}
	if redis.HasErrorPrefix(err, "NOPERM") || redis.HasErrorPrefix(err, "unknown command") {
		s.log.Warn("Redis refuses SCAN: rows that the settings topic no longer holds stay in Redis, unused", zap.Error(err))
		return nil
	}
	return err
}

func (s *Store) purgePrevious(ctx context.Context) (n int64, err error) {
	previous, err := s.rdb.previousID(ctx, s.cfg.Topic)
	if err != nil {
		return 0, err
	}
	if previous != "" {
		if n, err = s.rdb.discard(ctx, previous); err != nil {
			return n, err
		}
	}
	return n, s.rdb.replaced(ctx, s.cfg.Topic)
}

// foreign returns those of the users that must be removed from Redis, because the topic has no record of them.
func (s *Store) foreign(ctx context.Context, users []int64) ([]removal, error) {
	if len(users) == 0 {
		return nil, nil
	}
	rows, err := s.rdb.read(ctx, users...)
	if err != nil {
		return nil, err
	}
	var removals []removal
	for i, userID := range users {
		is, err := s.rowState(ctx, userID, rows[i])
		if err != nil {
			return nil, err
		}
		if is != current {
			removals = append(removals, removal{userID, rows[i].seen})
		}
	}
	return removals, nil
}

// purgeSoon purges, and waits for it for a limited time.
func (s *Store) purgeSoon(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- s.purge(ctx) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return errors.Join(ctx.Err(), <-done)
	case <-time.After(purgeWait):
		s.log.Info("still removing from Redis what the settings topic no longer holds")
		return nil
	}
}
