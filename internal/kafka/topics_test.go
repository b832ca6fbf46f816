package kafka

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// newBroker returns a client and unique names. SMSHOOKS_TEST_KAFKA_BROKERS (comma-separated)
// runs the same tests against a real Kafka.
func newBroker(t *testing.T) (*kgo.Client, topics.Settings) {
	t.Helper()
	brokers, prefix := []string(nil), ""
	if real := os.Getenv("SMSHOOKS_TEST_KAFKA_BROKERS"); real != "" {
		brokers, prefix = strings.Split(real, ","), fmt.Sprintf("t%d-", time.Now().UnixNano())
	} else {
		cluster := newCluster(t)
		brokers = cluster.ListenAddrs()
	}
	cl, err := Config{Brokers: brokers}.NewClient()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl, topics.Settings{
		DLR: prefix + "dlr", Click: prefix + "click", Inbound: prefix + "inbound", Revocation: prefix + "revocation",
		Config: prefix + "config", Keys: prefix + "keys", DeadLetter: prefix + "dead", Events: prefix + "events", Releases: prefix + "releases",
	}
}

// defaults returns the names of the default topics, and the delays of smallPlan.
var defaults = topics.Settings{
	DLR: "sms-dlr", Click: "sms-click", Inbound: "sms-inbound", Revocation: "click-revocation",
	Config: "webhook-config", Keys: "webhook-keys", DeadLetter: "webhook-dead-letter", Events: "webhook-events", Releases: "webhook-releases",
	Schedule: []time.Duration{6 * time.Hour, 6 * time.Hour}, Tiers: []time.Duration{10 * time.Second},
	Window: 24 * time.Hour, Partitions: 12, Replication: -1,
}

// smallPlan returns a plan with these names, of topics with three partitions.
func smallPlan(names topics.Settings) *topics.Plan {
	names.Schedule, names.Tiers, names.Window, names.Partitions, names.Replication = defaults.Schedule, defaults.Tiers, defaults.Window, 3, -1
	return topics.New(names)
}

func create(t *testing.T, cl *kgo.Client, topic string, partitions int32, settings map[string]string) {
	t.Helper()
	configs := make(map[string]*string)
	for k, v := range settings {
		configs[k] = kadm.StringPtr(v)
	}
	if _, err := kadm.NewClient(cl).CreateTopic(t.Context(), partitions, 1, configs, topic); err != nil {
		t.Fatalf("create %s: %v", topic, err)
	}
	for { // until the broker has received it from its controller
		if states, err := readState(t.Context(), cl, []string{topic}); err != nil || states[topic].settled {
			return
		}
	}
}

func alter(t *testing.T, cl *kgo.Client, topic, key, value string) {
	t.Helper()
	err := alterTopic(t.Context(), kadm.NewClient(cl), topic, key, value)
	if err != nil {
		t.Fatal(err)
	}
}

func ensure(t *testing.T, p *topics.Plan, cl *kgo.Client) map[string]string {
	t.Helper()
	lines, err := EnsureTopics(t.Context(), cl, p)
	if err != nil {
		t.Fatalf("ensure: %v", err)
	}
	return byTopic(t, p, lines)
}

func byTopic(t *testing.T, p *topics.Plan, lines []Line) map[string]string {
	t.Helper()
	what := make(map[string]string)
	for _, line := range lines {
		what[line.Topic] = line.What
	}
	if len(lines) != len(p.All()) || len(what) != len(lines) {
		t.Errorf("%d lines for %d topics: %v", len(lines), len(p.All()), lines)
	}
	return what
}

// checkUntil polls, since a real broker shows a change after a moment.
func checkUntil(t *testing.T, p *topics.Plan, cl *kgo.Client, want ...string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		problems, err := CheckTopics(t.Context(), cl, p)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, problem := range problems {
			got = append(got, problem.Topic+" "+problem.What)
			if problem.Why == "" || len(problem.Type) == 0 || strings.Contains(problem.Explain(Connection{Brokers: []string{"a:1"}}), "BROKERS") {
				t.Errorf("topic %s: %s", problem.Topic, problem.Explain(Connection{Brokers: []string{"a:1"}}))
			}
			if problem.Fix == "" {
				t.Errorf("%s: no fix", problem)
			}
		}
		if strings.Join(got, "\n") == strings.Join(want, "\n") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("problems:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

func TestEnsureFromNothing(t *testing.T) {
	cl, names := newBroker(t)
	p := smallPlan(names)

	var missing []string
	for _, topic := range p.All() {
		missing = append(missing, topic+" is missing")
	}
	checkUntil(t, p, cl, missing...)
	checkUntil(t, p, cl, missing...) // the check created nothing

	for topic, what := range ensure(t, p, cl) {
		if what != "created (3 partitions)" {
			t.Errorf("%s: %s", topic, what)
		}
	}
	checkUntil(t, p, cl)
	for topic, what := range ensure(t, p, cl) {
		if what != "ok" {
			t.Errorf("second time: %s: %s", topic, what)
		}
	}
	states, err := readState(t.Context(), cl, p.All())
	if err != nil {
		t.Fatal(err)
	}
	for _, topic := range p.All() {
		for _, setting := range (survey{Plan: p}).settings(topic) {
			if got := states[topic].configs[setting[0]]; got != setting[1] {
				t.Errorf("%s: %s is %q, want %q", topic, setting[0], got, setting[1])
			}
		}
	}
}

func TestEnsureFollowsWhatExists(t *testing.T) {
	cl, names := newBroker(t)
	p := smallPlan(names)
	create(t, cl, names.DLR, 5, nil)                                                     // the gateway's own topic
	create(t, cl, p.Retry(webhook.Click, 0), 4, map[string]string{"retention.ms": "-1"}) // a deleted source
	create(t, cl, names.Inbound, 2, nil)
	create(t, cl, p.Overflow(webhook.Inbound, 0), 1, map[string]string{"retention.ms": "60000", "retention.bytes": "1000"})

	what := ensure(t, p, cl)
	for topic, want := range map[string]string{
		names.DLR:                      "ok",
		p.Retry(webhook.DLR, 0):        "created (5 partitions)",
		p.Overflow(webhook.DLR, 0):     "created (5 partitions)",
		names.Click:                    "created (4 partitions)",
		p.Retry(webhook.Click, 0):      "max.message.bytes raised from 1048588 to 2097152",
		p.Overflow(webhook.Click, 0):   "created (4 partitions)",
		names.Inbound:                  "ok",
		p.Retry(webhook.Inbound, 0):    "created (2 partitions)",
		p.Overflow(webhook.Inbound, 0): "partitions raised from 1 to 2, max.message.bytes raised from 1048588 to 2097152, retention.ms raised from 60000 to 345610000, retention.bytes raised from 1000 to -1",
		names.Revocation:               "created (3 partitions)",
		names.Config:                   "created (3 partitions)",
	} {
		if what[topic] != want {
			t.Errorf("%s: got %q, want %q", topic, what[topic], want)
		}
	}
	checkUntil(t, p, cl)
	for topic, what := range ensure(t, p, cl) {
		if what != "ok" {
			t.Errorf("second time: %s: %s", topic, what)
		}
	}
}

func TestCheckNamesEachProblem(t *testing.T) {
	cl, names := newBroker(t)
	p := smallPlan(names)
	ensure(t, p, cl)
	retry := p.Retry(webhook.DLR, 0)
	for _, c := range []struct {
		name, topic, key, bad, good, want string
	}{
		{"retention too short", retry, "retention.ms", "21600000", "367200000",
			"has retention.ms=21600000 (6h), below its delay + retry.window (6h + 24h = 108000000 ms)"},
		{"one ms too short", retry, "retention.ms", "107999999", "108000000", "has retention.ms=107999999 (29h59m59.999s), below its delay + retry.window (6h + 24h = 108000000 ms)"},
		{"releases forgotten too soon", names.Releases, "retention.ms", "172799999", "172800000", "has retention.ms=172799999 (47h59m59.999s), below its delay + retry.window (24h + 24h = 172800000 ms)"},
		{"releases limited in size", names.Releases, "retention.bytes", "1048576", "-1", "has retention.bytes=1048576 instead of -1"},
		{"releases compacted", names.Releases, "cleanup.policy", "compact", "delete", "has cleanup.policy=compact instead of delete"},
		{"size limit", retry, "retention.bytes", "1048576", "-1", "has retention.bytes=1048576 instead of -1"},
		{"compacted retry", retry, "cleanup.policy", "compact", "delete", "has cleanup.policy=compact instead of delete"},
		{"compacted source", names.Click, "cleanup.policy", "compact,delete", "delete", "has cleanup.policy=compact,delete instead of delete"},
		{"deleting config", names.Config, "cleanup.policy", "delete", "compact", "has cleanup.policy=delete instead of compact"},
		{"half deleting keys", names.Keys, "cleanup.policy", "compact,delete", "compact", "has cleanup.policy=compact,delete instead of compact"},
		{"compacted dead letters", names.DeadLetter, "cleanup.policy", "compact", "delete", "has cleanup.policy=compact instead of delete"},
	} {
		t.Run(c.name, func(t *testing.T) {
			alter(t, cl, c.topic, c.key, c.bad)
			checkUntil(t, p, cl, c.topic+" "+c.want)
			alter(t, cl, c.topic, c.key, c.good)
			checkUntil(t, p, cl)
		})
	}
	alter(t, cl, retry, "retention.ms", "-1")
	alter(t, cl, names.DLR, "retention.ms", "60000") // the operator's choice
	checkUntil(t, p, cl)
}

func TestPartitionCounts(t *testing.T) {
	cl, names := newBroker(t)
	p := smallPlan(names)
	ensure(t, p, cl)
	admin := kadm.NewClient(cl)

	if err := addPartitions(t.Context(), admin, names.DLR, 4); err != nil {
		t.Fatal(err)
	}
	checkUntil(t, p, cl,
		fmt.Sprintf("%s has 3 partitions, but its source %s has 4", p.Retry(webhook.DLR, 0), names.DLR),
		fmt.Sprintf("%s has 3 partitions, but its source %s has 4", p.Overflow(webhook.DLR, 0), names.DLR),
		fmt.Sprintf("%s has 3 partitions, but its source %s has 4", p.Paused(webhook.DLR), names.DLR),
		fmt.Sprintf("%s has 3 partitions, but its source %s has 4", p.Released(webhook.DLR), names.DLR))
	if what := ensure(t, p, cl); what[p.Retry(webhook.DLR, 0)] != "partitions raised from 3 to 4" || what[names.DLR] != "ok" {
		t.Errorf("lines: %v", what)
	}
	checkUntil(t, p, cl)

	overflow := p.Overflow(webhook.Click, 0)
	if err := addPartitions(t.Context(), admin, overflow, 4); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("%s has 4 partitions, but its source %s has 3", overflow, names.Click)
	checkUntil(t, p, cl, want)
	lines, err := EnsureTopics(t.Context(), cl, p)
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("ensure: %v", err)
	}
	if what := byTopic(t, p, lines); !strings.HasPrefix(what[overflow], "wrong: has 4 partitions") {
		t.Errorf("line: %s", what[overflow])
	}
}

func TestEnsureReportsPolicy(t *testing.T) {
	cl, names := newBroker(t)
	p := smallPlan(names)
	create(t, cl, names.Config, 1, map[string]string{"cleanup.policy": "delete"})
	lines, err := EnsureTopics(t.Context(), cl, p)
	if err == nil || IsUnavailable(err) || !strings.Contains(err.Error(), names.Config+" has cleanup.policy=delete instead of compact") {
		t.Errorf("ensure: %v", err)
	}
	if what := byTopic(t, p, lines); what[names.Keys] != "created (3 partitions)" {
		t.Errorf("the rest is not done: %v", what)
	}
}

func TestEnsureRaces(t *testing.T) {
	cl, names := newBroker(t)
	p := smallPlan(names)
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			if _, err := EnsureTopics(t.Context(), cl, p); err != nil {
				t.Errorf("ensure: %v", err)
			}
		})
	}
	group.Wait()
	checkUntil(t, p, cl)

	if err := addPartitions(t.Context(), kadm.NewClient(cl), names.DLR, 6); err != nil {
		t.Fatal(err)
	}
	alter(t, cl, p.Retry(webhook.DLR, 0), "retention.ms", "1000")
	checkUntil(t, p, cl,
		fmt.Sprintf("%s has 3 partitions, but its source %s has 6", p.Retry(webhook.DLR, 0), names.DLR),
		fmt.Sprintf("%s has retention.ms=1000 (1s), below its delay + retry.window (6h + 24h = 108000000 ms)", p.Retry(webhook.DLR, 0)),
		fmt.Sprintf("%s has 3 partitions, but its source %s has 6", p.Overflow(webhook.DLR, 0), names.DLR),
		fmt.Sprintf("%s has 3 partitions, but its source %s has 6", p.Paused(webhook.DLR), names.DLR),
		fmt.Sprintf("%s has 3 partitions, but its source %s has 6", p.Released(webhook.DLR), names.DLR))
	for range 4 {
		group.Go(func() {
			if _, err := EnsureTopics(t.Context(), cl, p); err != nil {
				t.Errorf("ensure: %v", err)
			}
		})
	}
	group.Wait()
	checkUntil(t, p, cl)
}

func TestEnsureRefused(t *testing.T) {
	cl, names := newBroker(t)
	p := smallPlan(names)
	p.Replication = 5 // more than there are brokers
	_, err := EnsureTopics(t.Context(), cl, p)
	if err == nil || IsUnavailable(err) || !strings.Contains(err.Error(), "create topic "+names.DLR) {
		t.Errorf("ensure: %v", err)
	}
}

func TestKafkaUnreachable(t *testing.T) {
	cl, err := Config{Brokers: []string{freeAddr(t)}}.NewClient()
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := CheckTopics(ctx, cl, topics.New(defaults)); !IsUnavailable(err) {
		t.Errorf("check: %v", err)
	}
	if _, err := EnsureTopics(ctx, cl, topics.New(defaults)); !IsUnavailable(err) {
		t.Errorf("ensure: %v", err)
	}
}

func TestSettingsOfNewTopics(t *testing.T) {
	s := survey{Plan: topics.New(defaults)}
	for _, c := range []struct{ topic, want string }{
		{"sms-dlr", "cleanup.policy=delete"},
		{"webhook-config", "cleanup.policy=compact retention.ms=-1"},
		{"webhook-keys", "cleanup.policy=compact retention.ms=-1"},
		{"webhook-releases", "cleanup.policy=delete retention.ms=432000000 retention.bytes=-1 message.timestamp.type=LogAppendTime"},
		{"sms-dlr-overflow-0s", "cleanup.policy=delete retention.ms=345600000 retention.bytes=-1 max.message.bytes=2097152 message.timestamp.type=LogAppendTime"},
		{"webhook-dead-letter", "cleanup.policy=delete retention.ms=2592000000 max.message.bytes=2097152"},
		{"webhook-events", "cleanup.policy=delete retention.ms=604800000"},
		// 6 h + 24 h + 72 h
		{"sms-dlr-retry-6h", "cleanup.policy=delete retention.ms=367200000 retention.bytes=-1 max.message.bytes=2097152 message.timestamp.type=LogAppendTime"},
		// 10 s + 24 h + 72 h
		{"click-revocation-overflow-10s", "cleanup.policy=delete retention.ms=345610000 retention.bytes=-1 max.message.bytes=2097152 message.timestamp.type=LogAppendTime"},
		// 24 h + 24 h + 72 h
		{"sms-dlr-paused-24h", "cleanup.policy=delete retention.ms=432000000 retention.bytes=-1 max.message.bytes=2097152 message.timestamp.type=LogAppendTime"},
	} {
		var got []string
		for _, setting := range s.settings(c.topic) {
			got = append(got, setting[0]+"="+setting[1])
		}
		if got := strings.Join(got, " "); got != c.want {
			t.Errorf("%s: got %s, want %s", c.topic, got, c.want)
		}
	}
}
