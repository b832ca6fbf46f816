package tracing

import (
	"context"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	spans "go.opentelemetry.io/proto/otlp/trace/v1"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"go.uber.org/zap/zaptest/observer"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/webhook"
	"github.com/smshooks/smshooks/test/collector"
)

// end closes the tracer and returns the spans in the order in which they ended.
func end(t *testing.T, c *collector.Collector, tracer *Tracer) []*spans.Span {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := tracer.Close(ctx); err != nil {
		t.Fatal(err)
	}
	return c.Spans()
}

func newTest(t *testing.T, endpoint string, sample float64) *Tracer {
	t.Helper()
	tracer, err := New(t.Context(), Config{Endpoint: endpoint, Sample: sample, Version: "1"}, zaptest.NewLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	return tracer
}

func attributes(s *spans.Span) map[string]string {
	all := map[string]string{}
	for _, a := range s.Attributes {
		all[a.Key] = strings.Trim(a.Value.String()[strings.Index(a.Value.String(), ":")+1:], `" `)
	}
	return all
}

const (
	theirTrace = "4bf92f3577b34da6a3ce929d0e0e4736"
	theirSpan  = "00f067aa0ba902b7"
)

// An event that fails, is delayed and then delivered is one trace: the gateway's span → record → attempt, and from the
// first record → the record of the delay topic → attempt.
func TestTraceAcrossADelayTopic(t *testing.T) {
	c := collector.New(t)
	tracer := newTest(t, c.URL, 0)
	first := &event.Event{
		Record:      event.Record{Topic: "sms-dlr", Partition: 3, Offset: 17},
		Delivery:    event.Delivery{Kind: webhook.DLR, ID: "evt_1", UserID: 42},
		Traceparent: "00-" + theirTrace + "-" + theirSpan + "-01",
	}
	following := tracer.Follow(first)
	if following == nil {
		t.Fatal("a sampled record is not followed")
	}
	at := time.Unix(1_800_000_000, 0)
	following.Attempt(event.LogEntry{UserID: 42, Kind: webhook.DLR, ID: first.Identity(), Number: 1, Time: at, Host: "example.com", Status: 503, Failure: webhook.HTTPFailure(503), Took: 30 * time.Millisecond})
	first.Attempts = 1
	following.End(first, webhook.Retry.String())

	second := &event.Event{
		Record:      event.Record{Class: topics.Retry, Topic: "sms-dlr-retry-6h", Partition: 3, Offset: 1, Origin: "sms-dlr/3/17"},
		Delivery:    event.Delivery{Kind: webhook.DLR, ID: "evt_1", Attempts: 1, UserID: 42},
		Traceparent: first.Traceparent,
	}
	following = tracer.Follow(second)
	following.Attempt(event.LogEntry{UserID: 42, Kind: webhook.DLR, ID: second.ID, Number: 2, Time: at, Host: "example.com", Status: 200, Took: time.Millisecond})
	following.End(second, webhook.Delivered.String())

	got := end(t, c, tracer)
	if len(got) != 4 || c.Paths()[0] != "/v1/traces" {
		t.Fatalf("%d spans at %v, want 4", len(got), c.Paths())
	}
	for _, s := range got {
		if hex.EncodeToString(s.TraceId) != theirTrace {
			t.Errorf("%s is in another trace: %x", s.Name, s.TraceId)
		}
	}
	attempt1, record1, attempt2, record2 := got[0], got[1], got[2], got[3]
	for i, pair := range [][2]string{
		{hex.EncodeToString(record1.ParentSpanId), theirSpan},
		{string(attempt1.ParentSpanId), string(record1.SpanId)},
		{string(record2.ParentSpanId), string(record1.SpanId)},
		{string(attempt2.ParentSpanId), string(record2.SpanId)},
	} {
		if pair[0] != pair[1] {
			t.Errorf("link %d: parent %x, want %x", i, pair[0], pair[1])
		}
	}
	if took := time.Duration(attempt1.EndTimeUnixNano - attempt1.StartTimeUnixNano); took != 30*time.Millisecond || attempt1.StartTimeUnixNano != uint64(at.UnixNano()) {
		t.Errorf("the attempt took %v from %d", took, attempt1.StartTimeUnixNano)
	}
	wantAttributes(t, attempt1, map[string]string{
		"smshooks.id": "evt_1", "smshooks.record": "sms-dlr/3/17", "smshooks.kind": "dlr", "smshooks.attempt": "1", "smshooks.outcome": "failed", "error.type": "http 503",
		"http.response.status_code": "503", "server.address": "example.com", "smshooks.user_id": "42",
	})
	wantAttributes(t, attempt2, map[string]string{"smshooks.attempt": "2", "smshooks.record": "sms-dlr/3/17", "smshooks.outcome": "ok", "error.type": ""})
	wantAttributes(t, record1, map[string]string{"messaging.destination.name": "sms-dlr", "smshooks.id": "evt_1", "smshooks.record": "sms-dlr/3/17", "messaging.kafka.offset": "17", "smshooks.fate": "retry", "smshooks.attempts": "1"})
	wantAttributes(t, record2, map[string]string{"messaging.destination.name": "sms-dlr-retry-6h", "smshooks.id": "evt_1", "smshooks.record": "sms-dlr/3/17", "smshooks.fate": "delivered"})
	if attempt1.Status.GetCode() != spans.Status_STATUS_CODE_ERROR || attempt2.Status.GetCode() == spans.Status_STATUS_CODE_ERROR {
		t.Errorf("statuses %v and %v", attempt1.Status, attempt2.Status)
	}
}

// TestFailoverSpans checks that each request of an attempt with a failover has a span in that of the record, one after
// the other.
func TestFailoverSpans(t *testing.T) {
	c := collector.New(t)
	tracer := newTest(t, c.URL, 1)
	e := &event.Event{
		Record:   event.Record{Topic: "sms-dlr", Partition: 3, Offset: 17},
		Delivery: event.Delivery{Kind: webhook.DLR, ID: "evt_1", UserID: 42},
	}
	following := tracer.Follow(e)
	at := time.Unix(1_800_000_000, 0)
	following.Attempt(event.LogEntry{UserID: 42, Kind: webhook.DLR, ID: "evt_1", Number: 1, Time: at, Host: "example.com", Status: 503, Failure: webhook.HTTPFailure(503), Took: 30 * time.Millisecond})
	following.Attempt(event.LogEntry{UserID: 42, Kind: webhook.DLR, ID: "evt_1", Number: 1, Time: at.Add(30 * time.Millisecond), Host: "spare.example", Status: 200, Took: time.Millisecond, Failover: true})
	following.End(e, webhook.Delivered.String())
	got := end(t, c, tracer)
	if len(got) != 3 {
		t.Fatalf("%d spans, want one for the record and two for its requests", len(got))
	}
	first, second, record := got[0], got[1], got[2]
	wantAttributes(t, first, map[string]string{"smshooks.attempt": "1", "smshooks.outcome": "failed", "server.address": "example.com", "smshooks.failover": ""})
	wantAttributes(t, second, map[string]string{"smshooks.attempt": "1", "smshooks.outcome": "ok", "server.address": "spare.example", "smshooks.failover": "true"})
	if string(first.ParentSpanId) != string(record.SpanId) || string(second.ParentSpanId) != string(record.SpanId) {
		t.Error("a request is not in the span of its record")
	}
	if first.EndTimeUnixNano > second.StartTimeUnixNano {
		t.Errorf("the failover began at %d, before the first request ended at %d", second.StartTimeUnixNano, first.EndTimeUnixNano)
	}
}

func wantAttributes(t *testing.T, s *spans.Span, want map[string]string) {
	t.Helper()
	got := attributes(s)
	for key, value := range want {
		if got[key] != value {
			t.Errorf("%s: %s is %q, want %q", s.Name, key, got[key], value)
		}
	}
}

// Whether a record is sampled is decided once, where its trace begins, even if that is here.
func TestSampling(t *testing.T) {
	c := collector.New(t)
	never, always := newTest(t, c.URL, 0), newTest(t, c.URL+"/elsewhere", 1)
	for _, test := range []struct {
		tracer      *Tracer
		traceparent string
		followed    bool
	}{
		{never, "00-" + theirTrace + "-" + theirSpan + "-01", true},
		{always, "00-" + theirTrace + "-" + theirSpan + "-00", false},
		{never, "", false},
		{always, "", true},
		{never, "no traceparent", false},
		{always, "\xff\x00", true},
	} {
		e := &event.Event{
			Record:      event.Record{Topic: "sms-dlr"},
			Delivery:    event.Delivery{Kind: webhook.DLR},
			Traceparent: test.traceparent,
		}
		following := test.tracer.Follow(e)
		if (following != nil) != test.followed {
			t.Errorf("%q: followed is %v", test.traceparent, following != nil)
		}
		// The next pass keeps this decision, whatever its own sampling rate.
		for _, tracer := range []*Tracer{never, always} {
			next := &event.Event{
				Record:      event.Record{Topic: "sms-dlr-retry-6h"},
				Delivery:    event.Delivery{Kind: webhook.DLR},
				Traceparent: e.Traceparent,
			}
			again := tracer.Follow(next)
			if (again != nil) != test.followed {
				t.Errorf("%q, then %q: followed is %v", test.traceparent, e.Traceparent, again != nil)
			}
			if again != nil {
				again.End(next, "delivered")
			}
		}
		if following != nil {
			following.End(e, "retry")
		}
	}
	if n := len(end(t, c, never)); n == 0 {
		t.Error("no span arrived")
	}
	end(t, c, always)
	if last := c.Paths()[len(c.Paths())-1]; last != "/elsewhere" {
		t.Errorf("the given path is not used, but %s", last)
	}
}

// An unreachable collector delays nothing and is logged once.
func TestCollectorUnreachable(t *testing.T) {
	core, lines := observer.New(zap.InfoLevel)
	tracer, err := New(t.Context(), Config{Endpoint: "http://127.0.0.1:1", Sample: 1}, zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for n := range 10_000 {
		e := &event.Event{
			Record:   event.Record{Topic: "sms-dlr", Offset: int64(n)},
			Delivery: event.Delivery{Kind: webhook.DLR},
		}
		tracer.Follow(e).End(e, "delivered")
	}
	if took := time.Since(began); took > 30*time.Second { // if each waited for the collector, it would take hours
		t.Errorf("10,000 records took %v", took)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = tracer.Close(ctx)
	if lines.Len() != 1 || lines.All()[0].Message != "cannot send spans" {
		t.Errorf("log: %v, want one line", lines.All())
	}
}
