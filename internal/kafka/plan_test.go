package kafka

import (
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	defaultNames = Names{
		DLR: "sms-dlr", Click: "sms-click", Inbound: "sms-inbound", Revocation: "click-revocation",
		Config: "webhook-config", Keys: "webhook-keys", DeadLetter: "webhook-dead-letter",
	}
	tiers = []time.Duration{10 * time.Second, time.Minute, 5 * time.Minute, 30 * time.Minute}
)

const hour = time.Hour

func defaultPlan() *Plan {
	return NewPlan(defaultNames, []time.Duration{6 * hour, 6 * hour}, tiers, 24*hour, 12, -1)
}

func TestPlanNames(t *testing.T) {
	p := NewPlan(defaultNames, []time.Duration{6 * hour, 90 * time.Minute, 6 * hour, 500 * time.Millisecond}, tiers, 24*hour, 12, -1)
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
		"sms-dlr-retry-6h", "sms-dlr-overflow-10s", "sms-dlr-overflow-1m", "sms-dlr-overflow-5m", "sms-dlr-overflow-30m",
		"sms-click-retry-6h", "sms-click-overflow-10s", "sms-click-overflow-1m", "sms-click-overflow-5m", "sms-click-overflow-30m",
		"sms-inbound-retry-6h", "sms-inbound-overflow-10s", "sms-inbound-overflow-1m", "sms-inbound-overflow-5m", "sms-inbound-overflow-30m",
		"click-revocation-retry-6h", "click-revocation-overflow-10s", "click-revocation-overflow-1m", "click-revocation-overflow-5m", "click-revocation-overflow-30m",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	got[0] = "scribbled"
	if p.Consumed()[0] != "sms-dlr" {
		t.Error("the caller's slice is the plan's own")
	}
}

func TestPlanDescribe(t *testing.T) {
	p := defaultPlan()
	for _, c := range []struct {
		topic string
		kind  int
		class Class
		wait  time.Duration
	}{
		{"sms-dlr", 0, Source, 0},
		{"click-revocation", 3, Source, 0},
		{"sms-click-retry-6h", 1, RetryTopic, 6 * hour},
		{"sms-inbound-overflow-5m", 2, OverflowTopic, 5 * time.Minute},
		{"webhook-config", -1, Other, 0},
		{"webhook-dead-letter", -1, Other, 0},
		{"nobody", -1, Other, 0},
	} {
		kind, class, wait := p.Describe(c.topic)
		if kind != c.kind || class != c.class || wait != c.wait {
			t.Errorf("%s: got %d %s %s, want %d %s %s", c.topic, kind, class, wait, c.kind, c.class, c.wait)
		}
	}
}

func TestPlanValidate(t *testing.T) {
	if err := defaultPlan().Validate(); err != nil {
		t.Fatalf("the defaults: %v", err)
	}
	six := []time.Duration{6 * hour}
	for _, c := range []struct {
		name     string
		change   func(*Names)
		schedule []time.Duration
		want     string
	}{
		{"doubled", func(n *Names) { n.Click = "sms-dlr" }, six, `topics.click: "sms-dlr" is also the name of topics.dlr`},
		{"empty", func(n *Names) { n.Keys = "" }, six, `topics.keys: "" is no topic name`},
		{"illegal", func(n *Names) { n.Inbound = "sms inbound" }, six, `topics.inbound: "sms inbound" is no topic name`},
		{"dots", func(n *Names) { n.Config = ".." }, six, `topics.config: ".." is no topic name`},
		{"derived", func(n *Names) { n.DeadLetter = "sms-dlr-retry-6h" }, six, `topics.dead_letter: "sms-dlr-retry-6h" is also the retry topic of sms-dlr`},
		{"source is derived", func(n *Names) { n.Click = "sms-dlr-retry-6h" }, six, `topics.click: "sms-dlr-retry-6h" is also the retry topic of sms-dlr`},
		{"too long", func(n *Names) { n.DLR = strings.Repeat("x", 240) }, six, "no broker accepts this name"},
		{"no delay", func(*Names) {}, []time.Duration{0}, "retry topic of sms-dlr: its delay 0s is not positive"},
		{"micro", func(*Names) {}, []time.Duration{time.Microsecond}, "no broker accepts this name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			names := defaultNames
			c.change(&names)
			err := NewPlan(names, c.schedule, tiers, 24*hour, 12, -1).Validate()
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestSettingsOfNewTopics(t *testing.T) {
	p := defaultPlan()
	for _, c := range []struct{ topic, want string }{
		{"sms-dlr", "cleanup.policy=delete"},
		{"webhook-config", "cleanup.policy=compact retention.ms=-1"},
		{"webhook-keys", "cleanup.policy=compact retention.ms=-1"},
		{"webhook-dead-letter", "cleanup.policy=delete retention.ms=2592000000 max.message.bytes=2097152"},
		// 6 h + 24 h + 72 h
		{"sms-dlr-retry-6h", "cleanup.policy=delete retention.ms=367200000 retention.bytes=-1 max.message.bytes=2097152 message.timestamp.type=LogAppendTime"},
		// 10 s + 24 h + 72 h
		{"click-revocation-overflow-10s", "cleanup.policy=delete retention.ms=345610000 retention.bytes=-1 max.message.bytes=2097152 message.timestamp.type=LogAppendTime"},
	} {
		var got []string
		for _, setting := range p.settings(c.topic, nil) {
			got = append(got, setting[0]+"="+setting[1])
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s: got %s, want %s", c.topic, s, c.want)
		}
	}
}
