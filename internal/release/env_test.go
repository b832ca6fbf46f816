package release

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap/zaptest"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/webhook"
	"github.com/smshooks/smshooks/test/fakekafka"
)

// env is a Kafka with two delay topics, and a consumer's view of their partitions.
type env struct {
	*testing.T
	cluster *fakekafka.Cluster
	client  *kgo.Client

	mu    sync.Mutex
	notes []event.LogEntry
}

func newEnv(t *testing.T) *env {
	t.Helper()
	k := &env{T: t, cluster: fakekafka.New(t, kfake.SeedTopics(3, "retry", "overflow", "released", "releases"))}
	k.client = k.cluster.Open(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	return k
}

func (k *env) newClient(opts ...kgo.Opt) (*kgo.Client, error) {
	return k.cluster.NewClient(append([]kgo.Opt{kgo.FetchIsolationLevel(kgo.ReadCommitted())}, opts...)...)
}

// delay stores n events of a user in a partition, with ids of their own.
func (k *env) delay(topic string, partition int32, user string, n int) {
	k.Helper()
	var records []*kgo.Record
	for i := range n {
		records = append(records, &kgo.Record{
			Topic: topic, Partition: partition, Key: []byte(user), Value: fmt.Appendf(nil, `{"user_id":%s,"sms":{"id":"%s/%d/%d"}}`, user, topic, partition, i),
			Headers: []kgo.RecordHeader{
				{Key: event.HeaderID, Value: fmt.Appendf(nil, "evt_%s_%d", user, i)}, {Key: event.HeaderAttempts, Value: []byte("1")},
				{Key: event.HeaderDue, Value: []byte("2026-02-27T18:00:00.000Z")}, {Key: "trace", Value: []byte("x")},
			},
		})
	}
	if err := k.client.ProduceSync(k.Context(), records...).FirstErr(); err != nil {
		k.Fatal(err)
	}
}

// owner is a member that owns partitions.
type owner struct {
	partitions []event.Partition
	looks      atomic.Int64 // number of checks by the worker before the partitions are revoked; 0 = never revoked
	revoked    atomic.Bool
	woken      atomic.Int64
}

func (o *owner) Wake(topic string, _ int32) {
	if topic == "released" {
		o.woken.Add(1)
	}
}

func (o *owner) owned() bool {
	if o.looks.Load() > 0 && o.looks.Add(-1) == 0 {
		o.revoked.Store(true)
	}
	return !o.revoked.Load()
}

func (o *owner) Delayed() []event.Partition {
	if o.revoked.Load() {
		return nil
	}
	return o.partitions
}

// owner returns a member that owns all partitions from their starts. It has finished the offsets below finished.
func (k *env) owner(finished int64) *owner {
	o := &owner{}
	for _, topic := range []string{"retry", "overflow"} {
		for n := range int32(3) {
			o.partitions = append(o.partitions, event.Partition{
				Topic: topic, Number: n, Kind: webhook.DLR, Class: topics.Retry, Owned: o.owned,
				Finished: func(_ [16]byte, offset int64, _ int32) bool { return offset < finished },
			})
		}
	}
	return o
}

// instance is a log and a worker.
type instance struct {
	*Log
	worker *Worker
	stop   func()
}

func (k *env) start(o *owner) *instance {
	k.Helper()
	logger := zaptest.NewLogger(k)
	log := NewLog(Config{Topic: "releases", Keep: time.Hour, Now: time.Now}, k.newClient, logger, nothing{})
	w := NewWorker(WorkerConfig{
		Group: "group", Released: func(webhook.Kind) string { return "released" }, Now: time.Now, Client: k.client,
		Note: func(a event.LogEntry) {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.notes = append(k.notes, a)
		},
	}, log, o, logger)
	w.copying.SetLimit(1e6)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = log.Run(ctx) })
	<-log.Loaded()
	i := &instance{log, w, sync.OnceFunc(func() { cancel(); wg.Wait() })}
	wg.Go(func() { w.Run(ctx) })
	k.Cleanup(i.stop)
	return i
}

type nothing struct{}

func (nothing) ConfigLag(string, int64) {}
func (nothing) UnreadableRecord(string) {}

func (k *env) begin(i *instance, m Marker) string {
	k.Helper()
	ids, err := i.Begin(k.Context(), m, []string{"retry", "overflow"})
	if err != nil || len(ids) != 1 {
		k.Fatal(ids, err)
	}
	return ids[0]
}

// done waits until a recovery is done and returns its status.
func (k *env) done(i *instance, id string) (s Status) {
	k.Helper()
	k.eventually("the recovery is done", func() bool {
		s, _ = i.Status(id)
		return !s.Ended.IsZero()
	})
	return s
}

func (k *env) eventually(what string, ok func() bool) {
	k.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			k.Fatal("not within 30 s: " + what)
		}
	}
}

// copies reads the committed copies, by value.
func (k *env) copies() map[string][]*kgo.Record {
	k.Helper()
	client, err := k.newClient(kgo.ConsumeTopics("released"), kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		k.Fatal(err)
	}
	defer client.Close()
	ends, err := kadm.NewClient(client).ListCommittedOffsets(k.Context(), "released")
	if err != nil {
		k.Fatal(err)
	}
	records := map[string][]*kgo.Record{}
	for quiet := 0; quiet < 3; {
		ctx, cancel := context.WithTimeout(k.Context(), 300*time.Millisecond)
		fetches := client.PollFetches(ctx)
		cancel()
		if quiet++; fetches.NumRecords() > 0 {
			quiet = 0
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if end, _ := ends.Lookup(r.Topic, r.Partition); r.Offset < end.Offset {
				records[string(r.Value)] = append(records[string(r.Value)], r)
			}
		})
	}
	return records
}

// wantCopies checks that n events were copied, once each, and that the records left behind are released.
func (k *env) wantCopies(i *instance, n int) map[string][]*kgo.Record {
	k.Helper()
	copies := k.copies()
	if len(copies) != n {
		k.Errorf("%d events were copied, want %d", len(copies), n)
	}
	for value, records := range copies {
		if len(records) != 1 {
			k.Errorf("%s was copied %d times", value, len(records))
		}
	}
	return copies
}
