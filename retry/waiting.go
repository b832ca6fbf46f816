package retry

import (
	"context"
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

// again is how long a record that the broker refused rests before it is produced once more.
const again = time.Second

// Topics names the topics that wait.
type Topics interface {
	Retry(kind webhook.Kind, step int) string
	Overflow(kind webhook.Kind, tier int) string
}

// Producer is the part of a Kafka client that is needed; *kgo.Client is one.
type Producer interface {
	TryProduce(ctx context.Context, r *kgo.Record, promise func(*kgo.Record, error))
}

// Waiting writes events to the topics that wait. An event is settled when all in-sync replicas have its record;
// until then it is kept and produced again, however long that takes, or abandoned when its partition is given away.
type Waiting struct {
	policy     Policy
	topics     Topics
	deadLetter string
	producer   Producer
	large      Producer // for records that do not fit into a usual batch
	refused    refused

	// Died, if not nil, is called for every event that was stored as a dead letter, for e.Reason.
	Died func(e *event.Event)
}

// Names are the topics that wait.
type Names struct {
	Topics     Topics
	DeadLetter string
}

// NewWaiting writes with producer, and with large what producer finds too large. Both must wait for all in-sync
// replicas (acks=all) and place records of waiting topics by Partitioner.
func NewWaiting(policy Policy, names Names, producer, large Producer, log *zap.Logger) *Waiting {
	return &Waiting{
		policy: policy, topics: names.Topics, deadLetter: names.DeadLetter, producer: producer, large: large,
		refused: refused{log: log, topics: map[string]*refusedTopic{}},
	}
}

// Retry stores a failed event until its next attempt, or as a dead letter if it has none left.
// e.Attempts counts the failed attempt, e.Failure says how it failed.
func (w *Waiting) Retry(e *event.Event, now time.Time) {
	dead, step, due := w.policy.AfterFailure(e, now)
	if dead != "" {
		w.Dead(e, dead)
		return
	}
	w.produce(e, w.waitingRecord(e, w.topics.Retry(e.Kind, step), due), webhook.Retry)
}

// Overflow stores an event that does not fit into its endpoint's queue in the wanted tier or a shorter one, no
// attempt counted. It reports the tier; -1 if the event's window ends too soon and it became a dead letter.
func (w *Waiting) Overflow(e *event.Event, want int, now time.Time) int {
	dead, tier, due := w.policy.Overflow(e, want, now)
	if dead != "" {
		w.Dead(e, dead)
		return -1
	}
	w.produce(e, w.waitingRecord(e, w.topics.Overflow(e.Kind, tier), due), webhook.Overflow)
	return tier
}

// Dead stores an event as a dead letter.
func (w *Waiting) Dead(e *event.Event, reason webhook.Reason) {
	e.Reason = reason
	w.produce(e, w.deadRecord(e, reason, string(e.Failure)), webhook.Dead)
}

// Invalid stores a record that cannot be read as a dead letter, byte for byte; what says what is wrong with it.
func (w *Waiting) Invalid(e *event.Event, what string) {
	e.Attempts, e.Reason = 0, webhook.InvalidRecord
	w.produce(e, w.deadRecord(e, webhook.InvalidRecord, what), webhook.Dead)
}

func (w *Waiting) waitingRecord(e *event.Event, topic string, due time.Time) *kgo.Record {
	return &kgo.Record{
		Topic: topic,
		// The same partition number as the origin: whoever holds the one holds the other, whatever
		// partitioner the gateway uses.
		Partition: e.Partition,
		Key:       strconv.AppendInt(nil, e.UserID, 10),
		Value:     e.Value,
		Headers:   append(headers(e, string(e.Failure)), kgo.RecordHeader{Key: event.HeaderDue, Value: []byte(event.FormatTime(due))}),
	}
}

func (w *Waiting) deadRecord(e *event.Event, reason webhook.Reason, failure string) *kgo.Record {
	return &kgo.Record{
		Topic:   w.deadLetter,
		Key:     e.Key,
		Value:   e.Value,
		Headers: append(headers(e, failure), kgo.RecordHeader{Key: event.HeaderReason, Value: []byte(reason)}),
	}
}

func headers(e *event.Event, failure string) []kgo.RecordHeader {
	hs := append(make([]kgo.RecordHeader, 0, 9),
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
func (w *Waiting) produce(e *event.Event, r *kgo.Record, fate webhook.Fate) {
	if !e.Acquire() {
		e.Abandon()
		return
	}
	w.try(e, r, fate, w.producer, false)
}

// try produces r; tried says that it was refused before.
func (w *Waiting) try(e *event.Event, r *kgo.Record, fate webhook.Fate, by Producer, tried bool) {
	ctx := e.Context()
	afresh := func(r *kgo.Record) *kgo.Record {
		return &kgo.Record{Topic: r.Topic, Partition: e.Partition, Key: r.Key, Value: r.Value, Headers: r.Headers}
	}
	by.TryProduce(ctx, r, func(r *kgo.Record, err error) {
		switch {
		case err != nil && ctx.Err() == nil && !errors.Is(err, kgo.ErrClientClosed):
			if errors.Is(err, kerr.MessageTooLarge) && by == w.producer {
				// Its batch was, or it is itself: alone it has the best chance.
				w.try(e, afresh(r), fate, w.large, tried)
				return
			}
			// The event is kept: nothing below it is committed until the broker takes the record.
			w.refused.met(e, r, err, tried)
			time.AfterFunc(again, func() { w.try(e, afresh(r), fate, by, true) })
			return
		case err == nil:
			if fate == webhook.Dead && w.Died != nil {
				w.Died(e)
			}
			e.Settle(fate)
		default:
			e.Abandon()
		}
		if tried {
			w.refused.over(r.Topic)
		}
	})
}

// refused logs, per topic, when the broker begins to refuse records and when all of them are stored.
type refused struct {
	log    *zap.Logger
	mu     sync.Mutex
	topics map[string]*refusedTopic
}

type refusedTopic struct {
	*outage.Outage
	records int   // that were refused and are not stored or abandoned yet
	err     error // why the last of them was
}

// Problem names the topics that refuse records now, and why; nil if there are none. Nothing behind such a record in
// its partition is committed.
func (w *Waiting) Problem() error {
	w.refused.mu.Lock()
	defer w.refused.mu.Unlock()
	var errs []error
	for _, topic := range slices.Sorted(maps.Keys(w.refused.topics)) {
		t := w.refused.topics[topic]
		errs = append(errs, fmt.Errorf("topic %s refuses %d records: %w", topic, t.records, t.err))
	}
	return errors.Join(errs...)
}

// refusal names the setting with which the broker refused a record.
func refusal(r *kgo.Record, err error) error {
	if !errors.Is(err, kerr.MessageTooLarge) {
		return err
	}
	return fmt.Errorf("raise max.message.bytes of topic %s, which a record of %d bytes exceeds (smshooks topics ensure): %w", r.Topic, size(r), err)
}

func size(r *kgo.Record) (n int) {
	n = len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		n += len(h.Key) + len(h.Value)
	}
	return n
}

func (f *refused) met(e *event.Event, r *kgo.Record, err error, again bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.topics[r.Topic]
	if t == nil {
		t = &refusedTopic{Outage: outage.New(f.log.With(zap.String("topic", r.Topic)),
			"cannot store a record, trying again: check the topic and the broker's limits", "records are stored again")}
		f.topics[r.Topic] = t
	}
	if !again {
		t.records++
	}
	t.err = refusal(r, err)
	t.Fail(t.err, zap.String("id", e.Identity()), zap.String("record", e.SourcePosition()), zap.Int("bytes", len(r.Value)))
}

func (f *refused) over(topic string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if t := f.topics[topic]; t.records == 1 {
		t.Recover()
		delete(f.topics, topic)
	} else {
		t.records--
	}
}

// Partitioner places records of waiting topics where they say, and all others by the hash of their key as Kafka's
// own clients do.
func Partitioner(waiting func(topic string) bool) kgo.Partitioner {
	return partitioner{waiting, kgo.ManualPartitioner(), kgo.StickyKeyPartitioner(nil)}
}

type partitioner struct {
	waiting        func(string) bool
	manual, hashed kgo.Partitioner
}

func (p partitioner) ForTopic(topic string) kgo.TopicPartitioner {
	if p.waiting(topic) {
		return p.manual.ForTopic(topic)
	}
	return p.hashed.ForTopic(topic)
}
