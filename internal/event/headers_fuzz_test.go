package event_test

import (
	"testing"
	"time"

	"github.com/smshooks/smshooks/internal/event"
)

// FuzzSetHeader checks that no header makes an event that cannot be processed and written again.
func FuzzSetHeader(f *testing.F) {
	for _, name := range []string{
		event.HeaderID, event.HeaderKind, event.HeaderTime, event.HeaderAttempts, event.HeaderDue, event.HeaderError, event.HeaderReason,
		event.HeaderReplayed, event.HeaderOrigin, "traceparent", "",
	} {
		for _, value := range []string{
			"", "sms-dlr/1/2", "2", "-1", "99999999999999999999", "0x10", "2026-03-01T12:00:00.250Z", "2026-03-01T12:00:00+99:00",
			"0000-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59", "2026-02-30T00:00:00Z", "http 503", "\xff\x00\r\n",
		} {
			f.Add(name, []byte(value))
		}
	}
	f.Fuzz(func(t *testing.T, name string, value []byte) {
		before := event.Event{
			Record:   event.Record{Topic: "sms-dlr-retry-6h", Offset: 3},
			Delivery: event.Delivery{ID: "sms-dlr/1/2", Attempts: 1, Time: time.UnixMilli(1), Due: time.UnixMilli(2), Failure: "timeout"},
		}
		e := before
		e.SetHeader(name, value)
		if e.Attempts < 0 {
			t.Fatalf("%q=%q: %d attempts", name, value, e.Attempts)
		}
		if e.Identity() == "" {
			t.Fatalf("%q=%q: no identity", name, value)
		}
		if _, _, ok := event.ParseOrigin(e.SourcePosition()); !ok {
			t.Fatalf("%q=%q: the record is %q", name, value, e.SourcePosition())
		}
		for what, at := range map[string]time.Time{"time": e.Time, "due": e.Due, "replay": e.Replayed} {
			var again event.Event
			again.SetHeader(event.HeaderTime, []byte(event.FormatTime(at)))
			if !again.Time.Equal(at.Truncate(time.Millisecond)) {
				t.Fatalf("%q=%q: the %s %v is written as %s", name, value, what, at, event.FormatTime(at))
			}
		}
		changed := e.ID != before.ID && name != event.HeaderID || e.Attempts != before.Attempts && name != event.HeaderAttempts ||
			!e.Time.Equal(before.Time) && name != event.HeaderTime || !e.Due.Equal(before.Due) && name != event.HeaderDue ||
			e.Failure != before.Failure && name != event.HeaderError || e.Claimed && name != event.HeaderReplayed || e.Offset != 3
		if changed {
			t.Fatalf("%q=%q changes %+v into %+v", name, value, before, e)
		}
	})
}
