package deliverylog

import (
	"context"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap/zaptest"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/pkg/webhook"
)

var noon = time.Date(2026, 2, 27, 12, 0, 0, 0, time.UTC)

// start runs a log until the test ends or stop is called, which waits for the last write.
func start(t *testing.T, mini *miniredis.Miniredis) (l *Log, dropped *atomic.Int64, stop func()) {
	t.Helper()
	rdb := redis.NewClient(&redis.Options{
		Addr: mini.Addr(), ContextTimeoutEnabled: true, MaxRetries: -1, DialTimeout: 200 * time.Millisecond,
		ReadTimeout: 200 * time.Millisecond, WriteTimeout: 200 * time.Millisecond,
	})
	dropped = &atomic.Int64{}
	l = New(rdb, "smshooks:", func(n int) { dropped.Add(int64(n)) }, zaptest.NewLogger(t))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); l.Run(ctx) }()
	stop = func() { cancel(); <-ended }
	t.Cleanup(func() { stop(); _ = rdb.Close() })
	return l, dropped, stop
}

func attempt(user int64, n int, kind webhook.Kind, failure webhook.Failure) event.Attempt {
	return event.Attempt{
		UserID: user, Kind: kind, ID: "sms-dlr/3/" + strconv.Itoa(n), Number: 1, Time: noon.Add(time.Duration(n) * time.Second),
		Host: "example.com:8443", Status: 200, Failure: failure, Took: 245 * time.Millisecond,
	}
}

func list(t *testing.T, l *Log, user int64, f Filter) []event.Attempt {
	t.Helper()
	got, err := l.List(t.Context(), user, f)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestReadBack(t *testing.T) {
	mini := miniredis.RunT(t)
	l, dropped, stop := start(t, mini)
	want := []event.Attempt{
		{UserID: 42, Kind: webhook.RevokeClick, ID: "click-revocation/0/7/0", Number: 3, Time: noon.Add(3 * time.Second), Host: "h", Status: 503, Failure: "http 503", Took: 1500 * time.Microsecond},
		{UserID: 42, Kind: webhook.DLR, ID: "again", Number: 2, Time: noon.Add(2500 * time.Millisecond), Host: "spare", Status: 200, Failover: true},
		{UserID: 42, Kind: webhook.DLR, ID: "odd\tid\n", Number: 1, Time: noon.Add(2 * time.Second), Host: "[::1]:80", Failure: webhook.ConnectionRefused},
		attempt(42, 1, webhook.Inbound, ""),
	}
	for _, a := range slices.Backward(want) {
		l.Add(a)
	}
	l.Add(attempt(43, 1, webhook.DLR, webhook.Timeout))
	stop()
	if got := list(t, l, 42, Filter{}); !reflect.DeepEqual(got, want) {
		t.Errorf("read back\n%+v, want\n%+v", got, want)
	}
	if got := list(t, l, 44, Filter{}); len(got) != 0 {
		t.Errorf("a user without attempts has %d", len(got))
	}
	if ttl := mini.TTL("smshooks:deliveries:42"); ttl < 3*24*time.Hour {
		t.Errorf("kept for %v only", ttl)
	}
	if dropped.Load() != 0 {
		t.Errorf("%d dropped", dropped.Load())
	}
}

func TestFilterAndPages(t *testing.T) {
	l, _, stop := start(t, miniredis.RunT(t))
	failures := []webhook.Failure{"", "http 500", webhook.Timeout, webhook.DNS, webhook.BlockedAddress}
	for n := range 40 {
		a := attempt(42, n/8, webhook.Kinds()[n%4], failures[n%5]) // eight in the same instant
		a.ID = strconv.Itoa(n)
		l.Add(a)
	}
	stop()
	kind, result := webhook.Click, webhook.TimedOut
	for _, a := range list(t, l, 42, Filter{Kind: &kind}) {
		if a.Kind != kind {
			t.Errorf("kind %v", a.Kind)
		}
	}
	if got := list(t, l, 42, Filter{Result: &result}); len(got) != 8 {
		t.Errorf("%d timeouts, want 8", len(got))
	}
	seen, last := map[string]bool{}, time.Time{}
	for pages := 0; ; pages++ {
		page := list(t, l, 42, Filter{Before: last, Limit: 7})
		if len(page) == 0 {
			break
		}
		for _, a := range page {
			if seen[a.ID] || !last.IsZero() && !a.Time.Before(last) {
				t.Errorf("page %d: %s again or out of order", pages, a.ID)
			}
			seen[a.ID], last = true, a.Time
		}
	}
	if len(seen) != 40 {
		t.Errorf("%d of 40 on the pages", len(seen))
	}
}

func TestKeepsTheLatest(t *testing.T) {
	mini := miniredis.RunT(t)
	l, _, stop := start(t, mini)
	for n := range PerUser + 500 {
		l.Add(attempt(42, n, webhook.DLR, ""))
	}
	stop()
	got := list(t, l, 42, Filter{})
	if len(got) != PerUser || got[0].ID != "sms-dlr/3/1499" || got[PerUser-1].ID != "sms-dlr/3/500" {
		t.Errorf("%d kept, %s to %s", len(got), got[0].ID, got[len(got)-1].ID)
	}
}

// A list expires although its expiry is rarely set, also after Redis was emptied.
func TestExpires(t *testing.T) {
	mini := miniredis.RunT(t)
	l, _, stop := start(t, mini)
	wait := func(n int) {
		t.Helper()
		for end := time.Now().Add(5 * time.Second); len(list(t, l, 7, Filter{})) != n || mini.TTL("smshooks:deliveries:7") == 0; {
			if time.Now().After(end) {
				t.Fatalf("%d attempts and expiry in %v, want %d and one", len(list(t, l, 7, Filter{})), mini.TTL("smshooks:deliveries:7"), n)
			}
			time.Sleep(time.Millisecond)
		}
	}
	l.Add(attempt(7, 1, webhook.DLR, ""))
	wait(1)
	if ttl := mini.TTL("smshooks:deliveries:7"); ttl < Keep {
		t.Errorf("kept for %v, want at least %v", ttl, Keep)
	}
	l.Add(attempt(7, 2, webhook.DLR, ""))
	wait(2)
	mini.FlushAll()
	l.Add(attempt(7, 3, webhook.DLR, ""))
	wait(1)
	stop()
}

func TestRedisAway(t *testing.T) {
	mini := miniredis.RunT(t)
	l, dropped, stop := start(t, mini)
	mini.SetError("LOADING")
	for n := range 100 {
		l.Add(attempt(42, n, webhook.DLR, ""))
	}
	deadline := time.Now().Add(10 * time.Second)
	for dropped.Load() != 100 {
		if time.Now().After(deadline) {
			t.Fatalf("%d dropped, want 100", dropped.Load())
		}
		<-time.After(5 * time.Millisecond)
	}
	if _, err := l.List(t.Context(), 42, Filter{}); err == nil {
		t.Error("List: no error")
	}
	mini.SetError("")
	l.Add(attempt(42, 100, webhook.DLR, ""))
	stop()
	if got := list(t, l, 42, Filter{}); len(got) != 1 {
		t.Errorf("%d kept after Redis came back, want 1", len(got))
	}
}

func TestAddNeverBlocks(t *testing.T) {
	var dropped int
	l := New(nil, "", func(n int) { dropped += n }, zaptest.NewLogger(t)) // nobody writes
	a := attempt(42, 1, webhook.DLR, "")
	for range room + 5 {
		l.Add(a)
	}
	if dropped != 5 {
		t.Errorf("%d dropped, want 5", dropped)
	}
	if n := testing.AllocsPerRun(100, func() { l.Add(a) }); n != 0 {
		t.Errorf("Add allocates %v times", n)
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, line := range []string{"", "1\tdlr\t1\t200\t5\t\th", "1\tx\t1\t200\t5\t\th\tid", "x\tdlr\t1\t200\t5\t\th\tid", "1\tdlr\t1\t\t5\t\th\tid"} {
		if _, ok := decode(line); ok {
			t.Errorf("%q is taken", line)
		}
	}
}

func BenchmarkWrite(b *testing.B) {
	mini := miniredis.NewMiniRedis()
	if err := mini.Start(); err != nil {
		b.Fatal(err)
	}
	client := redis.NewClient(&redis.Options{Addr: mini.Addr()})
	l := New(client, "", func(int) {}, zaptest.NewLogger(b))
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { l.Run(ctx) })
	defer func() { // in this order, so that nothing is dialled that is gone and nothing logged between the figures
		cancel()
		running.Wait()
		client.Close()
		mini.Close()
	}()
	a := attempt(42, 1, webhook.DLR, "")
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		a.UserID = int64(i % 100)
		l.Add(a)
	}
}

// A key of another type was not written by the service, and is deleted.
func TestForeignKey(t *testing.T) {
	mini := miniredis.RunT(t)
	l, dropped, stop := start(t, mini)
	if err := mini.Set(l.key(42), "text"); err != nil {
		t.Fatal(err)
	}
	l.Add(attempt(42, 1, webhook.DLR, ""))
	for deadline := time.Now().Add(10 * time.Second); dropped.Load() == 0; <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing was dropped")
		}
	}
	l.Add(attempt(42, 2, webhook.DLR, ""))
	stop()
	if got := list(t, l, 42, Filter{}); len(got) != 1 {
		t.Errorf("%d attempts are kept, want the second", len(got))
	}
}
