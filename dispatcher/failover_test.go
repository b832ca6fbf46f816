package dispatcher

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/sender"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// withSpare returns settings whose receipts have a failover URL on the host spare.
func withSpare(userID int64) *webhook.Settings {
	s := settings(userID)
	s.Endpoints[webhook.DLR].FailOver("http://spare/")
	return s
}

// counted returns the value of a counter with a label value, over all others.
func (s *env) counted(name, label string) (n float64) {
	families, _ := s.registry.Gather()
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if f.GetName() == name && l.GetValue() == label {
					n += m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
				}
			}
		}
	}
	return n
}

// sent is what a host received.
type sent struct{ host, attempt, failover, auth string }

// TestFailoverOutcomes combines each outcome of the first request with each outcome of the second.
func TestFailoverOutcomes(t *testing.T) {
	full := &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("socket", syscall.EMFILE)}
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	type side struct {
		failure webhook.Failure // "" = 200
		local   bool
		answer  func(http.ResponseWriter, *http.Request)
		dial    error
		took    time.Duration
	}
	sides := []side{
		{answer: status(200)},
		{failure: "http 503", answer: status(503)},
		{failure: "http 302", answer: status(302)},
		{failure: webhook.Timeout, answer: hung, took: 10 * time.Second},
		{failure: webhook.ConnectionRefused, dial: refused},
		{failure: webhook.ConnectionReset, answer: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }},
		{local: true, dial: full},
	}
	play := func(t *testing.T, s *env, first, second side) {
		s.memory[1] = withSpare(1)
		s.noDialTo = map[string]error{"user1:80": first.dial, "spare:80": second.dial}
		var mu sync.Mutex
		var got []sent
		s.answers(func(w http.ResponseWriter, r *http.Request) {
			user, _, _ := r.BasicAuth()
			mu.Lock()
			got = append(got, sent{r.Host, r.Header.Get("Webhook-Attempt"), r.Header.Get("Webhook-Failover"), user})
			mu.Unlock()
			if r.Host == "spare" {
				second.answer(w, r)
				return
			}
			first.answer(w, r)
		})
		at := time.Now()
		e := s.newEvent(webhook.DLR, 7, 1, "1")
		s.Handle([]*event.Event{e})
		s.rest(30 * time.Second)

		failsOver := first.failure != ""
		counted := failsOver && !second.local
		last := first
		if counted {
			last = second
		}
		want, end := []event.LogEntry{}, "delivered"
		log := func(one side, at time.Time, host string, failover bool) {
			a := event.LogEntry{UserID: 1, Kind: webhook.DLR, ID: e.Identity(), Number: 1, Time: at, Host: host, Failure: one.failure,
				Took: one.took, Failover: failover, Message: event.NewText([]byte("1")), EventTime: e.Time, Offset: 7}
			if last.failure != "" { // both rows have the fate of the event
				a.Fate, a.Next = webhook.Retry, e.Due
			}
			_, _ = fmt.Sscanf(string(one.failure), "http %d", &a.Status)
			if one.failure == "" {
				a.Status = 200
			}
			want = append(want, a)
		}
		switch {
		case first.local:
			end = "overflow 0"
		case last.failure != "":
			end = "retry after 1: " + string(last.failure)
		}
		if !first.local {
			log(first, at, "user1", false)
		}
		if counted {
			after := first.took
			if first.failure == webhook.Timeout {
				after += afterTimeout
			}
			log(second, at.Add(after), "spare", true)
		}
		s.want(e.Identity(), end)
		if !slices.Equal(s.attempts, want) {
			t.Errorf("logged %+v, want %+v", s.attempts, want)
		}
		var wantSent []sent
		if first.answer != nil {
			wantSent = append(wantSent, sent{"user1", "1", "", "user"})
		}
		if failsOver && second.answer != nil {
			wantSent = append(wantSent, sent{"spare", "1", string(first.failure), "user"})
		}
		if !slices.Equal(got, wantSent) {
			t.Errorf("received %v, want %v", got, wantSent)
		}
		attempts, failovers := 0.0, 0.0
		if !first.local {
			attempts = 1
		}
		if counted {
			failovers = 1
		}
		for name, want := range map[string]float64{"smshooks_attempts_total": attempts, "smshooks_attempt_seconds": attempts, "smshooks_failover_total": failovers} {
			if n := s.counted(name, "dlr"); n != want {
				t.Errorf("%s is %v, want %v", name, n, want)
			}
		}
		result := last.failure.Result().String()
		if s.counted("smshooks_attempts_total", result) != attempts || s.counted("smshooks_failover_total", result) != failovers {
			t.Errorf("the result is not %s", result)
		}
	}
	for i, first := range sides {
		for j, second := range sides {
			t.Run(fmt.Sprintf("%d %d", i, j), func(t *testing.T) {
				withEnv(t, func(t *testing.T, s *env) { play(t, s, first, second) })
			})
		}
	}
}

// TestFailoverSlots checks that both requests use the same slot, so that neither URL gets more than three at a time.
func TestFailoverSlots(t *testing.T) {
	lingers := func(w http.ResponseWriter, r *http.Request) { hung(w, r); time.Sleep(30 * time.Millisecond) }
	for name, answer := range map[string]func(http.ResponseWriter, *http.Request){
		"both hang": lingers,
		"first hangs": func(w http.ResponseWriter, r *http.Request) {
			if r.Host != "spare" {
				lingers(w, r)
			}
		},
		"second hangs": func(w http.ResponseWriter, r *http.Request) {
			if r.Host == "spare" {
				lingers(w, r)
				return
			}
			w.WriteHeader(500)
		},
		"both slow": func(w http.ResponseWriter, _ *http.Request) { time.Sleep(2 * time.Second); w.WriteHeader(500) },
	} {
		t.Run(name, func(t *testing.T) {
			withEnv(t, func(t *testing.T, s *env) {
				s.memory[1] = withSpare(1)
				var mu sync.Mutex
				var running, most int // requests to both URLs
				add := func(n int) {
					mu.Lock()
					defer mu.Unlock()
					running += n
					most = max(most, running)
				}
				s.answers(func(w http.ResponseWriter, r *http.Request) {
					add(1)
					defer add(-1)
					answer(w, r)
				})
				s.Handle(s.dlrs(0, 12, 1))
				s.rest(2 * time.Minute)
				if user, spare := s.most["user1"], s.most["spare"]; max(user, spare) != 3 || min(user, spare) == 0 || most != 3 {
					t.Errorf("at once %v, %d in total, want at most three", s.most, most)
				}
				n := 0
				for end, events := range s.counts() {
					if n += events; strings.Contains(end, ",") {
						t.Errorf("%d events ended %s", events, end)
					}
				}
				if n != 12 {
					t.Errorf("%d events ended, want 12", n)
				}
			})
		})
	}
}

// TestFailoverIsCancelled checks that an event whose partition is revoked during the second request is abandoned, and
// that its attempt is not counted.
func TestFailoverIsCancelled(t *testing.T) {
	for name, wait := range map[string]time.Duration{"first": 5 * time.Second, "second": 15 * time.Second} {
		t.Run(name, func(t *testing.T) {
			withEnv(t, func(t *testing.T, s *env) {
				s.memory[1] = withSpare(1)
				s.answers(hung)
				e := s.newEvent(webhook.DLR, 7, 1, "1")
				s.Handle([]*event.Event{e})
				s.rest(wait)
				s.lease.cancel()
				s.rest(time.Second)
				s.want(e.Identity(), "abandoned")
				if e.Attempts != 0 || len(s.attempts) != 0 || s.counted("smshooks_failover_total", "dlr") != 0 {
					t.Errorf("%d attempts, %d logged", e.Attempts, len(s.attempts))
				}
			})
		})
	}
}

// TestFailoverIsSignedAgain checks that the second request has its own timestamp and signature.
func TestFailoverIsSignedAgain(t *testing.T) {
	withEnv(t, func(t *testing.T, s *env) {
		secret, err := webhook.ParseSecret(webhook.NewSecret(make([]byte, 32)), time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		to := settings(1)
		to.Sign(&webhook.Secrets{secret})
		to.Endpoints[webhook.DLR].FailOver("http://spare/")
		s.memory[1] = to
		headers := map[string]http.Header{}
		s.answers(func(w http.ResponseWriter, r *http.Request) {
			headers[r.Host] = r.Header.Clone()
			time.Sleep(3 * time.Second)
			w.WriteHeader(500)
		})
		s.Handle(s.dlrs(0, 1, 1))
		s.rest(time.Minute)
		first, second := headers["user1"], headers["spare"]
		if first.Get("Webhook-Id") != second.Get("Webhook-Id") || first.Get("Webhook-Event-Time") != second.Get("Webhook-Event-Time") {
			t.Errorf("%v and %v are different events", second, first)
		}
		if first.Get("Webhook-Timestamp") == second.Get("Webhook-Timestamp") || second.Get("Webhook-Signature") == "" ||
			first.Get("Webhook-Signature") == second.Get("Webhook-Signature") {
			t.Errorf("%v does not have its own timestamp and signature, unlike %v", second, first)
		}
	})
}

// A user without a failover URL allocates nothing for it.
func TestFailoverIsFreeWhenOff(t *testing.T) {
	withEnv(t, func(t *testing.T, s *env) {
		e := s.newEvent(webhook.DLR, 7, 1, "1")
		e.Endpoint, e.Started = s.memory[1].Endpoints[webhook.DLR], time.Now()
		s.Dispatcher.DeliveryLog = nil
		out := request{to: e.Endpoint, started: e.Started, Outcome: sender.Outcome{Status: 200}}
		if n := testing.AllocsPerRun(100, func() { s.conclude(e, out) }); n != 0 {
			t.Errorf("%v allocations", n)
		}
	})
}
