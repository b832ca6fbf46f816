package retry_test

import (
	"fmt"
	"time"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/pkg/webhook"
	"github.com/smshooks/smshooks/retry"
)

// An event is attempted three times, six hours apart. The third failure makes it a dead letter.
func ExamplePolicy() {
	policy := retry.Policy{
		Schedule: []time.Duration{6 * time.Hour, 6 * time.Hour},
		Window:   24 * time.Hour,
		Tiers:    []time.Duration{10 * time.Second, time.Minute},
	}
	sent := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	e := &event.Event{Delivery: event.Delivery{Kind: webhook.DLR, Time: sent}}
	for now := sent; policy.MayAttempt(e, now) == ""; now = e.Due {
		e.Attempts++
		reason, step, due := policy.AfterFailure(e, now)
		if reason != "" {
			fmt.Printf("attempt %d failed: dead, %s\n", e.Attempts, reason)
			break
		}
		e.Due = due
		fmt.Printf("attempt %d failed: step %d, due at %s\n", e.Attempts, step, due.Format("15:04"))
	}
	// Output:
	// attempt 1 failed: step 0, due at 18:00
	// attempt 2 failed: step 1, due at 00:00
	// attempt 3 failed: dead, attempts_exhausted
}

// An event that does not fit into its queue goes to an overflow tier that ends within its window.
func ExamplePolicy_Overflow() {
	policy := retry.Policy{Window: 24 * time.Hour, Tiers: []time.Duration{10 * time.Second, time.Minute, 5 * time.Minute}}
	sent := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	e := &event.Event{Delivery: event.Delivery{Kind: webhook.DLR, Time: sent}}
	for _, age := range []time.Duration{0, 24*time.Hour - 2*time.Minute, 24 * time.Hour} {
		reason, tier, _ := policy.Overflow(e, 2, sent.Add(age))
		fmt.Printf("after %v: tier %d, reason %q\n", age, tier, reason)
	}
	// Output:
	// after 0s: tier 2, reason ""
	// after 23h58m0s: tier 1, reason ""
	// after 24h0m0s: tier 0, reason "window_expired"
}
