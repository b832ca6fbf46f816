package dispatcher

import (
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// pausedSettings returns settings with one kind paused.
func pausedSettings(userID int64, kind webhook.Kind) *webhook.Settings {
	s := settings(userID)
	s.Endpoints[kind].Paused = true
	return s
}

// setMemory replaces the settings of a user who is in memory.
func (s *env) setMemory(userID int64, to *webhook.Settings) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.memory[userID] = to
}

func TestPausedFates(t *testing.T) {
	back := func(_ *env, e *event.Event) { e.Class = topics.Paused }
	for _, test := range []struct {
		name   string
		kind   webhook.Kind // that is paused
		change func(s *env, e *event.Event)
		want   string
	}{
		{"receipt", webhook.DLR, nil, "paused"},
		{"click", webhook.Click, nil, "paused"},
		{"inbound", webhook.Inbound, nil, "paused"},
		{"due retry", webhook.DLR, func(_ *env, e *event.Event) { e.Class, e.Attempts = topics.Retry, 2 }, "paused"},
		{"returned overflow", webhook.DLR, func(_ *env, e *event.Event) { e.Class = topics.Overflow }, "paused"},
		{"replayed dead letter", webhook.Click,
			func(_ *env, e *event.Event) { e.Class, e.Claimed, e.Replayed = topics.Overflow, true, time.Now() }, "paused"},
		{"batch", webhook.RevokeClick, func(_ *env, e *event.Event) { e.Class = topics.Retry }, "paused"},
		{"unselected status", webhook.DLR, func(s *env, _ *event.Event) {
			s.memory[1].Endpoints[webhook.DLR].Statuses, _ = webhook.ParseStatuses([]string{"Failed"})
		}, "paused"}, // it is filtered at its attempt
		{"too old", webhook.DLR, func(s *env, e *event.Event) { s.dead[e.Identity()] = webhook.WindowExpired }, "paused"},
		{"no URL", webhook.DLR, func(s *env, _ *event.Event) { s.memory[1].Endpoints[webhook.DLR] = nil }, "not_configured"},
		{"user not in memory", webhook.DLR, func(s *env, _ *event.Event) { s.stored[1] = s.memory[1]; delete(s.memory, 1) }, "paused"},
		{"revoked", webhook.DLR, func(s *env, _ *event.Event) { s.lease.closed = true }, "abandoned"},
		{"still paused after the delay", webhook.DLR, back, "dead: window_expired"},
		{"click still paused after the delay", webhook.Click, back, "dead: window_expired"},
		{"batch still paused after the delay", webhook.RevokeClick, back, "paused"},
		{"no longer paused", webhook.DLR, func(s *env, e *event.Event) { back(s, e); s.memory[1] = settings(1) }, "delivered"},
		{"no longer paused, too old", webhook.DLR, func(s *env, e *event.Event) {
			back(s, e)
			s.memory[1] = settings(1)
			s.dead[e.Identity()] = webhook.WindowExpired
		}, "dead: window_expired"},
	} {
		t.Run(test.name, func(t *testing.T) {
			withEnv(t, func(t *testing.T, s *env) {
				s.memory[1] = pausedSettings(1, test.kind)
				e := s.newEvent(test.kind, 7, 1, "1")
				if test.change != nil {
					test.change(s, e)
				}
				attempts, at := e.Attempts, time.Now()
				s.Handle([]*event.Event{e})
				s.rest(time.Second)
				s.want(e.Identity(), test.want)
				if test.want == "delivered" {
					return
				}
				if n := len(s.seen()); n != 0 || e.Attempts != attempts {
					t.Errorf("%d requests, %d attempts counted", n, e.Attempts-attempts)
				}
				if due := at.Add(24 * time.Hour); test.want == "paused" && (e.Due.Before(due) || e.Due.After(due.Add(time.Second))) {
					t.Errorf("due %v, want a window after %v", e.Due, at)
				}
			})
		})
	}
}

// TestOtherKindsAreSent checks that only the paused kind is held back.
func TestOtherKindsAreSent(t *testing.T) {
	withEnv(t, func(t *testing.T, s *env) {
		s.memory[1] = pausedSettings(1, webhook.DLR)
		inbound := s.newEvent(webhook.Inbound, 1, 1, "1")
		s.Handle(append(s.dlrs(0, 3, 1), inbound, s.newEvent(webhook.Click, 2, 1, "1")))
		s.Handle(s.dlrs(10, 1, 2))
		s.rest(time.Second)
		if want := map[string]int{"paused": 3, "delivered": 3}; !maps.Equal(s.counts(), want) {
			t.Errorf("ends %v, want %v", s.counts(), want)
		}
	})
}

// TestPauseOfABusyEndpoint checks that requests in flight end, and that the events behind them in the lane are stored
// when they would start.
func TestPauseOfABusyEndpoint(t *testing.T) {
	withEnv(t, func(t *testing.T, s *env) {
		s.answers(slow(3 * time.Second))
		s.Handle(s.dlrs(0, 15, 1))
		s.rest(time.Second)
		s.setMemory(1, pausedSettings(1, webhook.DLR))
		s.Handle(s.dlrs(100, 20, 1)) // these pass the others, since they do not enter the lane
		s.rest(time.Millisecond)
		if want := map[string]int{"paused": 20}; !maps.Equal(s.counts(), want) {
			t.Errorf("ends %v at once, want %v", s.counts(), want)
		}
		s.rest(3 * time.Second)
		if want := map[string]int{"delivered": 3, "paused": 32}; !maps.Equal(s.counts(), want) {
			t.Errorf("ends %v, want %v", s.counts(), want)
		}
		if n := len(s.seen()); n != 3 {
			t.Errorf("%d requests, want the three that were in flight", n)
		}
		if p := s.Settings.(*env).memory[1]; !p.Paused(webhook.DLR) || p.Paused(webhook.Click) {
			t.Error("Paused does not report the paused kind alone")
		}
	})
}

// TestPausedClickStaysTheFirst checks that a click is claimed before it is stored, and is still the first of its
// message if the memory is lost meanwhile.
func TestPausedClickStaysTheFirst(t *testing.T) {
	withEnv(t, func(t *testing.T, s *env) {
		s.memory[1] = pausedSettings(1, webhook.Click)
		s.Handle([]*event.Event{s.newEvent(webhook.Click, 0, 1, "7"), s.newEvent(webhook.Click, 1, 1, "7")})
		s.rest(time.Second)
		s.want("click/0/0", "paused")
		s.want("click/0/1", "duplicate")
		s.setMemory(1, settings(1))
		s.Handle([]*event.Event{s.newEvent(webhook.Click, 2, 1, "7")})
		s.rest(time.Second)
		s.want("click/0/2", "duplicate")
		s.mu.Lock()
		clear(s.owners) // Redis was emptied
		s.mu.Unlock()
		back := s.newEvent(webhook.Click, 0, 1, "7")
		back.Class = topics.Paused
		s.Handle([]*event.Event{s.newEvent(webhook.Click, 3, 1, "7"), back})
		s.rest(time.Second)
		s.want("click/0/3", "delivered")
		s.want("click/0/0", "paused, delivered")
	})
}

// TestPausedClickWithoutRedis checks that a click that cannot be claimed overflows, and is stored when it returns.
func TestPausedClickWithoutRedis(t *testing.T) {
	withEnv(t, func(t *testing.T, s *env) {
		s.memory[1] = pausedSettings(1, webhook.Click)
		s.redis(true)
		s.Handle([]*event.Event{s.newEvent(webhook.Click, 0, 1, "7")})
		s.rest(20 * time.Second)
		s.want("click/0/0", "overflow 0")
		s.redis(false)
		back := s.newEvent(webhook.Click, 0, 1, "7")
		back.Class = topics.Overflow
		s.Handle([]*event.Event{back})
		s.rest(time.Second)
		s.want("click/0/0", "overflow 0, paused")
	})
}

// TestRepeatedPauses pauses and resumes the endpoint repeatedly while events arrive. Each must have one fate, and none
// may be attempted during a pause.
func TestRepeatedPauses(t *testing.T) {
	withEnv(t, func(t *testing.T, s *env) {
		s.answers(slow(70 * time.Millisecond))
		for i := range int64(200) {
			if i%20 == 0 {
				s.setMemory(1, pausedSettings(1, webhook.DLR))
			} else if i%20 == 10 {
				if _, running := s.lanes.Ready(); running != 0 {
					t.Error("events of a paused endpoint could start")
				}
				s.setMemory(1, settings(1))
			}
			s.Handle(s.dlrs(10*i, 3, 1))
			s.rest(50 * time.Millisecond)
		}
		s.rest(time.Minute)
		got := s.counts()
		if got["delivered"]+got["paused"] != 600 || len(got) != 2 || got["delivered"] < 100 || got["paused"] < 300 {
			t.Errorf("ends %v, want 600, delivered or paused, once each", got)
		}
		if n := len(s.seen()); n != got["delivered"] {
			t.Errorf("%s: %d requests", fmt.Sprint(got), n)
		}
	})
}
