package tenant

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"
)

const (
	// watchPeriod is how often the ready marker is looked at.
	watchPeriod = 500 * time.Millisecond
	// batchSize is the most documents that go to Redis in one round trip.
	batchSize = 500
	// lanes is the number of round trips a rebuild has under way at once.
	lanes = 4
)

// session follows the topics, as they exist now, until ctx ends or one of them
// was made anew.
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
		s.noSession.Over()
	}

	var wg sync.WaitGroup
	if s.cfg.Materialise {
		wg.Go(func() { s.writeChanges(ctx) })
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
	if old == nil || old.goal.id != r.goal.id {
		s.read.Store(false)
		s.filled.Store(false)
		s.users.clear()
		s.keys.clear()
		s.rdb.use(r.goal.id)
	}
	s.queue.reset()
}

// follow reads the topics into memory and passes on to Redis what comes after
// the end that the reader saw when it was made; what was there before is written
// by the rebuild, which begins later and so sees a later end.
func (s *Store) follow(ctx context.Context, r *reader) error {
	wait := 50 * time.Millisecond // a poll without records is no news; look whether it's the end
	for {
		if !s.read.Load() {
			if err := s.checkRead(ctx, r); err != nil {
				if stop := s.readFailed(ctx, err); stop != nil {
					return stop
				}
			}
		} else {
			wait = time.Second
		}
		now := time.Now()
		var fresh []change
		err := r.poll(ctx, wait, func(record *kgo.Record) {
			c, err := s.decode(record)
			if err != nil {
				s.skip(record, err)
				return
			}
			if c.locked != nil {
				s.lockedOut(record.Topic, c.userID)
			}
			at := now
			isNew := record.Offset >= r.goal.spans[slot{record.Topic, record.Partition}].end
			if !isNew && now.Sub(record.Timestamp) > hearingKept {
				at = time.Time{}
			}
			s.hear(&c, at)
			if isNew {
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
		s.noSession.Over()
		users := s.users.count()
		s.obs.ConfigUsers(users)
		s.obs.ConfigLag(r.lag(r.goal.spans))
		s.log.Info("settings topics read to their end", zap.Int("users_in_memory", users))
		s.becameReady()
	}
	return err
}

// keepHouse measures, forgets, and notices topics that were made anew, until
// ctx ends.
func (s *Store) keepHouse(ctx context.Context, r *reader) error {
	for {
		period := housekeeping
		if s.read.Load() {
			s.obs.ConfigUsers(s.users.count())
		} else {
			period = watchPeriod // the lag is worth watching
		}
		switch {
		case !s.cfg.Materialise:
			s.forgetHeard(time.Now().Add(-hearingKept))
		case s.queue.idle() && s.filled.Load():
			// Redis has it all. A read that began before it had takes seconds at most.
			s.forgetHeard(time.Now().Add(-hearingKept / 2))
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

func (s *Store) forgetHeard(before time.Time) {
	s.users.forget(before)
	s.keys.forget(before)
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
			n, err := s.rdb.write(ctx, batch)
			batch = batch[n:]
			if err != nil {
				s.noWriting.Met(err)
				if pause.wait(ctx) != nil {
					return
				}
			}
		}
		s.noWriting.Over()
		s.queue.finished()
	}
}

// keepFilled fills Redis at the start and whenever it was emptied, was started
// again, or changes were dropped. It returns when ctx ends or a topic was made
// anew.
func (s *Store) keepFilled(ctx context.Context) error {
	run, fill := "", true
	pause := newBackoff()
	for {
		st, err := s.rdb.look(ctx)
		if err == nil {
			if st.run != run {
				// It may have come back with an old snapshot.
				s.filled.Store(false)
				run, fill = st.run, true
			}
			_, unhealed := s.queue.dropped()
			if fill || unhealed || !st.ready {
				err = s.rebuild(ctx)
			}
		}
		switch {
		case ctx.Err() != nil, errors.Is(err, errRecreated):
			return err
		case err != nil:
			s.noFilling.Met(err)
			err = pause.wait(ctx)
		default:
			s.noFilling.Over()
			if fill {
				fill = false
				s.filled.Store(true)
				s.becameReady()
			}
			pause = newBackoff()
			err = sleep(ctx, watchPeriod)
		}
		if err != nil {
			return err
		}
	}
}

// errFlushed says that Redis lost what a rebuild had written already.
var errFlushed = errors.New("meanwhile Redis was emptied or started again")

// rebuild reads the topics once more, writes everything to Redis, corrects
// memory with it, and sets the ready marker.
func (s *Store) rebuild(ctx context.Context) error {
	began := time.Now()
	drops, _ := s.queue.dropped()
	token, err := s.rdb.begin(ctx)
	if err != nil {
		return err
	}
	run, err := s.rdb.runs(ctx)
	if err != nil {
		return err
	}
	n, err := s.writeAll(ctx, token)
	if err != nil {
		return err
	}
	if after, err := s.rdb.runs(ctx); err != nil {
		return err
	} else if after != run {
		return errFlushed
	}
	switch ok, err := s.rdb.finish(ctx, token); {
	case err != nil:
		return err
	case !ok:
		return errFlushed
	}
	s.queue.heal(drops)
	s.log.Info("Redis filled with settings", zap.Int("records", n), zap.Duration("took", time.Since(began)))
	return nil
}

// writeAll writes every readable record there is to Redis and returns how many.
// It gives up when token is gone.
func (s *Store) writeAll(ctx context.Context, token string) (n int, err error) {
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
			s.heal(&c)
			// The records of a partition stay in order.
			lane := &batches[int(record.Partition)%lanes]
			*lane = append(*lane, c)
			n++
		})
		if err = errors.Join(err, <-writing); err != nil {
			return n, err
		}
		go func() { writing <- s.writeLanes(ctx, &batches, token) }()
	}
}

func (s *Store) writeLanes(ctx context.Context, batches *[lanes][]change, token string) error {
	if ok, err := s.rdb.intact(ctx, token); err != nil {
		return err
	} else if !ok {
		return errFlushed
	}
	var errs [lanes]error
	var wg sync.WaitGroup
	for i, lane := range batches {
		if len(lane) > 0 {
			wg.Go(func() { errs[i] = s.writeLane(ctx, lane) })
		}
	}
	wg.Wait()
	return errors.Join(errs[:]...)
}

// writeLane writes changes in their order. It bears a few failures in a row: to
// begin the whole rebuild again costs more than to try again.
func (s *Store) writeLane(ctx context.Context, lane []change) error {
	const patience = 5
	failures, pause := 0, newBackoff()
	for len(lane) > 0 {
		n, err := s.rdb.write(ctx, lane)
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
