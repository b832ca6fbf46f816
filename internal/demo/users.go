package demo

import (
	"sync/atomic"
	"time"

	"github.com/smshooks/smshooks/config"
	"github.com/smshooks/smshooks/internal/settings"
	"github.com/smshooks/smshooks/pkg/delay"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// user is one customer in the demo.
type user struct {
	id       int64
	name     string
	manners  string // describes how its receiver behaves
	receiver *receiver
	pace     [webhook.NumKinds]time.Duration // time between two events
	longest  time.Duration                   // time from an event's emission to its fate
	until    time.Duration                   // events are emitted until then, from the beginning

	sent, skipped atomic.Int64 // records acknowledged by Kafka; clicks among them that must not be sent
}

// document returns the user's record in the config topic.
func (u *user) document() settings.Document {
	url := func(k webhook.Kind) *string {
		s := u.receiver.url(k)
		return &s
	}
	return settings.Document{UserID: u.id, DLRURL: url(webhook.DLR), ClickURL: url(webhook.Click),
		InboundURL: url(webhook.Inbound), RevokeClickURL: url(webhook.RevokeClick)}
}

// newUsers returns the users of the demo.
func newUsers(cfg *config.Config, length time.Duration) []*user {
	attempts := time.Duration(len(cfg.Retry.Schedule) + 1)
	pauses := time.Duration(0)
	for _, d := range cfg.Retry.Schedule {
		pauses += d
	}
	const some = 500 * time.Millisecond // for everything else
	brief := cfg.Revocation.Interval + some
	// Slow enough for its slots, each of which is in use for the whole timeout.
	slow := attempts * cfg.Dispatch.Timeout * 3 / 2 / time.Duration(cfg.Dispatch.Parallel)
	lively := [webhook.NumKinds]time.Duration{40 * time.Millisecond, 130 * time.Millisecond, 200 * time.Millisecond,
		600 * time.Millisecond}
	calm := [webhook.NumKinds]time.Duration{250 * time.Millisecond, 500 * time.Millisecond, time.Second,
		1300 * time.Millisecond}
	users := []*user{
		{id: 101, name: "healthy", manners: "answers 200 at once", pace: lively, longest: brief,
			receiver: &receiver{answer: func(int) int { return 200 }}},
		{id: 102, name: "recovers", manners: "fails twice, accepts the third attempt of each event", pace: calm,
			longest: brief + pauses,
			receiver: &receiver{answer: func(n int) int {
				if n <= 2 {
					return 500
				}
				return 200
			}}},
		{id: 103, name: "hangs", manners: "never answers; times out after " + delay.Name(cfg.Dispatch.Timeout),
			pace: [webhook.NumKinds]time.Duration{slow, slow, slow, slow}, longest: brief + pauses +
				attempts*cfg.Dispatch.Timeout,
			receiver: &receiver{answer: func(int) int { return hang }}},
		{id: 104, name: "down", manners: "always answers 503", pace: calm, longest: brief + pauses,
			receiver: &receiver{answer: func(int) int { return 503 }}},
	}
	for _, u := range users {
		// The last event is settled when the demo ends. A short demo takes a little longer.
		u.until = max(length-u.longest, length/3)
	}
	return users
}
