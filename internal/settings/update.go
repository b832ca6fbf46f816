package settings

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/compacted"
	"github.com/smshooks/smshooks/internal/kafka"
)

const (
	// updateTimeout bounds an update, waiting for others included.
	updateTimeout = 4 * time.Second
	// lockKept is how long a lock outlives an instance that died holding it.
	lockKept = 15 * time.Second
	// renewPeriod is the pause between two renewals of a lock whose record is still under way.
	renewPeriod = lockKept / 5
	// deliveryTimeout bounds how long the client tries to send a record. It does not bound how long it waits for the
	// result of one that it has sent.
	deliveryTimeout = 10 * time.Second
	// retryPeriod is the pause between two attempts to take a lock.
	retryPeriod = 10 * time.Millisecond
)

// Document returns a user's document and its version. The version is at least
// as new as every record that this instance has read and every acknowledged
// update. Document reads Redis, and the topic if Redis lacks that version. A
// user without a document has an empty one and the zero version. After an error
// the user's settings are unknown.
func (s *Store) Document(ctx context.Context, userID int64) (Document, compacted.Version, error) {
	if !s.ready() {
		return Document{}, compacted.Version{}, ErrNotReady
	}
	ctx, cancel := context.WithTimeout(ctx, updateTimeout/2)
	defer cancel()
	rows, err := s.rdb.read(ctx, userID)
	if err != nil {
		return Document{}, compacted.Version{}, err
	}
	d, ver, err := s.documentIn(ctx, userID, rows[0])
	switch {
	case errors.Is(err, errLost), err == nil && ver.Offset == 0:
		// The lost row may be an update that was just acknowledged to another
		// instance, and that this one has not read yet.
		if err := s.catchUp(ctx, userID); err != nil {
			return Document{}, compacted.Version{}, err
		}
		if newest, _ := s.newest(userID); newest.Offset == 0 && rows[0].seen == "" && rows[0].err == nil {
			return Document{UserID: userID}, compacted.Version{}, nil
		}
		return s.readBackDocument(ctx, userID, rows[0].seen)
	case err != nil:
		return Document{}, compacted.Version{}, err
	case d == nil:
		return Document{UserID: userID}, ver, nil
	}
	return *d, ver, nil
}

// readBackDocument reads a document back from its topic.
func (s *Store) readBackDocument(ctx context.Context, userID int64, seen string) (Document, compacted.Version, error) {
	c, err := s.repaired(ctx, userID, seen)
	switch {
	case err != nil:
		return Document{}, compacted.Version{}, err
	case c.locked != nil:
		return Document{}, compacted.Version{}, fmt.Errorf("%w: settings of user %d: %w", ErrNotReady, userID, errSealed)
	case c.removed:
		return Document{UserID: userID}, c.ver, nil
	}
	return c.document, c.ver, nil
}

// Update changes a user's document and returns the result. change receives the
// latest document and must not modify the values behind its pointers. Updates of
// one user, by all instances, run one after the other, and each starts from the
// result of the previous one. When Update returns, all in-sync replicas have the
// record, and Document returns it on every instance.
//
// The error is ErrUnavailable, within 4 s, if Kafka or Redis is not reachable or the store
// is not ready. If Kafka failed in the middle, the record may still arrive. It then undoes no acknowledged update.
func (s *Store) Update(ctx context.Context, userID int64, change func(Document) Document) (Document, error) {
	return s.update(ctx, userID, change, nil)
}

// update is Update. again, if it is not nil, asks for a record even if nothing
// changes.
func (s *Store) update(
	ctx context.Context, userID int64, change func(Document) Document, again *rewriting,
) (Document, error) {
	if userID < 1 {
		return Document{}, fmt.Errorf("user %d: must be from 1 to 2^63-1", userID)
	}
	ctx, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	lock, err := s.lock(ctx, userID)
	if err != nil {
		return Document{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	w := s.updates.begin(userID)
	after, late, err := s.updateLocked(ctx, userID, change, again, w)
	if late != nil {
		// No update may start until it is known whether this record is stored.
		go s.awaitLate(lock, w, late)
	} else {
		s.updates.end(w)
		s.release(ctx, lock)
	}
	if err != nil {
		return Document{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return after, nil
}

// updateLocked does the work of Update under the user's lock. If it gives up a record that is under way, it returns it.
func (s *Store) updateLocked(
	ctx context.Context, userID int64, change func(Document) Document, again *rewriting, w *witness,
) (after Document, late *lateRecord, err error) {
	for {
		if err := s.catchUp(ctx, userID); err != nil {
			return after, nil, err
		}
		before, base, err := s.Document(ctx, userID)
		if err != nil {
			return after, nil, err
		}
		after = change(before)
		after.UserID = userID
		after = after.clone()
		rewrite := again.wanted(base)
		if base.Offset > 0 && after.equal(before) && !rewrite {
			return after, nil, nil
		}
		own, late, err := s.store(ctx, after, base, changes(before, after))
		if err != nil {
			return after, late, err
		}
		if rewrite {
			again.written = true
		}
		between, _, err := s.overtaken(ctx, w, base, own)
		if err != nil || len(between) == 0 {
			return after, nil, err
		}
		change = restoring(change, before, between)
	}
}

// store writes a document to the topic and, when that is acknowledged, to memory and Redis. If ctx ends before that, it
// returns the record, which may still be stored.
func (s *Store) store(
	ctx context.Context, after Document, base compacted.Version, changed string,
) (own compacted.Version, late *lateRecord, err error) {
	record := &kgo.Record{
		Topic: s.cfg.Topic, Key: strconv.AppendInt(nil, after.UserID, 10), Value: after.AppendJSON(nil, s.cfg.Secrets),
		// Clocks differ: between partitions time decides which record is newer.
		Timestamp: time.UnixMilli(max(time.Now().UnixMilli(), base.Time+1)),
		Headers:   []kgo.RecordHeader{{Key: changedHeader, Value: []byte(changed)}},
	}
	id := s.topic.ID()
	done, err := s.produce(ctx, record)
	if err != nil {
		return own, nil, err
	}
	select {
	case err := <-done:
		if err != nil {
			return own, nil, fmt.Errorf("write to topic %s: %w", s.cfg.Topic, err)
		}
	case <-ctx.Done():
		late = &lateRecord{record: record, document: after, base: base, topicID: id, done: done}
		return own, late, fmt.Errorf("write to topic %s: %w", s.cfg.Topic, ctx.Err())
	}
	s.adopt(ctx, record)
	return compacted.VersionOf(record), nil, nil
}

// adopt stores an acknowledged record in memory and Redis. It is already durable: if Redis just failed, the record
// gets there through the topic, and until then no instance that has read it accepts an older one.
func (s *Store) adopt(ctx context.Context, record *kgo.Record) {
	c, err := s.decode(record)
	if err != nil {
		s.log.Error("a settings record of this instance is unreadable", zap.String("reason", err.Error()))
		return
	}
	s.apply(&c)
	if _, err := s.rdb.write(ctx, []change{c}, nil); err != nil {
		s.log.Warn("cannot write updated settings to Redis; they follow from the topic", zap.Error(err))
	}
}

// catchUp waits until everything was read that was acknowledged to other writers by now, so that an update does not
// undo it, and adopts what is acknowledged of one user behind an open transaction.
func (s *Store) catchUp(ctx context.Context, userID int64) error {
	r := s.topic.Reader()
	if r == nil || !s.ready() {
		return ErrNotReady
	}
	waiting, cancel := context.WithTimeout(ctx, updateTimeout/2)
	defer cancel()
	err := r.CatchUp(waiting)
	if err == nil {
		err = s.adoptUnread(waiting, r, userID)
	}
	if err != nil && waiting.Err() != nil {
		return fmt.Errorf("%w: the topic's latest records have not been read yet: %w", ErrNotReady, err)
	}
	return err
}

// adoptUnread adopts a user's newest record among those that an open transaction holds back and that are not part of a
// transaction: an instance may have acknowledged it, and Redis may have lost it.
func (s *Store) adoptUnread(ctx context.Context, r *compacted.Reader, userID int64) error {
	unread, err := r.Unread(ctx)
	if err != nil || len(unread) == 0 {
		return err
	}
	client, err := s.producing()
	if err != nil {
		return err
	}
	key := strconv.FormatInt(userID, 10)
	var newest *kgo.Record
	take := func(record *kgo.Record) {
		if string(record.Key) == key && !record.Attrs.IsTransactional() &&
			(newest == nil || compacted.VersionOf(record).Newer(compacted.VersionOf(newest))) {
			newest = record
		}
	}
	for partition, span := range unread {
		if err := readSpan(ctx, client, s.cfg.Topic, partition, span, take); err != nil {
			return fmt.Errorf("read %s/%d behind an open transaction: %w", s.cfg.Topic, partition, err)
		}
	}
	if newest == nil {
		return nil
	}
	if known, _ := s.newest(userID); compacted.VersionOf(newest).Newer(known) {
		s.adopt(ctx, newest)
	}
	return nil
}

// readSpan calls take with the records of a span, as client sees them.
func readSpan(ctx context.Context, client *kgo.Client, topic string, partition int32, span compacted.Span,
	take func(*kgo.Record)) error {
	for at := span.Start; ; at++ {
		next, err := kafka.NextRecord(ctx, client, topic, partition, at, span.End, true)
		if err != nil || next >= span.End {
			return err
		}
		records, err := kafka.ReadAt(ctx, client, topic, partition, next)
		if err != nil {
			return err
		}
		at = next
		for _, record := range records {
			at = record.Offset
			take(record)
		}
	}
}

// userLock is the lock of a user's updates, held by one update of this instance.
type userLock struct{ name, token string }

// lock waits for the user's lock.
func (s *Store) lock(ctx context.Context, userID int64) (userLock, error) {
	l := userLock{s.rdb.key("lock:" + strconv.FormatInt(userID, 10)), randomHex(16)}
	if !s.ready() {
		return l, ErrNotReady
	}
	args := redis.SetArgs{Mode: "NX", Get: true, TTL: lockKept}
	for {
		holder, err := s.rdb.rdb.SetArgs(ctx, l.name, l.token, args).Result()
		switch {
		case errors.Is(err, redis.Nil), err == nil && holder == l.token: // the client may have asked twice
			return l, nil
		case err != nil:
			s.orphans.add(l.name, l.token) // Redis may have granted it nevertheless
			return l, fmt.Errorf("lock user %d in Redis: %w", userID, err)
		}
		if err := compacted.Sleep(ctx, retryPeriod); err != nil {
			return l, fmt.Errorf("another update of user %d is under way: %w", userID, err)
		}
	}
}

// release releases a lock, later if Redis does not answer now.
func (s *Store) release(ctx context.Context, l userLock) {
	if err := s.unlock(context.WithoutCancel(ctx), l.name, l.token); err != nil {
		s.orphans.add(l.name, l.token)
	}
}

// unlock deletes a lock that still has the token.
func (s *Store) unlock(ctx context.Context, name, token string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return s.rdb.unlock.Run(ctx, s.rdb.rdb, []string{name}, token).Err()
}

// produce sends a record. The channel receives the result.
func (s *Store) produce(ctx context.Context, record *kgo.Record) (<-chan error, error) {
	client, err := s.producing()
	if err != nil {
		return nil, err
	}
	done := make(chan error, 1)
	client.Produce(ctx, record, func(_ *kgo.Record, err error) { done <- err })
	return done, nil
}

// producing returns the client that writes updates and reads single records back. What it reads back was read from the
// topic or acknowledged: it counts also behind an open transaction.
func (s *Store) producing() (*kgo.Client, error) {
	s.producerMu.Lock()
	defer s.producerMu.Unlock()
	if s.producer == nil {
		client, err := s.newClient(kgo.ProducerLinger(0), kgo.RecordDeliveryTimeout(deliveryTimeout),
			kgo.FetchIsolationLevel(kgo.ReadUncommitted()))
		if err != nil {
			return nil, err
		}
		s.producer = client
	}
	return s.producer, nil
}

func (s *Store) closeProducer() {
	s.producerMu.Lock()
	defer s.producerMu.Unlock()
	if s.producer != nil {
		s.producer.Close()
		s.producer = nil
	}
}
