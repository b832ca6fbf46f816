package deliverylog

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest"
	"go.uber.org/zap/zaptest/observer"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/outage"
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

func attempt(user int64, n int, kind webhook.Kind, failure webhook.Failure) event.LogEntry {
	return event.LogEntry{
		UserID: user, Kind: kind, ID: "sms-dlr/3/" + strconv.Itoa(n), Number: 1, Time: noon.Add(time.Duration(n) * time.Second),
		Host: "example.com:8443", Status: 200, Failure: failure, Took: 245 * time.Millisecond,
		Message: event.NewText(strconv.AppendInt(nil, int64(n), 10)), EventTime: noon, Partition: 3, Offset: int64(n),
	}
}

func list(t *testing.T, l *Log, user int64, f Filter) []event.LogEntry {
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
	want := []event.LogEntry{
		{UserID: 42, Kind: webhook.RevokeClick, ID: "click-revocation/0/7/0", Number: 3, Time: noon.Add(3 * time.Second), Host: "h", Status: 503, Failure: "http 503", Took: 1500 * time.Microsecond, Offset: 17, End: 23, IDs: 2500, Fate: webhook.Dead},
		{UserID: 42, Kind: webhook.DLR, ID: "again", Number: 2, Time: noon.Add(2500 * time.Millisecond), Host: "spare", Status: 200, Failover: true},
		{UserID: 42, Kind: webhook.DLR, ID: "odd\tid\n", Number: 1, Time: noon.Add(2 * time.Second), Host: "[::1]:80", Failure: webhook.ConnectionRefused,
			Message: event.NewText([]byte("\t\"odd\"\n")), Recipient: event.NewText([]byte("\"1\t")), Failover: true, Fate: webhook.Retry, Next: noon.Add(6 * time.Hour), EventTime: noon.Add(time.Millisecond)},
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
	for n := range 600 { // a burst in four milliseconds
		a := attempt(43, 0, webhook.DLR, "")
		a.ID, a.Time = strconv.Itoa(n), a.Time.Add(time.Duration(n/150)*time.Millisecond)
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
	wantOnPages(t, l, 42, 40)
	wantOnPages(t, l, 43, 600)
}

// wantOnPages reads a user's pages one after the other. Each of n attempts must be on one of them.
func wantOnPages(t *testing.T, l *Log, user int64, n int) {
	t.Helper()
	seen, last := map[string]bool{}, time.Time{}
	for pages := 0; ; pages++ {
		page := list(t, l, user, Filter{Before: last, Limit: 7})
		if len(page) == 0 {
			break
		}
		for _, a := range page {
			if seen[a.ID] || !last.IsZero() && !a.Time.Before(last) {
				t.Errorf("user %d, page %d: %s again or out of order", user, pages, a.ID)
			}
			seen[a.ID], last = true, a.Time
		}
	}
	if len(seen) != n {
		t.Errorf("user %d: %d of %d on the pages", user, len(seen), n)
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

func TestRedisUnreachable(t *testing.T) {
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
	core, lines := observer.New(zapcore.InfoLevel)
	l := New(nil, "", func(n int) { dropped += n }, zap.New(core)) // nobody writes
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
	if n := lines.FilterMessageSnippet("queue of the delivery log is full").Len(); n != 1 || lines.Len() != 1 {
		t.Errorf("%d of %d lines say that the queue is full, want 1 of 1", n, lines.Len())
	}
}

func TestDecodeRejects(t *testing.T) {
	for _, line := range []string{
		"", "1\tdlr\t1\t200\t5\t\th\tid", // of an earlier version
		"2\t1\tdlr\t1\t200\t5\t\t0\tretry\t0\t0\t0\t0\th\tm", "2\t1\tx\t1\t200\t5\t\t0\tretry\t0\t0\t0\t0\th\tm\tid",
		"2\tx\tdlr\t1\t200\t5\t\t0\tretry\t0\t0\t0\t0\th\tm\tid", "2\t1\tdlr\t1\t\t5\t\t0\tretry\t0\t0\t0\t0\th\tm\tid",
		"2\t1\tdlr\t1\t200\t5\t\t0\tlost\t0\t0\t0\t0\th\tm\tid", "2\t1\tdlr\t1\t200\t5\t\t0\tretry\t0\t0\t0\t0\th\t\"m\tid",
		"3\t1\tdlr\t1\t200\t5\t\t0\tretry\t0\t0\t0\t0\th\tm\tid",
	} {
		if _, ok := decode(line); ok {
			t.Errorf("%q is accepted", line)
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
	defer func() { // closed in this order, so that nothing dials a closed server and logs between the figures
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
	if err := mini.Set(key(l.attempts, 42), "text"); err != nil {
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

// TestForeignKeyOfOneUser checks that a key of another type costs only the rows of its own list, that the lists of all
// other users are trimmed nevertheless, and that the key is deleted.
func TestForeignKeyOfOneUser(t *testing.T) {
	for prefix, dropped := range map[string]int{"deliveries:": 1, "notes:": 1, "replies:": 0} {
		mini := miniredis.RunT(t)
		rdb := redis.NewClient(&redis.Options{Addr: mini.Addr()})
		defer rdb.Close()
		core, lines := observer.New(zapcore.InfoLevel)
		log := zap.New(core)
		got := 0
		l := New(rdb, "", func(n int) { got += n }, log)
		w := writer{Log: l, attempts: newLists(l.attempts), notes: newLists(l.notes), byReply: map[int64][]any{}, failing: outage.New(log, "fails", "works")}
		write := func(n int) {
			for i := range PerUser {
				a := attempt(2, n+i, webhook.DLR, "")
				w.add(&w.attempts, &a)
				w.add(&w.notes, &a)
			}
			a := attempt(1, n, webhook.DLR, "http 503")
			a.Fate = webhook.Retry // so it is a note, too
			w.add(&w.attempts, &a)
			a.Number, a.Status, a.Fate = 0, 0, webhook.Overflow
			w.add(&w.notes, &a)
			w.write()
		}
		write(0)
		for range 2 {
			mini.Del(prefix + "1")
			if err := mini.Set(prefix+"1", "text"); err != nil {
				t.Fatal(err)
			}
			write(1)
			if mini.Exists(prefix + "1") {
				t.Errorf("%s1 is not deleted", prefix)
			}
		}
		for _, key := range []string{"deliveries:2", "notes:2"} {
			if rows, err := mini.List(key); len(rows) != PerUser || err != nil {
				t.Errorf("%s1: %s has %d rows, %v, want it trimmed to %d", prefix, key, len(rows), err, PerUser)
			}
		}
		if got != 2*dropped {
			t.Errorf("%s1: %d rows are dropped, want %d", prefix, got, 2*dropped)
		}
		write(2)
		if rows, err := mini.List(prefix + "1"); len(rows) == 0 || err != nil || got != 2*dropped {
			t.Errorf("%s1 has %d rows, %v, and %d rows are dropped after its repair", prefix, len(rows), err, got)
		}
		if messages := lines.All(); len(messages) != 2 || messages[0].Message != "fails" || messages[1].Message != "works" {
			t.Errorf("%s1: %v, want one outage", prefix, messages)
		}
	}
}

// An event's rows give its state, and its failures their replies.
func TestEvents(t *testing.T) {
	mini := miniredis.RunT(t)
	l, _, stop := start(t, mini)
	row := func(id string, second, number int, fate webhook.Fate, status int, reply string) event.LogEntry {
		a := attempt(42, second, webhook.DLR, "")
		a.ID, a.Number, a.Fate, a.Status, a.Reply, a.Offset = id, number, fate, status, reply, 7
		if a.Message = event.NewText([]byte("m" + id)); fate == webhook.Retry || fate == webhook.Overflow {
			a.Next = noon.Add(time.Duration(second) * time.Hour)
		}
		if status != 200 && number > 0 {
			a.Failure = "http 503"
		}
		return a
	}
	for _, a := range []event.LogEntry{
		row("a", 1, 1, webhook.Retry, 503, "busy"), row("b", 2, 1, webhook.Retry, 0, ""), row("a", 3, 2, webhook.Retry, 500, ""),
		row("c", 4, 1, webhook.Delivered, 200, ""), row("b", 5, 0, webhook.NotConfigured, 0, ""), row("d", 6, 1, webhook.Dead, 503, "\tx\n"),
		row("e", 7, 3, webhook.Retry, 503, "again"), row("e", 8, 0, webhook.Paused, 0, ""),
	} {
		l.Add(a)
	}
	l.Add(attempt(43, 9, webhook.DLR, ""))
	stop()
	events, err := l.Events(t.Context(), 42, func(*event.LogEntry) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	for _, e := range events {
		got += fmt.Sprintf("%s %s %s %d/%d", e.ID, e.Message, e.Fate.State(), e.Partition, e.Offset)
		if !e.Next.IsZero() {
			got += e.Next.Format(" 15:04")
		}
		for _, a := range e.Attempts {
			got += fmt.Sprintf("; %d %d %q %v", a.Number, a.Status, a.Reply, a.HasReply)
		}
		got += "\n"
	}
	const want = `a ma waiting 3/7 15:00; 1 503 "busy" true; 2 500 "" true
b mb not_configured 3/7; 1 0 "" false
c mc delivered 3/7; 1 200 "" false
d md dead 3/7; 1 503 "\tx\n" true
e me paused 3/7; 3 503 "again" true
`
	if got != want {
		t.Errorf("the events are\n%s\nwant\n%s", got, want)
	}
	var next []string // the attempts that another one follows, or that belong to an event that has ended, have no next one
	for _, a := range list(t, l, 42, Filter{}) {
		next = append(next, a.ID+strconv.Itoa(a.Number)+strconv.FormatBool(!a.Next.IsZero()))
	}
	if want := []string{"e3false", "d1false", "c1false", "a2true", "b1false", "a1false"}; !slices.Equal(next, want) {
		t.Errorf("next attempts %v, want %v", next, want)
	}
	if got := list(t, l, 42, Filter{Message: "ma", Status: 503}); len(got) != 1 || got[0].Number != 1 {
		t.Errorf("by message and status: %+v", got)
	}
	one, err := l.Events(t.Context(), 42, func(a *event.LogEntry) bool { return a.ID == "c" })
	if err != nil || len(one) != 1 || one[0].ID != "c" {
		t.Errorf("one event: %+v, %v", one, err)
	}
	mini.SetError("LOADING")
	if _, err := l.Events(t.Context(), 42, func(*event.LogEntry) bool { return true }); err == nil {
		t.Error("Events: no error")
	}
}

// TestNotes checks that notes are read with the attempts, and have their own limit.
func TestNotes(t *testing.T) {
	mini := miniredis.RunT(t)
	l, _, stop := start(t, mini)
	note := func(id string, second int, fate webhook.Fate, next time.Duration) {
		a := attempt(42, second, webhook.DLR, "")
		a.ID, a.Number, a.Host, a.Status, a.Took, a.Fate = id, 0, "", 0, 0, fate
		if next > 0 {
			a.Next = a.Time.Add(next)
		}
		l.Note(a)
	}
	failed := attempt(42, 1, webhook.DLR, "http 503")
	failed.ID, failed.Fate, failed.Next = "a", webhook.Retry, noon.Add(6*time.Hour)
	l.Add(failed)
	note("a", 2, webhook.Overflow, time.Second) // it was released
	note("b", 3, webhook.Overflow, time.Minute)
	note("b", 4, webhook.Dead, 0)
	for n := range PerUser + 500 {
		note("flood", 10+n, webhook.Overflow, time.Minute)
	}
	stop()
	kept, err := mini.List("smshooks:notes:42")
	if err != nil || len(kept) > PerUser+slack {
		t.Errorf("%d notes are kept, %v", len(kept), err)
	}
	if ttl := mini.TTL("smshooks:notes:42"); ttl < Keep {
		t.Errorf("kept for %v, want at least %v", ttl, Keep)
	}
	if got := list(t, l, 42, Filter{}); len(got) != 1 || got[0].ID != "a" || !got[0].Next.Equal(failed.Next) {
		t.Errorf("attempts %+v, want the only one", got)
	}

	l, _, stop = start(t, mini)
	note("a", 4000, webhook.Overflow, time.Second)
	note("c", 4001, webhook.Paused, 0)
	note("d", 4002, webhook.Overflow, time.Minute)
	note("d", 4003, webhook.NotConfigured, 0)
	stop()
	if got := list(t, l, 42, Filter{}); len(got) != 1 || !got[0].Next.Equal(noon.Add(4001*time.Second)) {
		t.Errorf("attempts %+v, want one that is made again at once", got)
	}
	events, err := l.Events(t.Context(), 42, func(a *event.LogEntry) bool { return a.ID != "flood" })
	got := ""
	for _, e := range events {
		got += fmt.Sprintf("%s %s %v %d;", e.ID, e.Fate.State(), e.Next.Sub(e.Changed) == time.Second, len(e.Attempts))
	}
	if want := "a waiting true 1;c paused false 0;d not_configured false 0;"; got != want || err != nil {
		t.Errorf("events %s, %v, want %s", got, err, want)
	}
}

// TestWaitingEventsStay checks that later attempts do not push out an event that waits, nor what became of it.
func TestWaitingEventsStay(t *testing.T) {
	l, _, stop := start(t, miniredis.RunT(t))
	add := func(id string, n int, fate webhook.Fate, waited bool) {
		a := attempt(42, n, webhook.DLR, "")
		if a.ID, a.Fate, a.Waited = id, fate, waited; fate == webhook.Retry {
			a.Failure, a.Next = "http 503", a.Time.Add(6*time.Hour)
		}
		l.Add(a)
	}
	add("waits", 1, webhook.Retry, false)
	add("delivered", 2, webhook.Retry, false)
	add("delivered", 3, webhook.Delivered, true)
	for n := range 2 * PerUser {
		add("later", 4+n, webhook.Delivered, false)
	}
	ended := attempt(42, 4+2*PerUser, webhook.DLR, "") // an entry that is no attempt
	ended.ID, ended.Number, ended.Fate, ended.Waited = "ended", 0, webhook.Superseded, true
	l.Add(ended)
	stop()
	events, err := l.Events(t.Context(), 42, func(a *event.LogEntry) bool { return a.ID == "waits" || a.ID == "delivered" })
	got := ""
	for _, e := range events {
		got += fmt.Sprintf("%s %s %v %d %v;", e.ID, e.Fate.State(), !e.Next.IsZero(), len(e.Attempts), e.Attempts[0].Extra)
	}
	if want := "waits waiting true 1 true;delivered delivered false 2 true;"; got != want || err != nil {
		t.Errorf("events %s, %v, want %s", got, err, want)
	}
	if got := list(t, l, 42, Filter{}); len(got) != PerUser-1 || got[PerUser-2].ID != "later" {
		t.Errorf("%d attempts are listed, the oldest of event %s", len(got), got[len(got)-1].ID)
	}
	later, err := l.Events(t.Context(), 42, func(a *event.LogEntry) bool { return a.ID == "later" })
	if err != nil || len(later) != 1 || len(later[0].Attempts) != PerUser-1 || later[0].Attempts[0].Extra {
		t.Errorf("later attempts: %d events, %v", len(later), err)
	}
}

// The replies of the latest failures are kept, whatever the size of the batches.
func TestKeepsTheLatestReplies(t *testing.T) {
	mini := miniredis.RunT(t)
	l, _, stop := start(t, mini)
	for n := range 3 * RepliesPerUser {
		a := attempt(42, n, webhook.DLR, "http 503")
		a.Status, a.Reply = 503, strings.Repeat("x", 1024)
		l.Add(a)
	}
	stop()
	events, err := l.Events(t.Context(), 42, func(*event.LogEntry) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range events {
		if kept := i >= 2*RepliesPerUser; e.Attempts[0].HasReply != kept || kept && len(e.Attempts[0].Reply) != 1024 {
			t.Fatalf("failure %d of %d: its reply is kept: %v", i, len(events), e.Attempts[0].HasReply)
		}
	}
	kept, err := mini.List("smshooks:replies:42")
	if err != nil || len(kept) != RepliesPerUser {
		t.Errorf("%d replies are stored, %v", len(kept), err)
	}
	if ttl := mini.TTL("smshooks:replies:42"); ttl < Keep {
		t.Errorf("kept for %v, want at least %v", ttl, Keep)
	}
}

// FuzzLine checks that whatever decode accepts is the same after encode.
func FuzzLine(f *testing.F) {
	a := attempt(42, 1, webhook.Click, "http 503")
	f.Add(string(encode(&a)))
	f.Add("3\t1\tdlr\t1\t200\t5\t\t1\tretry\t9\t0\t0\t-1\t0\th\t\"a\\tb\"\t+1\tid")
	f.Fuzz(func(t *testing.T, line string) {
		a, ok := decode(line)
		if !ok || len(a.Message.String()) > maxMessage {
			return
		}
		if b, ok := decode(string(encode(&a))); !ok || !reflect.DeepEqual(a, b) {
			t.Errorf("%q\n%+v is read as %+v", line, a, b)
		}
	})
}
