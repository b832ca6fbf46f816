package settings

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/compacted"
	"github.com/smshooks/smshooks/internal/kafka"
)

// repairLimit is the largest number of queued repairs. If more is lost, filling Redis from the topic is cheaper.
const repairLimit = 20_000

// newest returns the version of a user's newest record, as far as it was read, and whether it is a tombstone.
func (s *Store) newest(userID int64) (v compacted.Version, removed bool) {
	_, v, removed = s.index.Get(userID)
	return v, removed
}

// state is how a row of Redis relates to the topic.
type state int

const (
	// current: the topic's newest, or an update that has not been read from the topic yet.
	current state = iota
	// outdated: Redis has lost a newer one (an eviction, a deletion, a restored
	// snapshot, a replica that was behind) or is about to get it.
	outdated
	// foreign: the topic has no such record. It was lost by truncation, or its
	// tombstone was compacted away while no instance ran.
	foreign
)

// versionState compares a version found in Redis with the newest one read from the topic. It returns an error if the
// version is newer and Kafka cannot be reached to check it.
func (s *Store) versionState(ctx context.Context, userID int64, v compacted.Version) (state, error) {
	newest, _ := s.newest(userID)
	if !v.Newer(newest) {
		return older(v, newest), nil
	}
	r := s.topic.Reader()
	// The position comes first: the index has whatever is below it.
	if v.Offset <= r.Position(v.Partition) {
		if newest, _ = s.newest(userID); v.Newer(newest) {
			return foreign, nil
		}
		return older(v, newest), nil
	}
	// Not read yet: another instance has just had it acknowledged, or an open transaction holds the reader back. It
	// must exist.
	exists, err := r.Exists(ctx, v.Partition, v.Offset)
	switch {
	case err != nil:
		return outdated, fmt.Errorf("%w: %w", ErrNotReady, err)
	case !exists:
		return foreign, nil
	}
	return current, nil
}

// rowState returns the state of a row.
func (s *Store) rowState(ctx context.Context, userID int64, r row) (state, error) {
	if r.err != nil {
		return outdated, nil
	}
	is, err := s.versionState(ctx, userID, r.ver)
	if is == current && r.doc == nil {
		if newest, removed := s.newest(userID); newest.Offset > 0 && newest.Is(r.ver) && !removed {
			is = outdated // its document is gone
		}
	}
	return is, err
}

func older(v, newest compacted.Version) state {
	if v.Is(newest) {
		return current
	}
	return outdated
}

// repair reads back one user's newest record.
type repair struct {
	userID int64
	seen   string // the version found in Redis, "" for none
	done   chan struct{}
	change change // valid after done, if err is nil
	err    error
}

// repairs is the queue of repairs. It holds each user once.
type repairs struct {
	wake    chan struct{}
	mu      sync.Mutex
	waiting []*repair
	known   map[int64]*repair
}

// repairing has the user's newest record read back from the topic into
// memory and, if this instance materialises, into Redis. It returns nil when
// too much is to be repaired.
func (s *Store) repairing(userID int64, seen string) *repair {
	q := &s.repairs
	q.mu.Lock()
	defer q.mu.Unlock()
	if r := q.known[userID]; r != nil {
		return r
	}
	if len(q.waiting) >= repairLimit {
		return nil
	}
	r := &repair{userID: userID, seen: seen, done: make(chan struct{})}
	q.known[userID] = r
	q.waiting = append(q.waiting, r)
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return r
}

// repaired waits for the user's newest record.
func (s *Store) repaired(ctx context.Context, userID int64, seen string) (change, error) {
	r := s.repairing(userID, seen)
	if r == nil {
		return change{}, fmt.Errorf("%w: Redis has lost too many rows", ErrNotReady)
	}
	select {
	case <-r.done:
		return r.change, r.err
	case <-ctx.Done():
		return change{}, fmt.Errorf("%w: read the record back: %w", ErrNotReady, ctx.Err())
	}
}

func (q *repairs) take(n int) []*repair {
	q.mu.Lock()
	defer q.mu.Unlock()
	n = min(n, len(q.waiting))
	batch := q.waiting[:n:n]
	if q.waiting = q.waiting[n:]; len(q.waiting) == 0 {
		q.waiting = nil
	}
	return batch
}

// finish delivers the results of a batch.
func (q *repairs) finish(batch []*repair) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, r := range batch {
		delete(q.known, r.userID)
		close(r.done)
	}
}

// repairLoop makes repairs until ctx ends.
func (s *Store) repairLoop(ctx context.Context) {
	defer func() {
		rest := s.repairs.take(repairLimit)
		for _, r := range rest {
			r.err = ErrNotReady
		}
		s.repairs.finish(rest)
	}()
	for {
		batch := s.repairs.take(batchSize)
		if len(batch) == 0 {
			select {
			case <-s.repairs.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		err := s.repairBatch(ctx, batch)
		if err != nil && ctx.Err() == nil {
			s.noRepair.Fail(err)
		} else if err == nil {
			s.noRepair.Recover()
		}
	}
}

func (s *Store) repairBatch(ctx context.Context, batch []*repair) error {
	ctx, cancel := context.WithTimeout(ctx, deliveryTimeout)
	defer cancel()
	failed := s.readBack(ctx, batch)
	for _, r := range batch {
		if r.err == nil && r.change.ver.Offset > 0 {
			s.apply(&r.change)
		}
	}
	// The callers need only Kafka's record. Redis may not be reachable.
	var changes []change
	var removals []removal
	for _, r := range batch {
		if r.err != nil {
			continue
		}
		if r.seen != "" {
			removals = append(removals, removal{r.userID, r.seen})
		}
		if r.change.ver.Offset > 0 {
			changes = append(changes, r.change)
		}
	}
	s.repairs.finish(batch)
	if !s.cfg.Materialise {
		return failed
	}
	err := s.rdb.remove(ctx, removals)
	if err == nil {
		_, err = s.rdb.write(ctx, changes, nil)
	}
	return errors.Join(failed, err)
}

// readBack fills in each repair's change or error. It returns the last error of
// reading.
func (s *Store) readBack(ctx context.Context, batch []*repair) (failed error) {
	type wanted struct {
		*repair
		ver compacted.Version
	}
	var read []wanted
	for _, r := range batch {
		ver, removed := s.newest(r.userID)
		if ver.Offset == 0 || removed {
			// There is no document; a tombstone need not be read.
			r.change = change{ver: ver, removed: true, userID: r.userID}
			continue
		}
		read = append(read, wanted{r, ver})
	}
	// Neighbouring records come in one batch.
	slices.SortFunc(read, func(a, b wanted) int {
		return cmp.Or(cmp.Compare(a.ver.Partition, b.ver.Partition), cmp.Compare(a.ver.Offset, b.ver.Offset))
	})
	if len(read) == 0 {
		return nil
	}
	// The reader's connection for fetches is busy: it waits for the next record.
	client, err := s.producing()
	if err != nil {
		for _, w := range read {
			w.err = fmt.Errorf("%w: %w", ErrNotReady, err)
		}
		return err
	}
	var came map[int64]*kgo.Record
	from := int32(-1)
	for _, w := range read {
		partition, offset := w.ver.Partition, w.ver.Offset-1
		record := came[offset]
		if from != partition || record == nil {
			records, err := kafka.ReadAt(ctx, client, s.cfg.Topic, partition, offset)
			if err != nil && !errors.Is(err, kerr.OffsetOutOfRange) {
				w.err = fmt.Errorf("%w: read %s/%d at offset %d: %w", ErrNotReady, s.cfg.Topic, partition, offset, err)
				failed = w.err
				continue
			}
			from, came = partition, make(map[int64]*kgo.Record, len(records))
			for _, r := range records {
				came[r.Offset] = r
			}
			record = came[offset]
		}
		if record == nil {
			w.err = s.missing(ctx, w.userID, w.ver)
			continue
		}
		if w.change, w.err = s.decode(record); w.err == nil && w.change.userID != w.userID {
			w.err = errors.New("the topic was truncated: another user's record is there")
		}
		if w.err != nil {
			w.err = fmt.Errorf("%w: %s/%d at offset %d: %w", ErrNotReady, s.cfg.Topic, partition, offset, w.err)
		}
	}
	return failed
}

// missing deals with a user whose newest record is not in the topic any more. Either a newer one took its place, which
// has not been read yet, or that one cannot be read (it was skipped), or retention took it. In the latter cases the
// user has no document, like after a restart.
func (s *Store) missing(ctx context.Context, userID int64, ver compacted.Version) error {
	r := s.topic.Reader()
	now, err := compacted.Describe(ctx, r.Client(), s.cfg.Topic)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotReady, err)
	}
	// An own record behind an open transaction may be newer than all that was read.
	if r.Passed(now.Spans) && r.Position(ver.Partition) >= ver.Offset {
		s.index.Drop(userID, ver)
		s.users.drop(userID)
		s.log.Warn("settings are no longer in their topic: they count as removed",
			zap.Int64("user_id", userID), zap.String("topic", s.cfg.Topic), zap.Int32("partition", ver.Partition),
			zap.Int64("offset", ver.Offset-1))
	}
	return fmt.Errorf("%w: the record is no longer in topic %s", ErrNotReady, s.cfg.Topic)
}
