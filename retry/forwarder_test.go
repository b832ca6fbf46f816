package retry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/webhook"
	"github.com/smshooks/smshooks/retry"
)

type delayTopics struct{}

func (delayTopics) Retry(kind webhook.Kind, step int) string {
	return fmt.Sprintf("retry-%d-%d", kind, step)
}
func (delayTopics) Overflow(kind webhook.Kind, tier int) string {
	return fmt.Sprintf("overflow-%d-%d", kind, tier)
}
func (delayTopics) Paused(kind webhook.Kind) string { return fmt.Sprintf("paused-%d", kind) }

// broker accepts records, or refuses the next ones with errs.
type broker struct {
	mu      sync.Mutex
	errs    []error
	records []*kgo.Record
	tries   int
	later   []func() // acknowledgements held back if hold is set
	hold    bool
}

func (b *broker) TryProduce(ctx context.Context, r *kgo.Record, promise func(*kgo.Record, error)) {
	if err, now := b.take(ctx, r, promise); now {
		promise(r, err)
	}
}

func (b *broker) take(ctx context.Context, r *kgo.Record, promise func(*kgo.Record, error)) (err error, now bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tries++
	if err = ctx.Err(); err == nil && len(b.errs) > 0 {
		err, b.errs = b.errs[0], b.errs[1:]
	}
	if err == nil {
		b.records = append(b.records, clone(r)) // the forwarder reuses r
	}
	if b.hold {
		b.later = append(b.later, func() { promise(r, err) })
	}
	return err, !b.hold
}

func clone(r *kgo.Record) *kgo.Record {
	c := &kgo.Record{Topic: r.Topic, Partition: r.Partition, Key: bytes.Clone(r.Key), Value: bytes.Clone(r.Value)}
	for _, h := range r.Headers {
		c.Headers = append(c.Headers, kgo.RecordHeader{Key: h.Key, Value: bytes.Clone(h.Value)})
	}
	return c
}

// lease records how events end.
type lease struct {
	ctx    context.Context
	closed bool
	silent bool // it records nothing

	mu       sync.Mutex
	acquired int
	ends     []string
}

func newLease() *lease { return &lease{ctx: context.Background()} }

func (l *lease) Acquire() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.acquired++
	return true
}

func (l *lease) end(how string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ends = append(l.ends, how)
}

func (l *lease) Settle(_ *event.Event, fate webhook.Fate) {
	if !l.silent {
		l.end(fate.String())
	}
}
func (l *lease) Abandon(e *event.Event)   { l.end(fmt.Sprint("abandoned, acquired: ", e.Acquired())) }
func (l *lease) State() event.State       { return event.Held }
func (l *lease) Context() context.Context { return l.ctx }

func (l *lease) want(t *testing.T, ends ...string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !slices.Equal(ends, l.ends) {
		t.Errorf("the event ended %q, want %q", l.ends, ends)
	}
}

func newEvent(l *lease) *event.Event {
	return &event.Event{
		Record:   event.Record{Topic: "sms-click", Partition: 5, Offset: 77, Key: []byte("the-key"), Value: []byte(`{"user_id": 42}`)},
		Delivery: event.Delivery{Kind: webhook.Click, ID: "evt_click", Time: origin, Attempts: 1, Failure: "http 503", UserID: 42},
		Lease:    l,
	}
}

// TestTopicID checks that delayed receipts, and no other records, name the topic in which their offsets compare.
func TestTopicID(t *testing.T) {
	id := func(e *event.Event) (id string, again event.Event) {
		b := &broker{}
		newForwarder(b).Overflow(e, 0)
		again.Class = topics.Overflow
		for _, h := range b.records[0].Headers {
			if again.SetHeader(h.Key, h.Value); h.Key == event.HeaderTopicID {
				id = string(h.Value)
			}
		}
		return id, again
	}
	e := newEvent(newLease())
	e.Namespace = "0123456789abcdef"
	if got, _ := id(e); got != "" {
		t.Errorf("a click: %q", got)
	}
	e.Kind = webhook.DLR
	got, delayed := id(e)
	want := event.Place{Topic: e.Namespace, Partition: 5, Offset: 77}
	if source, known := delayed.Source(); got != "MDEyMzQ1Njc4OWFiY2RlZg" || !known || source != want {
		t.Errorf("%q, %v %v", got, source, known)
	}
	delayed.Kind, delayed.Namespace, delayed.Offset, delayed.Lease = webhook.DLR, "of the delay topic", 3, newLease()
	if again, _ := id(&delayed); again != got {
		t.Errorf("delayed again: %q", again)
	}
}

// record holds the relevant fields of a kgo.Record.
type record struct {
	Topic     string
	Partition int32
	Key       string
	Value     string
	Headers   []string
}

func (b *broker) want(t *testing.T, want ...record) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	var got []record
	for _, r := range b.records {
		one := record{r.Topic, r.Partition, string(r.Key), string(r.Value), nil}
		for _, h := range r.Headers {
			one.Headers = append(one.Headers, h.Key+": "+string(h.Value))
		}
		got = append(got, one)
	}
	if !reflect.DeepEqual(want, got) {
		t.Errorf("records:\n%+v\nwant:\n%+v", got, want)
	}
}

func newForwarder(b *broker) forwarder { return newForwarderWith(b, &broker{}) }

func newForwarderWith(b, large *broker) forwarder {
	return forwarder{retry.NewForwarder(retry.Names{Topics: delayTopics{}, DeadLetter: "dead"}, b, large, zap.NewNop())}
}

// forwarder stores acquired events according to the default policy.
type forwarder struct{ *retry.Forwarder }

func (f forwarder) afterFailure(e *event.Event, now time.Time) {
	dead, step, due := usual.AfterFailure(e, now)
	if e.Due = due; dead != "" {
		f.dead(e, dead)
	} else if e.Acquire() {
		f.Retry(e, step)
	}
}

func (f forwarder) overflow(e *event.Event, want int, now time.Time) {
	dead, tier, due := usual.Overflow(e, want, now)
	if e.Due = due; dead != "" {
		f.dead(e, dead)
	} else if e.Acquire() {
		f.Overflow(e, tier)
	}
}

func (f forwarder) dead(e *event.Event, reason webhook.Reason) {
	if e.Acquire() {
		f.Dead(e, reason)
	}
}

func TestRetryRecord(t *testing.T) {
	b, l := &broker{}, newLease()
	newForwarder(b).afterFailure(newEvent(l), origin.Add(1234567*time.Microsecond))
	b.want(t, record{"retry-1-0", 5, "42", `{"user_id": 42}`, []string{
		"smshooks-id: evt_click", "smshooks-origin: sms-click/5/77", "smshooks-kind: click", "smshooks-event-time: 2026-03-01T12:00:00.000Z",
		"smshooks-attempts: 1", "smshooks-error: http 503", "smshooks-due: 2026-03-01T18:00:01.235Z",
	}})
	l.want(t, "retry")
}

func TestSecondRetryKeepsHeaders(t *testing.T) {
	b, l := &broker{}, newLease()
	e := newEvent(l)
	e.Class, e.Topic, e.Partition, e.Offset, e.Attempts, e.ID, e.Failure = topics.Retry, "retry-1-0", 2, 9, 2, "sms-click/2/77", webhook.Timeout
	e.Time = origin.In(time.FixedZone("", 3600)).Add(999 * time.Microsecond)
	e.Traceparent = "00-of-the-record"
	newForwarder(b).afterFailure(e, origin.Add(6*time.Hour))
	b.want(t, record{"retry-1-1", 2, "42", `{"user_id": 42}`, []string{
		"smshooks-id: sms-click/2/77", "smshooks-origin: sms-click/2/77", "smshooks-kind: click", "smshooks-event-time: 2026-03-01T12:00:00.000Z",
		"smshooks-attempts: 2", "traceparent: 00-of-the-record", "smshooks-error: timeout", "smshooks-due: 2026-03-02T00:00:00.000Z",
	}})
	l.want(t, "retry")
}

// TestRecordsAreReused checks that storing an event allocates little memory, and that a record in flight is not
// overwritten.
func TestRecordsAreReused(t *testing.T) {
	held, l := &broker{hold: true}, newLease()
	f := newForwarder(held)
	first, second := newEvent(l), newEvent(l)
	first.UserID, second.UserID = 1, 2
	f.Retry(first, 0)
	f.Retry(second, 0)
	for _, answer := range held.later {
		answer()
	}
	if a, b := string(held.records[0].Key), string(held.records[1].Key); a != "1" || b != "2" {
		t.Errorf("keys %s and %s, want 1 and 2", a, b)
	}
	stored := forwarder{retry.NewForwarder(retry.Names{Topics: constantTopics{}}, acknowledging{}, acknowledging{}, zap.NewNop())}
	e := newEvent(&lease{ctx: context.Background(), silent: true})
	e.Kind, e.Namespace = webhook.DLR, "0123456789abcdef"
	stored.Retry(e, 0)
	if n := testing.AllocsPerRun(1000, func() { stored.Retry(e, 0) }); n > 4 { // pools lose some, with the race detector a quarter
		t.Errorf("%v allocations for a stored event", n)
	}
}

type constantTopics struct{ delayTopics }

func (constantTopics) Retry(webhook.Kind, int) string { return "retry" }

// acknowledging is a broker that acknowledges records without keeping them.
type acknowledging struct{}

func (acknowledging) TryProduce(_ context.Context, r *kgo.Record, promise func(*kgo.Record, error)) {
	promise(r, nil)
}

func TestRetryOfTheLastAttempt(t *testing.T) {
	b, l := &broker{}, newLease()
	e := newEvent(l)
	e.Attempts = 3
	newForwarder(b).afterFailure(e, origin.Add(12*time.Hour))
	b.want(t, record{"dead", 0, "the-key", `{"user_id": 42}`, []string{
		"smshooks-id: evt_click", "smshooks-origin: sms-click/5/77", "smshooks-kind: click", "smshooks-event-time: 2026-03-01T12:00:00.000Z",
		"smshooks-attempts: 3", "smshooks-error: http 503", "smshooks-reason: attempts_exhausted",
	}})
	l.want(t, "dead")
}

func TestRetryPastTheWindow(t *testing.T) {
	b, l := &broker{}, newLease()
	newForwarder(b).afterFailure(newEvent(l), origin.Add(19*time.Hour))
	b.want(t, record{"dead", 0, "the-key", `{"user_id": 42}`, []string{
		"smshooks-id: evt_click", "smshooks-origin: sms-click/5/77", "smshooks-kind: click", "smshooks-event-time: 2026-03-01T12:00:00.000Z",
		"smshooks-attempts: 1", "smshooks-error: http 503", "smshooks-reason: window_expired",
	}})
	l.want(t, "dead")
}

func TestOverflowRecord(t *testing.T) {
	b, l := &broker{}, newLease()
	e := newEvent(l)
	e.Attempts, e.Failure = 0, ""
	newForwarder(b).overflow(e, 3, origin.Add(day-6*time.Minute)) // the window ends before tier 3 does
	b.want(t, record{"overflow-1-2", 5, "42", `{"user_id": 42}`, []string{
		"smshooks-id: evt_click", "smshooks-origin: sms-click/5/77", "smshooks-kind: click", "smshooks-event-time: 2026-03-01T12:00:00.000Z",
		"smshooks-attempts: 0", "smshooks-due: 2026-03-02T11:59:00.000Z",
	}})
	l.want(t, "overflow")
}

func TestOverflowPastTheWindow(t *testing.T) {
	b, l := &broker{}, newLease()
	e := newEvent(l)
	e.Attempts, e.Failure = 0, ""
	newForwarder(b).overflow(e, 3, origin.Add(day))
	b.want(t, record{"dead", 0, "the-key", `{"user_id": 42}`, []string{
		"smshooks-id: evt_click", "smshooks-origin: sms-click/5/77", "smshooks-kind: click", "smshooks-event-time: 2026-03-01T12:00:00.000Z",
		"smshooks-attempts: 0", "smshooks-reason: window_expired",
	}})
	l.want(t, "dead")
}

func TestPausedRecord(t *testing.T) {
	b, l := &broker{}, newLease()
	e := newEvent(l)
	e.Due = origin.Add(day)
	newForwarder(b).Pause(e)
	b.want(t, record{"paused-1", 5, "42", `{"user_id": 42}`, []string{
		"smshooks-id: evt_click", "smshooks-origin: sms-click/5/77", "smshooks-kind: click", "smshooks-event-time: 2026-03-01T12:00:00.000Z",
		"smshooks-attempts: 1", "smshooks-error: http 503", "smshooks-due: 2026-03-02T12:00:00.000Z",
	}})
	l.want(t, "paused")
}

func TestInvalidRecord(t *testing.T) {
	for _, key := range [][]byte{nil, {}, {0xFF, 0}} {
		b, l := &broker{}, newLease()
		e := &event.Event{
			Record:   event.Record{Topic: "sms-dlr", Partition: 1, Offset: 2, Key: key, Value: []byte{0, 0xFF, '{'}},
			Delivery: event.Delivery{Kind: webhook.DLR, ID: "gateway:1", Time: origin, Attempts: 2, Failure: "http 500"},
			Lease:    l,
		}
		newForwarder(b).Invalid(e, "not UTF-8")
		b.want(t, record{"dead", 0, string(key), "\x00\xff{", []string{
			"smshooks-id: gateway:1", "smshooks-origin: sms-dlr/1/2", "smshooks-kind: dlr", "smshooks-event-time: 2026-03-01T12:00:00.000Z",
			"smshooks-attempts: 0", "smshooks-error: not UTF-8", "smshooks-reason: invalid_record",
		}})
		if got := b.records[0].Key; (got == nil) != (key == nil) {
			t.Errorf("key %#v became %#v", key, got)
		}
		l.want(t, "dead")
	}
}

// TestRefusedRecordIsProducedAgain checks that a refused record is produced again, unchanged, until it is accepted, and
// that only then the event is settled.
func TestRefusedRecordIsProducedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := errors.New("message too large")
		b, l := &broker{errs: []error{refused, kgo.ErrMaxBuffered, refused}}, newLease()
		newForwarder(b).afterFailure(newEvent(l), origin)
		for range 3 {
			l.want(t)
			time.Sleep(again)
			synctest.Wait()
		}
		l.want(t, "retry")
		b.want(t, record{"retry-1-0", 5, "42", `{"user_id": 42}`, []string{
			"smshooks-id: evt_click", "smshooks-origin: sms-click/5/77", "smshooks-kind: click", "smshooks-event-time: 2026-03-01T12:00:00.000Z",
			"smshooks-attempts: 1", "smshooks-error: http 503", "smshooks-due: 2026-03-01T18:00:00.000Z",
		}})
		time.Sleep(time.Minute)
		if b.tries != 4 || l.acquired != 1 {
			t.Errorf("%d tries, acquired %d times, want 4 and 1", b.tries, l.acquired)
		}
	})
}

// TestLargeRecord checks that a record that is too large, or whose batch was, is produced alone. If it is refused
// again, it is kept and retried.
func TestLargeRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, large, l := &broker{errs: []error{kerr.MessageTooLarge}}, &broker{errs: []error{kerr.MessageTooLarge}}, newLease()
		newForwarderWith(b, large).afterFailure(newEvent(l), origin)
		l.want(t)
		time.Sleep(again)
		synctest.Wait()
		l.want(t, "retry")
		b.want(t)
		large.want(t, record{"retry-1-0", 5, "42", `{"user_id": 42}`, []string{
			"smshooks-id: evt_click", "smshooks-origin: sms-click/5/77", "smshooks-kind: click", "smshooks-event-time: 2026-03-01T12:00:00.000Z",
			"smshooks-attempts: 1", "smshooks-error: http 503", "smshooks-due: 2026-03-01T18:00:00.000Z",
		}})
	})
}

// again is the delay before a refused record is produced again.
const again = time.Second

func TestNothingIsSettledBeforeItIsStored(t *testing.T) {
	b, l := &broker{hold: true}, newLease()
	newForwarder(b).dead(newEvent(l), webhook.WindowExpired)
	l.want(t)
	b.later[0]()
	l.want(t, "dead")
}

func TestRevokedPartition(t *testing.T) {
	t.Run("while it is produced", func(t *testing.T) {
		b, l := &broker{hold: true, errs: []error{context.Canceled}}, newLease()
		ctx, cancel := context.WithCancel(context.Background())
		l.ctx = ctx
		newForwarder(b).afterFailure(newEvent(l), origin)
		cancel()
		b.later[0]()
		l.want(t, "abandoned, acquired: true")
	})
	t.Run("while it rests", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b, l := &broker{errs: []error{errors.New("no")}}, newLease()
			ctx, cancel := context.WithCancel(context.Background())
			l.ctx = ctx
			newForwarder(b).afterFailure(newEvent(l), origin)
			cancel()
			time.Sleep(time.Minute)
			synctest.Wait()
			b.want(t)
			l.want(t, "abandoned, acquired: true")
		})
	})
	t.Run("client closed", func(t *testing.T) {
		b, l := &broker{errs: []error{fmt.Errorf("produce: %w", kgo.ErrClientClosed)}}, newLease()
		newForwarder(b).afterFailure(newEvent(l), origin)
		l.want(t, "abandoned, acquired: true")
	})
	t.Run("stored at the last moment", func(t *testing.T) {
		b, l := &broker{hold: true}, newLease()
		ctx, cancel := context.WithCancel(context.Background())
		l.ctx = ctx
		newForwarder(b).afterFailure(newEvent(l), origin)
		l.closed = true
		cancel()
		b.later[0]()
		l.want(t, "retry")
	})
}
