package deadletter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// chunkBytes bounds what Replay holds in memory. Up to so much is read whole before anything is sent.
const chunkBytes = 64 << 20

// Replay sends the events that f wants again, each once however often it died, and returns how many were stored by
// all in-sync replicas. Records that could never be read are passed over.
//
// With an error, n of them were stored, and others of the same chunk may still be: what is asked for again may be
// sent twice.
func (s *Store) Replay(ctx context.Context, f Filter) (n int, err error) {
	partitions, err := s.partitions(ctx)
	if err != nil {
		return 0, err
	}
	var (
		chunk []*kgo.Record
		size  int
		seen  = map[string]bool{}
	)
	flush := func() error {
		stored, err := s.produce(ctx, chunk)
		n += stored
		chunk, size = nil, 0
		return err
	}
	err = s.List(ctx, f, func(l *Letter) error {
		if !l.CanReplay() || seen[l.ID] {
			return nil
		}
		seen[l.ID] = true
		// A clone: the record would keep the whole fetch it came with.
		r := s.record(l, bytes.Clone(l.Value), partitions, time.Now())
		chunk, size = append(chunk, r), size+len(r.Value)+256
		if size > chunkBytes {
			return flush()
		}
		return nil
	})
	if err != nil {
		return n, err
	}
	return n, flush()
}

// partitions asks for the number of partitions of the overflow topics.
func (s *Store) partitions(ctx context.Context) (counts [webhook.NumKinds]int, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Patience)
	defer cancel()
	details, err := s.admin.ListTopics(ctx, s.cfg.Overflow[:]...)
	if err = errors.Join(err, details.Error()); err != nil {
		return counts, fmt.Errorf("overflow topics: %w", err)
	}
	for kind, topic := range s.cfg.Overflow {
		if counts[kind] = len(details[topic].Partitions); counts[kind] == 0 {
			return counts, fmt.Errorf("overflow topic %s: has no partitions", topic)
		}
	}
	return counts, nil
}

// record is the letter's event as a record of its overflow topic, due now.
func (s *Store) record(l *Letter, value []byte, partitions [webhook.NumKinds]int, now time.Time) *kgo.Record {
	kind, _ := webhook.ParseKind(l.Kind) // CanReplay has tried
	at := []byte(event.FormatTime(now))
	r := &kgo.Record{
		Topic: s.cfg.Overflow[kind], Key: strconv.AppendInt(nil, l.UserID, 10), Value: value,
		Headers: []kgo.RecordHeader{
			{Key: event.HeaderID, Value: []byte(l.ID)},
			{Key: event.HeaderKind, Value: []byte(l.Kind)},
			{Key: event.HeaderTime, Value: at}, // a fresh window
			{Key: event.HeaderAttempts, Value: []byte("0")},
			{Key: event.HeaderDue, Value: at},
			{Key: event.HeaderReplayed, Value: at},
		},
	}
	r.Partition = place(r, l.ID, s.cfg.Sources[kind], partitions[kind])
	return r
}

// place gives the partition number the event came from, so that whoever holds the user's others gets it, and where
// the identity does not tell it, the one by the key's hash, as Kafka's own clients do.
func place(r *kgo.Record, id, source string, partitions int) int32 {
	if rest, ok := strings.CutPrefix(id, source+"/"); ok {
		number, _, _ := strings.Cut(rest, "/")
		if p, err := strconv.ParseUint(number, 10, 31); err == nil && int(p) < partitions {
			return int32(p)
		}
	}
	return int32(kgo.StickyKeyPartitioner(nil).ForTopic(r.Topic).Partition(r, partitions))
}

// produce stores the records and waits for every acknowledgement, as long as some come.
func (s *Store) produce(ctx context.Context, records []*kgo.Record) (stored int, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, len(records))
	go func() { // Produce waits when the client's buffer is full
		for _, r := range records {
			s.client.Produce(ctx, r, func(_ *kgo.Record, err error) { done <- err })
		}
	}()
	silence := time.NewTimer(s.cfg.Patience)
	defer silence.Stop()
	var failed error
	for range records {
		select {
		case err := <-done:
			if err != nil {
				failed = err
				continue
			}
			stored++
			silence.Reset(s.cfg.Patience)
		case <-ctx.Done():
			return stored, fmt.Errorf("sending dead letters again: %w", ctx.Err())
		case <-silence.C:
			return stored, fmt.Errorf("sending dead letters again: no acknowledgement for %v: %w", s.cfg.Patience, context.DeadlineExceeded)
		}
	}
	if failed != nil {
		return stored, fmt.Errorf("sending dead letters again: %w", failed)
	}
	return stored, nil
}
