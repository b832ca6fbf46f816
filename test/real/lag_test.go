package real_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/test/real/harness"
)

// TestLagAgreesWithKafkasTool compares smshooks_group_lag_records of every partition with kafka-consumer-groups, with
// requests that hang, delayed records and empty partitions.
func TestLagAgreesWithKafkasTool(t *testing.T) {
	t.Parallel()
	e := newEnv(t, "--retry.schedule=1h,1h", "--overflow.delays=1h", "--dispatch.timeout=2m", "--kafka.session_timeout=6s", "--shutdown.grace=1s")
	users := map[int64]harness.Webhook{}
	for user := int64(1); user <= 12; user++ {
		users[user] = e.all(user, "")
	}
	e.configure(t, users)
	for user := int64(5); user <= 8; user++ {
		e.recv.On(path("dlr", user), harness.Status(500))
		e.recv.On(path("click", user), harness.Hang())
	}
	a, b := e.serve(t), e.serve(t)
	var load []*kgo.Record
	for i := range int64(40) {
		for user := int64(1); user <= 12; user++ {
			load = append(load, e.dlr(user, i), e.click(user, i))
		}
	}
	e.emit(t, load...)
	figures := func() map[string]string {
		lag := map[string]string{}
		for sample, v := range a.Metrics(t) {
			if labels, ok := strings.CutPrefix(sample, "smshooks_group_lag_records{"); ok {
				lag[labels] = fmt.Sprint(v)
			}
		}
		return lag
	}
	var before map[string]string
	harness.Eventually(t, 60*time.Second, func() bool {
		m, n := a.Metrics(t), b.Metrics(t)
		return m.Sum("smshooks_group_lag_records", "topic", e.topics.DLR) == 0 && m.Sum("smshooks_group_lag_records", "topic", e.topics.Click) >= 150 &&
			m.Sum("smshooks_retry_waiting_records", "topic", harness.Retry(e.topics.DLR, "1h")) == 160 &&
			// of 160 that hang 12 are in flight, and the others wait at most 15 s in a queue
			m.Sum("smshooks_retry_waiting_records", "topic", harness.Overflow(e.topics.Click, "1h")) == 148 &&
			n.Sum("smshooks_group_lag_records") == m.Sum("smshooks_group_lag_records")
	}, "all events are settled, delayed or hang")
	harness.Eventually(t, harness.Patience, func() bool {
		was := figures()
		harness.Pass(3 * time.Second) // longer than between two measurements
		before = figures()
		return fmt.Sprint(was) == fmt.Sprint(before)
	}, "the figures no longer change")

	told := consumerGroups(t, e)
	if len(told) != len(before) || len(told) == 0 {
		t.Errorf("Kafka's tool shows %d partitions, the metric %d", len(told), len(before))
	}
	behind := 0
	for labels, lag := range before {
		tool, ok := told[labels]
		if tool == "-" { // nothing is committed: the tool shows no lag
			tool = "0"
		}
		if !ok || tool != lag {
			t.Errorf("%s: the metric is %s, Kafka's tool shows %q", labels, lag, told[labels])
		}
		if lag != "0" {
			behind++
		}
	}
	if behind < 2 {
		t.Errorf("only %d partitions are behind: the comparison is meaningless", behind)
	}
	if after := figures(); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("the figures changed meanwhile: %v, %v", before, after)
	}
}

// consumerGroups runs Kafka's own tool and returns the lag as text, by the metric's labels. The tool runs in its own
// container, because the advertised address is not reachable inside the broker's.
func consumerGroups(t *testing.T, e *env) map[string]string {
	t.Helper()
	image := os.Getenv("SMSHOOKS_TEST_KAFKA_IMAGE")
	if image == "" {
		image = "apache/kafka:4.1.1"
	}
	cmd := exec.CommandContext(t.Context(), "docker", "run", "--rm", "--network", "host", image, "/opt/kafka/bin/kafka-consumer-groups.sh",
		"--bootstrap-server", e.kafka.Addr, "--describe", "--offsets", "--group", e.topics.Group)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("kafka-consumer-groups: %v\n%s", err, out)
	}
	lag := map[string]string{}
	for line := range strings.Lines(string(out)) {
		// GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG …
		if f := strings.Fields(line); len(f) >= 6 && f[0] == e.topics.Group {
			lag[fmt.Sprintf("partition=%q,topic=%q}", f[2], f[1])] = f[5]
		}
	}
	if len(lag) == 0 {
		t.Fatalf("kafka-consumer-groups shows nothing:\n%s", out)
	}
	return lag
}
