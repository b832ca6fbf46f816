package harness

import (
	"hash/fnv"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Topics holds the names of one test, so that tests can share a broker and a Redis.
type Topics struct {
	DLR, Click, Inbound, Revocation, Config, Keys, DeadLetter, Events, Releases string

	Group     string // consumer group
	KeyPrefix string // of every Redis key
}

// TopicsWith returns the contract's default names with a prefix, and a group and a Redis key prefix of the same name.
func TopicsWith(prefix string) Topics {
	return Topics{
		DLR:        prefix + "-sms-dlr",
		Click:      prefix + "-sms-click",
		Inbound:    prefix + "-sms-inbound",
		Revocation: prefix + "-click-revocation",
		Config:     prefix + "-webhook-config",
		Keys:       prefix + "-webhook-keys",
		DeadLetter: prefix + "-webhook-dead-letter",
		Events:     prefix + "-webhook-events",
		Releases:   prefix + "-webhook-releases",
		Group:      prefix,
		KeyPrefix:  prefix + ":",
	}
}

// TopicsFor returns names that no other test and no other run (`-count=2`) uses.
func TopicsFor(t testing.TB) Topics {
	h := fnv.New32a()
	h.Write([]byte(t.Name() + time.Now().String()))
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return -1
	}, strings.TrimPrefix(t.Name(), "Test"))
	return TopicsWith(name[:min(len(name), 40)] + "-" + strconv.FormatUint(uint64(h.Sum32()), 36))
}

// Retry returns the retry topic of a source for a delay in the contract's form ("6h", "500ms").
func Retry(source, delay string) string { return source + "-retry-" + delay }

// Overflow returns the overflow topic of a source for a tier ("10s", "1m", "5m", "30m").
func Overflow(source, tier string) string { return source + "-overflow-" + tier }

// Paused returns the paused topic of a source; window is retry.window ("24h").
func Paused(source, window string) string { return source + "-paused-" + window }

// settings returns the names as settings, by dotted name.
func (n Topics) settings() [][2]string {
	return [][2]string{
		{"topics.dlr", n.DLR}, {"topics.click", n.Click}, {"topics.inbound", n.Inbound}, {"topics.revocation", n.Revocation},
		{"topics.config", n.Config}, {"topics.keys", n.Keys}, {"topics.dead_letter", n.DeadLetter},
		{"topics.events", n.Events}, {"topics.releases", n.Releases},
		{"kafka.group", n.Group}, {"redis.key_prefix", n.KeyPrefix},
	}
}

// Flags returns the names as flags of the program.
func (n Topics) Flags() []string {
	var flags []string
	for _, s := range n.settings() {
		flags = append(flags, "--"+s[0]+"="+s[1])
	}
	return flags
}

// Env returns the names as environment variables of the program.
func (n Topics) Env() []string {
	var vars []string
	for _, s := range n.settings() {
		vars = append(vars, Variable(s[0])+"="+s[1])
	}
	return vars
}

// Variable returns the environment variable of a setting: kafka.brokers is SMSHOOKS_KAFKA_BROKERS.
func Variable(setting string) string {
	return "SMSHOOKS_" + strings.ToUpper(strings.ReplaceAll(setting, ".", "_"))
}

// EnsureTopics runs `smshooks topics ensure` with the given names and flags (`--topics.partitions=3`), and returns its
// output.
func EnsureTopics(t testing.TB, b *Broker, n Topics, flags ...string) string {
	t.Helper()
	return Ensure(t, Options{Brokers: b.Addr, Topics: n}, flags...)
}

// Ensure runs topics ensure, and repeats it while the broker is fenced or slow: on a busy machine its controller may
// miss its heartbeats, or it may take long to create hundreds of partitions.
func Ensure(t testing.TB, o Options, flags ...string) string {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; Pass(500 * time.Millisecond) {
		out, stderr, code := Run(t, o, append([]string{"topics", "ensure"}, flags...)...)
		if code == 0 {
			noteEnsured(t, o.Brokers, out)
			return out
		}
		held := strings.Contains(stderr, "fenced") || strings.Contains(stderr, "deadline exceeded")
		if !held || time.Now().After(deadline) {
			t.Fatalf("topics ensure: exit code %d\n%s%s", code, out, stderr)
		}
	}
}

// CreateTopic creates a topic without the program, for tests that need a wrong one, and waits until the broker lists
// it. configs are pairs of name and value, such as "cleanup.policy", "compact".
func CreateTopic(t testing.TB, brokers, topic string, partitions int32, configs ...string) {
	t.Helper()
	set := map[string]*string{}
	for i := 0; i+1 < len(configs); i += 2 {
		set[configs[i]] = &configs[i+1]
	}
	adm := kadm.NewClient(Client(t, brokers))
	if _, err := adm.CreateTopic(within(t, Patience), partitions, 1, set, topic); err != nil {
		t.Fatalf("create topic %s: %v", topic, err)
	}
	Eventually(t, Patience, func() bool {
		listed, err := adm.ListEndOffsets(within(t, 10*time.Second), topic)
		return err == nil && listed.Error() == nil && len(listed[topic]) == int(partitions)
	}, "topic %s exists", topic)
}

// Client returns a Kafka client. It is closed when the test ends.
func Client(t testing.TB, brokers string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(strings.Split(brokers, ",")...)}, opts...)...)
	if err != nil {
		t.Fatalf("Kafka client: %v", err)
	}
	t.Cleanup(cl.Close)
	return cl
}
