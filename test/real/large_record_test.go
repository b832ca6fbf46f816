package real_test

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/test/real/harness"
)

// TestRecordsOfAnySize checks that a record that a source accepts fits into the topics behind it, with its headers. If
// it does not, topics check, the log and /readyz must name the topic and the setting.
func TestRecordsOfAnySize(t *testing.T) {
	t.Parallel()
	b := harness.Kafka(t)
	e := &env{kafka: b, redis: harness.Redis(t), topics: harness.TopicsFor(t)}
	harness.CreateTopic(t, b.Addr, e.topics.DeadLetter, 1) // with the broker's default of max.message.bytes
	harness.CreateTopic(t, b.Addr, e.topics.DLR, partitions, "max.message.bytes", strconv.Itoa(8<<20))
	harness.CreateTopic(t, b.Addr, harness.Retry(e.topics.DLR, "1s"), partitions, "retention.ms", "-1", "message.timestamp.type", "LogAppendTime")
	o := harness.Options{Brokers: b.Addr, RedisAddr: e.redis.Addr, Topics: e.topics, Env: quick(), Args: []string{"--kafka.brokers=" + b.Addr, "--redis.password=hidden"}}
	_, stderr, code := harness.Run(t, o, "topics", "check")
	need := strconv.Itoa(8<<20 + 16<<10)
	for _, topic := range []string{e.topics.DeadLetter, harness.Retry(e.topics.DLR, "1s")} {
		if code != 1 || !lineWith(stderr, topic, "max.message.bytes=1048588") || !lineWith(stderr, topic, need) {
			t.Errorf("check: exit code %d, and no line about what %s needs:\n%s", code, topic, stderr)
		}
	}
	if !strings.Contains(stderr, "type: smshooks topics ensure --kafka.brokers="+b.Addr+"\n") {
		t.Errorf("the advice lacks the brokers:\n%s", stderr)
	}
	e.begin(t, []string{"--overflow.delays=1s"})
	_, stderr, code = harness.Run(t, e.options(), "topics", "check")
	if code != 0 || !lineWith(stderr, e.topics.DLR, "replication factor 1") || !lineWith(stderr, e.topics.DLR, "min.insync.replicas=1") {
		t.Errorf("check after ensure: exit code %d:\n%s", code, stderr)
	}

	p := e.serve(t)
	if !strings.Contains(p.Log(), "replication factor 1") {
		t.Error("the log does not warn of replication factor 1")
	}
	answer := make(chan int, 8) // status of the attempts, 200 when none is left
	e.recv.On("/dlr/1", func(rw http.ResponseWriter, _ *http.Request, _ harness.Request) {
		select {
		case status := <-answer:
			rw.WriteHeader(status)
		default:
			rw.WriteHeader(http.StatusOK)
		}
	})
	e.configure(t, map[int64]harness.Webhook{1: e.all(1, "")})
	answer <- http.StatusServiceUnavailable
	text := strings.Repeat("0123456789abcdef", 4<<20/16)
	good := harness.Event(e.topics.DLR, 1, fmt.Sprintf(`{"user_id":1,"sms":{"id":1,"text":%q}}`, text))
	unreadable := &kgo.Record{Topic: e.topics.Inbound, Partition: 0, Key: []byte("7"), Value: []byte(strings.Repeat("x", 1_048_400))}
	larger := &kgo.Record{Topic: e.topics.DLR, Partition: 0, Key: []byte("7"), Value: []byte(text)}
	produceLarge(t, b.Addr, good, unreadable, larger)
	var dead []*kgo.Record
	harness.Eventually(t, harness.Patience, func() bool {
		dead = harness.Consume(t, b.Addr, e.topics.DeadLetter)
		return len(dead) >= 2
	}, "the unreadable records among the dead letters")
	want := map[string]string{harness.Position(unreadable): string(unreadable.Value), harness.Position(larger): string(larger.Value)}
	for _, d := range dead {
		wantHeaders(t, d, map[string]string{"reason": "invalid_record"})
		if want[harness.Header(d, "smshooks-origin")] != string(d.Value) {
			t.Errorf("dead letter of %s: its %d bytes differ from the record", harness.Header(d, "smshooks-origin"), len(d.Value))
		}
	}
	got := e.recv.WaitCount(t, "/dlr/1", 2, harness.Patience)
	if got[1].Header.Get("Webhook-Attempt") != "2" || got[1].Header.Get("Webhook-Id") != identity(good) {
		t.Errorf("the second request: %v", got[1].Header)
	}

	answer <- http.StatusServiceUnavailable
	e.wantRefusedRetry(t, p)
	if code := p.Term(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// wantRefusedRetry lowers the limit of a retry topic while the service runs, lets an event of user 1 fail that no longer
// fits, and checks that it is reported and stored once the limit is raised again.
func (e *env) wantRefusedRetry(t *testing.T, p *harness.Proc) {
	t.Helper()
	retry := harness.Retry(e.topics.DLR, "1s")
	limit(t, e.kafka.Addr, retry, 1_048_588)
	noise := make([]byte, 3<<20) // random letters, which do not compress below the limit
	for i, x := 0, uint32(1); i < len(noise); i++ {
		x = x*1664525 + 1013904223
		noise[i] = 'A' + byte(x>>24)%32
	}
	produceLarge(t, e.kafka.Addr, harness.Event(e.topics.DLR, 1, fmt.Sprintf(`{"user_id":1,"sms":{"id":2,"text":%q}}`, noise)))
	harness.Eventually(t, harness.Patience, func() bool {
		status, body := p.Readyz()
		return status == http.StatusServiceUnavailable && lineWith(body, retry, "max.message.bytes")
	}, "/readyz names the topic and the setting")
	if !lineWith(p.Log(), retry, "max.message.bytes") {
		t.Error("the log does not name the topic and the setting")
	}
	e.ensure(t)
	e.recv.WaitCount(t, "/dlr/1", 4, harness.Patience)
	harness.Eventually(t, harness.Patience, func() bool { status, _ := p.Readyz(); return status == http.StatusOK }, "ready again")
}

// produceLarge writes records of any size, each in a batch of its own.
func produceLarge(t *testing.T, brokers string, records ...*kgo.Record) {
	t.Helper()
	cl := harness.Client(t, brokers, kgo.ProducerBatchMaxBytes(16<<20), kgo.MaxBufferedRecords(1), kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)))
	if err := cl.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// limit lowers max.message.bytes of a topic and waits until the broker refuses larger records, since a setting takes
// effect some time after it was accepted. The records stored until then are not valid events.
func limit(t *testing.T, brokers, topic string, bytes int) {
	t.Helper()
	text := strconv.Itoa(bytes)
	cl := harness.Client(t, brokers, kgo.ProducerBatchMaxBytes(16<<20), kgo.ProducerBatchCompression(kgo.NoCompression()))
	_, err := kadm.NewClient(cl).AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "max.message.bytes", Value: &text}}, topic)
	if err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, harness.Patience, func() bool {
		err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Value: make([]byte, bytes)}).FirstErr()
		return errors.Is(err, kerr.MessageTooLarge)
	}, "the broker refuses records of more than %d bytes", bytes)
}
