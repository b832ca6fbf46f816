package consumer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/kafka"
	"github.com/smshooks/smshooks/internal/metrics"
	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// The topics of these tests: a source and a delay topic of one kind, and the revocations, whose commits carry notes.
const (
	source      = "sms-dlr"
	delayed     = "sms-dlr-retry-10m"
	revocations = "click-revocation"

	// Topics that may sleep; only tests of sleeping create them.
	hourly   = "sms-dlr-retry-1h"
	released = "sms-dlr-overflow-0s"
)

type kinds struct{}

func (kinds) Describe(topic string) topics.Info {
	switch topic {
	case delayed:
		return topics.Info{Kind: webhook.DLR, Class: topics.Retry}
	case hourly:
		return topics.Info{Kind: webhook.DLR, Class: topics.Retry, Delay: time.Hour}
	case released:
		return topics.Info{Kind: webhook.DLR, Class: topics.Overflow, Tier: topics.NoTier}
	case revocations:
		return topics.Info{Kind: webhook.RevokeClick}
	}
	return topics.Info{Kind: webhook.DLR}
}

// env is an in-process Kafka on a virtual network that can be cut.
type env struct {
	t        *testing.T
	network  kfake.VirtualNetwork
	kafka    *kfake.Cluster
	client   *kgo.Client
	admin    *kadm.Client
	members  []*member
	log      *zap.Logger            // of members that join
	retired  func(id [16]byte) bool // for the members that join from now on
	releases Releases

	mu    sync.Mutex
	down  bool
	conns []net.Conn
}

func withEnv(t *testing.T, partitions int32, test func(t *testing.T, w *env)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &env{t: t, log: zap.NewNop()}
		var err error
		if w.kafka, err = kfake.NewCluster(kfake.Ports(9092), kfake.ListenFn(w.network.Listen)); err != nil {
			t.Fatal(err)
		}
		if w.client, err = w.newClient(kgo.Dialer(w.network.DialContext), kgo.RecordPartitioner(kgo.ManualPartitioner())); err != nil {
			t.Fatal(err)
		}
		w.admin = kadm.NewClient(w.client)
		defer func() {
			for _, m := range w.members { // if the test failed
				m.stop()
			}
			time.Sleep(time.Minute)
			w.client.Close()
			w.kafka.Close()
			time.Sleep(time.Minute)
		}()
		if _, err := w.admin.CreateTopics(t.Context(), partitions, 1, nil, source, delayed, revocations); err != nil {
			t.Fatal(err)
		}
		test(t, w)
	})
}

func (w *env) newClient(opts ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers("localhost:9092"), kgo.FetchMaxWait(250 * time.Millisecond), kgo.Dialer(w.dial), kgo.FetchIsolationLevel(kgo.ReadCommitted())}, opts...)...)
}

func (w *env) dial(ctx context.Context, network, address string) (net.Conn, error) {
	w.mu.Lock()
	down := w.down
	w.mu.Unlock()
	if down {
		return nil, errors.New("the network is cut")
	}
	c, err := w.network.DialContext(ctx, network, address)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conns = append(w.conns, c)
	return c, err
}

// cut disconnects the consumers from Kafka, or connects them again.
func (w *env) cut(down bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = down
	if down {
		for _, c := range w.conns {
			_ = c.Close()
		}
		w.conns = nil
	}
}

// write produces n records to a partition; those of the delay topic are due immediately.
func (w *env) write(topic string, partition int32, n int, due time.Time) {
	w.t.Helper()
	for i := range n {
		r := &kgo.Record{Topic: topic, Partition: partition, Key: []byte("42"), Value: []byte(strconv.Itoa(i))}
		if !due.IsZero() {
			r.Headers = []kgo.RecordHeader{{Key: event.HeaderDue, Value: []byte(event.FormatTime(due))}, {Key: event.HeaderAttempts, Value: []byte("1")}}
		}
		if err := w.client.ProduceSync(context.Background(), r).FirstErr(); err != nil {
			w.t.Fatal(err)
		}
	}
}

// committed returns what the group has committed for a partition, without the topic's mark.
func (w *env) committed(topic string, partition int32) (int64, string) {
	w.t.Helper()
	all, err := w.admin.FetchOffsets(context.Background(), "group")
	if err != nil {
		w.t.Fatal(err)
	}
	o, ok := all.Lookup(topic, partition)
	if !ok {
		return -1, ""
	}
	_, state := kafka.SplitCommit(o.Metadata)
	return o.At, state
}

// member is a consumer with a handler that the test controls.
type member struct {
	*Consumer
	w       *env
	stop    context.CancelFunc
	stopped chan error

	registry *prometheus.Registry

	mu       sync.Mutex
	settle   func(e *event.Event) bool // at once; false: it stays open
	open     []*event.Event
	got      []got
	text     string
	restored []string
	forgot   int
}

// got is an event that was dispatched.
type got struct {
	id string // topic/partition/offset
	at time.Time
}

// join starts a member. Its events stay open, except those that settle accepts.
func (w *env) join(settle func(*event.Event) bool, change ...func(*Config)) *member {
	w.t.Helper()
	m := &member{w: w, settle: settle, stopped: make(chan error, 1), registry: prometheus.NewRegistry()}
	cfg := Config{Group: "group", SessionTimeout: 45 * time.Second, MaxBufferedBytes: 64 << 20, Topics: []string{source, delayed, revocations}}
	for _, c := range change {
		c(&cfg)
	}
	m.Consumer = New(cfg, Parts{
		Topics: kinds{}, Handler: m, CommitTexts: m, NewClient: w.newClient, Log: w.log, Retired: w.retired, Releases: w.releases,
		Metrics: metrics.New(m.registry, metrics.Topics{Consumed: cfg.Topics, Delayed: []string{delayed, hourly, released}}),
	})
	var ctx context.Context
	ctx, m.stop = context.WithCancel(context.Background())
	go func() { m.stopped <- m.Run(ctx, 12*time.Second) }()
	w.members = append(w.members, m)
	return m
}

// leave stops the member, waits for it, and returns how long that took.
func (m *member) leave() time.Duration {
	at := time.Now()
	m.stop()
	if err := <-m.stopped; err != nil {
		m.w.t.Error(err)
	}
	return time.Since(at)
}

// Handle implements Handler.
func (m *member) Handle(events []*event.Event) {
	for _, e := range events {
		m.mu.Lock()
		m.got = append(m.got, got{e.SourcePosition(), time.Now()})
		settle := m.settle
		m.mu.Unlock()
		if settle != nil && settle(e) {
			if e.Acquire() {
				e.Settle(webhook.Delivered)
			} else {
				e.Abandon()
			}
			continue
		}
		m.mu.Lock()
		m.open = append(m.open, e)
		m.mu.Unlock()
	}
}

// Behind implements Handler.
func (m *member) Behind() bool { return false }

// Purge implements Handler.
func (m *member) Purge() {
	m.mu.Lock()
	var gone []*event.Event
	m.open = slices.DeleteFunc(m.open, func(e *event.Event) bool {
		if e.Lease.State() != event.Held {
			gone = append(gone, e)
		}
		return e.Lease.State() != event.Held
	})
	m.mu.Unlock()
	for _, e := range gone {
		e.Abandon()
	}
}

// take removes and returns the member's open event of that record.
func (m *member) take(id string) *event.Event {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, e := range m.open {
		if e.SourcePosition() == id {
			m.open = slices.Delete(m.open, i, i+1)
			return e
		}
	}
	m.w.t.Fatalf("%s is not open", id)
	return nil
}

// CommitText implements CommitTexts, as do Restore and Forget.
func (m *member) CommitText(topic string, _ int32, _ int64, _ int) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if topic != revocations {
		m.w.t.Errorf("CommitText was called for %s", topic)
	}
	return m.text
}

func (m *member) Restore(topic string, partition int32, text string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.restored = append(m.restored, fmt.Sprintf("%s/%d: %s", topic, partition, text))
}

func (m *member) Forget(string, int32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forgot++
}

// ids returns the events of a topic that were dispatched so far, without the name of the topic.
func (m *member) ids(topic string) (ids []string) {
	synctest.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, g := range m.got {
		if rest, ok := strings.CutPrefix(g.id, topic+"/"); ok {
			ids = append(ids, rest)
		}
	}
	return ids
}

func all(*event.Event) bool  { return true }
func none(*event.Event) bool { return false }

func offsetsOf(partition, from, to int) (ids []string) {
	for o := from; o < to; o++ {
		ids = append(ids, fmt.Sprintf("%d/%d", partition, o))
	}
	return ids
}
