package settings

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
)

const (
	// sweepPeriod is the time from the start of one sweep to the next one.
	sweepPeriod = 5 * time.Second
	// sweepBatch is how many keys a sweep looks at in one round trip.
	sweepBatch = 250
	// sweepRate bounds a sweep, in keys per second, as long as nothing is wrong.
	sweepRate = 5000
	// muchLost is how many keys are repaired one by one in one sweep. Beyond it
	// Redis is filled anew.
	muchLost = 1000
	// purgeWait bounds how long a start waits for what is gone to be removed from
	// Redis. It isn't answered in any case.
	purgeWait = 10 * time.Second
)

// keepSwept compares Redis with the topics, key by key, until ctx ends: an
// eviction or a deletion of single keys shows nowhere else. One instance at a
// time is enough. A sweep goes at an easy pace unless a look-up has just met a
// key that was lost.
func (s *Store) keepSwept(ctx context.Context) {
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
		kept := max(sweepPeriod, time.Duration(s.userIndex.len()/sweepRate)*time.Second)
		if mine, err := s.rdb.lease(ctx, "sweep", kept); err != nil || !mine && !hurry {
			continue // with Redis away, others say so
		}
		if _, err := s.sweep(ctx, hurry); err != nil && ctx.Err() == nil {
			s.noSweep.Fail(err)
			continue
		}
		s.noSweep.Recover()
		if hurry && sleep(ctx, time.Second) != nil {
			return
		}
	}
}

// hurry has a sweep begin now.
func (s *Store) hurry() {
	select {
	case s.sweepNow <- struct{}{}:
	default:
	}
}

// sweep compares every user, and the API keys in memory, with Redis, and has
// repaired what differs. It returns how many did.
func (s *Store) sweep(ctx context.Context, hurry bool) (wrong int, err error) {
	look := func(subjects []subject) error {
		for len(subjects) > 0 {
			n := min(sweepBatch, len(subjects))
			found, err := s.compare(ctx, subjects[:n])
			if err != nil {
				return err
			}
			if wrong += found; wrong > muchLost {
				s.fillAgain.Store(true)
				return nil
			}
			subjects = subjects[n:]
			if !hurry {
				if err := sleep(ctx, time.Second*time.Duration(n)/sweepRate); err != nil {
					return err
				}
			}
		}
		return nil
	}
	for shard := range shardCount {
		var subjects []subject
		for _, id := range s.userIndex.keys(shard) {
			subjects = append(subjects, subject{user: id})
		}
		for _, key := range s.keys.keys(shard) {
			subjects = append(subjects, subject{isKey: true, key: key})
		}
		if err := look(subjects); err != nil || wrong > muchLost {
			return wrong, err
		}
	}
	return wrong, nil
}

// compare looks at the versions of some subjects in Redis.
func (s *Store) compare(ctx context.Context, subjects []subject) (wrong int, err error) {
	names := make([]string, len(subjects))
	for i, x := range subjects {
		names[i] = x.name()
	}
	rows, err := s.rdb.read(ctx, names)
	if err != nil {
		return 0, err
	}
	for i, x := range subjects {
		ver, removed := s.newest(x)
		if rows[i].seen == "" && rows[i].err == nil && (removed || ver.Offset == 0) {
			continue
		}
		is, err := s.worthOf(ctx, x, rows[i])
		if err != nil {
			return wrong, err
		}
		if is == current || is == outdated && rows[i].err == nil && !s.queue.idle() { // what waits is on its way
			continue
		}
		wrong++
		s.repairing(x, rows[i].seen)
	}
	return wrong, nil
}

// purge removes from Redis what the topics no longer hold: users and keys whose
// tombstones were compacted away while no instance ran, and all that was
// written of the topics before they were deleted and created again.
func (s *Store) purge(ctx context.Context) error {
	var gone atomic.Int64
	err := s.rdb.scan(ctx, *s.rdb.id.Load(), func(ctx context.Context, names []string) error {
		var doubtful []subject
		for _, name := range names {
			if x, ok := parseName(name); ok {
				if ver, _ := s.newest(x); ver.Offset == 0 {
					doubtful = append(doubtful, x)
				}
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
		n, err = s.purgeFormer(ctx)
		gone.Add(n)
	}
	if n := gone.Load(); n > 0 {
		s.log.Info("removed from Redis what the settings topics no longer hold", zap.Int64("keys", n))
	}
	if redis.HasErrorPrefix(err, "NOPERM") {
		s.log.Warn("Redis user may not SCAN: what the settings topics no longer hold stays in Redis, but is never used", zap.Error(err))
		return nil
	}
	return err
}

func (s *Store) purgeFormer(ctx context.Context) (n int64, err error) {
	topics := s.cfg.ConfigTopic + ":" + s.cfg.KeysTopic
	former, err := s.rdb.former(ctx, topics)
	if err != nil {
		return 0, err
	}
	if former != "" {
		if n, err = s.rdb.discard(ctx, former); err != nil {
			return n, err
		}
	}
	return n, s.rdb.replaced(ctx, topics)
}

// foreign returns which of the subjects, of which the topics have no record, are
// in Redis for no good reason.
func (s *Store) foreign(ctx context.Context, subjects []subject) ([]removal, error) {
	if len(subjects) == 0 {
		return nil, nil
	}
	names := make([]string, len(subjects))
	for i, x := range subjects {
		names[i] = x.name()
	}
	rows, err := s.rdb.read(ctx, names)
	if err != nil {
		return nil, err
	}
	var removals []removal
	for i, x := range subjects {
		is, err := s.worthOf(ctx, x, rows[i])
		if err != nil {
			return nil, err
		}
		if is != current {
			removals = append(removals, removal{names[i], rows[i].seen})
		}
	}
	return removals, nil
}

// parseName is the inverse of subject.name.
func parseName(name string) (x subject, ok bool) {
	if id, isUser := strings.CutPrefix(name, "user:"); isUser {
		var err error
		x.user, err = parseUserKey([]byte(id))
		return x, err == nil
	}
	if hash, isKey := strings.CutPrefix(name, "key:"); isKey {
		var err error
		x.isKey = true
		x.key, err = parseKeyHash([]byte(hash))
		return x, err == nil
	}
	return x, false
}

// purgeSoon purges, and waits for it, but not for long.
func (s *Store) purgeSoon(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- s.purge(ctx) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return errors.Join(ctx.Err(), <-done)
	case <-time.After(purgeWait):
		s.log.Info("still removing from Redis what the settings topics no longer hold")
		return nil
	}
}
