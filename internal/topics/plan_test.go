package topics

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/smshooks/smshooks/pkg/webhook"
)

var defaults = Settings{
	DLR: "sms-dlr", Click: "sms-click", Inbound: "sms-inbound", Revocation: "click-revocation",
	Config: "webhook-config", Keys: "webhook-keys", DeadLetter: "webhook-dead-letter", Events: "webhook-events", Releases: "webhook-releases",
	Schedule: []time.Duration{6 * time.Hour, 6 * time.Hour}, Tiers: []time.Duration{10 * time.Second, time.Minute, 5 * time.Minute, 30 * time.Minute},
	Window: 24 * time.Hour, Partitions: 12, Replication: -1,
}

func defaultPlan() *Plan { return New(defaults) }

func TestPlanNames(t *testing.T) {
	settings := defaults
	settings.Schedule = []time.Duration{6 * time.Hour, 90 * time.Minute, 6 * time.Hour, 500 * time.Millisecond}
	p := New(settings)
	for _, c := range []struct{ got, want string }{
		{p.Sources()[0], "sms-dlr"},
		{p.Sources()[1], "sms-click"},
		{p.Sources()[2], "sms-inbound"},
		{p.Sources()[3], "click-revocation"},
		{p.Retry(0, 0), "sms-dlr-retry-6h"},
		{p.Retry(0, 1), "sms-dlr-retry-1h30m"},
		{p.Retry(0, 2), "sms-dlr-retry-6h"},
		{p.Retry(3, 3), "click-revocation-retry-500ms"},
		{p.Overflow(1, 0), "sms-click-overflow-10s"},
		{p.Overflow(2, 3), "sms-inbound-overflow-30m"},
		{p.Paused(0), "sms-dlr-paused-24h"},
		{p.Paused(3), "click-revocation-paused-24h"},
		{p.Released(2), "sms-inbound-overflow-0s"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}

func TestPlanConsumed(t *testing.T) {
	p := defaultPlan()
	got := p.Consumed()
	want := []string{
		"sms-dlr", "sms-click", "sms-inbound", "click-revocation",
		"sms-dlr-retry-6h", "sms-dlr-overflow-10s", "sms-dlr-overflow-1m", "sms-dlr-overflow-5m", "sms-dlr-overflow-30m", "sms-dlr-paused-24h", "sms-dlr-overflow-0s",
		"sms-click-retry-6h", "sms-click-overflow-10s", "sms-click-overflow-1m", "sms-click-overflow-5m", "sms-click-overflow-30m", "sms-click-paused-24h", "sms-click-overflow-0s",
		"sms-inbound-retry-6h", "sms-inbound-overflow-10s", "sms-inbound-overflow-1m", "sms-inbound-overflow-5m", "sms-inbound-overflow-30m", "sms-inbound-paused-24h", "sms-inbound-overflow-0s",
		"click-revocation-retry-6h", "click-revocation-overflow-10s", "click-revocation-overflow-1m", "click-revocation-overflow-5m", "click-revocation-overflow-30m", "click-revocation-paused-24h", "click-revocation-overflow-0s",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	got[0] = "scribbled"
	if p.Consumed()[0] != "sms-dlr" {
		t.Error("the caller's slice is shared with the plan")
	}
}

func TestPlanDescribe(t *testing.T) {
	p := defaultPlan()
	for topic, want := range map[string]Info{
		"sms-dlr":                 {},
		"click-revocation":        {Kind: webhook.RevokeClick},
		"sms-click-retry-6h":      {webhook.Click, Retry, 0, 6 * time.Hour},
		"sms-inbound-overflow-5m": {webhook.Inbound, Overflow, 2, 5 * time.Minute},
		"sms-inbound-paused-24h":  {webhook.Inbound, Paused, 0, 24 * time.Hour},
		"sms-inbound-overflow-0s": {webhook.Inbound, Overflow, NoTier, 0},
		"webhook-config":          {},
		"webhook-dead-letter":     {},
		"nobody":                  {},
	} {
		if got := p.Describe(topic); got != want {
			t.Errorf("%s: got %+v, want %+v", topic, got, want)
		}
		if consumed := slices.Contains(p.Consumed(), topic); p.Consumes(topic) != consumed || p.Delayed(topic) != (want.Class != Source) {
			t.Errorf("%s: consumed is %t, delayed %t", topic, p.Consumes(topic), p.Delayed(topic))
		}
	}
}

// Topics of previous delays are read and kept in step, and nothing is written to them.
func TestPlanDrain(t *testing.T) {
	s := defaults
	s.Schedule, s.Tiers = []time.Duration{time.Hour}, []time.Duration{time.Minute, time.Hour}
	s.DrainSchedule, s.DrainTiers = []time.Duration{6 * time.Hour, time.Hour}, []time.Duration{10 * time.Second, 5 * time.Minute, 2 * time.Hour}
	s.Window, s.DrainWindows = 48*time.Hour, []time.Duration{24 * time.Hour}
	p := New(s)
	if problems := p.Problems(); problems != nil {
		t.Fatal(problems)
	}
	for topic, want := range map[string]Info{
		"sms-dlr-retry-6h":              {webhook.DLR, Retry, 0, 6 * time.Hour},
		"sms-dlr-retry-1h":              {webhook.DLR, Retry, 0, time.Hour},
		"click-revocation-overflow-10s": {webhook.RevokeClick, Overflow, 0, 10 * time.Second},
		"sms-click-overflow-5m":         {webhook.Click, Overflow, 0, 5 * time.Minute},
		"sms-click-overflow-2h":         {webhook.Click, Overflow, 1, 2 * time.Hour},
		"sms-click-paused-48h":          {webhook.Click, Paused, 0, 48 * time.Hour},
		"sms-click-paused-24h":          {webhook.Click, Paused, 0, 24 * time.Hour},
	} {
		if got := p.Describe(topic); got != want {
			t.Errorf("%s: got %+v, want %+v", topic, got, want)
		}
		if n := len(slices.DeleteFunc(p.Consumed(), func(c string) bool { return c != topic })); n != 1 {
			t.Errorf("%s is consumed %d times", topic, n)
		}
		if written := slices.Contains(p.Written(), topic); written != (topic == "sms-dlr-retry-1h" || topic == "sms-click-paused-48h") {
			t.Errorf("%s: written is %t", topic, written)
		}
	}
	if p.Retry(0, 0) != "sms-dlr-retry-1h" || p.Overflow(0, 0) != "sms-dlr-overflow-1m" || p.Paused(0) != "sms-dlr-paused-48h" {
		t.Errorf("records are written to %s, %s and %s", p.Retry(0, 0), p.Overflow(0, 0), p.Paused(0))
	}
	for topic, want := range map[string]string{
		"sms-dlr-retry-2h": "retry.drain=2h", "sms-click-overflow-7m": "overflow.drain=7m",
		"sms-inbound-paused-12h": "paused.drain=12h", "sms-inbound-paused-24h": "", "sms-dlr-retry-6h": "", "sms-dlr-retry-120m": "",
		"sms-dlr-retry-2x": "", "other-retry-2h": "", "sms-dlr": "", "webhook-keys": "",
	} {
		if got := p.Drain(topic); got != want {
			t.Errorf("Drain(%s) = %q, want %q", topic, got, want)
		}
	}
}

func TestPlanProblems(t *testing.T) {
	long := strings.Repeat("x", 240)
	for name, c := range map[string]struct {
		change func(*Settings)
		want   []Problem
	}{
		"none":    {func(*Settings) {}, nil},
		"doubled": {func(s *Settings) { s.Config = "webhook.keys"; s.Keys = "webhook_keys" }, []Problem{{"topics.keys", "topics.config", `"webhook_keys" is also the topic of topics.config`}}},
		"derived": {func(s *Settings) { s.DeadLetter = "sms-dlr-retry-6h" }, []Problem{{"topics.dead_letter", "topics.dlr", `"sms-dlr-retry-6h" is also a delay topic of topics.dlr`}}},
		"source is derived": {
			func(s *Settings) { s.Click = "sms-dlr-overflow-1m" },
			[]Problem{{"topics.click", "topics.dlr", `"sms-dlr-overflow-1m" is also a delay topic of topics.dlr`}},
		},
		"paused":  {func(s *Settings) { s.Keys = "sms-click-paused-24h" }, []Problem{{"topics.keys", "topics.click", `"sms-click-paused-24h" is also a delay topic of topics.click`}}},
		"drained": {func(s *Settings) { s.Keys = "sms-click-retry-7h"; s.DrainSchedule = []time.Duration{7 * time.Hour} }, []Problem{{"topics.keys", "topics.click", `"sms-click-retry-7h" is also a delay topic of topics.click`}}},
		"too long": {
			func(s *Settings) { s.DLR = long },
			[]Problem{{"topics.dlr", "", fmt.Sprintf("%q is too long: its topic %q has more than 249 characters", long, long+"-overflow-10s")}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := defaults
			c.change(&s)
			if got := New(s).Problems(); !slices.Equal(got, c.want) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestCheckName(t *testing.T) {
	for _, legal := range []string{"a", "sms-dlr", "A.b_c-9", strings.Repeat("x", 249)} {
		if err := CheckName(legal); err != nil {
			t.Error(err)
		}
	}
	for _, illegal := range []string{"", ".", "..", "sms dlr", "a/b", "é", strings.Repeat("x", 250)} {
		if CheckName(illegal) == nil {
			t.Errorf("%q is accepted", illegal)
		}
	}
}
