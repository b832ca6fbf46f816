package real_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/test/real/harness"
)

// transaction is a transaction of its own producer.
type transaction struct {
	t  testing.TB
	cl *kgo.Client
}

// beginTransaction begins a transaction and writes records in it.
func (e *env) beginTransaction(t testing.TB, records ...*kgo.Record) *transaction {
	t.Helper()
	id := fmt.Sprintf("%s-%d", e.topics.Group, time.Now().UnixNano())
	cl := harness.Client(t, e.kafka.Addr, kgo.TransactionalID(id), kgo.TransactionTimeout(time.Minute))
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := cl.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
		t.Fatalf("produce within a transaction: %v", err)
	}
	return &transaction{t, cl}
}

func (x *transaction) end(try kgo.TransactionEndTry) {
	x.t.Helper()
	if err := x.cl.EndTransaction(x.t.Context(), try); err != nil {
		x.t.Fatalf("end a transaction: %v", err)
	}
}

// TestTransactions checks that only committed records count, of sources, settings and dead letters, and that an open
// transaction neither delays the start nor counts as lag.
func TestTransactions(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.configure(t, map[int64]harness.Webhook{1: e.all(1, "")})
	config := func(user int64, hooks harness.Webhook) *kgo.Record {
		return harness.WebhookRecord(t, e.topics.Config, user, hooks)
	}
	e.beginTransaction(t, config(3, e.all(3, ""))).end(kgo.TryCommit)
	e.beginTransaction(t, config(1, e.all(99, "")), config(4, e.all(4, ""))).end(kgo.TryAbort)
	open := e.beginTransaction(t, config(2, e.all(2, "")))

	p := e.serve(t) // with an open transaction in the config topic
	e.beginTransaction(t, e.dlr(1, 101), e.dlr(3, 301)).end(kgo.TryCommit)
	aborted := e.beginTransaction(t, e.dlr(1, 102), e.dlr(3, 302))
	e.recv.WaitCount(t, path("dlr", 1), 1, harness.Patience)
	e.recv.WaitCount(t, path("dlr", 3), 1, harness.Patience)
	p.WaitMetric(t, harness.Patience, harness.Exactly(0), "smshooks_group_lag_records", "topic", e.topics.DLR) // the end is where it is open
	aborted.end(kgo.TryAbort)
	e.waitCommitted(t, e.topics.DLR) // the end is behind the abort marker

	// The end may be aborted records right below an open transaction, without a marker after them.
	below := e.beginTransaction(t, e.dlr(1, 103))
	hangs := e.beginTransaction(t, e.dlr(1, 104))
	below.end(kgo.TryAbort)
	stable := endOf(t, e, e.topics.DLR)
	harness.Eventually(t, harness.Patience, func() bool { return committedOf(t, e, e.topics.DLR) == stable }, "the committed offsets reach the last stable ones")
	p.WaitMetric(t, harness.Patience, harness.Exactly(0), "smshooks_group_lag_records", "topic", e.topics.DLR)

	dead := harness.Event(e.topics.DeadLetter, 1, harness.DLRValue(1, 500))
	for _, h := range [][2]string{{"smshooks-id", "evt_aborted"}, {"smshooks-kind", "dlr"}, {"smshooks-reason", "attempts_exhausted"}} {
		dead.Headers = append(dead.Headers, kgo.RecordHeader{Key: h[0], Value: []byte(h[1])})
	}
	e.beginTransaction(t, dead).end(kgo.TryAbort)
	if out, stderr, code := harness.Run(t, e.options(), "deadletter", "list"); code != 0 || out != "" {
		t.Errorf("deadletter list: exit code %d, %q %q, want nothing", code, out, stderr)
	}

	hangs.end(kgo.TryCommit)
	open.end(kgo.TryCommit)
	harness.Settle()
	e.emit(t, e.dlr(2, 201), e.dlr(4, 401))
	e.recv.WaitCount(t, path("dlr", 2), 1, harness.Patience)
	got := e.recv.WaitCount(t, path("dlr", 1), 2, harness.Patience)
	for i, want := range []string{"101", "104"} {
		if id := field(t, got[i].Body, "id"); id != want {
			t.Errorf("request %d is of message %s, want %s", i, id, want)
		}
	}
	e.waitCommitted(t, e.topics.DLR)
	for path, want := range map[string]int{path("dlr", 1): 2, path("dlr", 3): 1, path("dlr", 4): 0, path("dlr", 99): 0} {
		if n := e.recv.Count(path); n != want {
			t.Errorf("%s: %d requests, want %d", path, n, want)
		}
	}

	// A setting selects the other isolation level.
	again := e.beginTransaction(t, e.dlr(3, 303))
	if code := p.Term(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	e.serve(t, "--kafka.isolation=read_uncommitted")
	e.recv.WaitCount(t, path("dlr", 3), 2, harness.Patience)
	again.end(kgo.TryAbort)
}

// endOf returns the sum of a topic's last stable offsets.
func endOf(t testing.TB, e *env, topic string) (sum int64) {
	t.Helper()
	ends, err := kadm.NewClient(harness.Client(t, e.kafka.Addr)).ListCommittedOffsets(t.Context(), topic)
	if err = errors.Join(err, ends.Error()); err != nil {
		t.Fatal(err)
	}
	ends.Each(func(o kadm.ListedOffset) { sum += o.Offset })
	return sum
}

// committedOf returns the sum of the group's committed offsets of a topic.
func committedOf(t testing.TB, e *env, topic string) (sum int64) {
	t.Helper()
	committed, err := kadm.NewClient(harness.Client(t, e.kafka.Addr)).FetchOffsets(t.Context(), e.topics.Group)
	if err != nil {
		t.Fatal(err)
	}
	for p := range int32(partitions) {
		if o, ok := committed.Lookup(topic, p); ok {
			sum += max(o.At, 0)
		}
	}
	return sum
}

// largeBatch writes one batch of n records of size zero bytes to a partition.
func largeBatch(t testing.TB, e *env, topic string, partition int32, key string, n, size int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cl := harness.Client(t, e.kafka.Addr, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ManualFlushing(),
		kgo.ProducerBatchCompression(kgo.ZstdCompression()), kgo.ProducerBatchMaxBytes(99<<20))
	var stored kgo.FirstErrPromise
	for range n {
		cl.Produce(ctx, &kgo.Record{Topic: topic, Partition: partition, Key: []byte(key), Value: make([]byte, size)}, stored.Promise())
	}
	if err := errors.Join(cl.Flush(ctx), stored.Err()); err != nil {
		t.Fatalf("write a large batch: %v", err)
	}
}

// TestLargeBatches checks for every topic that a batch of up to kafka.max_batch_bytes (uncompressed) is read, and that
// a larger one is skipped with a log line, and the following ones are read.
func TestLargeBatches(t *testing.T) {
	t.Parallel()
	const (
		record  = 256 << 10
		fits    = 80  // records: 20 MiB
		tooMany = 280 // records: 70 MiB
	)
	e := newEnv(t)
	for _, topic := range []string{e.topics.Config, e.topics.Keys, e.topics.DeadLetter} {
		for p := range int32(partitions) {
			largeBatch(t, e, topic, p, "1", fits, record)
			largeBatch(t, e, topic, p, "1", tooMany, record)
		}
	}
	e.configure(t, map[int64]harness.Webhook{1: e.all(1, ""), 2: e.all(2, "")})
	p := e.serve(t)
	var good []*kgo.Record
	for sms := range int64(8) {
		good = append(good, e.dlr(1+sms%2, sms))
	}
	for partition := range int32(partitions) {
		largeBatch(t, e, e.topics.DLR, partition, "none", fits, record)
		largeBatch(t, e, e.topics.DLR, partition, "none", tooMany, record)
	}
	e.emit(t, good...)
	for _, user := range []int64{1, 2} {
		e.recv.WaitCount(t, path("dlr", user), 4, harness.Patience)
	}
	e.waitCommitted(t, e.topics.DLR)
	m := p.Metrics(t)
	if n := m.Sum("smshooks_settled_total", "kind", "dlr", "fate", "dead"); n != partitions*fits {
		t.Errorf("%v records of the batches that fit became dead letters, want %d", n, partitions*fits)
	}
	for _, topic := range []string{e.topics.DLR, e.topics.Config, e.topics.Keys} {
		if n := m.Sum("smshooks_skipped_batches_total", "topic", topic); n != partitions {
			t.Errorf("%s: %v batches skipped, want %d", topic, n, partitions)
		}
	}
	named := 0
	for line := range strings.Lines(p.Log()) {
		var said struct {
			Level, Topic string
			Partition    *int32
			From, To     int64
		}
		if json.Unmarshal([]byte(line), &said) == nil && strings.Contains(line, "skipped") && said.Topic == e.topics.DLR {
			named++
			if said.Level != "error" || said.Partition == nil || said.From != fits || said.To != fits+tooMany-1 {
				t.Errorf("the batch's line is %s", line)
			}
		}
	}
	if named != partitions {
		t.Errorf("%d error lines name the skipped batches of %s, want %d", named, e.topics.DLR, partitions)
	}

	out, stderr, code := harness.Run(t, e.options(), "deadletter", "list", "--reason", "invalid_record", "--user", "1")
	if code != 0 || out != "" || !strings.Contains(stderr, "skipped") || !strings.Contains(stderr, e.topics.DeadLetter) {
		t.Errorf("deadletter list: exit code %d, %.200q, %s", code, out, stderr)
	}
	key, stderr, code := harness.Run(t, e.options(), "keys", "create", "--user", "1", "--name", "n")
	if code != 0 {
		t.Fatalf("keys create: %s", stderr)
	}
	harness.Secret(strings.TrimSpace(key))
	if _, stderr, code := harness.Run(t, e.options(), "keys", "revoke", strings.TrimSpace(key)); code != 0 {
		t.Errorf("keys revoke: exit code %d, %s", code, stderr)
	}
}
