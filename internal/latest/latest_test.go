package latest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/webhook"
)

const keep = 30 * time.Hour

// start returns a memory that runs, with its own Redis.
func start(t testing.TB) (*Memory, *miniredis.Miniredis) {
	t.Helper()
	mini := miniredis.RunT(t)
	rdb := redis.NewClient(&redis.Options{Addr: mini.Addr(), ContextTimeoutEnabled: true, MaxRetries: 1})
	t.Cleanup(func() { _ = rdb.Close() })
	m := New(rdb, "p:", keep, zap.NewNop())
	done := make(chan struct{})
	go func() { defer close(done); m.Run(t.Context()) }()
	t.Cleanup(func() { <-done })
	return m, mini
}

const here, there = event.Namespace("0123456789abcdef"), event.Namespace("fedcba9876543210")

// receipt returns the event of a source record.
func receipt(t testing.TB, user int64, id string, topic event.Namespace, partition int32, offset int64) *event.Event {
	t.Helper()
	e := &event.Event{Record: event.Record{Namespace: topic, Topic: "dlr", Partition: partition, Offset: offset}}
	e.Value = fmt.Appendf(nil, `{"user_id":%d,"sms":{"id":%q}}`, user, id)
	if err := webhook.Decode(webhook.DLR, e.Value, &e.Message); err != nil {
		t.Fatal(err)
	}
	e.UserID = user
	return e
}

// waited returns the event of a receipt's delayed record.
func waited(t testing.TB, user int64, id string, topic event.Namespace, partition int32, offset int64) *event.Event {
	e := receipt(t, user, id, "retry topic", partition, 7)
	e.Class, e.Topic, e.SourceTopic = topics.Retry, "dlr-retry-6h", topic
	e.Origin = fmt.Sprintf("dlr/%d/%d", partition, offset)
	return e
}

func TestSuperseded(t *testing.T) {
	m, mini := start(t)
	long := strings.Repeat("x", 300)
	m.Delivered(receipt(t, 1, "a", here, 3, 100))
	m.Delivered(receipt(t, 1, "a", here, 3, 50))  // an earlier one after it, like after an outage of Redis
	m.Delivered(waited(t, 1, long, here, 3, 100)) // one that waited was delivered
	m.Delivered(receipt(t, 1, "big", here, 3, 1<<52))
	unknown := waited(t, 1, "a", "", 3, 99)
	broken := waited(t, 1, "a", here, 3, 99)
	broken.Origin = ""
	for name, c := range map[string]struct {
		e    *event.Event
		want bool
	}{
		"earlier":               {waited(t, 1, "a", here, 3, 99), true},
		"earliest":              {waited(t, 1, "a", here, 3, 0), true},
		"itself":                {waited(t, 1, "a", here, 3, 100), false},
		"later":                 {waited(t, 1, "a", here, 3, 101), false},
		"other user":            {waited(t, 2, "a", here, 3, 99), false},
		"other message":         {waited(t, 1, "b", here, 3, 99), false},
		"other partition":       {waited(t, 1, "a", here, 4, 99), false},
		"topic created again":   {waited(t, 1, "a", there, 3, 99), false},
		"long id":               {waited(t, 1, long, here, 3, 99), true},
		"other long id":         {waited(t, 1, long+"y", here, 3, 99), false},
		"large offset":          {waited(t, 1, "big", here, 3, 1<<52-1), true},
		"of an earlier version": {unknown, false},
		"without origin":        {broken, false},
	} {
		if got := m.Superseded(c.e); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	m.Delivered(unknown)
	if len(mini.Keys()) != 3 {
		t.Errorf("keys %q", mini.Keys())
	}
	for _, key := range mini.Keys() {
		if ttl := mini.TTL(key); ttl != keep || !strings.HasPrefix(key, "p:latest:MDEyMzQ1Njc4OWFiY2RlZg/3:1:") {
			t.Errorf("%q expires after %v", key, ttl)
		}
	}
	mini.FastForward(keep)
	if m.Superseded(waited(t, 1, "a", here, 3, 99)) {
		t.Error("not forgotten")
	}
}

// TestWithoutRedis checks that nothing is superseded, that calls end soon, and that deliveries are stored later.
func TestWithoutRedis(t *testing.T) {
	m, mini := start(t)
	m.Delivered(receipt(t, 1, "a", here, 3, 100))
	mini.SetError("LOADING")
	if m.Superseded(waited(t, 1, "a", here, 3, 99)) {
		t.Error("superseded without Redis")
	}
	m.Delivered(receipt(t, 1, "b", here, 3, 200))
	m.Delivered(receipt(t, 1, "b", here, 3, 150))
	mini.SetError("")
	deadline := time.Now().Add(30 * time.Second)
	for !m.Superseded(waited(t, 1, "b", here, 3, 199)) {
		if time.Now().After(deadline) {
			t.Fatal("the delivery was not stored")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if !m.Superseded(waited(t, 1, "a", here, 3, 99)) {
		t.Error("forgotten")
	}
}

func TestOtherProgramsKeys(t *testing.T) {
	m, mini := start(t)
	key := m.key(receipt(t, 1, "a", here, 3, 1), event.Place{Topic: here, Partition: 3})
	if _, err := mini.Lpush(key, "x"); err != nil {
		t.Fatal(err)
	}
	if m.Superseded(waited(t, 1, "a", here, 3, 1)) {
		t.Error("superseded because of a list")
	}
	m.Delivered(receipt(t, 1, "a", here, 3, 2))
	if !m.Superseded(waited(t, 1, "a", here, 3, 1)) {
		t.Error("the list was not replaced")
	}
	if err := mini.Set(key, "x"); err != nil {
		t.Fatal(err)
	}
	if m.Superseded(waited(t, 1, "a", here, 3, 1)) {
		t.Error("superseded because of a text")
	}
}

// TestPatience checks that a call ends even if Run is not running.
func TestPatience(t *testing.T) {
	m := New(nil, "p:", keep, zap.NewNop())
	began := time.Now()
	m.Delivered(receipt(t, 1, "a", here, 3, 1))
	if took := time.Since(began); took < patience {
		t.Errorf("returned after %v", took)
	}
}

func BenchmarkSuperseded(b *testing.B) {
	m, _ := start(b)
	m.Delivered(receipt(b, 1, "a", here, 3, 100))
	e := waited(b, 1, "a", here, 3, 99)
	b.SetParallelism(100)
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if !m.Superseded(e) {
				b.Error("not superseded")
			}
		}
	})
}
