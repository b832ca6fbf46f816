package settings

import (
	"context"
	"encoding/hex"
	"errors"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/compacted"
)

const (
	// watchPeriod is how often Redis is asked whether it has lost anything.
	watchPeriod = 500 * time.Millisecond
	// countPeriod is how often the users in memory are counted.
	countPeriod = 5 * time.Second
	// batchSize is the most documents that go to Redis in one round trip.
	batchSize = 500
	// lanes is the number of round trips a rebuild has under way at once.
	lanes = 4
	// maxHold bounds the pause after a rebuild that found nothing to write: another
	// instance was first, or Redis evicts the keys by which it is watched.
	maxHold = 3 * time.Second
)

// begin prepares for reading the topic from its start. void: what memory holds does not count any more.
func (s *Store) begin(void bool, r *compacted.Reader) {
	if void {
		s.filled.Store(false)
		s.users.clear()
		s.index.Clear()
		id := r.ID()
		s.rdb.use(hex.EncodeToString(id[:8])) // as unique as is needed here, and the keys of Redis stay short
		s.closeProducer()                     // it would continue with the topic as it was
		s.locked = map[int64]compacted.Version{}
	}
	s.queue.reset()
}

// take brings a record into memory and passes it on to Redis if it came after the reading began; what was there before
// is written by the rebuild, which begins later and so sees a later end.
func (s *Store) take(r *kgo.Record, fresh bool) error {
	c, err := s.decode(r)
	if err != nil {
		return err
	}
	s.hear(&c)
	if c.locked != nil {
		if s.topic.Read() {
			s.reportLocked(map[int64]compacted.Version{c.userID: c.ver})
		} else {
			s.locked[c.userID] = c.ver
		}
	}
	s.updates.witness(&c, r)
	if fresh && s.cfg.Materialise {
		s.queue.push(c)
	}
	return nil
}

// end is called when the topic was read to its end.
func (s *Store) end() {
	users := s.users.count()
	s.obs.ConfigUsers(users)
	s.log.Info("config topic read to its end", zap.Int("users_in_memory", users))
	s.reportLocked(s.locked)
	s.locked = nil
	s.becameReady()
}

// beside runs while a reader reads.
func (s *Store) beside(ctx context.Context, _ *compacted.Reader) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { s.makeRepairs(ctx) })
	wg.Go(func() { s.orphans.run(ctx, s.unlock) })
	wg.Go(func() { s.countUsers(ctx) })
	if !s.cfg.Materialise {
		return nil
	}
	wg.Go(func() { s.writeChanges(ctx) })
	wg.Go(func() { s.keepSwept(ctx) })
	return s.keepFilled(ctx)
}

// countUsers measures the users in memory until ctx ends.
func (s *Store) countUsers(ctx context.Context) {
	for compacted.Sleep(ctx, countPeriod) == nil {
		s.obs.ConfigUsers(s.users.count())
	}
}

// writeChanges writes to Redis what follow heard, in order, until ctx ends.
func (s *Store) writeChanges(ctx context.Context) {
	for ctx.Err() == nil {
		batch := s.queue.take(batchSize)
		if len(batch) == 0 {
			select {
			case <-s.queue.wake:
			case <-ctx.Done():
			}
			continue
		}
		for pause := compacted.NewBackoff(); len(batch) > 0; {
			n, err := s.rdb.write(ctx, batch, nil)
			batch = batch[n:]
			if err != nil {
				s.noWriting.Fail(err)
				if pause.Wait(ctx) != nil {
					return
				}
			}
		}
		s.noWriting.Recover()
		s.queue.finished()
	}
}

// keepFilled fills Redis at the start and whenever it has lost something or
// changes were dropped. It returns when ctx ends or a topic was created again.
func (s *Store) keepFilled(ctx context.Context) error {
	fill := true
	var hold time.Duration
	var notBefore time.Time
	pause := compacted.NewBackoff()
	for {
		lost, err := s.rdb.lost(ctx)
		if lost {
			s.log.Warn("Redis has lost writes: it is filled with settings again")
		}
		_, unhealed := s.queue.dropped()
		fill = fill || lost || unhealed || s.fillAgain.Swap(false)
		if fill && err == nil && time.Now().After(notBefore) {
			var count tally
			if err = s.fill(ctx, &count); err == nil {
				fill, hold = false, min(max(2*hold, 100*time.Millisecond), maxHold)
				if count.applied.Load() > 0 {
					hold = 0
				}
				notBefore = time.Now().Add(hold)
			}
		}
		switch {
		case ctx.Err() != nil, errors.Is(err, compacted.ErrRecreated):
			return err
		case err != nil:
			s.noFilling.Fail(err)
			err = pause.Wait(ctx)
		default:
			s.noFilling.Recover()
			pause = compacted.NewBackoff()
			err = compacted.Sleep(ctx, watchPeriod)
		}
		if err != nil {
			return err
		}
	}
}

// fill writes everything that the topics hold to Redis and removes what they
// don't hold.
func (s *Store) fill(ctx context.Context, count *tally) error {
	began := time.Now()
	drops, _ := s.queue.dropped()
	n, err := s.writeAll(ctx, count)
	if err != nil {
		return err
	}
	// What follows compares Redis with what was read of the topics.
	for !s.topic.Read() {
		if err := compacted.Sleep(ctx, watchPeriod/10); err != nil {
			return err
		}
	}
	if count.newer.Load() > 0 {
		// Mostly older records of a topic that isn't compacted yet. But it may be
		// that Redis has records that the topic has lost.
		if _, err := s.sweep(ctx, true); err != nil {
			return err
		}
	}
	if err := s.purgeSoon(ctx); err != nil {
		return err
	}
	s.queue.heal(drops)
	s.log.Info("Redis filled with settings", zap.Int("records", n), zap.Int64("written", count.applied.Load()), zap.Duration("took", time.Since(began)))
	s.filled.Store(true)
	s.becameReady()
	return nil
}

// writeAll writes every readable record there is to Redis and returns how many.
func (s *Store) writeAll(ctx context.Context, count *tally) (n int, err error) {
	r, err := compacted.Open(ctx, s.newClient, s.cfg.Topic)
	if err != nil {
		return 0, err
	}
	defer r.Close()
	if s.topic.Reader().ID() != r.ID() {
		return 0, compacted.ErrRecreated
	}
	// One round of writing is under way while the next records are decoded.
	writing := make(chan error, 1)
	writing <- nil
	var batches [lanes][]change
	gathered := 0
	write := func() error {
		if err := <-writing; err != nil {
			writing <- nil
			return err
		}
		go func(batches [lanes][]change) { writing <- s.writeLanes(ctx, &batches, count) }(batches)
		batches, gathered = [lanes][]change{}, 0
		return nil
	}
	err = r.ReadAll(ctx, nil, func(record *kgo.Record) error {
		c, err := s.decode(record)
		if err != nil {
			return nil // it was counted when it was read into memory
		}
		if newest, _ := s.newest(c.userID); newest.Newer(c.ver) {
			return nil // nobody needs it
		}
		// The records of a partition stay in order.
		lane := &batches[int(record.Partition)%lanes]
		*lane = append(*lane, c)
		n++
		if gathered++; gathered < lanes*batchSize {
			return nil
		}
		return write()
	})
	if err == nil {
		err = write()
	}
	return n, errors.Join(err, <-writing)
}

func (s *Store) writeLanes(ctx context.Context, batches *[lanes][]change, count *tally) error {
	var errs [lanes]error
	var wg sync.WaitGroup
	for i, lane := range batches {
		if len(lane) > 0 {
			wg.Go(func() { errs[i] = s.writeLane(ctx, lane, count) })
		}
	}
	wg.Wait()
	return errors.Join(errs[:]...)
}

// writeLane writes changes in their order. It bears a few failures in a row: to
// begin the whole rebuild again costs more than to try again.
func (s *Store) writeLane(ctx context.Context, lane []change, count *tally) error {
	const patience = 5
	failures, pause := 0, compacted.NewBackoff()
	for len(lane) > 0 {
		n, err := s.rdb.write(ctx, lane, count)
		lane = lane[n:]
		if n > 0 {
			failures, pause = 0, compacted.NewBackoff()
		}
		if err == nil {
			continue
		}
		if failures++; failures >= patience {
			return err
		}
		if err := pause.Wait(ctx); err != nil {
			return err
		}
	}
	return nil
}
