package retry

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/outage"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// retryInterval is how long the forwarder waits before it produces a refused record again.
const retryInterval = time.Second

// Topics names the delay topics.
type Topics interface {
	// Retry returns the topic of a step of the schedule.
	Retry(kind webhook.Kind, step int) string
	// Overflow returns the topic of an overflow tier.
	Overflow(kind webhook.Kind, tier int) string
	// Paused returns the topic of events whose endpoint is paused.
	Paused(kind webhook.Kind) string
}

// Producer is the part of a Kafka client that is needed; *kgo.Client is one.
type Producer interface {
	TryProduce(ctx context.Context, r *kgo.Record, promise func(*kgo.Record, error))
}

// Forwarder stores events in delay topics and in the dead letter topic. The caller must have acquired the event. It
// is settled when all in-sync replicas have its record. Until then it is kept, and its record produced again for as
// long as the broker refuses it; it is abandoned if its partition is revoked meanwhile.
type Forwarder struct {
	topics     Topics
	deadLetter string
	producer   Producer
	large      Producer // for records that are too large for a batch
	refusals   refusals

	// Died, if not nil, is called for every event that was stored as a dead letter, for e.Reason.
	Died func(e *event.Event)
}

// Names are the topics that a Forwarder writes.
type Names struct {
	Topics     Topics
	DeadLetter string
}

// NewForwarder returns a Forwarder that produces with producer, or with large if producer reports that a record is too
// large. Both must wait for all in-sync replicas (acks=all) and use [Partitioner].
func NewForwarder(names Names, producer, large Producer, log *zap.Logger) *Forwarder {
	return &Forwarder{
		topics: names.Topics, deadLetter: names.DeadLetter, producer: producer, large: large,
		refusals: refusals{log: log, topics: map[string]*refusingTopic{}},
	}
}

// Retry stores e in the retry topic of a step of the schedule, until e.Due. e.Attempts counts the failed attempt, and
// e.Failure is its failure.
func (f *Forwarder) Retry(e *event.Event, step int) {
	f.produce(e, delayRecord(e, f.topics.Retry(e.Kind, step)), webhook.Retry)
}

// Overflow stores e in the overflow topic of a tier, until e.Due.
func (f *Forwarder) Overflow(e *event.Event, tier int) {
	f.produce(e, delayRecord(e, f.topics.Overflow(e.Kind, tier)), webhook.Overflow)
}

// Pause stores e in the paused topic of its kind, until e.Due.
func (f *Forwarder) Pause(e *event.Event) {
	f.produce(e, delayRecord(e, f.topics.Paused(e.Kind)), webhook.Paused)
}

// Dead stores e as a dead letter.
func (f *Forwarder) Dead(e *event.Event, reason webhook.Reason) {
	e.Reason = reason
	f.produce(e, f.deadRecord(e, string(e.Failure)), webhook.Dead)
}

// Invalid stores a record that cannot be decoded as a dead letter, byte for byte. what says what is wrong with it.
func (f *Forwarder) Invalid(e *event.Event, what string) {
	e.Attempts, e.Reason = 0, webhook.InvalidRecord
	f.produce(e, f.deadRecord(e, what), webhook.Dead)
}

// delayRecord returns the record of e for a delay topic. Its partition has the number of the source record's: the
// member that owns the one owns the other, whichever partitioner the gateway uses.
func delayRecord(e *event.Event, topic string) *kgo.Record {
	due := kgo.RecordHeader{Key: event.HeaderDue, Value: []byte(event.FormatTime(e.Due))}
	hs := append(headers(e, string(e.Failure)), due)
	if source, known := e.Source(); known && e.Kind == webhook.DLR {
		id := base64.RawURLEncoding.AppendEncode(nil, []byte(source.Topic))
		hs = append(hs, kgo.RecordHeader{Key: event.HeaderTopicID, Value: id})
	}
	return &kgo.Record{
		Topic:     topic,
		Partition: e.Partition,
		Key:       strconv.AppendInt(nil, e.UserID, 10),
		Value:     e.Value,
		Headers:   hs,
	}
}

// deadRecord returns the record of e for the dead letter topic.
func (f *Forwarder) deadRecord(e *event.Event, failure string) *kgo.Record {
	reason := kgo.RecordHeader{Key: event.HeaderReason, Value: []byte(e.Reason)}
	return &kgo.Record{Topic: f.deadLetter, Key: e.Key, Value: e.Value, Headers: append(headers(e, failure), reason)}
}

// headers returns the headers that all stored records have.
func headers(e *event.Event, failure string) []kgo.RecordHeader {
	hs := append(make([]kgo.RecordHeader, 0, 10),
		kgo.RecordHeader{Key: event.HeaderID, Value: []byte(e.Identity())},
		kgo.RecordHeader{Key: event.HeaderOrigin, Value: []byte(e.SourcePosition())},
		kgo.RecordHeader{Key: event.HeaderKind, Value: []byte(e.Kind.String())},
		kgo.RecordHeader{Key: event.HeaderTime, Value: []byte(event.FormatTime(e.Time))},
		kgo.RecordHeader{Key: event.HeaderAttempts, Value: strconv.AppendInt(nil, int64(e.Attempts), 10)})
	if e.Replayed != "" {
		hs = append(hs, kgo.RecordHeader{Key: event.HeaderReplayed, Value: []byte(e.Replayed)})
	}
	if e.Traceparent != "" {
		hs = append(hs, kgo.RecordHeader{Key: event.HeaderTrace, Value: []byte(e.Traceparent)})
	}
	if failure != "" {
		hs = append(hs, kgo.RecordHeader{Key: event.HeaderError, Value: []byte(failure)})
	}
	return hs
}

// produce stores r and settles e with fate once it is acknowledged.
func (f *Forwarder) produce(e *event.Event, r *kgo.Record, fate webhook.Fate) {
	f.try(&pending{e, fate, f.producer, false}, r)
}

// pending is an event whose record is not stored yet.
type pending struct {
	event   *event.Event
	fate    webhook.Fate
	by      Producer
	refused bool // the broker has refused the record before
}

// try produces r, and again if it is refused.
func (f *Forwarder) try(p *pending, r *kgo.Record) {
	e, ctx := p.event, p.event.Context()
	copied := func(r *kgo.Record) *kgo.Record {
		return &kgo.Record{Topic: r.Topic, Partition: e.Partition, Key: r.Key, Value: r.Value, Headers: r.Headers}
	}
	p.by.TryProduce(ctx, r, func(r *kgo.Record, err error) {
		switch {
		case err != nil && ctx.Err() == nil && !errors.Is(err, kgo.ErrClientClosed):
			if errors.Is(err, kerr.MessageTooLarge) && p.by == f.producer {
				p.by = f.large // the record or its batch is too large: it has the best chance alone
				f.try(p, copied(r))
				return
			}
			// The event is kept: nothing above it is committed until the broker accepts the record.
			f.refusals.add(e, r, err, p.refused)
			p.refused = true
			time.AfterFunc(retryInterval, func() { f.try(p, copied(r)) })
			return
		case err == nil:
			if p.fate == webhook.Dead && f.Died != nil {
				f.Died(e)
			}
			e.Settle(p.fate)
		default:
			e.Abandon()
		}
		if p.refused {
			f.refusals.remove(r.Topic)
		}
	})
}

// refusals logs, per topic, when the broker begins to refuse records and when all of them are stored.
type refusals struct {
	log    *zap.Logger
	mu     sync.Mutex
	topics map[string]*refusingTopic
}

type refusingTopic struct {
	*outage.Outage
	records int   // that were refused and are neither stored nor abandoned
	err     error // of the last refusal
}

// Problem returns the topics that refuse records now, and why, or nil if there are none. Nothing above a refused record
// in its source partition is committed.
func (f *Forwarder) Problem() error {
	f.refusals.mu.Lock()
	defer f.refusals.mu.Unlock()
	var errs []error
	for _, topic := range slices.Sorted(maps.Keys(f.refusals.topics)) {
		t := f.refusals.topics[topic]
		errs = append(errs, fmt.Errorf("topic %s refuses %d records: %w", topic, t.records, t.err))
	}
	return errors.Join(errs...)
}

// refusal adds the setting to change to the error of a refused record.
func refusal(r *kgo.Record, err error) error {
	if !errors.Is(err, kerr.MessageTooLarge) {
		return err
	}
	return fmt.Errorf("raise max.message.bytes of topic %s (smshooks topics ensure), a record has %d bytes: %w",
		r.Topic, size(r), err)
}

func size(r *kgo.Record) (n int) {
	n = len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		n += len(h.Key) + len(h.Value)
	}
	return n
}

// add counts a record that was refused, unless it is counted already.
func (f *refusals) add(e *event.Event, r *kgo.Record, err error, counted bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.topics[r.Topic]
	if t == nil {
		t = &refusingTopic{Outage: outage.New(f.log.With(zap.String("topic", r.Topic)),
			"cannot store a record, trying again: check the topic and the broker's limits", "records are stored again")}
		f.topics[r.Topic] = t
	}
	if !counted {
		t.records++
	}
	t.err = refusal(r, err)
	t.Fail(t.err, zap.String("id", e.Identity()), zap.String("record", e.SourcePosition()), zap.Int("bytes", len(r.Value)))
}

// remove counts a refused record that was stored or abandoned.
func (f *refusals) remove(topic string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if t := f.topics[topic]; t.records == 1 {
		t.Recover()
		delete(f.topics, topic)
	} else {
		t.records--
	}
}

// Partitioner places records of delay topics on the partition that they name, and all others by the hash of their
// key, as Kafka's own clients do.
func Partitioner(delayed func(topic string) bool) kgo.Partitioner {
	return partitioner{delayed, kgo.ManualPartitioner(), kgo.StickyKeyPartitioner(nil)}
}

type partitioner struct {
	delayed        func(topic string) bool
	manual, hashed kgo.Partitioner
}

func (p partitioner) ForTopic(topic string) kgo.TopicPartitioner {
	if p.delayed(topic) {
		return p.manual.ForTopic(topic)
	}
	return p.hashed.ForTopic(topic)
}
