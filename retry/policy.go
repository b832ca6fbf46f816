// Package retry knows when to try again, and writes the topics that wait: delay, overflow, dead letter.
package retry

import (
	"time"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// Policy is the timing of attempts. The zero Window means no window.
type Policy struct {
	Schedule []time.Duration // pauses between attempts; len+1 attempts are made
	Window   time.Duration   // since the event's time; not for revocations
	Tiers    []time.Duration // delays of the overflow topics, ascending
}

// Attempts is how many HTTP attempts an event is due.
func (p Policy) Attempts() int { return len(p.Schedule) + 1 }

// MayAttempt tells whether an attempt may start now: "" yes, else why the event is dead.
func (p Policy) MayAttempt(e *event.Event, now time.Time) webhook.Reason {
	if e.Attempts >= p.Attempts() {
		return webhook.AttemptsExhausted
	}
	if p.expired(e, now) {
		return webhook.WindowExpired
	}
	return ""
}

// AfterFailure tells what becomes of an event after a failed attempt at now, e.Attempts counting it already: dead
// for a reason, or due again by a step of the schedule.
func (p Policy) AfterFailure(e *event.Event, now time.Time) (dead webhook.Reason, step int, due time.Time) {
	if e.Attempts >= p.Attempts() {
		return webhook.AttemptsExhausted, 0, time.Time{}
	}
	step = max(e.Attempts-1, 0)
	due = event.CeilMilli(now.Add(p.Schedule[step]))
	if p.expired(e, due) {
		return webhook.WindowExpired, 0, time.Time{}
	}
	return "", step, due
}

// Overflow tells when an event that does not fit into its endpoint's queue is due again: by the wanted tier, or
// by the longest shorter one that ends within the event's window. Dead if even the shortest does not.
func (p Policy) Overflow(e *event.Event, want int, now time.Time) (dead webhook.Reason, tier int, due time.Time) {
	for tier = min(want, len(p.Tiers)-1); tier >= 0; tier-- {
		due = event.CeilMilli(now.Add(p.Tiers[tier]))
		if !p.expired(e, due) {
			return "", tier, due
		}
	}
	return webhook.WindowExpired, 0, time.Time{}
}

func (p Policy) expired(e *event.Event, at time.Time) bool {
	return p.Window > 0 && e.Kind.HasWindow() && at.Sub(e.Time) > p.Window
}
