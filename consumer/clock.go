package consumer

import (
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/internal/event"
)

// clockSlack is how far clocks may be apart before a due time is taken for wrong.
const clockSlack = time.Minute

// plausible bounds a due time: a record that waits for delay and is there at seen cannot be due later than delay after
// that. One that is was written by an instance whose clock was ahead, or is read by one whose clock was set back, and
// would hold up all records behind it for as long as the clocks differ. A zero seen or delay tells nothing.
func plausible(due, seen time.Time, delay time.Duration) time.Time {
	latest := seen.Add(delay + clockSlack)
	if delay > 0 && !seen.IsZero() && due.After(latest) {
		return latest
	}
	return due
}

// appended is when the broker took a record, by its clock; the zero time if its topic does not tell.
func appended(r *kgo.Record) time.Time {
	const byBroker = 1
	if r.Attrs.TimestampType() == byBroker {
		return r.Timestamp
	}
	return time.Time{}
}

// bound brings back the due times of records held that are implausible now. They are sorted but for milliseconds, so
// that the last one tells of all.
func bound(held []*event.Event, now time.Time, delay time.Duration) {
	if len(held) == 0 || plausible(held[len(held)-1].Due, now, delay).Equal(held[len(held)-1].Due) {
		return
	}
	for _, e := range held {
		e.Due = plausible(e.Due, now, delay)
	}
}
