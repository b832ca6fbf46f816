package lanes

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// Items that end at once are never held up, items that last are begun a burst at a time, and all of them are.
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
				s := newStage(cfg)
				defer s.end()
				var calls []*call
				for i := range 9 {
					calls = append(calls, s.mustTake(t, fmt.Sprint(i), 0, &call{takes: test.takes}))
				}
				rest(10 * time.Second)
				for i, c := range calls {
					if want := test.begin(i); !c.started || c.start != want {
						t.Errorf("item %d started (%v) at %v, want %v", i, c.started, c.start, want)
					}
				}
			})
		})
	}
}

// A machine that is behind stretches the pace, and goes back when it is not.
func TestPaceStretches(t *testing.T) {
	l := New[int](Config{Parallel: 1, MaxRunning: 1, MaxQueue: 1, MaxWait: time.Hour, Burst: 1, BurstWindow: 2 * time.Millisecond}, func(int) Report { return Report{} })
	for range 100 {
		l.behind(5 * time.Millisecond)
	}
	if p := l.recent.pace; p < 45*time.Millisecond || p > 52*time.Millisecond {
		t.Errorf("pace %v while always 5 ms late, want about 52 ms", p)
	}
	l.behind(time.Hour)
	if p := l.recent.pace; p != maxStretched {
		t.Errorf("pace %v after an hour's delay, want the bound", p)
	}
	l.late = 0
	l.behind(0)
	if p := l.recent.pace; p != 2*time.Millisecond {
		t.Errorf("pace %v when nothing is late, want 2 ms", p)
	}
}

func TestRecentNumbers(t *testing.T) {
	r := recent{pace: time.Second}
	at := time.Now()
	first, second, third := r.started(at), r.started(at.Add(500*time.Millisecond)), r.started(at.Add(600*time.Millisecond))
	r.ended(second)
	if n := r.count(at.Add(700 * time.Millisecond)); n != 2 {
		t.Errorf("%d young ones, want 2", n)
	}
	if d := r.next(at.Add(700 * time.Millisecond)); d != 300*time.Millisecond {
		t.Errorf("next in %v, want 300ms", d)
	}
	if n := r.count(at.Add(time.Second)); n != 1 {
		t.Errorf("%d young ones after the first is old, want 1", n)
	}
	r.ended(first) // it was counted out already
	r.ended(third)
	if n := r.count(at.Add(time.Second)); n != 0 || r.starts.len() != 0 {
		t.Errorf("%d young ones of %d starts, want none", n, r.starts.len())
	}
}

// What waits for endpoints that answer at once is at hand; what waits for slow, failing or unknown ones is not.
func TestReady(t *testing.T) {
	for name, test := range map[string]struct {
		first         call
		groups, items int
	}{
		"swift":   {call{takes: 5 * time.Millisecond}, 0, 7},
		"slow":    {call{takes: time.Second}, 0, 0},
		"failing": {call{takes: 5 * time.Millisecond, fails: true}, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(wide)
				defer s.end()
				s.mustTake(t, "g", 0, &test.first)
				rest(time.Minute)
				for range 10 {
					s.mustTake(t, "g", 0, &call{takes: time.Hour})
				}
				if groups, items := s.Ready(); groups != test.groups || items != test.items {
					t.Errorf("%d groups and %d items are ready, want %d and %d", groups, items, test.groups, test.items)
				}
			})
		})
	}
}
