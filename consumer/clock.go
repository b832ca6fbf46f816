package consumer

import (
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// clockSlack is how far clocks may be apart before a due time is taken for wrong.
const clockSlack = time.Minute

// plausible bounds a due time by the broker's clock: a record that waits for delay cannot be due later than delay after
// it was appended. One that is was written by an instance whose clock was ahead, and would hold up all records behind it
// for as long as that clock was wrong. If the topic does not tell when, it was before now. An unknown delay bounds nothing.
// A record without a due time is due now.
func plausible(due, appended, now time.Time, delay time.Duration) time.Time {
	if due.IsZero() {
		return now
	}
	if appended.IsZero() {
		appended = now
	}
	if latest := appended.Add(delay + clockSlack); delay > 0 && due.After(latest) {
		return latest
	}
	return due
}

// appendedAt is when the broker took a record, by its clock; the zero time if its topic does not tell.
func appendedAt(r *kgo.Record) time.Time {
	const byBroker = 1
	if r.Attrs.TimestampType() == byBroker {
		return r.Timestamp
	}
	return time.Time{}
}
