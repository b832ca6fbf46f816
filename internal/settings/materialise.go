package settings

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"
)

const (
	// watchPeriod is how often Redis is asked whether it has lost anything.
	watchPeriod = 500 * time.Millisecond
	// batchSize is the most documents that go to Redis in one round trip.
	batchSize = 500
	// lanes is the number of round trips a rebuild has under way at once.
	lanes = 4
	// maxHold bounds the pause after a rebuild that found nothing to write: another
	// instance was first, or Redis evicts the keys by which it is watched.
	maxHold = 3 * time.Second
)

// session follows the topics, as they exist now, until ctx ends or one of them
// was created again.
func (s *Store) session(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	topics := []string{s.cfg.ConfigTopic, s.cfg.KeysTopic}
	client, err := s.newClient(readerOpts(topics)...)
	if err != nil {
		return err
	}
	defer client.CloseAllowingRebalance()
	r, err := newReader(ctx, client, topics...)
	if err != nil {
		return err
	}
	s.startOver(r)
	if s.read.Load() { // the same topics: memory goes on to be true
		s.noSession.Recover()
	}

	var wg sync.WaitGroup
	wg.Go(func() { s.makeRepairs(ctx) })
	if s.cfg.Materialise {
		wg.Go(func() { s.writeChanges(ctx) })
		wg.Go(func() { s.keepSwept(ctx) })
		wg.Go(func() {
			if err := s.keepFilled(ctx); err != nil {
				cancel(err)
			}
		})
	}
	wg.Go(func() {
		if err := s.keepHouse(ctx, r); err != nil {
			cancel(err)
		}
	})
	err = s.follow(ctx, r)
	cancel(err)
	wg.Wait()
	return context.Cause(ctx)
}

// startOver prepares for reading from the start. What memory holds of the same
// topics stays: it is true, and it goes on to be heard of.
func (s *Store) startOver(r *reader) {
	old := s.reading.Swap(r)
	if old == nil || old.goal.id != r.goal.id || s.cutBack.Swap(false) {
		s.read.Store(false)
		s.filled.Store(false)
		s.users.clear()
		s.keys.clear()
		s.userIndex.clear()
		s.keyIndex.clear()
		s.rdb.use(r.goal.id)
		s.closeProducer() // it would go on with the topics as they were
	}
	s.queue.reset()
}

// follow reads the topics into memory and passes on to Redis what comes after
// the end that the reader saw when it was made; what was there before is written
// by the rebuild, which begins later and so sees a later end.
func (s *Store) follow(ctx context.Context, r *reader) error {
	wait := 50 * time.Millisecond // a poll without records is no news; look whether it's the end
	locked := map[int64]Version{} // records that can't be opened, until the end shows which are the newest
	for {
		if !s.read.Load() {
			if err := s.checkRead(ctx, r); err != nil {
				if stop := s.readFailed(ctx, err); stop != nil {
					return stop
				}
			}
			if s.read.Load() {
				s.reportLocked(locked)
				locked = nil
			}
		} else {
			wait = time.Second
		}
		var fresh []change
		err := r.poll(ctx, wait, func(record *kgo.Record) {
			c, err := s.decode(record)
			if err != nil {
				s.skip(record, err)
				return
			}
			s.hear(&c)
			if c.locked != nil {
				if s.read.Load() {
					s.reportLocked(map[int64]Version{c.userID: c.ver})
				} else {
					locked[c.userID] = c.ver
				}
			}
			s.updates.witness(&c, record)
			if record.Offset >= r.goal.spans[slot{record.Topic, record.Partition}].end {
				fresh = append(fresh, c)
			}
		})
		if s.cfg.Materialise && len(fresh) > 0 {
			s.queue.push(fresh)
		}
		if err != nil {
			if stop := s.readFailed(ctx, err); stop != nil {
				return stop
			}
		}
	}
}

// readFailed logs an error of reading and waits a little. It returns the error
// after which reading can't go on.
func (s *Store) readFailed(ctx context.Context, err error) error {
	var cut *kgo.ErrDataLoss
	if ctx.Err() == nil && errors.As(err, &cut) {
		// What was read may not be there any more, and other records have its offsets.
		s.cutBack.Store(true)
		return fmt.Errorf("settings topic %s/%d was cut back: %w", cut.Topic, cut.Partition, err)
	}
	if ctx.Err() != nil || errors.Is(err, errRecreated) || errors.Is(err, kgo.ErrClientClosed) {
		return err
	}
	s.log.Warn("reading settings", zap.Error(err))
	return sleep(ctx, 100*time.Millisecond)
}

func (s *Store) checkRead(ctx context.Context, r *reader) error {
	done, err := r.done(ctx)
	if done {
		s.read.Store(true)
		s.noSession.Recover()
		users := s.users.count()
		s.obs.ConfigUsers(users)
		s.obs.ConfigLag(r.lag(r.goal.spans))
		s.log.Info("settings topics read to their end", zap.Int("users_in_memory", users))
		s.becameReady()
	}
	return err
}

// keepHouse measures, and notices topics that were created again, until
// ctx ends.
func (s *Store) keepHouse(ctx context.Context, r *reader) error {
	for {
		period := housekeeping
		if s.read.Load() {
			s.obs.ConfigUsers(s.users.count())
		} else {
			period = watchPeriod // the lag is worth watching
		}
		asking, cancel := context.WithTimeout(ctx, housekeeping)
		now, err := describe(asking, r.client, r.topics...)
		cancel()
		if err == nil { // otherwise Kafka is away, and the lag stays as it was known
			if now.id != r.goal.id {
				return errRecreated
			}
			s.obs.ConfigLag(r.lag(now.spans))
		}
		if err := sleep(ctx, period); err != nil {
			return err
		}
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
		for pause := newBackoff(); len(batch) > 0; {
			n, err := s.rdb.write(ctx, batch, nil)
			batch = batch[n:]
			if err != nil {
				s.noWriting.Fail(err)
				if pause.wait(ctx) != nil {
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
	pause := newBackoff()
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
		case ctx.Err() != nil, errors.Is(err, errRecreated):
			return err
		case err != nil:
			s.noFilling.Fail(err)
			err = pause.wait(ctx)
		default:
			s.noFilling.Recover()
			pause = newBackoff()
			err = sleep(ctx, watchPeriod)
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
	for !s.read.Load() {
		if err := sleep(ctx, watchPeriod/10); err != nil {
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
	topics := []string{s.cfg.ConfigTopic, s.cfg.KeysTopic}
	client, err := s.newClient(readerOpts(topics)...)
	if err != nil {
		return 0, err
	}
	defer client.CloseAllowingRebalance()
	r, err := newReader(ctx, client, topics...)
	if err != nil {
		return 0, err
	}
	if following := s.reading.Load(); following.goal.id != r.goal.id {
		return 0, errRecreated
	}
	// One round of writing is under way while the next records are decoded.
	writing := make(chan error, 1)
	writing <- nil
	for {
		done, err := r.done(ctx)
		if err != nil || done {
			return n, errors.Join(err, <-writing)
		}
		var batches [lanes][]change
		err = r.poll(ctx, 100*time.Millisecond, func(record *kgo.Record) {
			c, err := s.decode(record)
			if err != nil {
				return // follow has counted it
			}
			if newest, _ := s.newest(c.subject()); newest.newer(c.ver) {
				return // nobody needs it
			}
			// The records of a partition stay in order.
			lane := &batches[int(record.Partition)%lanes]
			*lane = append(*lane, c)
			n++
		})
		if err = errors.Join(err, <-writing); err != nil {
			return n, err
		}
		go func() { writing <- s.writeLanes(ctx, &batches, count) }()
	}
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
	failures, pause := 0, newBackoff()
	for len(lane) > 0 {
		n, err := s.rdb.write(ctx, lane, count)
		lane = lane[n:]
		if n > 0 {
			failures, pause = 0, newBackoff()
		}
		if err == nil {
			continue
		}
		if failures++; failures >= patience {
			return err
		}
		if err := pause.wait(ctx); err != nil {
			return err
		}
	}
	return nil
}
