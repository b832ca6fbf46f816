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
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// newBroker returns a client and names nobody else uses. SMSHOOKS_TEST_KAFKA_BROKERS (comma-separated)
// runs the same tests against a real Kafka.
func newBroker(t *testing.T) (*kgo.Client, Names) {
	t.Helper()
	brokers, prefix := []string(nil), ""
	if real := os.Getenv("SMSHOOKS_TEST_KAFKA_BROKERS"); real != "" {
		brokers, prefix = strings.Split(real, ","), fmt.Sprintf("t%d-", time.Now().UnixNano())
	} else {
		cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cluster.Close)
		brokers = cluster.ListenAddrs()
	}
	cl, err := Config{Brokers: brokers}.NewClient()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl, Names{
		DLR: prefix + "dlr", Click: prefix + "click", Inbound: prefix + "inbound", Revocation: prefix + "revocation",
		Config: prefix + "config", Keys: prefix + "keys", DeadLetter: prefix + "dead",
	}
}

func smallPlan(names Names) *Plan {
	return NewPlan(names, []time.Duration{6 * hour, 6 * hour}, []time.Duration{10 * time.Second}, 24*hour, 3, -1)
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
	for { // until the broker has heard of it from its controller
		if states, err := readState(t.Context(), cl, []string{topic}); err != nil || states[topic].settled {
			return
		}
	}
}

func alter(t *testing.T, cl *kgo.Client, topic, key, value string) {
	t.Helper()
	err := alterTopic(t.Context(), kadm.NewClient(cl), topic, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: key, Value: &value}})
	if err != nil {
		t.Fatal(err)
	}
}

func ensure(t *testing.T, p *Plan, cl *kgo.Client) map[string]string {
	t.Helper()
	lines, err := p.Ensure(t.Context(), cl)
	if err != nil {
		t.Fatalf("ensure: %v", err)
	}
	return byTopic(t, p, lines)
}

func byTopic(t *testing.T, p *Plan, lines []Line) map[string]string {
	t.Helper()
	what := make(map[string]string)
	for _, line := range lines {
		what[line.Topic] = line.What
	}
	if len(lines) != len(p.all()) || len(what) != len(lines) {
		t.Errorf("%d lines for %d topics: %v", len(lines), len(p.all()), lines)
	}
	return what
}

// checkUntil polls, as a real broker shows a change a moment later.
func checkUntil(t *testing.T, p *Plan, cl *kgo.Client, want ...string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		problems, err := p.Check(t.Context(), cl)
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
	for _, topic := range p.all() {
		missing = append(missing, topic+" is missing")
	}
	checkUntil(t, p, cl, missing...)
	checkUntil(t, p, cl, missing...) // asking created nothing

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
	states, err := readState(t.Context(), cl, p.all())
	if err != nil {
		t.Fatal(err)
	}
	for _, topic := range p.all() {
		for _, setting := range p.settings(topic, nil) {
			if got := states[topic].configs[setting[0]]; got != setting[1] {
				t.Errorf("%s: %s is %q, want %q", topic, setting[0], got, setting[1])
			}
		}
	}
}

func TestEnsureFollowsWhatExists(t *testing.T) {
	cl, names := newBroker(t)
	p := smallPlan(names)
	create(t, cl, names.DLR, 5, nil)                                                 // the gateway's own topic
	create(t, cl, p.Retry(kindClick, 0), 4, map[string]string{"retention.ms": "-1"}) // a source that is gone
	create(t, cl, names.Inbound, 2, nil)
	create(t, cl, p.Overflow(kindInbound, 0), 1, map[string]string{"retention.ms": "60000", "retention.bytes": "1000"})

	what := ensure(t, p, cl)
	for topic, want := range map[string]string{
		names.DLR:                  "ok",
		p.Retry(kindDLR, 0):        "created (5 partitions)",
		p.Overflow(kindDLR, 0):     "created (5 partitions)",
		names.Click:                "created (4 partitions)",
		p.Retry(kindClick, 0):      "max.message.bytes raised from 1048588 to 2097152",
		p.Overflow(kindClick, 0):   "created (4 partitions)",
		names.Inbound:              "ok",
		p.Retry(kindInbound, 0):    "created (2 partitions)",
		p.Overflow(kindInbound, 0): "partitions raised from 1 to 2, max.message.bytes raised from 1048588 to 2097152, retention.ms raised from 60000 to 345610000, retention.bytes raised from 1000 to -1",
		names.Revocation:           "created (3 partitions)",
		names.Config:               "created (3 partitions)",
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
	retry := p.Retry(kindDLR, 0)
	for _, c := range []struct {
		name, topic, key, bad, good, want string
	}{
		{"retention too short", retry, "retention.ms", "21600000", "367200000",
			"has retention.ms=21600000 (6h), below its delay + retry.window (6h + 24h = 108000000 ms)"},
		{"one ms too short", retry, "retention.ms", "107999999", "108000000", "has retention.ms=107999999 (29h59m59.999s), below its delay + retry.window (6h + 24h = 108000000 ms)"},
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
		fmt.Sprintf("%s has 3 partitions, but its source %s has 4", p.Retry(kindDLR, 0), names.DLR),
		fmt.Sprintf("%s has 3 partitions, but its source %s has 4", p.Overflow(kindDLR, 0), names.DLR))
	if what := ensure(t, p, cl); what[p.Retry(kindDLR, 0)] != "partitions raised from 3 to 4" || what[names.DLR] != "ok" {
		t.Errorf("lines: %v", what)
	}
	checkUntil(t, p, cl)

	overflow := p.Overflow(kindClick, 0)
	if err := addPartitions(t.Context(), admin, overflow, 4); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("%s has 4 partitions, but its source %s has 3", overflow, names.Click)
	checkUntil(t, p, cl, want)
	lines, err := p.Ensure(t.Context(), cl)
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
	lines, err := p.Ensure(t.Context(), cl)
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
			if _, err := p.Ensure(t.Context(), cl); err != nil {
				t.Errorf("ensure: %v", err)
			}
		})
	}
	group.Wait()
	checkUntil(t, p, cl)

	if err := addPartitions(t.Context(), kadm.NewClient(cl), names.DLR, 6); err != nil {
		t.Fatal(err)
	}
	alter(t, cl, p.Retry(kindDLR, 0), "retention.ms", "1000")
	checkUntil(t, p, cl,
		fmt.Sprintf("%s has 3 partitions, but its source %s has 6", p.Retry(kindDLR, 0), names.DLR),
		fmt.Sprintf("%s has retention.ms=1000 (1s), below its delay + retry.window (6h + 24h = 108000000 ms)", p.Retry(kindDLR, 0)),
		fmt.Sprintf("%s has 3 partitions, but its source %s has 6", p.Overflow(kindDLR, 0), names.DLR))
	for range 4 {
		group.Go(func() {
			if _, err := p.Ensure(t.Context(), cl); err != nil {
				t.Errorf("ensure: %v", err)
			}
		})
	}
	group.Wait()
	checkUntil(t, p, cl)
}

func TestEnsureRefused(t *testing.T) {
	cl, names := newBroker(t)
	p := NewPlan(names, []time.Duration{6 * hour}, nil, 24*hour, 3, 5) // more replicas than brokers
	_, err := p.Ensure(t.Context(), cl)
	if err == nil || IsUnavailable(err) || !strings.Contains(err.Error(), "create topic "+names.DLR) {
		t.Errorf("ensure: %v", err)
	}
}

func TestKafkaAway(t *testing.T) {
	cl, err := Config{Brokers: []string{freeAddr(t)}}.NewClient()
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := defaultPlan().Check(ctx, cl); !IsUnavailable(err) {
		t.Errorf("check: %v", err)
	}
	if _, err := defaultPlan().Ensure(ctx, cl); !IsUnavailable(err) {
		t.Errorf("ensure: %v", err)
	}
	bad := defaultNames
	bad.Click = bad.DLR
	if _, err := NewPlan(bad, nil, nil, hour, 1, 1).Check(ctx, cl); err == nil || IsUnavailable(err) {
		t.Errorf("a bad plan: %v", err)
	}
}
