package faults_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/test/real/harness"
)

// crowd is the web server of a thousand users, the first of whom may misbehave. It identifies an event by its message's
// number, so it can judge any consumer of the topic.
type crowd struct {
	addr  string
	began time.Time

	mu       sync.Mutex
	hung     int64           // users 1 to hung misbehave
	slowly   bool            // answer 500 after two seconds instead of never
	produced []time.Duration // per event, since began
	first    []time.Duration // first request; 0 = none
	ok       []bool          // answered 200
	attempts []int32         // the attempt numbers so far, one bit each
	ended    []time.Duration // when the last of them was answered or cancelled, since began
	users    []int64

	schedule      []time.Duration // between attempts
	again, beyond int             // attempts that should not have been made
	short         []time.Duration // by how much attempts appear to be early
}

func newCrowd(t testing.TB) *crowd {
	t.Helper()
	c := &crowd{addr: harness.FreeAddr(t), began: time.Now()}
	l, err := net.Listen("tcp", c.addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	srv := &http.Server{Handler: c, ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	go func() {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("crowd: %v", err)
		}
	}()
	t.Cleanup(func() { stop(); _ = srv.Close() })
	return c
}

// misbehave sets which users hang from the next request on.
func (c *crowd) misbehave(hung int64, slowly bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hung, c.slowly = hung, slowly
}

// add creates an event of a user and returns its number.
func (c *crowd) add(user int64) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.produced = append(c.produced, time.Since(c.began))
	c.first, c.ok, c.attempts, c.ended, c.users = append(c.first, 0), append(c.ok, false), append(c.attempts, 0), append(c.ended, 0), append(c.users, user)
	return int64(len(c.users) - 1)
}

// ServeHTTP implements http.Handler.
func (c *crowd) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	now := time.Since(c.began)
	digits, _, _ := strings.Cut(strings.TrimPrefix(string(body), "sms=%7B%22id%22%3A"), "%")
	n, err := strconv.Atoi(digits)
	if err != nil {
		http.Error(w, "no event", http.StatusBadRequest)
		return
	}
	attempt, _ := strconv.Atoi(r.Header.Get("Webhook-Attempt"))
	c.mu.Lock()
	if c.first[n] == 0 {
		c.first[n] = now
	}
	c.judge(n, attempt, now)
	misbehaves, slowly := c.users[n] <= c.hung, c.slowly
	c.ok[n] = c.ok[n] || !misbehaves
	c.mu.Unlock()
	switch {
	case misbehaves && slowly:
		select {
		case <-time.After(2 * time.Second):
			c.end(n)
			w.WriteHeader(http.StatusInternalServerError)
		case <-r.Context().Done():
		}
	case misbehaves:
		<-r.Context().Done()
		c.end(n)
	}
}

// judge compares an attempt of event n with those before it. c.mu is held.
func (c *crowd) judge(n, attempt int, now time.Duration) {
	switch bit := int32(1) << attempt; {
	case len(c.schedule) == 0:
	case attempt < 1 || attempt > len(c.schedule)+1:
		c.beyond++
	case c.attempts[n]&bit != 0:
		c.again++
	default:
		c.attempts[n] |= bit
		if attempt > 1 {
			if short := c.ended[n] + c.schedule[attempt-2] - now; short > 0 {
				c.short = append(c.short, short)
			}
		}
	}
}

// early returns the number of early attempts, given the slack of a busy machine: the server notices a cancelled request
// a little later than the client. c.mu is held.
func (c *crowd) early(slack time.Duration) (n int) {
	for _, short := range c.short {
		if short > 250*time.Millisecond+slack {
			n++
		}
	}
	return n
}

// end records the end of a request of event n.
func (c *crowd) end(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended[n] = time.Since(c.began)
}

// phase is a period of load and the results of its healthy events.
type phase struct {
	from, to  int   // events
	hung      int64 // users
	healthy   int   // events of others
	delivered int
	delays    []time.Duration // of the delivered ones, sorted
	took      time.Duration   // from the beginning to the last delivery
}

func (p phase) at(percent int) time.Duration {
	if len(p.delays) == 0 {
		return 0
	}
	return p.delays[min(len(p.delays)*percent/100, len(p.delays)-1)].Round(100 * time.Microsecond)
}

func (p phase) String() string {
	return fmt.Sprintf("p50 %v, p99 %v, %s of %s delivered", p.at(50), p.at(99), count(p.delivered), count(p.healthy))
}

// look computes the current results of a phase.
func (c *crowd) look(p phase) phase {
	c.mu.Lock()
	defer c.mu.Unlock()
	p.healthy, p.delivered, p.delays, p.took = 0, 0, nil, 0
	for n := p.from; n < p.to; n++ {
		if c.users[n] <= p.hung {
			continue
		}
		p.healthy++
		if c.first[n] > 0 {
			p.delivered++
			p.delays = append(p.delays, c.first[n]-c.produced[n])
			p.took = max(p.took, c.first[n]-c.produced[p.from])
		}
	}
	slices.Sort(p.delays)
	return p
}

// wait waits until a phase's healthy events are delivered or the time is over, and returns the results.
func (c *crowd) wait(p phase, timeout time.Duration) phase {
	for deadline := time.Now().Add(timeout); ; harness.Pass(50 * time.Millisecond) {
		if p = c.look(p); p.delivered == p.healthy || time.Now().After(deadline) {
			return p
		}
	}
}

// traffic describes the users' shares of the events.
type traffic struct {
	users, hung int64
	percent     int64 // share of the events that the hung users get
	perSecond   int
	lasts       time.Duration
	slowly      bool
}

func (f traffic) String() string {
	how := "hang"
	if f.slowly {
		how = "answer 500 after 2 s"
	}
	return fmt.Sprintf("%d of %s users %s, %d%% of the traffic", f.hung, count(int(f.users)), how, f.percent)
}

// user returns the user of the n-th event. percent of every hundred events, spread evenly, are for the hung users. Both
// groups of users take turns.
func (f traffic) user(n int64) int64 {
	round, place := n/100, n*37%100
	if place < f.percent {
		return (round*f.percent+place)%f.hung + 1
	}
	return f.hung + (round*(100-f.percent)+place-f.percent)%(f.users-f.hung) + 1
}

// run writes events at a steady rate. Meanwhile it calls look twice a second.
func (c *crowd) run(t testing.TB, s *env, f traffic, look func()) phase {
	t.Helper()
	cl := harness.Client(t, s.brokers, kgo.RequiredAcks(kgo.AllISRAcks()), kgo.ProducerLinger(2*time.Millisecond))
	p := phase{hung: f.hung}
	c.mu.Lock()
	p.from = len(c.users)
	c.mu.Unlock()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	looked := time.Now()
	for began, n := time.Now(), int64(0); time.Since(began) < f.lasts; <-tick.C {
		for due := int64(float64(f.perSecond) * time.Since(began).Seconds()); n < due; n++ {
			user := f.user(n)
			cl.Produce(context.Background(), harness.Event(s.topics.DLR, user, harness.DLRValue(user, c.add(user))), func(_ *kgo.Record, err error) {
				if err != nil {
					t.Errorf("produce: %v", err)
				}
			})
			p.to++
		}
		if time.Since(looked) > 500*time.Millisecond {
			looked = time.Now()
			look()
		}
	}
	if err := cl.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	p.to += p.from
	return p
}

// backlog writes total events at once.
func (c *crowd) backlog(t testing.TB, s *env, f traffic, total int64) phase {
	t.Helper()
	var records []*kgo.Record
	p := phase{hung: f.hung}
	c.mu.Lock()
	p.from = len(c.users)
	c.mu.Unlock()
	for n := range total {
		user := f.user(n)
		records = append(records, harness.Event(s.topics.DLR, user, harness.DLRValue(user, c.add(user))))
	}
	p.to = p.from + int(total)
	harness.ProduceMany(t, s.brokers, records)
	c.mu.Lock()
	defer c.mu.Unlock()
	for n := p.from; n < p.to; n++ {
		c.produced[n] = time.Since(c.began) // the consumer begins now
	}
	return p
}

// startHandwritten runs the hand-written consumer of the benchmark: 64 workers, no queue per user.
func startHandwritten(t testing.TB, s *env, base string) (stop func()) {
	t.Helper()
	cmd := exec.Command(harness.Bench(t), "handwritten", "--kafka", s.brokers, "--group", s.topics.Group+"-handwritten", "--topic", s.topics.DLR, "--base", base)
	in, err := cmd.StdinPipe() // it runs until its input ends
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			select {
			case <-ended:
				t.Errorf("the hand-written consumer ended unexpectedly: %s", out.String())
			default:
			}
			_ = cmd.Process.Kill()
			<-ended
			_ = in.Close()
		})
	}
	t.Cleanup(stop)
	return stop
}
