package endpoints

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/metrics"
	"github.com/smshooks/smshooks/pkg/webhook"
)

var noon = time.Date(2026, 2, 27, 12, 0, 0, 0, time.UTC)

// group is several instances with one Redis, one topic and one clock. Nothing runs by itself.
type group struct {
	t        *testing.T
	mini     *miniredis.Miniredis
	now      time.Time
	produced []string // type, subject, value and time since noon of each event
	refuse   error    // of Kafka
	url      string   // that events are sent to
	registry *prometheus.Registry
}

func newGroup(t *testing.T) *group {
	return &group{t: t, mini: miniredis.RunT(t), now: noon, url: "https://example.com:8443/x"}
}

// start returns a further instance.
func (g *group) start() *instance {
	rdb := redis.NewClient(&redis.Options{Addr: g.mini.Addr(), ContextTimeoutEnabled: true, MaxRetries: -1})
	g.t.Cleanup(func() { _ = rdb.Close() })
	g.registry = prometheus.NewRegistry()
	i := &instance{g: g, Tracker: New(Parts{
		Store: NewStore(rdb, "p:"), Producer: g, Topic: "events", Metrics: metrics.New(g.registry, metrics.Topics{Events: Types()}),
		Log: zap.NewNop(), Now: func() time.Time { return g.now }, Host: func(int64, webhook.Kind) string { return "now.example" },
	})}
	i.Load(g.t.Context())
	return i
}

// TryProduce implements Producer.
func (g *group) TryProduce(_ context.Context, r *kgo.Record, promise func(*kgo.Record, error)) {
	headers := map[string]string{}
	for _, h := range r.Headers {
		headers[h.Key] = string(h.Value)
	}
	if g.refuse == nil {
		kind := headers["ce_type"][strings.LastIndexByte(headers["ce_type"], '.')+1:]
		g.produced = append(g.produced, fmt.Sprintf("%v %s %s", g.now.Sub(noon), kind, r.Value))
	}
	promise(r, g.refuse)
}

// want compares the events that were produced since the last call.
func (g *group) want(events ...string) {
	g.t.Helper()
	if !slices.Equal(g.produced, events) {
		g.t.Errorf("produced\n  %s\nwant\n  %s", strings.Join(g.produced, "\n  "), strings.Join(events, "\n  "))
	}
	g.produced = nil
}

// instance is a Tracker whose Run is called step by step.
type instance struct {
	*Tracker
	g *group
}

func newEvent(g *group, userID int64, kind webhook.Kind) *event.Event {
	e := &event.Event{}
	e.UserID, e.Kind, e.Started = userID, kind, g.now
	e.Endpoint = webhook.NewEndpoint(g.url)
	return e
}

// attempt makes a dlr attempt of user 1 with this failure ("" = success), and processes the notes.
func (i *instance) attempt(failure webhook.Failure) {
	i.Attempted(newEvent(i.g, 1, webhook.DLR), failure)
	i.work()
}

func (i *instance) die(failure webhook.Failure) {
	e := newEvent(i.g, 1, webhook.DLR)
	e.Failure, e.Reason = failure, webhook.AttemptsExhausted
	i.Died(e)
	i.work()
}

func (i *instance) work() {
	for len(i.notes) > 0 {
		i.settle(i.g.t.Context(), i.gather(<-i.notes))
	}
}

func value(since, failure string, count int) string {
	return fmt.Sprintf(`{"user_id":1,"kind":"dlr","host":"example.com","since":"2026-02-27T%s.000Z","failure":%s,"count":%d}`, since, failure, count)
}

func TestFailingAndRecovered(t *testing.T) {
	g := newGroup(t)
	i := g.start()
	i.attempt("")
	g.want()
	i.attempt("http 503")
	g.want("0s failing " + value("12:00:00", `"http 503"`, 1))
	for range 10 {
		g.now = g.now.Add(5 * time.Minute)
		i.attempt("timeout")
	}
	g.want()
	g.now = noon.Add(time.Hour - time.Second)
	i.attempt("dns")
	g.want()
	g.now = noon.Add(time.Hour)
	i.attempt("http 500")
	g.want("1h0m0s failing " + value("12:00:00", `"http 500"`, 13))
	g.now = g.now.Add(time.Minute)
	i.attempt("")
	g.want("1h1m0s recovered " + value("12:00:00", `"http 500"`, 13))
	i.attempt("")
	g.want()
	i.attempt("tls") // a success was in between
	g.want("1h1m0s failing " + value("13:01:00", `"tls"`, 1))
	if len(i.entries) != 1 || i.count.Load() != 1 {
		t.Errorf("%d entries, %d failing", len(i.entries), i.count.Load())
	}
	i.attempt("")
	g.want("1h1m0s recovered " + value("13:01:00", `"tls"`, 1))
	if len(i.entries) != 0 || i.count.Load() != 0 || g.mini.Exists("p:endpoints") {
		t.Errorf("%d entries, %d failing, keys %q", len(i.entries), i.count.Load(), g.mini.Keys())
	}
}

// TestOrderWithinBatch checks that changes that are processed together keep their order.
func TestOrderWithinBatch(t *testing.T) {
	g := newGroup(t)
	i := g.start()
	for _, failure := range []webhook.Failure{"http 500", "http 501", "", "http 502", "", ""} {
		i.Attempted(newEvent(g, 1, webhook.DLR), failure)
	}
	i.work()
	g.want("0s failing "+value("12:00:00", `"http 500"`, 1), "0s recovered "+value("12:00:00", `"http 501"`, 2),
		"0s failing "+value("12:00:00", `"http 502"`, 1), "0s recovered "+value("12:00:00", `"http 502"`, 1))
}

func TestDead(t *testing.T) {
	g := newGroup(t)
	i := g.start()
	i.die("http 503")
	g.want("0s dead " + value("12:00:00", `"http 503"`, 1))
	g.now = g.now.Add(time.Minute)
	i.die("timeout")
	g.now = g.now.Add(time.Minute)
	i.die("dns")
	i.sync(t.Context())
	g.want()
	g.now = noon.Add(time.Hour)
	i.sync(t.Context()) // no further dead letter
	g.want("1h0m0s dead " + value("12:01:00", `"dns"`, 2))
	g.now = noon.Add(2 * time.Hour)
	i.sync(t.Context())
	g.want()
	if g.mini.Exists("p:endpoints") || len(i.entries) != 0 {
		t.Errorf("keys %q, %d entries", g.mini.Keys(), len(i.entries))
	}
	i.die("")
	g.want("2h0m0s dead " + value("14:00:00", "null", 1))
	never := newEvent(g, 1, webhook.Click) // an event that was never attempted
	never.Endpoint, never.Reason = nil, webhook.WindowExpired
	i.Died(never)
	i.work()
	g.want(`2h0m0s dead {"user_id":1,"kind":"click","host":"now.example","since":"2026-02-27T14:00:00.000Z","failure":null,"count":1}`)
	never.Reason = webhook.InvalidRecord
	i.Died(never)
	if i.work(); len(i.notes) > 0 {
		t.Error("an invalid record was counted")
	}
	g.want()
}

// TestRestart checks that another process knows what the first one reported and counted.
func TestRestart(t *testing.T) {
	g := newGroup(t)
	first := g.start()
	first.attempt("http 503")
	first.attempt("http 504")
	first.die("http 503")
	first.die("http 504")
	g.want("0s failing "+value("12:00:00", `"http 503"`, 1), "0s dead "+value("12:00:00", `"http 503"`, 1))
	first.stop()

	g.now = g.now.Add(time.Minute)
	second := g.start()
	second.attempt("dns")
	second.die("dns")
	g.want()
	g.now = noon.Add(time.Hour)
	second.sync(t.Context())
	g.want("1h0m0s dead " + value("12:00:00", `"dns"`, 2))
	second.attempt("")
	g.want("1h0m0s recovered " + value("12:00:00", `"dns"`, 3))
}

// TestSeveralInstances checks that an endpoint that moves to another instance, or whose records are spread over
// several, is reported once.
func TestSeveralInstances(t *testing.T) {
	g := newGroup(t)
	a, b := g.start(), g.start()
	a.attempt("http 503")
	b.attempt("timeout") // before it has read what a stored
	a.die("http 503")
	b.die("timeout")
	g.want("0s failing "+value("12:00:00", `"http 503"`, 1), "0s dead "+value("12:00:00", `"http 503"`, 1))
	a.attempt("") // which b has not seen
	g.want("0s recovered " + value("12:00:00", `"http 503"`, 1))
	b.attempt("")
	g.want()
	a.attempt("dns")
	g.want("0s failing " + value("12:00:00", `"dns"`, 1))
	b.sync(t.Context())
	b.attempt("") // the endpoint's partition has moved to b
	g.want("0s recovered " + value("12:00:00", `"dns"`, 1))
	a.sync(t.Context())
	a.attempt("tls")
	g.want("0s failing " + value("12:00:00", `"tls"`, 1))
	b.sync(t.Context())
	g.now = noon.Add(time.Hour)
	a.attempt("http 500")
	b.attempt("http 501")
	g.want("1h0m0s failing "+value("12:00:00", `"http 500"`, 2), "1h0m0s dead "+value("12:00:00", `"timeout"`, 1))
	a.sync(t.Context())
	b.sync(t.Context())
	g.want()
}

// TestElsewhere checks that another instance's results are known after the next reading.
func TestElsewhere(t *testing.T) {
	for _, alsoDied := range []bool{false, true} {
		g := newGroup(t)
		a, b := g.start(), g.start()
		if alsoDied { // its state is stored after it recovered, too
			a.die("dns")
			b.sync(t.Context())
		}
		a.attempt("http 503")
		b.sync(t.Context())
		if b.count.Load() != 1 {
			t.Error("b does not know that it fails")
		}
		b.attempt("")
		a.sync(t.Context())
		if n := a.count.Load() + b.count.Load(); n != 0 {
			t.Errorf("%d endpoints fail", n)
		}
		g.produced = nil
		a.attempt("tls")
		g.want("0s failing " + value("12:00:00", `"tls"`, 1))
	}
}

// TestLastFailure checks that the last failure is shown, not that of the last event.
func TestLastFailure(t *testing.T) {
	g := newGroup(t)
	i := g.start()
	i.attempt("dns")
	for _, failure := range []webhook.Failure{"http 503", "timeout"} {
		i.attempt(failure)
		i.sync(t.Context())
		states, err := i.Store.States(t.Context(), 1)
		if got := states[webhook.DLR]; err != nil || got.Failure != failure || !got.Since.Equal(noon) {
			t.Errorf("after %q the state is %+v (%v)", failure, got, err)
		}
	}
	g.want("0s failing " + value("12:00:00", `"dns"`, 1))
}

// TestReturnOfRedis checks that what instances decided without Redis is merged when it is back.
func TestReturnOfRedis(t *testing.T) {
	g := newGroup(t)
	a, b := g.start(), g.start()
	g.mini.SetError("LOADING")
	a.attempt("dns")
	g.mini.SetError("")
	b.die("tls") // stored first
	g.produced = nil
	a.sync(t.Context())
	a.attempt("dns")
	b.sync(t.Context())
	b.attempt("tls")
	g.want()
	b.attempt("")
	g.want("0s recovered " + value("12:00:00", `"tls"`, 2))
}

// TestWithoutRedis checks that events continue from memory, and that Redis receives what it missed when it is back.
func TestWithoutRedis(t *testing.T) {
	g := newGroup(t)
	a := g.start()
	g.mini.SetError("LOADING")
	a.attempt("http 503")
	a.attempt("http 503")
	a.die("http 503")
	g.want("0s failing "+value("12:00:00", `"http 503"`, 1), "0s dead "+value("12:00:00", `"http 503"`, 1))
	a.sync(t.Context())
	g.mini.SetError("")
	a.sync(t.Context())
	b := g.start()
	b.attempt("timeout")
	b.die("timeout")
	g.want()
	g.mini.SetError("LOADING")
	a.attempt("")
	g.want("0s recovered " + value("12:00:00", `"http 503"`, 2))
	g.mini.SetError("")
	a.sync(t.Context())
	b.sync(t.Context())
	b.attempt("")
	g.want()
	if states, err := a.Store.States(t.Context(), 1); err != nil || states != ([webhook.NumKinds]State{}) {
		t.Errorf("%v, %v", states, err)
	}
}

// TestStopWithoutAnswer checks that a hung Redis does not keep the process from stopping, and that events are still
// produced.
func TestStopWithoutAnswer(t *testing.T) {
	g := newGroup(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0") // accepts connections and never answers
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	i := g.start()
	rdb := redis.NewClient(&redis.Options{Addr: listener.Addr().String(), ContextTimeoutEnabled: true, MaxRetries: -1})
	t.Cleanup(func() { _ = rdb.Close() })
	i.Store = NewStore(rdb, "p:")
	for user := range int64(5 * batchMax) {
		i.Attempted(newEvent(g, user+1, webhook.DLR), "dns")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	began := time.Now()
	i.Run(ctx)
	if took := time.Since(began); took > 5*stopTime {
		t.Errorf("the stop took %v", took)
	}
	if len(g.produced) != 5*batchMax {
		t.Errorf("%d events", len(g.produced))
	}
}

// TestStates checks what the API reads.
func TestStates(t *testing.T) {
	g := newGroup(t)
	i := g.start()
	i.attempt("http 503")
	i.die("http 503")
	i.Attempted(newEvent(g, 2, webhook.Click), "dns")
	i.work()
	url := Fingerprint(webhook.NewEndpoint(g.url))
	for user, want := range map[int64][webhook.NumKinds]State{
		1: {webhook.DLR: {url, noon, "http 503"}}, 2: {webhook.Click: {url, noon, "dns"}}, 3: {},
	} {
		if got, err := i.Store.States(t.Context(), user); err != nil || got != want {
			t.Errorf("user %d: %v, %v, want %v", user, got, err, want)
		}
	}
	g.mini.HSet("p:endpoints", "3/dlr", "{", "3/x", "{}", "x", "{}")
	if got, err := i.Store.States(t.Context(), 3); err != nil || got != ([webhook.NumKinds]State{}) {
		t.Errorf("another program's text: %v, %v", got, err)
	}
	if i.sync(t.Context()); len(i.entries) != 3 {
		t.Errorf("entries %v", slices.Collect(maps.Keys(i.entries)))
	}
	g.mini.Del("p:endpoints")
	if err := g.mini.Set("p:endpoints", "text"); err != nil {
		t.Fatal(err)
	}
	if _, err := i.Store.States(t.Context(), 1); err == nil {
		t.Error("no error")
	}
	i.attempt("") // replaces another program's key
	if states, err := i.Store.States(t.Context(), 1); err != nil || states != ([webhook.NumKinds]State{}) {
		t.Errorf("%v, %v", states, err)
	}
}

func TestForgotten(t *testing.T) {
	g := newGroup(t)
	i := g.start()
	i.attempt("http 503")
	g.now = noon.Add(forget - time.Second)
	i.sync(t.Context())
	if !i.isFailing(key{1, webhook.DLR}) || !g.mini.Exists("p:endpoints") {
		t.Error("forgotten too early")
	}
	g.now = noon.Add(forget)
	i.sync(t.Context())
	if len(i.entries) != 0 || g.mini.Exists("p:endpoints") {
		t.Error("not forgotten")
	}
}

// TestRefused checks that an event that cannot be stored is counted, and delays nothing.
func TestRefused(t *testing.T) {
	g := newGroup(t)
	i := g.start()
	g.refuse = errors.New("no such topic")
	i.attempt("http 503")
	g.refuse = nil
	i.attempt("")
	g.want("0s recovered " + value("12:00:00", `"http 503"`, 1))
	for range room + 10 {
		i.Attempted(newEvent(g, 1, webhook.DLR), "dns")
	}
	dropped, stored := g.metric("smshooks_endpoint_events_dropped_total"), g.metric("smshooks_endpoint_events_total")
	if dropped != 1+10 || stored != 1 {
		t.Errorf("dropped %v, stored %v", dropped, stored)
	}
}

func (g *group) metric(name string) (sum float64) {
	families, err := g.registry.Gather()
	if err != nil {
		g.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// TestRecord checks the record of an event, byte for byte.
func TestRecord(t *testing.T) {
	e := Event{Failing, noon.Add(time.Millisecond), key{42, webhook.RevokeClick}, "a&b", noon, "http 503", 17}
	r := e.record("events")
	var got []string
	for _, h := range r.Headers {
		if h.Key == "ce_id" {
			if len(h.Value) < 20 {
				t.Errorf("ce_id %q", h.Value)
			}
			h.Value = []byte("id")
		}
		got = append(got, h.Key+": "+string(h.Value))
	}
	want := []string{
		"ce_specversion: 1.0", "ce_id: id", "ce_source: smshooks", "ce_type: smshooks.endpoint.failing",
		"ce_time: 2026-02-27T12:00:00.001Z", "ce_subject: 42/revoke_click", "content-type: application/json",
	}
	if !slices.Equal(got, want) || string(r.Key) != "42" || r.Topic != "events" {
		t.Errorf("%s %s %q", r.Topic, r.Key, got)
	}
	const value = `{"user_id":42,"kind":"revoke_click","host":"a&b","since":"2026-02-27T12:00:00.000Z","failure":"http 503","count":17}`
	if string(r.Value) != value {
		t.Errorf("%s", r.Value)
	}
	if a, b := e.record(""), e.record(""); slices.Equal(a.Headers[1].Value, b.Headers[1].Value) {
		t.Error("two events have one id")
	}
}

// TestModel checks random histories of an endpoint on three instances against the rules: a failing event begins each
// time of failure, further ones come at least an hour apart, and each time ends with one recovered event.
func TestModel(t *testing.T) {
	for seed := range uint64(30) {
		g := newGroup(t)
		random := rand.New(rand.NewPCG(seed, 1))
		instances := []*instance{g.start(), g.start(), g.start()}
		owner := instances[0]
		failing, died, failed := false, 0, ""
		var told time.Time
		for range 300 {
			g.now = g.now.Add(time.Duration(random.IntN(20)) * time.Minute)
			var want []string
			switch n := random.IntN(11); {
			case n == 10:
				g.url = fmt.Sprintf("https://example.com/%d", random.IntN(3))
			case n == 0: // the endpoint's partition moves
				owner = instances[random.IntN(len(instances))]
				owner.sync(t.Context())
			case n == 1: // the owner restarts
				owner.stop()
				i := slices.Index(instances, owner)
				instances[i] = g.start()
				owner = instances[i]
			case n == 2:
				owner.die("dns")
				died++
			case n < 7:
				if owner.attempt("dns"); !failing || failed != g.url || g.now.Sub(told) >= time.Hour {
					want, told = []string{"failing"}, g.now
				}
				failing, failed = true, g.url
			default:
				if owner.attempt(""); failing {
					want = []string{"recovered"}
				}
				failing = false
			}
			var got []string
			for _, line := range g.produced {
				_, line, _ = strings.Cut(line, " ")
				if kind, _, _ := strings.Cut(line, " "); kind != "dead" {
					got = append(got, kind)
				} else {
					died -= countOf(t, line)
				}
			}
			if g.produced = nil; !slices.Equal(got, want) {
				t.Fatalf("seed %d: %v, want %v", seed, got, want)
			}
		}
		for range instances { // each may hold some back for an hour after another's event
			g.now = g.now.Add(time.Hour)
			for _, i := range instances {
				i.sync(t.Context())
			}
		}
		for _, line := range g.produced {
			died -= countOf(t, line)
		}
		if died != 0 {
			t.Errorf("seed %d: %d dead letters were not reported", seed, died)
		}
	}
}

func countOf(t *testing.T, line string) (n int) {
	t.Helper()
	if _, err := fmt.Sscanf(line[strings.LastIndex(line, `"count":`):], `"count":%d}`, &n); err != nil {
		t.Fatal(line, err)
	}
	return n
}

func BenchmarkSuccess(b *testing.B) {
	t := New(Parts{Metrics: metrics.New(prometheus.NewRegistry(), metrics.Topics{}), Log: zap.NewNop()})
	e := &event.Event{}
	e.UserID, e.Endpoint = 1, webhook.NewEndpoint("https://example.com/")
	for _, others := range []int{0, 1000} {
		b.Run(fmt.Sprint(others, " others fail"), func(b *testing.B) {
			for i := range others {
				t.mark(key{int64(i) + 2, webhook.DLR})
			}
			b.ReportAllocs()
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					t.Attempted(e, "")
				}
			})
		})
	}
}
