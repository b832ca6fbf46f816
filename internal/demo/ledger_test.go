package demo

import (
	"strings"
	"testing"

	"github.com/smshooks/smshooks/pkg/webhook"
)

// balanced returns facts as they are after a demo.
func balanced() facts {
	var f facts
	for _, k := range webhook.Kinds() {
		f.acked[k], f.waiting[k], f.consumed[k] = 10, 4, 14
		f.settled[k][webhook.Delivered], f.settled[k][webhook.Retry], f.settled[k][webhook.Dead] = 8, 4, 2
		f.requests[k], f.attempts[k][webhook.OK], f.attempts[k][webhook.TimedOut] = 14, 8, 6
		f.letters[k] = 2
	}
	f.settled[webhook.Click][webhook.Delivered], f.settled[webhook.Click][webhook.Filtered], f.settled[webhook.Click][webhook.Duplicate] = 3, 3, 2
	f.filtered, f.repeat = 3, 2
	return f
}

func TestBalance(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*facts)
		want   string // in the verdict; "" balances
	}{
		{"nothing", func(*facts) {}, ""},
		{"a record that was never read", func(f *facts) { f.acked[webhook.DLR]++ }, "dlr: acknowledged + delayed 15, consumed 14"},
		{"a delayed record that was lost", func(f *facts) { f.waiting[webhook.Inbound]++ }, "inbound: acknowledged + delayed 15, consumed 14"},
		{"a record read twice", func(f *facts) { f.consumed[webhook.DLR]++; f.settled[webhook.DLR][webhook.Delivered]++ }, "dlr: acknowledged + delayed 14, consumed 15"},
		{"a record without a fate", func(f *facts) { f.settled[webhook.RevokeClick][webhook.Delivered]-- }, "revoke_click: acknowledged + delayed 14, consumed 14, sum of fates 13"},
		{"a request nobody counted", func(f *facts) { f.requests[webhook.Click]++ }, "click: seen by receivers 15, attempts 14"},
		{"an attempt nobody saw", func(f *facts) { f.attempts[webhook.Click][webhook.OK]++ }, "click: seen by receivers 14, attempts 15"},
		{"a missing dead letter", func(f *facts) { f.letters[webhook.DLR]-- }, "dlr: in the topic 1, dead 2"},
		{"a bot's click that was sent", func(f *facts) { f.filtered++ }, "emitted for bots and previews 4, filtered 3"},
		{"a second click that was sent", func(f *facts) { f.repeat++ }, "repeated clicks emitted 3, duplicate 2"},
		{"a record still in memory", func(f *facts) { f.buffered = 1 }, "1 records are still in memory"},
		{"a batch that died with its records", func(f *facts) { f.batchMayDie = true; f.letters[webhook.RevokeClick]-- }, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := balanced()
			tc.change(&f)
			err := verdict(balance(f), f)
			if tc.want == "" {
				if err != nil || !f.final() {
					t.Fatalf("verdict %v, final %v", err, f.final())
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("verdict %v, want it to contain %q", err, tc.want)
			}
			if f.final() {
				t.Error("facts that do not balance are final")
			}
		})
	}
}
