package real_test

import (
	"encoding/base64"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/test/real/harness"
)

// TestLargeRecords checks that a record that a source topic accepts fits into the delay topics and the dead letter
// topic, with its headers.
func TestLargeRecords(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.configure(t, map[int64]harness.Webhook{1: e.all(1, ""), 2: e.all(2, "")})
	e.recv.On("/dlr/1", harness.Codes(500, 200))
	p := e.serve(t)
	cl := harness.Client(t, e.kafka.Addr, kgo.ProducerBatchMaxBytes(1<<20), kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	const most = 1048588 - 120 // the default max.message.bytes, less the overhead of a batch
	value := harness.DLRValue(1, 1)
	pad := func(value string) []byte {
		random := make([]byte, (most-len(value))/4*3) // random, so that it cannot be compressed
		_, _ = rand.NewChaCha8([32]byte{}).Read(random)
		noise := base64.StdEncoding.EncodeToString(random)
		return []byte(strings.Replace(value, `"text":"Hi`, `"text":"`+noise, 1))
	}
	poison := &kgo.Record{Topic: e.topics.DLR, Key: []byte("1"), Value: append(pad(value), 'x')}
	large := &kgo.Record{Topic: e.topics.DLR, Key: []byte("1"), Value: pad(value)}
	good := &kgo.Record{Topic: e.topics.DLR, Key: []byte("2"), Value: []byte(harness.DLRValue(2, 1))}
	if err := cl.ProduceSync(t.Context(), poison, large, good).FirstErr(); err != nil {
		t.Fatal(err)
	}
	e.recv.WaitCount(t, "/dlr/2", 1, harness.Patience)
	e.recv.WaitCount(t, "/dlr/1", 1, harness.Patience)
	d := e.dead(t, 1, 1, harness.Patience)[0]
	if string(d.Value) != string(poison.Value) {
		t.Error("the dead letter differs from the record")
	}
	got := e.recv.WaitCount(t, "/dlr/1", 2, harness.Patience)
	if string(got[1].Body) != string(got[0].Body) {
		t.Error("the second body differs from the first")
	}
	p.WaitBalanced(t, 4, harness.Patience)
}

// TestStaticMember checks that a killed member with an instance id gets its partitions back at once, long before its
// session ends.
func TestStaticMember(t *testing.T) {
	t.Parallel()
	const users = 20
	e := newEnv(t, "--topics.partitions=4", "--kafka.session_timeout=45s")
	crowd(t, e, users)
	a, b := e.serve(t, "--kafka.instance_id=a"), e.serve(t, "--kafka.instance_id=b")
	l := startLoad(t, e, users, 100*time.Millisecond)
	e.recv.WaitCount(t, "", 500, harness.Patience)
	a.Kill()
	began := time.Now()
	a = e.serve(t, "--kafka.instance_id=a")
	if took := time.Since(began); took > 10*time.Second+harness.Slack(began) {
		t.Errorf("ready again after %v", took)
	}
	e.recv.WaitCount(t, "", e.recv.Count("")+500, harness.Patience)
	// a clean restart keeps its partitions, too
	if code := b.Term(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	b = e.serve(t, "--kafka.instance_id=b")
	e.recv.WaitCount(t, "", e.recv.Count("")+500, harness.Patience)
	events := l.end()
	harness.Eventually(t, harness.Patience, func() bool { return len(succeeded(e)) >= len(events) }, "all %d events delivered", len(events))
	a.WaitBalanced(t, 1, harness.Patience)
	b.WaitBalanced(t, 1, harness.Patience)
	wantNarrow(t, e, users)
}

// TestClickFlood checks that first clicks stay first clicks in the overflow topics.
func TestClickFlood(t *testing.T) {
	t.Parallel()
	const clicks = 300
	e := newEnv(t)
	e.configure(t, map[int64]harness.Webhook{1: e.all(1, "")})
	e.recv.On("/click/1", harness.Slow(15*time.Millisecond, 200))
	p := e.serve(t, "--dispatch.queue_per_endpoint=20")
	var records []*kgo.Record
	for i := range int64(clicks) {
		records = append(records, e.click(1, i), e.click(1, i))
	}
	e.emit(t, records...)
	began := time.Now()
	e.recv.WaitCount(t, "/click/1", clicks, 60*time.Second)
	t.Logf("%d clicks at 200/s took %v; settled so far: %v overflow", clicks, time.Since(began), p.Metrics(t).Sum("smshooks_settled_total", "fate", "overflow"))
	m := p.WaitBalanced(t, 2*clicks, harness.Patience)
	e.recv.Quiet(t, time.Second, 5*time.Second)
	if n := e.recv.Count("/click/1"); n != clicks || e.recv.Widest("/click/1") > 3 {
		t.Errorf("%d requests, %d wide", n, e.recv.Widest("/click/1"))
	}
	if n := m.Sum("smshooks_settled_total", "kind", "click", "fate", "duplicate"); n != clicks {
		t.Errorf("%v duplicates, want %d", n, clicks)
	}
	if m.Sum("smshooks_settled_total", "kind", "click", "fate", "overflow") == 0 {
		t.Error("nothing overflowed: the test is meaningless")
	}
	seen := map[string]int{}
	for _, r := range e.recv.Requests("/click/1") {
		seen[field(t, r.Body, "id")]++
		if r.Header.Get("Webhook-Attempt") != "1" {
			t.Errorf("attempt %s", r.Header.Get("Webhook-Attempt"))
		}
	}
	if len(seen) != clicks {
		t.Errorf("%d messages, want %d", len(seen), clicks)
	}
}

// TestRevocationRebalance lets members join and leave around ticks. Each id must be sent exactly once.
func TestRevocationRebalance(t *testing.T) {
	t.Parallel()
	e := newEnv(t, "--topics.partitions=4")
	users := map[int64]harness.Webhook{}
	for user := int64(1); user <= 12; user++ {
		users[user] = e.all(user, "")
		e.recv.On(path("revoke", user), harness.Slow(time.Duration(user*25)*time.Millisecond, 200))
	}
	e.configure(t, users)
	a, b := e.serve(t), e.serve(t)
	sent := int64(0)
	for round := range 5 {
		afterTick()
		for range 8 { // until some moment before, at or after the next tick
			var records []*kgo.Record
			for user := range users {
				records = append(records, e.revocation(user, []int64{sent}, nil))
			}
			e.emit(t, records...)
			sent++
			harness.Pass(180 * time.Millisecond)
		}
		harness.Pass(time.Duration(round) * 130 * time.Millisecond)
		if code := a.Term(t); code != 0 {
			t.Errorf("exit code %d", code)
		}
		a, b = b, e.serve(t)
	}
	complete := func() bool {
		for user := range users {
			if len(seen(t, e, user)) < int(sent) {
				return false
			}
		}
		return true
	}
	harness.Eventually(t, harness.Patience, complete, "all %d ids of each user", sent)
	e.recv.Quiet(t, interval+time.Second, 10*time.Second)
	for user := range users {
		times := map[int64]int{}
		for _, r := range e.recv.Requests(path("revoke", user)) {
			for _, id := range batchOf(t, r).API {
				times[id]++
			}
		}
		for id, n := range times {
			if n != 1 {
				t.Errorf("user %d: id %d was sent %d times", user, id, n)
			}
		}
	}
	b.WaitBalanced(t, 0, harness.Patience)
}
