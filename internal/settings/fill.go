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
	// watchPeriod is the interval of the checks whether Redis has lost anything.
	watchPeriod = time.Second
	// countPeriod is the interval at which the users in memory are counted.
	countPeriod = 5 * time.Second
	// batchSize is the largest number of documents written to Redis in one round trip.
	batchSize = 500
	// writers is the number of round trips of a rebuild that are under way at once.
	writers = 4
	// maxHold bounds the pause after a rebuild that found nothing to write: another
	// instance was first, or Redis evicts the keys by which it is watched.
	maxHold = 3 * time.Second
)

// begin prepares for reading the topic from its start. If void, the contents of memory are void too.
func (s *Store) begin(void bool, r *compacted.Reader) {
	if void {
		s.filled.Store(false)
		s.users.clear()
		s.index.Clear()
		id := r.ID()
		s.rdb.use(hex.EncodeToString(id[:8])) // unique enough here, and it keeps the keys in Redis short
		s.closeProducer()                     // it would continue with the topic as it was
		s.unusable = map[int64]unusable{}
		s.pauses.begin()
	}
	s.queue.reset()
}

// take stores a record in memory. It also queues it for Redis if it was written after the reader started. The
// rebuild, which starts later and so sees a later end, writes the older ones.
func (s *Store) take(r *kgo.Record, fresh bool) error {
	c, err := s.decode(r)
	if err != nil {
		return err
	}
	s.apply(&c)
	s.noteResumed(&c)
	if c.locked != nil || c.unsigned {
		found := unusable{c.ver, c.locked != nil}
		if s.topic.Read() {
			s.reportUnusable(map[int64]unusable{c.userID: found})
		} else {
			s.unusable[c.userID] = found
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
	s.reportResumed()
	s.reportUnusable(s.unusable)
	s.unusable = nil
	s.becameReady()
}

// beside runs while a reader reads, until ctx ends or a rebuild finds that the topic was created again.
func (s *Store) beside(ctx context.Context, _ *compacted.Reader) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel() // before the wait: the others run until ctx ends
	wg.Go(func() { s.repairLoop(ctx) })
	wg.Go(func() { s.orphans.run(ctx, s.unlock) })
	wg.Go(func() { s.countUsers(ctx) })
	if !s.cfg.Materialise {
		<-ctx.Done()
		return nil
	}
	wg.Go(func() { s.writeLoop(ctx) })
	wg.Go(func() { s.sweepLoop(ctx) })
	return s.fillLoop(ctx)
}

// countUsers measures the users in memory until ctx ends.
func (s *Store) countUsers(ctx context.Context) {
	for compacted.Sleep(ctx, countPeriod) == nil {
		s.obs.ConfigUsers(s.users.count())
	}
}

// writeLoop writes queued changes to Redis, in order, until ctx ends.
func (s *Store) writeLoop(ctx context.Context) {
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

// fillLoop fills Redis at the start and whenever it has lost something or
// changes were dropped. It returns when ctx ends or a topic was created again.
func (s *Store) fillLoop(ctx context.Context) error {
	fill := true
	var hold time.Duration
	var notBefore time.Time
	pause := compacted.NewBackoff()
	for {
		lost, err := s.rdb.lost(ctx)
		if lost {
			s.log.Warn("Redis has lost writes; filling it with settings again")
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

// fill writes everything that the topic holds to Redis and removes the rest.
func (s *Store) fill(ctx context.Context, count *tally) error {
	began := time.Now()
	drops, _ := s.queue.dropped()
	n, err := s.writeAll(ctx, count)
	if err != nil {
		return err
	}
	// The next steps compare Redis with what was read of the topic.
	for !s.topic.Read() {
		if err := compacted.Sleep(ctx, watchPeriod/10); err != nil {
			return err
		}
	}
	if count.newer.Load() > 0 {
		// Mostly older records of a topic that is not compacted yet. But Redis may
		// have records that the topic has lost.
		if _, err := s.sweep(ctx, true); err != nil {
			return err
		}
	}
	if err := s.purgeSoon(ctx); err != nil {
		return err
	}
	s.queue.heal(drops)
	s.log.Info("Redis filled with settings",
		zap.Int("records", n), zap.Int64("written", count.applied.Load()), zap.Duration("took", time.Since(began)))
	s.filled.Store(true)
	s.becameReady()
	return nil
}

// writeAll writes every readable record to Redis and returns their number.
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
	var batches [writers][]change
	gathered := 0
	write := func() error {
		if err := <-writing; err != nil {
			writing <- nil
			return err
		}
		go func(batches [writers][]change) { writing <- s.writeBatches(ctx, &batches, count) }(batches)
		batches, gathered = [writers][]change{}, 0
		return nil
	}
	err = r.ReadAll(ctx, nil, func(record *kgo.Record) error {
		c, err := s.decode(record)
		if err != nil {
			return nil // it was counted when it was read into memory
		}
		if newest, _ := s.newest(c.userID); newest.Newer(c.ver) {
			return nil // superseded
		}
		// The records of a partition stay in order.
		batch := &batches[int(record.Partition)%writers]
		*batch = append(*batch, c)
		n++
		if gathered++; gathered < writers*batchSize {
			return nil
		}
		return write()
	})
	if err == nil {
		err = write()
	}
	return n, errors.Join(err, <-writing)
}

func (s *Store) writeBatches(ctx context.Context, batches *[writers][]change, count *tally) error {
	var errs [writers]error
	var wg sync.WaitGroup
	for i, batch := range batches {
		if len(batch) > 0 {
			wg.Go(func() { errs[i] = s.writeBatch(ctx, batch, count) })
		}
	}
	wg.Wait()
	return errors.Join(errs[:]...)
}

// writeBatch writes changes in their order. It tolerates a few failures in a row: trying again costs less than a new
// rebuild.
func (s *Store) writeBatch(ctx context.Context, batch []change, count *tally) error {
	const patience = 5
	failures, pause := 0, compacted.NewBackoff()
	for len(batch) > 0 {
		n, err := s.rdb.write(ctx, batch, count)
		batch = batch[n:]
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
