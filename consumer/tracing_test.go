package consumer

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/metrics"
	"github.com/smshooks/smshooks/pkg/offsets"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// settler settles each event at once.
type settler struct{}

func (settler) Handle(events []*event.Event) {
	for _, e := range events {
		e.Acquire()
		e.Settle(webhook.Delivered)
	}
}
func (settler) Purge()       {}
func (settler) Behind() bool { return false }

type follower struct{ followed, ended int }

func (f *follower) Follow(e *event.Event) event.Trace {
	f.followed++
	if e.Traceparent != "00-of-the-gateway" {
		return nil
	}
	e.Traceparent = "00-of-the-record"
	return f
}
func (f *follower) Attempt(event.LogEntry) {}
func (f *follower) End(e *event.Event, how string) {
	if e.Traceparent == "00-of-the-record" && how == "delivered" {
		f.ended++
	}
}

// dispatched returns a function that ingests a record with a traceparent, dispatches and settles it.
func dispatched(t *testing.T, tracer Tracer) (once func()) {
	t.Helper()
	m := metrics.New(prometheus.NewRegistry(), metrics.Topics{Consumed: []string{source}})
	c := New(Config{MaxBufferedBytes: 1 << 30}, Parts{Topics: kinds{}, Handler: settler{}, Tracer: tracer, Metrics: m, Log: zap.NewNop()})
	a := c.newAssignment(topicPartition{source, 0})
	a.restore(offsets.New(0, ""), 0, -1, "")
	r := &kgo.Record{
		Topic: source, Key: []byte("42"), Value: []byte(`{"user_id":42}`), Timestamp: time.Unix(1_800_000_000, 0),
		Headers: []kgo.RecordHeader{{Key: "other", Value: []byte("x")}, {Key: "traceparent", Value: []byte("00-of-the-gateway")}},
	}
	events := make([]*event.Event, 1)
	return func() {
		events[0] = c.newEvent(a, r, r.Timestamp)
		r.Offset++
		c.dispatch(events)
	}
}

// A sampled record is traced from its header to its fate.
func TestTracerFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &follower{}
		once := dispatched(t, f)
		once()
		once()
		if f.followed != 2 || f.ended != 2 {
			t.Errorf("%d followed, %d ended, want 2 and 2", f.followed, f.ended)
		}
	})
}

// Without a tracer a record allocates nothing for it, even if it has a traceparent.
func TestTracingIsFreeWhenOff(t *testing.T) {
	once := dispatched(t, nil)
	for range 100 {
		once() // the tracker and the pool have grown
	}
	if n := testing.AllocsPerRun(1000, once); n >= 1 {
		t.Errorf("%v allocations per record, want none", n)
	}
}
