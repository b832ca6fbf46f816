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
	"github.com/smshooks/smshooks/internal/kafka"
	"github.com/smshooks/smshooks/internal/outage"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// retryInterval is the pause before the forwarder produces a refused record again.
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

// Producer is the needed part of a Kafka client; *kgo.Client implements it. Once a record is stored it uses neither
// the record nor its memory.
type Producer interface {
	TryProduce(ctx context.Context, r *kgo.Record, promise func(*kgo.Record, error))
}

// Forwarder stores events in delay topics and in the dead letter topic. The caller must have acquired the event. It
// is settled when all in-sync replicas have its record. Until then the event is kept, and its record is
// produced again while the broker refuses it. It is abandoned if its partition is revoked.
type Forwarder struct {
	topics     Topics
	deadLetter string
	producer   Producer
	large      Producer // for records that are too large for a batch
	refusals   refusals
	parcels    sync.Pool

	// Died, if not nil, is called for every event that was stored as a dead letter, for e.Reason.
	Died func(e *event.Event)
}

// Names are the topics that a Forwarder writes.
type Names struct {
	Topics     Topics
	DeadLetter string
}

// NewForwarder returns a Forwarder that produces with producer, or with large if producer reports that a record is too
// large. Both must wait for all in-sync replicas (acks=all) and use [kafka.Partitioner].
func NewForwarder(names Names, producer, large Producer, log *zap.Logger) *Forwarder {
	f := &Forwarder{
		topics: names.Topics, deadLetter: names.DeadLetter, producer: producer, large: large,
		refusals: refusals{log: log, topics: map[string]*refusingTopic{}},
	}
	f.parcels.New = func() any {
		p := &parcel{Forwarder: f}
		p.promise = p.produced
		return p
	}
	return f
}

// Retry stores e in the retry topic of a step of the schedule, until e.Due. e.Attempts counts the failed attempt, and
// e.Failure is its failure.
func (f *Forwarder) Retry(e *event.Event, step int) {
	f.delay(e, f.topics.Retry(e.Kind, step), webhook.Retry)
}

// Overflow stores e in the overflow topic of a tier, until e.Due.
func (f *Forwarder) Overflow(e *event.Event, tier int) {
	f.delay(e, f.topics.Overflow(e.Kind, tier), webhook.Overflow)
}

// Pause stores e in the paused topic of its kind, until e.Due.
func (f *Forwarder) Pause(e *event.Event) {
	f.delay(e, f.topics.Paused(e.Kind), webhook.Paused)
}

// Dead stores e as a dead letter.
func (f *Forwarder) Dead(e *event.Event, reason webhook.Reason) {
	e.Reason = reason
	f.kill(e, string(e.Failure))
}

// Invalid stores a record that cannot be decoded as a dead letter, byte for byte. what describes what is wrong with it.
func (f *Forwarder) Invalid(e *event.Event, what string) {
	e.Attempts, e.Reason = 0, webhook.InvalidRecord
	f.kill(e, what)
}

// delay stores e in a delay topic, in the partition with the number of the source record's. So the same member owns
// both, whichever partitioner the gateway uses.
func (f *Forwarder) delay(e *event.Event, topic string, fate webhook.Fate) {
	p := f.parcel(e, fate, string(e.Failure))
	p.record.Topic, p.record.Partition = topic, e.Partition
	p.header(event.HeaderDue, webhook.AppendTime(p.text, e.Due))
	if source, known := e.Source(); known && e.Kind == webhook.DLR {
		p.header(event.HeaderTopicID, base64.RawURLEncoding.AppendEncode(p.text, []byte(source.Topic)))
	}
	p.record.Key = p.append(strconv.AppendInt(p.text, e.UserID, 10))
	p.produce()
}

// kill stores e in the dead letter topic, for e.Reason.
func (f *Forwarder) kill(e *event.Event, failure string) {
	p := f.parcel(e, webhook.Dead, failure)
	p.record.Topic, p.record.Key = f.deadLetter, e.Key
	p.header(event.HeaderReason, append(p.text, e.Reason...))
	p.produce()
}

// parcel is an event on its way to a topic. It is reused, with its memory, once its record is stored.
type parcel struct {
	*Forwarder
	event   *event.Event
	fate    webhook.Fate
	by      Producer
	refused bool // the broker has refused the record before

	record  kgo.Record
	text    []byte                   // the headers' values, and the key
	promise func(*kgo.Record, error) // p.produced, bound once
}

// parcel returns a parcel for e, with the headers of all stored records.
func (f *Forwarder) parcel(e *event.Event, fate webhook.Fate, failure string) *parcel {
	p := f.parcels.Get().(*parcel)
	p.event, p.fate, p.by, p.refused, p.text = e, fate, f.producer, false, p.text[:0]
	p.record = kgo.Record{Value: e.Value, Headers: p.record.Headers[:0]}
	p.header(event.HeaderID, append(p.text, e.Identity()...))
	p.header(event.HeaderOrigin, append(p.text, e.SourcePosition()...))
	p.header(event.HeaderKind, append(p.text, e.Kind.String()...))
	p.header(event.HeaderTime, webhook.AppendTime(p.text, e.Time))
	p.header(event.HeaderAttempts, strconv.AppendInt(p.text, int64(e.Attempts), 10))
	if e.IsReplay() {
		p.header(event.HeaderReplayed, webhook.AppendTime(p.text, e.Replayed))
	}
	if e.Traceparent != "" {
		p.header(event.HeaderTrace, append(p.text, e.Traceparent...))
	}
	if failure != "" {
		p.header(event.HeaderError, append(p.text, failure...))
	}
	return p
}

// append sets p.text to text, which begins with it, and returns the new part.
func (p *parcel) append(text []byte) []byte {
	added := text[len(p.text):len(text):len(text)]
	p.text = text
	return added
}

// header adds a header whose value was appended to p.text.
func (p *parcel) header(key string, text []byte) {
	p.record.Headers = append(p.record.Headers, kgo.RecordHeader{Key: key, Value: p.append(text)})
}

// produce produces the record until it is stored.
func (p *parcel) produce() { p.by.TryProduce(p.event.Context(), &p.record, p.promise) }

// produced settles the event if its record is stored.
func (p *parcel) produced(r *kgo.Record, err error) {
	e := p.event
	switch {
	case err != nil && e.Context().Err() == nil && !errors.Is(err, kgo.ErrClientClosed):
		p.again(err)
		return
	case err == nil:
		if p.fate == webhook.Dead && p.Died != nil {
			p.Died(e)
		}
		e.Settle(p.fate)
	default:
		e.Abandon()
	}
	if p.refused {
		p.refusals.remove(r.Topic)
	}
	if err == nil {
		p.event, p.record.Value, p.record.Key = nil, nil, nil
		p.parcels.Put(p)
	}
}

// again produces a refused record again. The event is kept: nothing above it is committed until the broker accepts the
// record.
func (p *parcel) again(err error) {
	if errors.Is(err, kerr.MessageTooLarge) && p.by == p.producer {
		p.by = p.large // the record or its batch is too large, so produce it alone
		p.produceCopy()
		return
	}
	p.refusals.add(p.event, &p.record, err, p.refused)
	p.refused = true
	time.AfterFunc(retryInterval, p.produceCopy)
}

// produceCopy produces the record without what a producer has set in it.
func (p *parcel) produceCopy() {
	r := p.record
	p.record = kgo.Record{Topic: r.Topic, Partition: p.event.Partition, Key: r.Key, Value: r.Value, Headers: r.Headers}
	p.produce()
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
		r.Topic, kafka.RecordSize(r), err)
}

// add counts a record that was refused, unless it is counted already.
func (f *refusals) add(e *event.Event, r *kgo.Record, err error, counted bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.topics[r.Topic]
	if t == nil {
		t = &refusingTopic{Outage: outage.New(f.log.With(zap.String("topic", r.Topic)),
			"cannot store a record; retrying: check the topic and the broker's limits", "records are stored again")}
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
