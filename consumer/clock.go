package consumer

import (
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// clockSlack is the difference between clocks above which a due time counts as wrong.
const clockSlack = time.Minute

// plausible limits a due time by the broker's clock: a record of a delay topic is due at most delay after it was
// appended. A later due time was written by an instance whose clock was ahead, and would delay all records after it
// as well. If the time of the append is unknown, now is used instead. A delay of 0 means no bound. A record without a
// due time is due now.
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

// appendedAt returns when the broker appended a record, by its clock, or the zero time if the topic does not store
// that.
func appendedAt(r *kgo.Record) time.Time {
	const byBroker = 1
	if r.Attrs.TimestampType() == byBroker {
		return r.Timestamp
	}
	return time.Time{}
}
