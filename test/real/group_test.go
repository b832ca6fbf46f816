package real_test

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/test/real/harness"
)

// load writes delivery receipts in the background.
type load struct {
	stop context.CancelFunc
	done chan struct{}

	mu    sync.Mutex
	acked []string // identities of the acknowledged events
}

// startLoad writes a batch with one event for each user, repeatedly with a pause, until it is stopped.
func startLoad(t testing.TB, e *env, users int64, pause time.Duration) *load {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	l := &load{stop: stop, done: make(chan struct{})}
	cl := harness.Client(t, e.kafka.Addr, kgo.RequiredAcks(kgo.AllISRAcks()), kgo.ProducerLinger(0), kgo.AlwaysRetryEOF())
	go func() {
		defer close(l.done)
		for sms := int64(0); ctx.Err() == nil; sms++ {
			for user := int64(1); user <= users; user++ {
				r := harness.Event(e.topics.DLR, user, harness.DLRValue(user, sms))
				cl.Produce(context.Background(), r, func(r *kgo.Record, err error) {
					if err != nil {
						t.Errorf("produce: %v", err)
						return
					}
					l.mu.Lock()
					defer l.mu.Unlock()
					l.acked = append(l.acked, identity(r))
				})
			}
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
		}
		flush, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		if err := cl.Flush(flush); err != nil {
			t.Errorf("events are still not written 2 minutes after the load: %v", err)
		}
	}()
	t.Cleanup(func() { stop(); <-l.done })
	return l
}

// end stops the load and returns the identities of all its events.
func (l *load) end() []string {
	l.stop()
	<-l.done
	return l.acked
}

// crowd configures users whose endpoints take some milliseconds. Those of every tenth user fail on the first attempt of
// each event.
func crowd(t testing.TB, e *env, users int64) {
	t.Helper()
	hooks := map[int64]harness.Webhook{}
	for user := int64(1); user <= users; user++ {
		hooks[user] = e.all(user, "")
		e.recv.On(path("dlr", user), harness.Slow(time.Duration(user%5)*3*time.Millisecond, 200))
		if user%10 == 0 {
			e.recv.On(path("dlr", user), firstFails())
		}
	}
	e.configure(t, hooks)
}

// firstFails answers first attempts with 500.
func firstFails() harness.Behaviour {
	ok, fail := harness.Status(200), harness.Status(500)
	return func(rw httpWriter, r *httpRequest, req harness.Request) {
		if req.Header.Get("Webhook-Attempt") == "1" {
			fail(rw, r, req)
			return
		}
		ok(rw, r, req)
	}
}

// sums adds a metric over members.
func sums(t testing.TB, members ...*harness.Proc) (consumed, settled, buffered float64) {
	for _, p := range members {
		m := p.Metrics(t)
		c, s := m.Ledger()
		consumed, settled, buffered = consumed+c, settled+s, buffered+m.Sum("smshooks_buffered_records")
	}
	return consumed, settled, buffered
}

// count returns how often each attempt of each event was received, by "identity attempt".
func count(e *env) map[string]int {
	n := map[string]int{}
	for _, r := range e.recv.Requests("") {
		n[r.Header.Get("Webhook-Id")+" "+r.Header.Get("Webhook-Attempt")]++
	}
	return n
}

// succeeded returns how often each event got a 200.
func succeeded(e *env) map[string]int {
	n := map[string]int{}
	for _, r := range e.recv.Requests("") {
		user, _ := strconv.Atoi(r.Path[len("/dlr/"):])
		if !r.End.IsZero() && !(user%10 == 0 && r.Header.Get("Webhook-Attempt") == "1") {
			n[r.Header.Get("Webhook-Id")]++
		}
	}
	return n
}

func wantNarrow(t *testing.T, e *env, users int64) {
	t.Helper()
	for user := int64(1); user <= users; user++ {
		if n := e.recv.Widest(path("dlr", user)); n > 3 {
			t.Errorf("user %d: %d requests at once over the whole group", user, n)
		}
	}
}

// TestGroupRebalance lets members join and leave under load. Nothing may be lost or sent twice, the ledger must balance
// across the members, and the whole group must send at most three requests at a time to an endpoint.
func TestGroupRebalance(t *testing.T) {
	t.Parallel()
	rebalance(t, newEnv(t, "--topics.partitions=6"))
}

// TestGroupRebalanceByBrokers does the same with the group protocol of KIP-848.
func TestGroupRebalanceByBrokers(t *testing.T) {
	t.Parallel()
	rebalance(t, newEnv(t, "--topics.partitions=6", "--kafka.group_protocol=consumer"))
}

func rebalance(t *testing.T, e *env) {
	const users = 60
	crowd(t, e, users)
	a, b := e.serve(t), e.serve(t)
	l := startLoad(t, e, users, 100*time.Millisecond)
	e.recv.WaitCount(t, "", 1000, harness.Patience)
	c := e.serve(t)
	from := e.recv.Count("")
	e.recv.WaitCount(t, "", from+1000, harness.Patience)
	c.WaitMetric(t, harness.Patience, harness.AtLeast(1), "smshooks_records_consumed_total")
	// the ledger of all three, once all records are settled
	events := l.end()
	settledAll := func() bool {
		consumed, settled, buffered := sums(t, a, b, c)
		return consumed == settled && buffered == 0 && consumed == float64(len(events)+len(events)/10)
	}
	harness.Eventually(t, harness.Patience, settledAll, "%d records and %d retries consumed and settled", len(events), len(events)/10)

	l = startLoad(t, e, users, 100*time.Millisecond)
	from = e.recv.Count("")
	e.recv.WaitCount(t, "", from+1000, harness.Patience)
	if code := b.Term(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	from = e.recv.Count("")
	e.recv.WaitCount(t, "", from+1000, harness.Patience)
	d := e.serve(t)
	if code := a.Term(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	from = e.recv.Count("")
	e.recv.WaitCount(t, "", from+1000, harness.Patience)
	d.WaitMetric(t, harness.Patience, harness.AtLeast(1), "smshooks_records_consumed_total")
	events = append(events, l.end()...)
	harness.Eventually(t, harness.Patience, func() bool { return len(succeeded(e)) >= len(events) }, "all %d events delivered", len(events))
	e.recv.Quiet(t, 1500*time.Millisecond, 10*time.Second)
	twice := 0
	for what, n := range count(e) {
		if n > 1 {
			if twice++; twice < 10 {
				t.Errorf("%s was received %d times", what, n)
			}
		}
	}
	ok := succeeded(e)
	for _, id := range events {
		if ok[id] != 1 {
			t.Errorf("%s was delivered %d times", id, ok[id])
		}
	}
	t.Logf("%d events, %d requests, %d twice", len(events), e.recv.Count(""), twice)
	wantNarrow(t, e, users)
	for _, p := range []*harness.Proc{c, d} {
		p.WaitBalanced(t, 1, harness.Patience)
	}
}

// TestGroupFrozen checks that a frozen member loses its partitions and, once it resumes, only ends the requests that it
// had begun.
func TestGroupFrozen(t *testing.T) {
	t.Parallel()
	const users = 30
	e := newEnv(t, "--topics.partitions=6", "--kafka.session_timeout=2s")
	crowd(t, e, users)
	a, b := e.serve(t), e.serve(t)
	l := startLoad(t, e, users, 100*time.Millisecond)
	e.recv.WaitCount(t, "", 500, harness.Patience)
	a.Signal(t, sigStop)
	harness.Pass(4 * time.Second)
	a.Signal(t, sigCont)
	from := e.recv.Count("")
	e.recv.WaitCount(t, "", from+1000, harness.Patience)
	events := l.end()
	harness.Eventually(t, harness.Patience, func() bool { return len(succeeded(e)) >= len(events) }, "all %d events delivered", len(events))
	a.WaitBalanced(t, 0, harness.Patience)
	b.WaitBalanced(t, 0, harness.Patience)
	again := 0
	for _, n := range count(e) {
		again += n - 1
	}
	t.Logf("%d events, %d requests again", len(events), again)
}
