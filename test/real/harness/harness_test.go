package harness_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/test/real/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

func TestProduceConsume(t *testing.T) {
	b := harness.Kafka(t)
	topic := harness.TopicsFor(t).DLR
	harness.CreateTopic(t, b.Addr, topic, 3, "retention.ms", "600000")
	if got := harness.Consume(t, b.Addr, topic); len(got) != 0 {
		t.Fatalf("%d records in an empty topic", len(got))
	}

	one := harness.Produce(t, b.Addr, topic, 2, "7", "first", kgo.RecordHeader{Key: "smshooks-kind", Value: []byte("dlr")})
	if one.Partition != 2 || one.Offset != 0 {
		t.Errorf("produced to %d/%d, want 2/0", one.Partition, one.Offset)
	}
	var many []*kgo.Record
	for i := range 300 {
		many = append(many, harness.Event(topic, int64(i%10+1), strconv.Itoa(i)))
	}
	harness.ProduceMany(t, b.Addr, many)

	got := harness.Consume(t, b.Addr, topic)
	if len(got) != 301 {
		t.Fatalf("%d records, want 301", len(got))
	}
	home, last := map[string]int32{}, map[string]int{}
	for _, r := range got {
		if string(r.Value) == "first" {
			if harness.Header(r, "smshooks-kind") != "dlr" || harness.Header(r, "absent") != "" {
				t.Errorf("headers %v", r.Headers)
			}
			continue
		}
		key := string(r.Key)
		n, err := strconv.Atoi(string(r.Value))
		if err != nil {
			t.Fatal(err)
		}
		if p, ok := home[key]; ok && p != r.Partition {
			t.Errorf("key %s is in partitions %d and %d", key, p, r.Partition)
		}
		if l, ok := last[key]; ok && n < l {
			t.Errorf("key %s: %d after %d", key, n, l)
		}
		home[key], last[key] = r.Partition, n
	}
}

func TestWebhookRecord(t *testing.T) {
	r := harness.WebhookRecord(t, "c", 42, harness.Webhook{DLR: "http://a/", Auth: "u:p"})
	want := `{"auth":"u:p","click_url":null,"dlr_url":"http://a/","inbound_url":null,"revoke_click_url":null,"user_id":42}`
	if string(r.Key) != "42" || string(r.Value) != want {
		t.Errorf("key %s value %s", r.Key, r.Value)
	}
}

func TestKafkaFaults(t *testing.T) {
	t.Parallel()
	b := harness.OwnKafka(t)
	harness.CreateTopic(t, b.Addr, "faults", 1)
	harness.Produce(t, b.Addr, "faults", 0, "k", "one")

	b.Pause(t)
	if err := produceBriefly(b.Addr); err == nil {
		t.Error("a paused broker accepted a record")
	}
	b.Unpause(t)
	harness.Produce(t, b.Addr, "faults", 0, "k", "two")

	b.Stop(t)
	if err := produceBriefly(b.Addr); err == nil {
		t.Error("a stopped broker accepted a record")
	}
	b.Start(t)
	harness.Produce(t, b.Addr, "faults", 0, "k", "three")

	b.Kill(t)
	b.Start(t)
	harness.Produce(t, b.Addr, "faults", 0, "k", "four")

	var values []string
	for _, r := range harness.Consume(t, b.Addr, "faults") {
		if v := string(r.Value); v != "brief" { // a record that timed out may have been stored
			values = append(values, v)
		}
	}
	if got := strings.Join(values, " "); got != "one two three four" {
		t.Errorf("after the faults: %s", got)
	}
}

func produceBriefly(addr string) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.DefaultProduceTopic("faults"))
	if err != nil {
		return err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return cl.ProduceSync(ctx, kgo.StringRecord("brief")).FirstErr()
}

func TestRedisFaults(t *testing.T) {
	t.Parallel()
	r := harness.OwnRedis(t)
	cl := r.Client(t)
	ctx := t.Context()
	set := func() {
		t.Helper()
		if err := cl.Set(ctx, "k", "v", 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	set()
	r.Stop(t)
	if err := cl.Ping(ctx).Err(); err == nil {
		t.Error("a stopped Redis answers")
	}
	r.Start(t)
	set()
	r.FlushAll(t)
	if n := cl.DBSize(ctx).Val(); n != 0 {
		t.Errorf("%d keys after FLUSHALL", n)
	}
	r.Pause(t)
	brief, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	if err := cl.Ping(brief).Err(); err == nil {
		t.Error("a paused Redis answers")
	}
	r.Unpause(t)
	set()
	r.Kill(t)
	r.Start(t)
	set()
}

func TestSharedRedis(t *testing.T) {
	a, b := harness.Redis(t), harness.Redis(t)
	if a.Addr != b.Addr {
		t.Errorf("shared, but at %s and %s", a.Addr, b.Addr)
	}
	if err := a.Client(t).Ping(t.Context()).Err(); err != nil {
		t.Error(err)
	}
}

func TestReceiver(t *testing.T) {
	r := harness.NewReceiver(t)
	r.On("/twice", harness.Codes(500, 503, 200))
	r.On("/slow", harness.Slow(100*time.Millisecond, http.StatusNoContent))
	r.On("/hang", harness.Hang())

	for i, want := range []int{500, 503, 200, 200} {
		if got, err := post(r.URL("/twice?n=1"), "b", time.Second); err != nil || got != want {
			t.Errorf("request %d: %d %v, want %d", i+1, got, err, want)
		}
	}
	list := r.WaitCount(t, "/twice", 4, harness.Patience)
	if last := list[3]; last.N != 4 || last.Path != "/twice?n=1" || string(last.Body) != "b" || last.Length != 1 || last.Wide != 1 {
		t.Errorf("recorded %+v", last)
	}

	for range 3 {
		go func() { _, _ = post(r.URL("/slow"), "", time.Second) }()
	}
	r.WaitCount(t, "/slow", 3, harness.Patience)
	harness.Eventually(t, harness.Patience, func() bool {
		for _, q := range r.Requests("/slow") {
			if q.End.Sub(q.Start) < 90*time.Millisecond {
				return false
			}
		}
		return true
	}, "the slow requests are answered")
	if w := r.Widest("/slow"); w != 3 {
		t.Errorf("%d wide, want 3", w)
	}
	if _, err := post(r.URL("/hang"), "", 100*time.Millisecond); err == nil {
		t.Error("a hanging path answered")
	}
	r.Quiet(t, 50*time.Millisecond, time.Second)
	if n := r.Count(""); n != 8 {
		t.Errorf("%d requests in all, want 8", n)
	}

	r.Stop()
	if _, err := post(r.URL("/"), "", time.Second); err == nil {
		t.Error("a stopped receiver answered")
	}
	r.Start(t)
	if got, err := post(r.URL("/"), "", time.Second); err != nil || got != http.StatusOK {
		t.Errorf("restarted: %d %v", got, err)
	}
}

func post(url, body string, timeout time.Duration) (int, error) {
	cl := http.Client{Timeout: timeout, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := cl.Post(url, "text/plain", bytes.NewBufferString(body))
	if err != nil {
		return 0, fmt.Errorf("post: %w", err)
	}
	return resp.StatusCode, resp.Body.Close()
}

// TestProxy checks that a cut connection is refused, a half-open one gets no answer, and a healed one works again.
func TestProxy(t *testing.T) {
	t.Parallel()
	b, p := harness.ProxiedKafka(t)
	harness.CreateTopic(t, b.Addr, "proxied", 1)
	harness.Produce(t, p.Addr, "proxied", 0, "k", "one")
	p.Cut(t)
	if err := produceTo(p.Addr, "proxied"); err == nil {
		t.Error("a record passed a cut connection")
	}
	p.Heal(t)
	harness.Produce(t, p.Addr, "proxied", 0, "k", "two")
	p.Swallow(t)
	if err := produceTo(p.Addr, "proxied"); err == nil {
		t.Error("a record passed a half-open connection")
	}
	p.Heal(t)
	p.Delay(t, 200, 0)
	began := time.Now()
	harness.Produce(t, p.Addr, "proxied", 0, "k", "three")
	if took := time.Since(began); took < 400*time.Millisecond { // at least two answers: the metadata and the acknowledgement
		t.Errorf("a delay of 200 ms took %v", took)
	}
	if n := len(harness.Consume(t, b.Addr, "proxied")); n != 3 {
		t.Errorf("%d records, want 3", n)
	}
}

func produceTo(addr, topic string) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(addr, ",")...), kgo.DefaultProduceTopic(topic), kgo.RecordDeliveryTimeout(3*time.Second))
	if err != nil {
		return err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return cl.ProduceSync(ctx, kgo.StringRecord("lost")).FirstErr()
}
