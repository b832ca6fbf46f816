package event_test

import (
	"context"
	"testing"
	"time"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/pkg/webhook"
)

func TestTimesInHeaders(t *testing.T) {
	base := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	tests := []struct {
		t           time.Time
		cut, ceiled string
	}{
		{base, "2026-03-01T12:00:00.000Z", "2026-03-01T12:00:00.000Z"},
		{base.Add(1), "2026-03-01T12:00:00.000Z", "2026-03-01T12:00:00.001Z"},
		{base.Add(999_999_999), "2026-03-01T12:00:00.999Z", "2026-03-01T12:00:01.000Z"},
		{base.Add(time.Millisecond), "2026-03-01T12:00:00.001Z", "2026-03-01T12:00:00.001Z"},
		{time.UnixMilli(1 << 60), "9999-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999Z"},
		{time.UnixMilli(-1 << 60), "0000-01-01T00:00:00.000Z", "0000-01-01T00:00:00.000Z"},
		{base.In(time.FixedZone("", 5*3600)), "2026-03-01T12:00:00.000Z", "2026-03-01T12:00:00.000Z"},
	}
	for _, test := range tests {
		if got := event.FormatTime(test.t); got != test.cut {
			t.Errorf("FormatTime(%v) = %s, want %s", test.t, got, test.cut)
		}
		if got := event.FormatTime(event.CeilMilli(test.t)); got != test.ceiled {
			t.Errorf("CeilMilli(%v) = %s, want %s", test.t, got, test.ceiled)
		}
	}
}

func TestSetHeader(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 250e6, time.UTC)
	tests := []struct {
		key, value string
		want       event.Event
	}{
		{"smshooks-id", "sms-dlr/1/2", event.Event{Delivery: event.Delivery{ID: "sms-dlr/1/2"}}},
		{"smshooks-origin", "sms-dlr/1/2", event.Event{Record: event.Record{Origin: "sms-dlr/1/2"}}},
		{"smshooks-origin", "here", event.Event{}},
		{"smshooks-event-time", "2026-03-01T12:00:00.250Z", event.Event{Delivery: event.Delivery{Time: at}}},
		{"smshooks-event-time", "2026-03-01T13:00:00.25+01:00", event.Event{Delivery: event.Delivery{Time: at}}},
		{"smshooks-event-time", "yesterday", event.Event{}},
		{"smshooks-attempts", "2", event.Event{Delivery: event.Delivery{Attempts: 2}}},
		{"smshooks-attempts", "-1", event.Event{}},
		{"smshooks-attempts", "two", event.Event{}},
		{"smshooks-due", "2026-03-01T12:00:00.250Z", event.Event{Delivery: event.Delivery{Due: at}}},
		{"smshooks-due", "", event.Event{}},
		{"smshooks-error", "http 503", event.Event{Delivery: event.Delivery{Failure: "http 503"}}},
		{"smshooks-kind", "dlr", event.Event{}},
		{"traceparent", "00-1", event.Event{}},
	}
	for _, test := range tests {
		var e event.Event
		e.SetHeader(test.key, []byte(test.value))
		if e.ID != test.want.ID || e.Origin != test.want.Origin || !e.Time.Equal(test.want.Time) || e.Attempts != test.want.Attempts ||
			!e.Due.Equal(test.want.Due) || e.Failure != test.want.Failure {
			t.Errorf("%s: %s gives %+v, want %+v", test.key, test.value, e, test.want)
		}
	}
}

// TestReplay checks that a replay has a window of its own and that the memory of first clicks does not stop it, while
// the event keeps its time.
func TestReplay(t *testing.T) {
	var e event.Event
	at := time.Date(2026, 3, 1, 12, 0, 0, 250e6, time.UTC)
	e.Time = at.Add(-48 * time.Hour)
	if e.IsReplay() || !e.WindowStart().Equal(e.Time) {
		t.Error("an event is a replay without the header")
	}
	e.SetHeader("smshooks-replayed", []byte("yesterday"))
	if e.IsReplay() || e.Claimed {
		t.Error("an invalid time makes a replay")
	}
	e.SetHeader("smshooks-replayed", []byte(event.FormatTime(at)))
	if !e.Claimed || !e.IsReplay() || !e.WindowStart().Equal(at) || !e.Time.Equal(at.Add(-48*time.Hour)) {
		t.Errorf("a replay at %v gives %+v", at, e.Delivery)
	}
}

type lease struct {
	open     bool
	asked    int
	acquired []bool
	settle   []webhook.Fate
}

func (l *lease) Acquire() bool                            { l.asked++; return l.open }
func (l *lease) Settle(_ *event.Event, fate webhook.Fate) { l.settle = append(l.settle, fate) }
func (l *lease) Abandon(e *event.Event)                   { l.acquired = append(l.acquired, e.Acquired()) }
func (l *lease) State() event.State                       { return event.Held }
func (l *lease) Context() context.Context                 { return context.Background() }

func TestAcquireAsksOnce(t *testing.T) {
	l := &lease{}
	e := &event.Event{Lease: l}
	if e.Acquire() {
		t.Error("Acquire returned true for a revoked partition")
	}
	e.Abandon()
	l.open = true
	e = &event.Event{Lease: l}
	if !e.Acquire() {
		t.Error("Acquire returned false")
	}
	l.open = false
	if !e.Acquire() || l.asked != 2 {
		t.Errorf("Acquire asked the lease %d times, want 2", l.asked)
	}
	e.Abandon()
	if len(l.acquired) != 2 || l.acquired[0] || !l.acquired[1] {
		t.Errorf("the lease saw acquired %v, want false and true", l.acquired)
	}
}
