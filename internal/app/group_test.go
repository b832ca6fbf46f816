package app

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// record appends the order of events.
type record struct {
	mu     sync.Mutex
	events []string
}

func (r *record) add(event string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, event)
}

// until returns a member that runs until its context ends, takes that long to stop, and records when it did.
func (r *record) until(name string, takes time.Duration, err error) func(context.Context) error {
	return func(ctx context.Context) error {
		<-ctx.Done()
		r.add("stop " + name)
		time.Sleep(takes)
		r.add("end " + name)
		return err
	}
}

func TestGroupStopsInReverse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r record
		ctx, stop := context.WithCancel(t.Context())
		g := newGroup(ctx)
		g.serve("store", r.until("store", time.Second, context.Canceled))
		g.work("api", r.until("api", time.Second, nil))
		g.work("check", func(context.Context) error { return nil })
		g.work("pipeline", r.until("pipeline", 3*time.Second, nil))
		time.Sleep(time.Minute)
		if len(r.events) > 0 {
			t.Fatalf("%v before the stop", r.events)
		}
		stop()
		began := time.Now()
		err := g.wait(budgetOf(15*time.Second), func() { r.add("cut off") })
		if took := time.Since(began); err != nil || took != 4*time.Second {
			t.Errorf("stopped after %v: %v, want the API's and the pipeline's work to end in parallel", took, err)
		}
		slices.Sort(r.events[:2]) // both begin to stop at once
		if got, want := strings.Join(r.events, ", "), "stop api, stop pipeline, end api, end pipeline, stop store, end store"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	})
}

func TestGroupStopsAfterAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r record
		first := errors.New("first")
		g := newGroup(t.Context())
		g.serve("store", r.until("store", 0, errors.New("second")))
		g.work("pipeline", func(context.Context) error { time.Sleep(time.Second); return first })
		if err := g.wait(budgetOf(time.Second), func() {}); !errors.Is(err, first) {
			t.Errorf("%v, want the first failure", err)
		}
		if len(r.events) != 2 {
			t.Errorf("%v, want the other member stopped", r.events)
		}
	})
}

// A failure during the stop counts, and so does context.Canceled of a member that was not stopped.
func TestGroupFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		g := newGroup(ctx)
		fenced := errors.New("fenced")
		g.work("pipeline", (&record{}).until("pipeline", 0, fenced))
		stop()
		if err := g.wait(budgetOf(time.Second), func() {}); !errors.Is(err, fenced) {
			t.Errorf("%v, want the failure", err)
		}
		g = newGroup(t.Context())
		g.serve("store", func(context.Context) error { return context.Canceled })
		if err := g.wait(budgetOf(time.Second), func() {}); !errors.Is(err, context.Canceled) {
			t.Errorf("%v, want the failure", err)
		}
	})
}

// Calls to Kafka and Redis are cut off within the grace; a member that does not stop at all is named soon after it.
func TestGroupDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r record
		ctx, stop := context.WithCancel(t.Context())
		g := newGroup(ctx)
		g.serve("store", r.until("store", 0, nil))
		hangs := make(chan struct{})
		g.work("pipeline", func(context.Context) error { <-hangs; return nil })
		stop()
		began, cutOff := time.Now(), make(chan time.Duration, 1)
		err := g.wait(budgetOf(2*time.Second), func() { cutOff <- time.Since(began) })
		if err == nil || !strings.Contains(err.Error(), "shutdown.grace (2s) has passed: pipeline has not stopped") {
			t.Error(err)
		}
		if took, cut := time.Since(began), <-cutOff; took != 7*time.Second || cut != 1900*time.Millisecond {
			t.Errorf("cut off after %v, given up after %v", cut, took)
		}
		synctest.Wait()
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.events) != 2 {
			t.Errorf("%v, want the member below stopped, too", r.events)
		}
		close(hangs)
	})
}
