package retry_test

import (
	"testing"
	"time"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/pkg/webhook"
	"github.com/smshooks/smshooks/retry"
)

const day = 24 * time.Hour

var (
	origin  = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	usual   = retry.Policy{Schedule: []time.Duration{6 * time.Hour, 6 * time.Hour}, Window: day, Tiers: tiers}
	tiers   = []time.Duration{10 * time.Second, time.Minute, 5 * time.Minute, 30 * time.Minute}
	forever = retry.Policy{Schedule: usual.Schedule, Tiers: tiers}
	once    = retry.Policy{Window: day, Tiers: tiers}
)

func TestAttempts(t *testing.T) {
	for want, p := range map[int]retry.Policy{3: usual, 1: once} {
		if got := p.Attempts(); got != want {
			t.Errorf("Attempts() of schedule %v = %d, want %d", p.Schedule, got, want)
		}
	}
}

func TestMayAttempt(t *testing.T) {
	tests := []struct {
		name     string
		policy   retry.Policy
		kind     webhook.Kind
		attempts int
		after    time.Duration // since the event's time
		want     webhook.Reason
	}{
		{"first", usual, webhook.DLR, 0, 0, ""},
		{"last moment", usual, webhook.DLR, 0, day, ""},
		{"too old", usual, webhook.DLR, 0, day + 1, webhook.WindowExpired},
		{"too old click", usual, webhook.Click, 0, day + 1, webhook.WindowExpired},
		{"too old inbound", usual, webhook.Inbound, 2, day + time.Millisecond, webhook.WindowExpired},
		{"revocations have no window", usual, webhook.RevokeClick, 0, 1000 * day, ""},
		{"no window", forever, webhook.DLR, 0, 1000 * day, ""},
		{"from the future", usual, webhook.DLR, 0, -day, ""},
		{"third", usual, webhook.DLR, 2, 12 * time.Hour, ""},
		{"fourth", usual, webhook.DLR, 3, 18 * time.Hour, webhook.AttemptsExhausted},
		{"a longer schedule once", usual, webhook.RevokeClick, 7, 0, webhook.AttemptsExhausted},
		{"fourth and too old", usual, webhook.DLR, 3, 2 * day, webhook.AttemptsExhausted},
		{"second of one", once, webhook.DLR, 1, 0, webhook.AttemptsExhausted},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			e := &event.Event{Delivery: event.Delivery{Kind: test.kind, Time: origin, Attempts: test.attempts}}
			if got := test.policy.MayAttempt(e, origin.Add(test.after)); got != test.want {
				t.Errorf("MayAttempt = %q, want %q", got, test.want)
			}
		})
	}
}

// TestWindowOfAReplay checks that a replay of an old event has the whole window again.
func TestWindowOfAReplay(t *testing.T) {
	e := &event.Event{Delivery: event.Delivery{Kind: webhook.DLR, Time: origin.Add(-10 * day), Replayed: origin}}
	for after, want := range map[time.Duration]webhook.Reason{0: "", day: "", day + 1: webhook.WindowExpired} {
		if got := usual.MayAttempt(e, origin.Add(after)); got != want {
			t.Errorf("MayAttempt %v after the replay = %q, want %q", after, got, want)
		}
	}
}

func TestAfterFailure(t *testing.T) {
	uneven := retry.Policy{Schedule: []time.Duration{time.Minute, time.Hour, day}, Window: 2 * day}
	tests := []struct {
		name     string
		policy   retry.Policy
		kind     webhook.Kind
		attempts int // the failed one counted
		at       time.Duration
		dead     webhook.Reason
		step     int
		due      time.Duration
	}{
		{"first", usual, webhook.DLR, 1, time.Second, "", 0, 6*time.Hour + time.Second},
		{"second", usual, webhook.DLR, 2, 7 * time.Hour, "", 1, 13 * time.Hour},
		{"third", usual, webhook.DLR, 3, 13 * time.Hour, webhook.AttemptsExhausted, 0, 0},
		{"due at the window's last moment", usual, webhook.Click, 1, 18 * time.Hour, "", 0, day},
		{"due past the window", usual, webhook.Click, 1, 18*time.Hour + time.Millisecond, webhook.WindowExpired, 0, 0},
		{"rounded past the window", usual, webhook.Inbound, 1, 18*time.Hour + 1, webhook.WindowExpired, 0, 0},
		{"exhausted comes before expired", usual, webhook.DLR, 3, 3 * day, webhook.AttemptsExhausted, 0, 0},
		{"revocation past the window", usual, webhook.RevokeClick, 2, 3 * day, "", 1, 3*day + 6*time.Hour},
		{"uneven 1", uneven, webhook.DLR, 1, 0, "", 0, time.Minute},
		{"uneven 2", uneven, webhook.DLR, 2, time.Minute, "", 1, time.Hour + time.Minute},
		{"uneven 3", uneven, webhook.DLR, 3, time.Hour, "", 2, day + time.Hour},
		{"uneven 4", uneven, webhook.DLR, 4, time.Hour, webhook.AttemptsExhausted, 0, 0},
		{"one attempt", once, webhook.RevokeClick, 1, 0, webhook.AttemptsExhausted, 0, 0},
		{"never early", usual, webhook.DLR, 1, 1, "", 0, 6*time.Hour + time.Millisecond},
		{"a whole millisecond is kept", usual, webhook.DLR, 1, time.Millisecond, "", 0, 6*time.Hour + time.Millisecond},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			e := &event.Event{Delivery: event.Delivery{Kind: test.kind, Time: origin, Attempts: test.attempts}}
			dead, step, due := test.policy.AfterFailure(e, origin.Add(test.at))
			if dead != test.dead || dead == "" && (step != test.step || !due.Equal(origin.Add(test.due))) {
				t.Errorf("AfterFailure = %q, %d, %v, want %q, %d, %v", dead, step, due.Sub(origin), test.dead, test.step, test.due)
			}
		})
	}
}

func TestOverflowTier(t *testing.T) {
	tests := []struct {
		name string
		kind webhook.Kind
		at   time.Duration
		want int
		dead webhook.Reason
		tier int
	}{
		{"as wanted", webhook.DLR, 0, 2, "", 2},
		{"no longer tier exists", webhook.DLR, 0, 9, "", 3},
		{"ends with the window", webhook.DLR, day - 30*time.Minute, 3, "", 3},
		{"ends after the window: a shorter one", webhook.DLR, day - 30*time.Minute + time.Millisecond, 3, "", 2},
		{"the shortest", webhook.Click, day - 10*time.Second, 3, "", 0},
		{"not even the shortest", webhook.Click, day - 10*time.Second + time.Millisecond, 3, webhook.WindowExpired, 0},
		{"only shorter than wanted", webhook.Inbound, day - time.Minute + time.Second, 0, "", 0},
		{"revocations have no window", webhook.RevokeClick, 9 * day, 3, "", 3},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			now := origin.Add(test.at)
			dead, tier, due := usual.Overflow(&event.Event{Delivery: event.Delivery{Kind: test.kind, Time: origin}}, test.want, now)
			if dead != test.dead || dead == "" && (tier != test.tier || !due.Equal(now.Add(tiers[test.tier]))) {
				t.Errorf("Overflow = %q, %d, %v, want %q, %d", dead, tier, due.Sub(now), test.dead, test.tier)
			}
		})
	}
}
