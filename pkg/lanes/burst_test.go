package lanes

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// TestBurst checks that items that end at once are never held back, and that longer ones start a burst at a time.
func TestBurst(t *testing.T) {
	for name, test := range map[string]struct {
		takes time.Duration
		begin func(i int) time.Duration
	}{
		"slow":    {time.Second, func(i int) time.Duration { return time.Duration(i/2) * 10 * time.Millisecond }},
		"middle":  {4 * time.Millisecond, func(i int) time.Duration { return time.Duration(i/2) * 4 * time.Millisecond }},
		"instant": {0, func(int) time.Duration { return 0 }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := wide
				cfg.HealthySlots, cfg.Burst, cfg.BurstWindow = 0, 2, 10*time.Millisecond
				s := newEnv(cfg)
				defer s.end()
				var calls []*call
				for i := range 9 {
					calls = append(calls, s.mustSubmit(t, fmt.Sprint(i), 0, &call{takes: test.takes}))
				}
				advance(10 * time.Second)
				for i, c := range calls {
					if want := test.begin(i); !c.started || c.start != want {
						t.Errorf("item %d started (%v) at %v, want %v", i, c.started, c.start, want)
					}
				}
			})
		})
	}
}

// TestBurstWindowStretches checks that the window grows while timers fire late, and shrinks again afterwards.
func TestBurstWindowStretches(t *testing.T) {
	cfg := Config{
		Parallel: 1, MaxRunning: 1, MaxQueue: 1, MaxWait: time.Hour, Burst: 1, BurstWindow: 2 * time.Millisecond,
	}
	l := New[int](cfg, func(int) Report { return Report{} })
	for range 100 {
		l.adaptBurst(5 * time.Millisecond)
	}
	if p := l.recent.window; p < 45*time.Millisecond || p > 52*time.Millisecond {
		t.Errorf("window %v with timers 5 ms late, want about 52 ms", p)
	}
	l.adaptBurst(time.Hour)
	if p := l.recent.window; p != maxBurstWindow {
		t.Errorf("window %v with a timer an hour late, want the maximum", p)
	}
	l.lag = 0
	l.adaptBurst(0)
	if p := l.recent.window; p != 2*time.Millisecond {
		t.Errorf("window %v with punctual timers, want 2 ms", p)
	}
}

func TestRecentNumbers(t *testing.T) {
	r := recent{window: time.Second}
	at := time.Now()
	first, second, third := r.started(at), r.started(at.Add(500*time.Millisecond)), r.started(at.Add(600*time.Millisecond))
	r.ended(second)
	if n := r.count(at.Add(700 * time.Millisecond)); n != 2 {
		t.Errorf("count = %d, want 2", n)
	}
	if d := r.next(at.Add(700 * time.Millisecond)); d != 300*time.Millisecond {
		t.Errorf("next in %v, want 300ms", d)
	}
	if n := r.count(at.Add(time.Second)); n != 1 {
		t.Errorf("count = %d after the first start left the window, want 1", n)
	}
	r.ended(first) // no longer counted
	r.ended(third)
	if n := r.count(at.Add(time.Second)); n != 0 || r.starts.len() != 0 {
		t.Errorf("count = %d of %d starts, want none", n, r.starts.len())
	}
}

// TestReady checks that Ready counts the items queued for fast groups, and none of slow or failing ones.
func TestReady(t *testing.T) {
	for name, test := range map[string]struct {
		first         call
		groups, items int
	}{
		"fast":    {call{takes: 5 * time.Millisecond}, 0, 7},
		"slow":    {call{takes: time.Second}, 0, 0},
		"failing": {call{takes: 5 * time.Millisecond, fails: true}, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newEnv(wide)
				defer s.end()
				s.mustSubmit(t, "g", 0, &test.first)
				advance(time.Minute)
				for range 10 {
					s.mustSubmit(t, "g", 0, &call{takes: time.Hour})
				}
				if groups, items := s.Ready(); groups != test.groups || items != test.items {
					t.Errorf("%d groups and %d items are ready, want %d and %d", groups, items, test.groups, test.items)
				}
			})
		})
	}
}

// TestReadyBeforeFirstReply checks that Ready counts the items of groups that have not answered yet, until a first call
// takes long.
func TestReadyBeforeFirstReply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newEnv(wide)
		defer s.end()
		check := func(when string, want int) {
			t.Helper()
			if _, items := s.Ready(); items != want {
				t.Errorf("%s: %d items, want %d", when, items, want)
			}
		}
		submit := func(group string, takes time.Duration) {
			for range 10 {
				s.mustSubmit(t, group, 0, &call{takes: takes})
			}
		}
		submit("soon", 100*time.Millisecond)
		submit("later", 2*time.Second)
		check("at the start", 14)
		advance(150 * time.Millisecond)
		check("after the first replies of one group", 7)
		advance(150 * time.Millisecond)
		check("while a first call takes long", 0)
		submit("new", 100*time.Millisecond)
		check("with a new group beside it", 0)
		advance(2 * time.Second)
		submit("last", 100*time.Millisecond)
		check("after the long call", 7)
		s.Purge(func(*call) bool { return true })
		check("after a purge", 0)
	})
}
