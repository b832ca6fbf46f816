// Package real_test checks the contract from the view of customers and operators: with a real Kafka, a real Redis, the
// program as a child process, and the customers' web server as the judge.
package real_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/test/real/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// partitions of every test topic.
const partitions = 2

// late is how much later than due an attempt may start, by contract.
const late = time.Second

// quick returns settings that turn the contract's hours and minutes into seconds. They are environment variables, so
// that a test's flags override them.
func quick() []string {
	return []string{
		"SMSHOOKS_RETRY_SCHEDULE=1s,2s", "SMSHOOKS_OVERFLOW_DELAYS=1s,3s,10s", "SMSHOOKS_REVOCATION_INTERVAL=2s",
		"SMSHOOKS_KAFKA_SESSION_TIMEOUT=6s",
	}
}

// env is the environment of one test: its own topics on the shared servers, and a receiver.
type env struct {
	kafka  *harness.Broker
	redis  *harness.RedisServer
	topics harness.Topics
	recv   *harness.Receiver
	flags  []string
}

// newEnv returns an env on the shared servers and creates its topics for the quick settings and flags.
func newEnv(t testing.TB, flags ...string) *env {
	t.Helper()
	e := &env{kafka: harness.Kafka(t), redis: harness.Redis(t), topics: harness.TopicsFor(t)}
	e.begin(t, flags)
	return e
}

func (e *env) begin(t testing.TB, flags []string) {
	t.Helper()
	e.flags = append([]string{"--topics.partitions=" + strconv.Itoa(partitions)}, flags...)
	e.recv = harness.NewReceiver(t)
	e.ensure(t)
}

func (e *env) ensure(t testing.TB) string {
	t.Helper()
	return harness.Ensure(t, e.options())
}

// options returns the options of a member, with its own flags last.
func (e *env) options(flags ...string) harness.Options {
	args := append(append([]string(nil), e.flags...), flags...)
	return harness.Options{Brokers: e.kafka.Addr, RedisAddr: e.redis.Addr, Topics: e.topics, Args: args, Env: quick()}
}

// serve starts a member and waits until it is ready.
func (e *env) serve(t testing.TB, flags ...string) *harness.Proc {
	t.Helper()
	return harness.StartReady(t, e.options(flags...))
}

// configure writes settings of users. It does not wait until they take effect.
func (e *env) configure(t testing.TB, users map[int64]harness.Webhook) {
	t.Helper()
	var records []*kgo.Record
	for id, hooks := range users {
		records = append(records, harness.WebhookRecord(t, e.topics.Config, id, hooks))
	}
	harness.ProduceMany(t, e.kafka.Addr, records)
}

// all returns a user's settings with a URL per kind: /dlr, /click, /inbound or /revoke, followed by the user's id.
func (e *env) all(user int64, auth string) harness.Webhook {
	at := func(kind string) string { return e.recv.URL(path(kind, user)) }
	return harness.Webhook{DLR: at("dlr"), Click: at("click"), Inbound: at("inbound"), Revoke: at("revoke"), Auth: auth}
}

func path(kind string, user int64) string { return fmt.Sprintf("/%s/%d", kind, user) }

// emit writes events and returns them with their offsets.
func (e *env) emit(t testing.TB, records ...*kgo.Record) []*kgo.Record {
	t.Helper()
	harness.ProduceMany(t, e.kafka.Addr, records)
	return records
}

func (e *env) dlr(user, sms int64) *kgo.Record {
	return harness.Event(e.topics.DLR, user, harness.DLRValue(user, sms))
}

func (e *env) click(user, sms int64) *kgo.Record {
	return harness.Event(e.topics.Click, user, harness.ClickValue(user, sms))
}

func (e *env) revocation(user int64, api, campaign []int64) *kgo.Record {
	return harness.Event(e.topics.Revocation, user, harness.RevocationValue(user, api, campaign))
}

// identity returns the identity of the event of a source record.
func identity(r *kgo.Record) string { return harness.Identity(r) }

// smsOf returns the JSON in a form body.
func smsOf(t testing.TB, body []byte) string {
	t.Helper()
	text, ok := strings.CutPrefix(string(body), "sms=")
	if !ok {
		t.Fatalf("body %q does not begin with sms=", body)
	}
	plain, err := url.QueryUnescape(text)
	if err != nil {
		t.Fatalf("body %q: %v", body, err)
	}
	return plain
}

// field returns the JSON text of a field of an sms object.
func field(t testing.TB, body []byte, name string) string {
	t.Helper()
	var sms map[string]json.RawMessage
	if err := json.Unmarshal([]byte(smsOf(t, body)), &sms); err != nil {
		t.Fatalf("sms %s: %v", smsOf(t, body), err)
	}
	return string(sms[name])
}

// golden reads a file of the contract's examples.
func golden(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "pkg", "webhook", "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return bytes.TrimRight(data, "\n")
}

// waitCommitted waits until all records of topics are settled and committed.
func (e *env) waitCommitted(t testing.TB, topics ...string) {
	t.Helper()
	adm := kadm.NewClient(harness.Client(t, e.kafka.Addr))
	harness.Eventually(t, harness.Patience, func() bool {
		ends, err := adm.ListEndOffsets(t.Context(), topics...)
		if err != nil || ends.Error() != nil {
			return false
		}
		committed, err := adm.FetchOffsets(t.Context(), e.topics.Group)
		if err != nil {
			return false
		}
		all := true
		ends.Each(func(end kadm.ListedOffset) {
			at, ok := committed.Lookup(end.Topic, end.Partition)
			all = all && (end.Offset == 0 || ok && at.At == end.Offset)
		})
		return all
	}, "all of %v is committed", topics)
}

// of returns the records of a user.
func of(records []*kgo.Record, user int64) []*kgo.Record {
	var mine []*kgo.Record
	for _, r := range records {
		if string(r.Key) == strconv.FormatInt(user, 10) {
			mine = append(mine, r)
		}
	}
	return mine
}

// waitStored waits until a topic holds n records of a user, and returns them.
func (e *env) waitStored(t testing.TB, topic string, user int64, n int, timeout time.Duration) []*kgo.Record {
	t.Helper()
	var mine []*kgo.Record
	harness.Eventually(t, timeout, func() bool {
		mine = of(harness.Consume(t, e.kafka.Addr, topic), user)
		return len(mine) >= n
	}, "%d records of user %d in %s", n, user, topic)
	if len(mine) > n {
		t.Fatalf("%d records of user %d in %s, want %d", len(mine), user, topic, n)
	}
	return mine
}

// dead waits for a user's dead letters.
func (e *env) dead(t testing.TB, user int64, n int, timeout time.Duration) []*kgo.Record {
	t.Helper()
	return e.waitStored(t, e.topics.DeadLetter, user, n, timeout)
}

// wantHeaders compares smshooks' headers of a record; "" stands for an absent one.
func wantHeaders(t testing.TB, r *kgo.Record, want map[string]string) {
	t.Helper()
	for name, value := range want {
		if got := harness.Header(r, "smshooks-"+name); got != value {
			t.Errorf("%s/%d/%d: header smshooks-%s is %q, want %q", r.Topic, r.Partition, r.Offset, name, got, value)
		}
	}
}

// headerTime parses a header that is a time: RFC 3339 with milliseconds.
func headerTime(t testing.TB, r *kgo.Record, name string) time.Time {
	t.Helper()
	text := harness.Header(r, "smshooks-"+name)
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatalf("header smshooks-%s of %s: %v", name, r.Topic, err)
	}
	if point := strings.IndexByte(text, '.'); point != len("2006-01-02T15:04:05") || !(text[point+4] == 'Z' || text[point+4] == '+' || text[point+4] == '-') {
		t.Errorf("header smshooks-%s is %q, want milliseconds", name, text)
	}
	return at
}

// numbers returns n consecutive numbers.
func numbers(from int64, n int) []int64 {
	list := make([]int64, n)
	for i := range list {
		list[i] = from + int64(i)
	}
	return list
}

// Short names for use in behaviours, and of signals.
type (
	httpWriter  = http.ResponseWriter
	httpRequest = http.Request
)

const (
	sigStop = syscall.SIGSTOP
	sigCont = syscall.SIGCONT
)

func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// describe reads the configs of topics.
func describe(t testing.TB, b *harness.Broker, topics []string) map[string]map[string]string {
	t.Helper()
	described, err := kadm.NewClient(harness.Client(t, b.Addr)).DescribeTopicConfigs(t.Context(), topics...)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]map[string]string{}
	for _, d := range described {
		all[d.Name] = map[string]string{}
		for _, c := range d.Configs {
			all[d.Name][c.Key] = c.MaybeValue()
		}
	}
	return all
}
