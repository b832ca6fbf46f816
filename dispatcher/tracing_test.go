package dispatcher

import (
	"context"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/metrics"
	"github.com/smshooks/smshooks/internal/sender"
	"github.com/smshooks/smshooks/pkg/webhook"
)

type told struct{ attempts []event.LogEntry }

func (f *told) Attempt(a event.LogEntry) { f.attempts = append(f.attempts, a) }
func (f *told) End(*event.Event, string) {}

// The attempts of a sampled event are recorded as spans; the customer's request has no trace headers.
func TestAttemptIsTraced(t *testing.T) {
	withEnv(t, func(t *testing.T, s *env) {
		sent := make(chan http.Header, 2) // both requests are concurrent
		s.answers(func(w http.ResponseWriter, r *http.Request) {
			sent <- r.Header.Clone()
			w.WriteHeader(http.StatusServiceUnavailable)
		})
		events := s.dlrs(0, 2, 1)
		f := &told{}
		events[0].Trace, events[0].Traceparent = f, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
		id := events[0].Identity()
		s.Handle(events)
		s.rest(time.Second)
		if len(f.attempts) != 1 || f.attempts[0].ID != id || f.attempts[0].Number != 1 || f.attempts[0].Status != http.StatusServiceUnavailable {
			t.Errorf("traced %+v", f.attempts)
		}
		for range events {
			if h := <-sent; h.Get("Traceparent") != "" {
				t.Errorf("the customer received %v", h)
			}
		}
	})
}

// TestFailoverIsTraced checks that both requests of an attempt with a failover are recorded as spans of the attempt.
func TestFailoverIsTraced(t *testing.T) {
	withEnv(t, func(t *testing.T, s *env) {
		s.memory[1] = withSpare(1)
		s.answers(func(w http.ResponseWriter, r *http.Request) {
			if r.Host != "spare" {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		})
		events := s.dlrs(0, 1, 1)
		f := &told{}
		events[0].Trace = f
		id := events[0].Identity()
		s.Handle(events)
		s.rest(time.Second)
		if len(f.attempts) != 2 {
			t.Fatalf("traced %+v, want two requests", f.attempts)
		}
		for i, want := range []event.LogEntry{
			{Host: "user1", Status: http.StatusServiceUnavailable, Failure: webhook.HTTPFailure(http.StatusServiceUnavailable)},
			{Host: "spare", Status: http.StatusOK, Failover: true},
		} {
			got := f.attempts[i]
			if got.ID != id || got.Number != 1 || got.Host != want.Host || got.Status != want.Status || got.Failure != want.Failure ||
				got.Failover != want.Failover {
				t.Errorf("request %d: %+v, want %+v", i+1, got, want)
			}
		}
	})
}

// still is a lease that is never revoked.
type still struct{ event.Lease }

func (still) Context() context.Context          { return context.Background() }
func (still) Acquire() bool                     { return true }
func (still) Settle(*event.Event, webhook.Fate) {}

// An attempt that is not sampled allocates nothing for tracing.
func TestTracingIsFreeWhenOff(t *testing.T) {
	d := New(Config{Parallel: 3, MaxInFlight: 10, QueuePerEndpoint: 10, Tiers: []time.Duration{time.Second}},
		Parts{Metrics: metrics.New(prometheus.NewRegistry(), metrics.Topics{}), Log: zap.NewNop()})
	e := &event.Event{
		Delivery: event.Delivery{Kind: webhook.DLR, UserID: 1, ID: "sms-dlr/1/" + strconv.Itoa(7), Time: time.Now()},
		Lease:    still{},
	}
	e.Endpoint, e.Started = &webhook.Endpoint{Host: "example.com"}, e.Time
	out := request{to: e.Endpoint, started: e.Time, Outcome: sender.Outcome{Status: 200, Took: time.Millisecond}}
	if n := testing.AllocsPerRun(1000, func() { d.finish(e, d.conclude(e, out)) }); n >= 1 {
		t.Errorf("%v allocations per attempt, want none", n)
	}
}
