package deadletter

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/kafka"
	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// Origin says which event a source record is, and where it is in the source topic of its kind.
type Origin struct {
	ID        string
	UserID    int64
	Kind      webhook.Kind
	Partition int32
	Offset    int64
}

// Source returns the source record of an event, nil if its topic does not hold it any more. The record at the position
// counts only if it has the event's id and user: a topic may have been deleted and created again. Revocations have no
// source record of their own. Errors are those of Kafka.
func (s *Store) Source(ctx context.Context, o Origin) (*kgo.Record, error) {
	if o.Kind == webhook.RevokeClick || o.Offset < 0 {
		return nil, nil
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

// is reports whether a record is the event's.
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

// Resend replays events from their source records, as Run does from dead letters. It skips those whose topic does not
// hold them any more, and returns how many events were stored. If there is an error, others may be stored too.
func (s *Store) Resend(ctx context.Context, origins []Origin, guard Guard) (n int, err error) {
	run := running{Run: Run{Guard: guard}, store: s, seen: map[string]*Candidate{}, reached: map[int32]int64{}}
	if run.partitions, err = s.partitions(ctx); err != nil {
		return 0, err
	}
	for _, o := range origins {
		r, err := s.Source(ctx, o)
		if err != nil {
			return run.sent, err
		}
		if r == nil || run.seen[o.ID] != nil {
			continue
		}
		l := &Letter{ID: o.ID, UserID: o.UserID, Kind: o.Kind.String(), Value: r.Value, partition: -1, offset: -1,
			origin: fmt.Sprintf("%s/%d/%d", r.Topic, r.Partition, r.Offset)}
		for _, h := range r.Headers {
			if h.Key == event.HeaderTrace {
				l.traceparent = string(h.Value)
			}
		}
		candidate := &Candidate{l.UserID, l.ID, l.partition, l.offset, 0}
		run.seen[l.ID] = candidate
		if err := run.add(ctx, l, candidate); err != nil {
			return run.sent, err
		}
	}
	err = run.flush(ctx)
	return run.sent, err
}
