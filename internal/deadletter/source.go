package deadletter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/internal/compacted"
	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/kafka"
	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// Origin identifies an event and the position of its record in the source topic of its kind.
type Origin struct {
	ID        string
	UserID    int64
	Kind      webhook.Kind
	Partition int32
	Offset    int64 // of a batch of revocations: of its first record
	End       int64 // of a batch of revocations: the offset after its last record; 0 = unknown
	IDs       int   // of a batch of revocations: how many it has; 0 = unknown
	// Failed is the end of the first failed attempt, or zero. At that time a batch of revocations got a record of its
	// own.
	Failed time.Time
}

// Source returns the source record of an event, or nil if its topic no longer holds it. The record at the position
// counts only if it has the event's id and user: a topic may have been deleted and created again. A batch of
// revocations is merged again from its source records, or is the record that was stored after a failed attempt. Errors
// are Kafka's.
func (s *Store) Source(ctx context.Context, o Origin) (*kgo.Record, error) {
	if o.Offset < 0 && o.Failed.IsZero() {
		return nil, nil
	}
	if o.Kind == webhook.RevokeClick {
		r, err := s.merged(ctx, o)
		if r == nil && err == nil && !o.Failed.IsZero() {
			r, err = s.batch(ctx, o)
		}
		return r, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Patience)
	defer cancel()
	topic := s.cfg.Sources[o.Kind]
	found, err := kafka.TopicMetadata(ctx, s.client, topic)
	if err != nil {
		return nil, err
	}
	records, err := kafka.ReadAt(ctx, s.client, topic, o.Partition, o.Offset)
	switch {
	case errors.Is(err, kerr.OffsetOutOfRange), errors.Is(err, kerr.UnknownTopicOrPartition):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read %s/%d at offset %d: %w", topic, o.Partition, o.Offset, err)
	}
	space := event.NamespaceOf(found[topic].TopicID, topic, s.cfg.Epoch)
	if len(records) == 0 || records[0].Offset != o.Offset || !o.is(records[0], space) {
		return nil, nil
	}
	return records[0], nil
}

// is reports whether r is the record of the event.
func (o *Origin) is(r *kgo.Record, space event.Namespace) bool {
	e := event.Event{Record: event.Record{
		Class: topics.Source, Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Namespace: space,
	}}
	for _, h := range r.Headers {
		if h.Key == event.HeaderGatewayID {
			e.SetGatewayID(h.Value)
		}
	}
	var m webhook.Message
	return webhook.Decode(o.Kind, r.Value, &m) == nil && m.UserID == o.UserID &&
		(e.Identity() == o.ID || e.SourcePosition() == event.OriginOf(o.ID))
}

const (
	// batchSlack allows for a difference between the clocks of broker and service, and for the time to store a batch.
	batchSlack = time.Minute
	// batchRecords limits the records of one topic that are read for a batch: those of a few minutes.
	batchRecords = 5000
	// mergedRecords is how many source records a batch may span, those of other users included.
	mergedRecords = 50_000
)

var (
	errFound = errors.New("found")
	errOther = errors.New("the first record is not the user's")
)

// merged merges a batch of revocations again from the source records of its user, like the service. It returns nil if
// the topic does not hold all of them, or if there are too many to read.
func (s *Store) merged(ctx context.Context, o Origin) (*kgo.Record, error) {
	span := compacted.Span{Start: o.Offset, End: o.End}
	if o.Offset < 0 || span.End <= span.Start || span.End-span.Start > mergedRecords {
		return nil, nil
	}
	topic := s.cfg.Sources[webhook.RevokeClick]
	held, err := s.spansOf(ctx, topic, time.Time{}, time.Time{})
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if all := held[o.Partition]; span.Start < all.Start || span.End > all.End {
		return nil, nil
	}
	r, err := compacted.OpenSpans(s.newClient, topic, map[int32]compacted.Span{o.Partition: span}, s.cfg.Patience)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var (
		revocations []webhook.Revocation
		at          time.Time // of the first record
	)
	err = r.ReadAll(ctx, nil, func(record *kgo.Record) error {
		if record.Offset == o.Offset {
			at = record.Timestamp
		}
		var one webhook.Revocation
		if webhook.DecodeRevocation(record.Value, &one) == nil && one.UserID == o.UserID {
			revocations = append(revocations, one)
		} else if record.Offset == o.Offset {
			return errOther
		}
		return nil
	})
	if errors.Is(err, errOther) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	found, err := kafka.TopicMetadata(ctx, s.client, topic)
	if err != nil {
		return nil, err
	}
	first := event.Event{Record: event.Record{
		Partition: o.Partition, Offset: o.Offset, Namespace: event.NamespaceOf(found[topic].TopicID, topic, s.cfg.Epoch),
	}}
	for n, one := range webhook.Batches(revocations, s.cfg.MaxIDs) {
		if first.BatchIdentity(n) == o.ID {
			if ids := len(one.APISMSIDs) + len(one.CampaignSMSIDs); o.IDs > 0 && ids != o.IDs {
				break // revocation.max_ids was another one
			}
			return &kgo.Record{Topic: topic, Partition: o.Partition, Offset: o.Offset, Timestamp: at,
				Value: one.AppendRecord(nil)}, nil
		}
	}
	return nil, nil
}

// batch finds the record that a batch of revocations was stored in when an attempt failed: in the delay topics the
// partition has the number of the source partition.
func (s *Store) batch(ctx context.Context, o Origin) (found *kgo.Record, err error) {
	for _, topic := range append(slices.Clone(s.cfg.Batches), s.cfg.Topic) {
		spans, err := s.spansOf(ctx, topic, o.Failed.Add(-batchSlack), o.Failed.Add(batchSlack))
		if err != nil {
			return nil, err
		}
		for partition, span := range spans {
			span.End = min(span.End, span.Start+batchRecords)
			if spans[partition] = span; topic != s.cfg.Topic && partition != o.Partition {
				delete(spans, partition)
			}
		}
		if len(spans) == 0 {
			continue
		}
		r, err := compacted.OpenSpans(s.newClient, topic, spans, s.cfg.Patience)
		if err != nil {
			return nil, err
		}
		err = r.ReadAll(ctx, nil, func(record *kgo.Record) error {
			if o.isBatch(record) {
				found = record
				return errFound
			}
			return nil
		})
		r.Close()
		if found != nil || err != nil {
			if errors.Is(err, errFound) {
				err = nil
			}
			return found, err
		}
	}
	return nil, nil
}

// isBatch reports whether a record is the event's, which is a batch.
func (o *Origin) isBatch(r *kgo.Record) bool {
	for _, h := range r.Headers {
		if h.Key == event.HeaderID && string(h.Value) == o.ID {
			var b webhook.Revocation
			return webhook.DecodeRevocation(r.Value, &b) == nil && b.UserID == o.UserID
		}
	}
	return false
}

// Resend replays events from the records that [Store.Source] finds, as Run does from dead letters. It skips those whose
// records are gone, and returns how many events were stored. If there is an error, others may be stored too.
func (s *Store) Resend(ctx context.Context, origins []Origin, guard Guard) (n int, err error) {
	run := running{Run: Run{Guard: guard}, store: s, seen: map[userEvent]*Candidate{}, reached: map[int32]int64{}}
	if run.partitions, err = s.partitions(ctx); err != nil {
		return 0, err
	}
	for _, o := range origins {
		r, err := s.Source(ctx, o)
		if err != nil {
			return run.sent, err
		}
		if r == nil || run.seen[userEvent{o.UserID, o.ID}] != nil {
			continue
		}
		l := s.letterOf(o, r)
		candidate := &Candidate{l.UserID, l.ID, l.partition, l.offset, 0}
		run.seen[candidate.event()] = candidate
		if err := run.add(ctx, l, candidate); err != nil {
			return run.sent, err
		}
	}
	err = run.flush(ctx)
	return run.sent, err
}

// letterOf returns the event of a record that Source found as a letter without a position.
func (s *Store) letterOf(o Origin, r *kgo.Record) *Letter {
	l := &Letter{ID: o.ID, UserID: o.UserID, Kind: o.Kind.String(), Value: r.Value, partition: -1, offset: -1}
	stored := r.Topic != s.cfg.Sources[o.Kind] // a batch, when its attempt failed
	if !stored {
		l.origin = fmt.Sprintf("%s/%d/%d", r.Topic, r.Partition, r.Offset)
		if r.Timestamp.UnixMilli() >= 0 { // else it has none
			l.EventTime = r.Timestamp
		}
	}
	for _, h := range r.Headers {
		if h.Key == event.HeaderTrace || stored && (h.Key == event.HeaderOrigin || h.Key == event.HeaderTime) {
			l.setHeader(h)
		}
	}
	return l
}
