package dispatcher

import (
	"fmt"
	"maps"
	"net/http"
	"testing"
	"time"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// An endpoint that hangs takes its three slots and a short queue; the rest goes to tiers by its rate. The others are
// not delayed.
func TestEndpointThatHangs(t *testing.T) {
	withEnv(t, func(t *testing.T, s *env) {
		s.answers(func(w http.ResponseWriter, r *http.Request) {
			if r.Host == "user1" {
				hung(w, r)
			}
		})
		at := time.Now()
		s.Handle(s.dlrs(0, 3000, 1))
		s.Handle(s.dlrs(5000, 1, 2))
		if time.Since(at) != 0 {
			t.Errorf("Handle was blocked for %v", time.Since(at))
		}
		s.rest(10 * time.Millisecond)
		s.want("dlr/0/5000", "delivered")
		got := s.counts()
		// Its rate is unknown, so 100 a second are assumed: the 10s tier may hold 1,000.
		want := map[string]int{"delivered": 1, "overflow 0": 1000, "overflow 1": 3000 - 3 - 1024 - 1000}
		if !maps.Equal(got, want) {
			t.Errorf("ends %v, want %v", got, want)
		}
		s.rest(5 * time.Second)
		waits := 3001
		for _, n := range s.counts() {
			waits -= n
		}
		if waits > 3+10 {
			t.Errorf("%d events of an endpoint that has hung for 5s are in memory", waits)
		}
		s.rest(5*time.Second + afterTimeout/2)
		if n := s.counts()["retry after 1: timeout"]; n != 3 {
			t.Errorf("%d timed out after 10s, want 3", n)
		}
		if n := len(s.seen()); n != 4 {
			t.Errorf("%d requests, want 4: a slot is kept a moment after a timeout", n)
		}
		s.rest(afterTimeout)
		if n := len(s.seen()); n != 7 {
			t.Errorf("%d requests, want 7", n)
		}
		s.rest(time.Minute)
		total := 0
		for _, n := range s.counts() {
			total += n
		}
		if total != 3001 || s.most["user1"] != 3 {
			t.Errorf("%d of 3001 events ended, %d requests at once", total, s.most["user1"])
		}
	})
}

func TestBacklog(t *testing.T) {
	withEnv(t, func(t *testing.T, _ *env) { // for its clock
		b, ep := newBacklog(tiers), endpoint{1, webhook.DLR}
		key := backlogKey{endpoint: ep}
		fill := func(rate float64, n int) (got [4]int) {
			for range n {
				to := b.choose(key, rate)
				b.added(key, to)
				got[to]++
			}
			return got
		}
		if got := fill(2, 800); got != [4]int{20, 120, 600, 60} {
			t.Errorf("tiers %v, want 20, 120, 600 and the rest", got)
		}
		if got := b.choose(backlogKey{endpoint: endpoint{2, webhook.DLR}}, 2); got != 0 {
			t.Errorf("another endpoint goes to tier %d", got)
		}
		for range 5 {
			b.returned(ep, 0)
		}
		if got := fill(2, 6); got != [4]int{5, 0, 0, 1} {
			t.Errorf("tiers %v, want 5 in the room that became free", got)
		}
		b.returned(endpoint{9, webhook.DLR}, 2) // never seen here: another instance stored it
		time.Sleep(10*time.Second + returnGrace + time.Second)
		if got := fill(2, 1); got != [4]int{1} {
			t.Errorf("tiers %v: events that must have returned long ago still count", got)
		}
		time.Sleep(time.Hour)
		b.forget(time.Now())
		if len(b.tiers) != 0 {
			t.Errorf("%d endpoints are remembered", len(b.tiers))
		}
	})
}

func TestQueuedForTooLong(t *testing.T) {
	withEnv(t, func(t *testing.T, s *env) {
		s.answers(slow(9 * time.Second))
		s.Handle(s.dlrs(0, 7, 1))
		s.rest(maxWait + 2*time.Second)
		for offset, want := range map[int]string{0: "delivered", 2: "delivered", 5: "", 6: "overflow 0"} {
			s.want(fmt.Sprint("dlr/0/", offset), want)
		}
	})
}

// A quarter of the slots is reserved for healthy endpoints and another for first calls, whatever hangs.
func TestManyEndpointsThatHang(t *testing.T) {
	withEnv(t, func(t *testing.T, s *env) {
		s.Handle(s.dlrs(0, 1, 1)) // becomes healthy
		s.rest(time.Second)
		s.answers(func(w http.ResponseWriter, r *http.Request) {
			if r.Host != "user1" {
				hung(w, r)
			}
		})
		for user := int64(100); user < 140; user++ {
			s.mu.Lock()
			s.memory[user] = settings(user)
			s.mu.Unlock()
			s.Handle(s.dlrs(user*100, 3, user))
		}
		s.rest(time.Second)
		// 20 of any endpoint, half of the 10 for first calls, and the first that is let in after these.
		if n := s.lanes.Running(); n != 26 {
			t.Errorf("%d requests that hang, want 26", n)
		}
		s.Handle(s.dlrs(1, 100, 1))
		s.rest(time.Second)
		if n := s.counts()["delivered"]; n != 101 {
			t.Errorf("%d of 101 delivered", n)
		}
	})
}

// TestFirstAttempt checks that the time to the first attempt is measured only for events from sources: those from delay
// topics are late because of their endpoint.
func TestFirstAttempt(t *testing.T) {
	for name, c := range map[string]struct {
		class    topics.Class
		attempts int
		want     float64
	}{
		"source": {topics.Source, 0, 1}, "retry": {topics.Retry, 1, 0}, "overflow": {topics.Overflow, 0, 0}, "paused": {topics.Paused, 0, 0},
	} {
		withEnv(t, func(t *testing.T, s *env) {
			e := s.newEvent(webhook.DLR, 7, 1, "1")
			e.Class, e.Attempts = c.class, c.attempts
			s.Handle([]*event.Event{e})
			s.rest(time.Second)
			if n := s.counted("smshooks_first_attempt_seconds", "dlr"); n != c.want {
				t.Errorf("%s: %v first attempts were counted, want %v", name, n, c.want)
			}
		})
	}
}
