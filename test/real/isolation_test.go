package real_test

import (
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/test/real/harness"
)

// healthy is the number of healthy endpoints beside the one that hangs.
const healthy = 400

// TestIsolation has an endpoint that hangs with a backlog larger than its queue. The others must not be affected.
func TestIsolation(t *testing.T) {
	t.Parallel()
	const hung, slow, hungEvents, slowEvents = 1000, 1001, 1500, 600
	e := newEnv(t, "--retry.schedule=2s,2s")
	users := map[int64]harness.Webhook{hung: e.all(hung, ""), slow: e.all(slow, "")}
	for user := int64(1); user <= healthy; user++ {
		users[user] = e.all(user, "")
	}
	e.configure(t, users)
	e.recv.On(path("dlr", hung), harness.Hang())
	e.recv.On(path("dlr", slow), harness.Slow(20*time.Millisecond, 200))
	p := e.serve(t, "--dispatch.timeout=4s", "--dispatch.max_buffered_bytes=4MiB")

	var flood []*kgo.Record
	for i := range int64(hungEvents) {
		flood = append(flood, e.dlr(hung, i))
	}
	for i := range int64(slowEvents) {
		flood = append(flood, e.dlr(slow, i))
	}
	e.emit(t, flood...)
	e.recv.WaitCount(t, path("dlr", hung), 3, 10*time.Second)

	// ten seconds of a hundred healthy events a second, each timed
	began := time.Now()
	produced := &times{at: map[string]time.Time{}}
	cl := harness.Client(t, e.kafka.Addr, kgo.RequiredAcks(kgo.AllISRAcks()))
	var most float64
	for round := range int64(100) {
		for i := range int64(10) {
			user := (round*10+i)%healthy + 1
			r := harness.Event(e.topics.DLR, user, harness.DLRValue(user, 10_000+round*10+i))
			cl.Produce(t.Context(), r, func(r *kgo.Record, err error) {
				if err != nil {
					t.Errorf("produce: %v", err)
				}
				produced.set(identity(r))
			})
		}
		if round%10 == 0 {
			most = max(most, p.Metrics(t).Sum("smshooks_buffered_bytes"))
		}
		harness.Pass(100 * time.Millisecond)
	}
	harness.Eventually(t, harness.Patience, func() bool { return len(healthyRequests(e)) >= 1000 }, "1000 healthy events")
	var delays []time.Duration
	for _, r := range healthyRequests(e) {
		delays = append(delays, r.Start.Sub(produced.get(r.Header.Get("Webhook-Id"))))
	}
	slices.Sort(delays)
	p50, p99, worst := delays[len(delays)/2], delays[len(delays)*99/100], delays[len(delays)-1]
	t.Logf("healthy: p50 %v, p99 %v, worst %v; buffered at most %v bytes", p50, p99, worst, most)
	slack := harness.Slack(began)
	if len(delays) != 1000 || p99 > 500*time.Millisecond+slack || worst > 2*time.Second+slack {
		t.Errorf("%d healthy requests, p99 %v, worst %v after their record", len(delays), p99, worst)
	}
	if most > 5<<20 {
		t.Errorf("%v bytes buffered, the limit is 4 MiB", most)
	}
	harness.Eventually(t, harness.Patience, func() bool { return answered(e, path("dlr", slow)) >= slowEvents }, "all events of the slow endpoint")
	if n := e.recv.Widest(path("dlr", slow)); n > 3 {
		t.Errorf("%d requests at once to the slow endpoint", n)
	}
	checkOverflow(t, e, hung, began)

	// the endpoint recovers: every event that is not dead is delivered, none under a number above 3
	e.recv.On(path("dlr", hung), harness.Status(200))
	harness.Eventually(t, 60*time.Second, func() bool { return len(delivered(e, path("dlr", hung))) >= hungEvents }, "all events of the endpoint that hung")
	for _, r := range e.recv.Requests(path("dlr", hung)) {
		if n, _ := strconv.Atoi(r.Header.Get("Webhook-Attempt")); n < 1 || n > 3 {
			t.Errorf("attempt %d", n)
		}
	}
	wantNoOverlap(t, e.recv.Requests(path("dlr", hung)))
	wantNumbered(t, e.recv.Requests(path("dlr", hung)))
	if n := widest(e.recv.Requests(path("dlr", hung))); n > 3 {
		t.Errorf("%d requests at once", n)
	}
	p.WaitBalanced(t, 1, 30*time.Second)
}

// widest returns the largest number of concurrent requests. A receiver notices a client's timeout a moment after the
// client, which may have begun its next request by then.
func widest(requests []harness.Request) int {
	const hears = 50 * time.Millisecond
	type edge struct {
		at   time.Time
		step int
	}
	var edges []edge
	for _, r := range requests {
		edges = append(edges, edge{r.Start, 1})
		if !r.End.IsZero() {
			end := r.End.Add(-hears)
			if end.Before(r.Start) {
				end = r.Start
			}
			edges = append(edges, edge{end, -1})
		}
	}
	slices.SortStableFunc(edges, func(a, b edge) int {
		if c := a.at.Compare(b.at); c != 0 {
			return c
		}
		return b.step - a.step
	})
	now, most := 0, 0
	for _, e := range edges {
		now += e.step
		most = max(most, now)
	}
	return most
}

// times holds when records were acknowledged.
type times struct {
	mu sync.Mutex
	at map[string]time.Time
}

func (s *times) set(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at[id] = time.Now()
}

func (s *times) get(id string) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at[id]
}

func healthyRequests(e *env) []harness.Request {
	return slices.DeleteFunc(e.recv.Requests(""), func(r harness.Request) bool {
		return strings.HasPrefix(r.Path, "/dlr/100") && len(r.Path) > len("/dlr/100")
	})
}

func answered(e *env, at string) int {
	n := 0
	for _, r := range e.recv.Requests(at) {
		if !r.End.IsZero() {
			n++
		}
	}
	return n
}

// delivered returns how often each event got an answer in time.
func delivered(e *env, at string) map[string]int {
	ids := map[string]int{}
	for _, r := range e.recv.Requests(at) {
		if !r.End.IsZero() && r.End.Sub(r.Start) < 3*time.Second {
			ids[r.Header.Get("Webhook-Id")]++
		}
	}
	return ids
}

// checkOverflow checks that events beyond an endpoint's queue are in overflow topics, with no attempt counted.
func checkOverflow(t *testing.T, e *env, user int64, began time.Time) {
	t.Helper()
	n := 0
	for _, tier := range []string{"1s", "3s", "10s"} {
		mine := of(harness.Consume(t, e.kafka.Addr, harness.Overflow(e.topics.DLR, tier)), user)
		stored := time.Duration(0)
		for _, r := range mine {
			wantHeaders(t, r, map[string]string{"kind": "dlr", "reason": ""})
			if a := harness.Header(r, "smshooks-attempts"); a == "0" {
				wantHeaders(t, r, map[string]string{"error": ""})
			}
			delay, _ := time.ParseDuration(tier)
			stored = max(stored, r.Timestamp.Add(delay).Sub(headerTime(t, r, "due")))
			if origin := harness.Header(r, "smshooks-origin"); !strings.HasPrefix(origin, e.topics.DLR+"/"+strconv.Itoa(int(r.Partition))+"/") {
				t.Errorf("origin %s in partition %d", origin, r.Partition)
			}
		}
		n += len(mine)
		t.Logf("%d records in overflow %s, stored at most %v after the decision", len(mine), tier, stored)
		if stored > 2*time.Second+harness.Slack(began) {
			t.Errorf("a record was stored in overflow %s %v late", tier, stored)
		}
	}
	if n == 0 {
		t.Error("nothing in the overflow topics")
	}
}

// wantNoOverlap checks that requests of one message do not overlap.
func wantNoOverlap(t *testing.T, requests []harness.Request) {
	t.Helper()
	last := map[string]harness.Request{}
	for _, r := range requests {
		id := field(t, r.Body, "id")
		if before, ok := last[id]; ok && (before.End.IsZero() || r.Start.Before(before.End.Add(-20*time.Millisecond))) {
			t.Errorf("message %s: an attempt began %v before the previous one ended", id, before.End.Sub(r.Start))
		}
		last[id] = r
	}
}

// wantNumbered checks that the attempts of an event are numbered 1, 2, 3 without gaps or repetitions.
func wantNumbered(t *testing.T, requests []harness.Request) {
	t.Helper()
	count := map[string]int{}
	for _, r := range requests {
		id := r.Header.Get("Webhook-Id")
		count[id]++
		if r.Header.Get("Webhook-Attempt") != strconv.Itoa(count[id]) {
			t.Errorf("%s: request %d is attempt %s", id, count[id], r.Header.Get("Webhook-Attempt"))
		}
	}
}

// TestOrder checks that events of one message are sent in the order of their offsets, one at a time, whatever their
// endpoint does, and also while the user is not in memory yet.
func TestOrder(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	const users, messages, each = 20, 5, 20
	hooks := map[int64]harness.Webhook{}
	for user := int64(1); user <= users; user++ {
		hooks[user] = e.all(user, "")
		e.recv.On(path("dlr", user), harness.Slow(time.Duration(user%4)*time.Millisecond, 200))
	}
	e.configure(t, hooks)
	p := e.serve(t)
	var records []*kgo.Record
	for n := range each {
		for user := int64(1); user <= users; user++ {
			for m := range int64(messages) {
				r := e.dlr(user, m)
				r.Value = []byte(strings.Replace(string(r.Value), `"reference":null`, `"reference":`+strconv.Itoa(n), 1))
				records = append(records, r)
			}
		}
	}
	e.emit(t, records...)
	e.recv.WaitCount(t, "", len(records), 30*time.Second)
	p.WaitBalanced(t, float64(len(records)), 10*time.Second)
	for user := int64(1); user <= users; user++ {
		requests := e.recv.Requests(path("dlr", user))
		wantNoOverlap(t, requests)
		if n := e.recv.Widest(path("dlr", user)); n > 3 {
			t.Errorf("user %d: %d requests at once", user, n)
		}
		next := map[string]int{}
		for _, r := range requests {
			id, n := field(t, r.Body, "id"), field(t, r.Body, "reference")
			if n != strconv.Itoa(next[id]) {
				t.Fatalf("user %d message %s: event %s where %d was due", user, id, n, next[id])
			}
			next[id]++
		}
	}
}

// TestManyHang lets 100 of 1,000 endpoints hang. Each must get its attempts, and the others must get their events at
// once.
func TestManyHang(t *testing.T) {
	t.Parallel()
	e := newEnv(t, "--retry.schedule=1s")
	const users = 600
	hooks := map[int64]harness.Webhook{}
	for user := int64(1); user <= users; user++ {
		hooks[user] = e.all(user, "")
		if user%10 == 0 {
			e.recv.On(path("dlr", user), harness.Hang())
		}
	}
	e.configure(t, hooks)
	p := e.serve(t, "--dispatch.timeout=1s", "--dispatch.max_in_flight=200")
	began := time.Now()
	var records []*kgo.Record
	for i := range int64(6) {
		for user := int64(1); user <= users; user++ {
			records = append(records, e.dlr(user, i))
		}
	}
	e.emit(t, records...)
	good := users * 9 / 10 * 6
	count := func() (n int) {
		for user := int64(1); user <= users; user++ {
			if user%10 != 0 {
				n += e.recv.Count(path("dlr", user))
			}
		}
		return n
	}
	harness.Eventually(t, harness.Patience, func() bool { return count() >= good }, "%d events of healthy endpoints", good)
	t.Logf("healthy endpoints done after %v", time.Since(began))
	harness.Eventually(t, 60*time.Second, func() bool {
		return len(harness.Consume(t, e.kafka.Addr, e.topics.DeadLetter)) >= users/10*6
	}, "a dead letter for every event of a hung endpoint")
	for _, d := range harness.Consume(t, e.kafka.Addr, e.topics.DeadLetter) {
		wantHeaders(t, d, map[string]string{"attempts": "2", "reason": "attempts_exhausted", "error": "timeout"})
	}
	for user := int64(10); user <= users; user += 10 {
		requests := e.recv.Requests(path("dlr", user))
		if len(requests) != 12 || e.recv.Widest(path("dlr", user)) > 3 {
			t.Errorf("user %d: %d requests, %d at once, want 12 and 3", user, len(requests), e.recv.Widest(path("dlr", user)))
		}
		wantNumbered(t, requests)
	}
	p.WaitBalanced(t, 1, 10*time.Second)
}
