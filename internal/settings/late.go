package settings

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/compacted"
)

// lateRecord is the record of an update that gave up waiting for its acknowledgement. The client keeps sending it until
// Kafka answers: it may be stored much later, after updates that other instances have acknowledged.
type lateRecord struct {
	record   *kgo.Record
	document Document
	base     compacted.Version // the document that it was based on
	topicID  [16]byte
	done     <-chan error
}

// awaitLate keeps the user's lock until it is known whether the record is stored. Without Redis the lock cannot be
// renewed, and the record may have undone updates that were acknowledged meanwhile. awaitLate restores them.
func (s *Store) awaitLate(l userLock, w *witness, late *lateRecord) {
	defer s.updates.end(w)
	err := s.keepLock(l, late.done)
	if errors.Is(err, kgo.ErrClientClosed) {
		return // the record may still be stored: let the lock expire
	}
	s.release(s.life, l)
	if err != nil {
		return
	}
	for pause := compacted.NewBackoff(); ; {
		if err = s.restoreOvertaken(s.life, w, late); err == nil {
			return
		}
		if pause.Wait(s.life) != nil {
			s.log.Warn("cannot restore settings that a late update may have undone",
				zap.Int64("user_id", late.document.UserID), zap.Error(err))
			return
		}
	}
}

// keepLock renews a lock until the result of its record is known, and returns that.
func (s *Store) keepLock(l userLock, done <-chan error) error {
	renewal := time.NewTicker(s.renewPeriod)
	defer renewal.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-renewal.C:
			ctx, cancel := context.WithTimeout(s.life, time.Second)
			// Without an answer the next renewal may succeed.
			_ = s.rdb.renew.Run(ctx, s.rdb.rdb, []string{l.name}, l.token, lockKept.Milliseconds()).Err()
			cancel()
		}
	}
}

// restoreOvertaken restores the fields that other writers changed between the base of a late record and the record.
// Their updates were acknowledged and the late one was not: they win where both changed a field.
func (s *Store) restoreOvertaken(ctx context.Context, w *witness, late *lateRecord) error {
	if s.topic.ID() != late.topicID {
		return nil // the record went with its topic
	}
	reading, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	between, read, err := s.overtaken(reading, w, late.base, compacted.VersionOf(late.record))
	switch {
	case err != nil:
		return err
	case !read:
		return fmt.Errorf("%w: an open transaction holds back topic %s", ErrNotReady, s.cfg.Topic)
	case len(between) == 0:
		return nil
	}
	unchanged := func(d Document) Document { return d }
	_, err = s.Update(ctx, late.document.UserID, restoring(unchanged, late.document, between))
	return err
}
