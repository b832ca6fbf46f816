// Package retry decides when an event is attempted again. It stores the event in a delay topic until then, or as a dead
// letter.
package retry

import (
	"time"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// Policy is the timing of attempts.
type Policy struct {
	Schedule []time.Duration // pauses between attempts; an event is attempted at most len(Schedule)+1 times
	// Window is the time since the event or its replay in which attempts may start. Revocations have none; 0 = no window.
	Window time.Duration
	Tiers  []time.Duration // delays of the overflow topics, ascending
}

// Attempts returns the largest number of attempts of an event.
func (p Policy) Attempts() int { return len(p.Schedule) + 1 }

// MayAttempt returns "" if an attempt may start at now, else why the event is dead.
func (p Policy) MayAttempt(e *event.Event, now time.Time) webhook.Reason {
	if e.Attempts >= p.Attempts() {
		return webhook.AttemptsExhausted
	}
	if p.expired(e, now) {
		return webhook.WindowExpired
	}
	return ""
}

// AfterFailure returns what follows a failed attempt that ended at now, which e.Attempts counts already: why the
// event is dead, or the step of the schedule and when the next attempt is due.
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

// Overflow returns the overflow tier for an event and when it is due: the wanted tier, or the longest shorter one that
// ends within the event's window. If not even the shortest does, it returns why the event is dead.
func (p Policy) Overflow(e *event.Event, want int, now time.Time) (dead webhook.Reason, tier int, due time.Time) {
	for tier = min(want, len(p.Tiers)-1); tier >= 0; tier-- {
		due = event.CeilMilli(now.Add(p.Tiers[tier]))
		if !p.expired(e, due) {
			return "", tier, due
		}
	}
	return webhook.WindowExpired, 0, time.Time{}
}

// PausedUntil returns until when an event of a paused endpoint is held back if it is stored at now.
func (p Policy) PausedUntil(now time.Time) time.Time { return event.CeilMilli(now.Add(p.Window)) }

func (p Policy) expired(e *event.Event, at time.Time) bool {
	return p.Window > 0 && e.Kind.HasWindow() && at.Sub(e.WindowStart()) > p.Window
}
