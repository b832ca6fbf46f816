package app_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/config"
	"github.com/smshooks/smshooks/internal/app"
	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/test/peer"
)

// The whole service in virtual time: an in-process Kafka on a virtual network, an in-process Redis by its dialer,
// HTTP over pipes. Nothing in a bubble may touch a real socket, or time stands still.

// call is one request that an endpoint saw.
type call struct {
	At      time.Duration // since the bubble's beginning
	Host    string
	Attempt string
	ID      string
	Body    string
	Event   string // time
}

// env is a service in a bubble, with its Kafka, Redis and receivers.
type env struct {
	t       *testing.T
	began   time.Time
	network kfake.VirtualNetwork
	kafka   *kfake.Cluster
	redis   *miniredis.Miniredis
	cfg     *config.Config
	gateway *kgo.Client // writes as other programs do
	pipes   peer.Pipes
	muted   atomic.Bool // Kafka and Redis receive nothing from the service, so they do not answer

	registry *prometheus.Registry
	stop     context.CancelFunc
	stopped  chan error

	mu     sync.Mutex
	calls  []call
	answer func(http.ResponseWriter, *http.Request)
}

// newRedis must be called outside the bubble, since its server starts goroutines. The server has no listener, so it
// need not be closed, and it cannot be: its connections belong to the bubble.
func newRedis(t *testing.T) *miniredis.Miniredis {
	t.Helper()
	m := miniredis.NewMiniRedis()
	c, err := m.Dial()
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	// The goroutine that served it must have ended before the bubble starts: the server counts both in one WaitGroup.
	stacks := make([]byte, 1<<20)
	for bytes.Contains(stacks[:runtime.Stack(stacks, true)], []byte("miniredis/v2/server.(*Server).ServeConn")) {
		time.Sleep(time.Millisecond)
	}
	return m
}

func newEnv(t *testing.T, redis *miniredis.Miniredis) *env {
	t.Helper()
	c := &env{t: t, began: time.Now(), redis: redis, pipes: make(peer.Pipes), cfg: config.Defaults()}
	var err error
	if c.kafka, err = kfake.NewCluster(kfake.Ports(9092), kfake.ListenFn(c.network.Listen)); err != nil {
		t.Fatal(err)
	}
	c.cfg.Kafka.Brokers = c.kafka.ListenAddrs()
	c.cfg.Topics.Ensure, c.cfg.Topics.Partitions = true, 2
	c.answer = func(http.ResponseWriter, *http.Request) {}
	if c.gateway, err = kgo.NewClient(kgo.SeedBrokers(c.cfg.Kafka.Brokers...), kgo.Dialer(c.network.DialContext),
		kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil))); err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(c.serve), ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(c.pipes) }()
	return c
}

// tearDown ends everything, so that no goroutine is left in the bubble.
func (c *env) tearDown() {
	if c.stop != nil {
		_, _ = c.halt()
	}
	c.gateway.Close()
	c.kafka.Close()
	close(c.pipes)
	time.Sleep(time.Minute)
}

func (c *env) dialHTTP(ctx context.Context, _, _ string) (net.Conn, error) { return c.pipes.Dial(ctx) }

func (c *env) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	c.mu.Lock()
	c.calls = append(c.calls, call{time.Since(c.began), r.Host, r.Header.Get("Webhook-Attempt"), r.Header.Get("Webhook-Id"), string(body),
		r.Header.Get("Webhook-Event-Time")})
	answer := c.answer
	c.mu.Unlock()
	answer(w, r)
}

// answers sets what endpoints reply from now on.
func (c *env) answers(answer func(http.ResponseWriter, *http.Request)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answer = answer
}

func status(code int) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// mutable is a connection that loses what is written while muted is set.
type mutable struct {
	net.Conn
	muted *atomic.Bool
}

func (c *env) mutable(conn net.Conn, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	return mutable{conn, &c.muted}, nil
}

func (m mutable) Write(p []byte) (int, error) {
	if m.muted.Load() {
		return len(p), nil
	}
	return m.Conn.Write(p)
}

// start runs the service and waits until it is ready.
func (c *env) start() {
	c.t.Helper()
	c.registry = prometheus.NewRegistry()
	ops, err := c.network.Listen("tcp", "localhost:9464")
	if err != nil {
		c.t.Fatal(err)
	}
	service, err := app.New(app.Options{
		Config: c.cfg, Version: "test", Log: zap.NewNop(), Registry: c.registry, Roles: []app.Role{app.Consume, app.Materialise},
		HTTPDial: c.dialHTTP, OpsListener: ops,
		KafkaDial: func(ctx context.Context, network, address string) (net.Conn, error) {
			return c.mutable(c.network.DialContext(ctx, network, address))
		},
		RedisDial: func(context.Context, string, string) (net.Conn, error) { return c.mutable(c.redis.Dial()) },
	})
	if err != nil {
		c.t.Fatal(err)
	}
	var ctx context.Context
	ctx, c.stop = context.WithCancel(context.Background())
	c.stopped = make(chan error, 1)
	go func() { c.stopped <- service.Run(ctx) }()
	for range 600 {
		if ready, _ := c.ops("/readyz"); ready == http.StatusOK {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	_, why := c.ops("/readyz")
	c.t.Fatalf("not ready after a minute: %s", why)
}

// ops sends a request to the operations listener.
func (c *env) ops(path string) (int, string) {
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return c.network.DialContext(ctx, network, "localhost:9464")
	}, DisableKeepAlives: true}}
	resp, err := client.Get("http://ops" + path)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

// halt stops the service as SIGTERM does, and returns the result and how long it took.
func (c *env) halt() (time.Duration, error) {
	at := time.Now()
	c.stop()
	c.stop = nil
	err := <-c.stopped
	return time.Since(at), err
}

// now returns the time since the bubble started.
func (c *env) now() time.Duration { return time.Since(c.began) }

// awayUntil stops the service and starts it again so that it is ready by then.
func (c *env) awayUntil(then time.Duration) {
	c.t.Helper()
	if _, err := c.halt(); err != nil {
		c.t.Fatal(err)
	}
	time.Sleep(then - 10*time.Second - c.now())
	c.start()
	time.Sleep(then - c.now())
}

// write produces records as the gateway does.
func (c *env) write(topic string, userID int64, values ...string) {
	c.t.Helper()
	for _, v := range values {
		r := &kgo.Record{Topic: topic, Key: strconv.AppendInt(nil, userID, 10), Value: []byte(v)}
		if err := c.gateway.ProduceSync(context.Background(), r).FirstErr(); err != nil {
			c.t.Fatal(err)
		}
	}
}

func (c *env) configure(userID int64) {
	c.write("webhook-config", userID, fmt.Sprintf(`{"user_id":%d,"dlr_url":"http://dlr.example/","click_url":"http://click.example/",`+
		`"inbound_url":"http://inbound.example/","revoke_click_url":"http://revoke.example/","auth":"user:pass"}`, userID))
	time.Sleep(time.Second) // the contract's limit for a change to take effect
}

func message(userID int64, id string) string {
	return fmt.Sprintf(`{"user_id":%d,"sms":{"id":%s}}`, userID, id)
}

// seen returns the calls so far.
func (c *env) seen() []call {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.calls)
}

// stored is a record of a topic, its headers as text.
type stored struct {
	Key, Value string
	Header     map[string]string
}

// idOf returns the identity of a source record's event.
func (c *env) idOf(topic, value string) (id string) {
	c.t.Helper()
	details, err := kadm.NewClient(c.gateway).ListTopics(context.Background(), topic)
	if err != nil {
		c.t.Fatal(err)
	}
	space := event.NamespaceOf(details[topic].ID, topic, "")
	c.read(topic, func(r *kgo.Record) {
		if string(r.Value) == value {
			id = (&event.Event{Record: event.Record{Namespace: space, Partition: r.Partition, Offset: r.Offset}}).Identity()
		}
	})
	return id
}

// records reads all records of a topic.
func (c *env) records(topic string) (all []stored) {
	c.t.Helper()
	c.read(topic, func(r *kgo.Record) {
		one := stored{string(r.Key), string(r.Value), map[string]string{}}
		for _, h := range r.Headers {
			one.Header[h.Key] = string(h.Value)
		}
		all = append(all, one)
	})
	return all
}

func (c *env) read(topic string, each func(*kgo.Record)) {
	c.t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.cfg.Kafka.Brokers...), kgo.Dialer(c.network.DialContext), kgo.ConsumeTopics(topic),
		kgo.FetchMaxWait(100*time.Millisecond))
	if err != nil {
		c.t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		cl.PollFetches(ctx).EachRecord(each)
	}
}

// metric sums the series of a counter or gauge whose labels contain all of with ("fate=dead").
func (c *env) metric(name string, with ...string) (sum float64) {
	c.t.Helper()
	families, err := c.registry.Gather()
	if err != nil {
		c.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			if !slices.ContainsFunc(with, func(w string) bool { return !slices.Contains(labels, w) }) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// wantBalance checks that every consumed record has one fate, and that nothing is left over.
func (c *env) wantBalance() {
	c.t.Helper()
	time.Sleep(5 * time.Second) // the lag is measured every other second
	if consumed, settled := c.metric("smshooks_records_consumed_total"), c.metric("smshooks_settled_total"); consumed != settled {
		c.t.Errorf("%v records consumed, %v settled", consumed, settled)
	}
	for _, name := range []string{"smshooks_buffered_records", "smshooks_buffered_bytes", "smshooks_in_flight_requests", "smshooks_group_lag_records", "smshooks_retry_waiting_records"} {
		if v := c.metric(name); v != 0 {
			c.t.Errorf("%s = %v while idle", name, v)
		}
	}
}

// wantTimes checks that an event's attempts were never early and at most a second late.
func wantTimes(t *testing.T, calls []call, want ...time.Duration) {
	t.Helper()
	if len(calls) != len(want) {
		t.Fatalf("%d attempts, want %d: %v", len(calls), len(want), calls)
	}
	for i, c := range calls {
		if c.At < want[i] || c.At > want[i]+time.Second {
			t.Errorf("attempt %d at %v, want it within a second after %v", i+1, c.At, want[i])
		}
		if c.Attempt != strconv.Itoa(i+1) {
			t.Errorf("attempt %d is numbered %s", i+1, c.Attempt)
		}
		if c.ID != calls[0].ID || c.Body != calls[0].Body {
			t.Errorf("attempt %d differs from the first: %+v", i+1, c)
		}
	}
}

func byBody(calls []call, part string) (some []call) {
	for _, c := range calls {
		if strings.Contains(c.Body, part) {
			some = append(some, c)
		}
	}
	return some
}
