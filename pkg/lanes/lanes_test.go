package lanes

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// call is an item that prescribes how its run goes and records when it ran.
type call struct {
	name       string
	takes      time.Duration
	fails      bool
	uncalled   bool
	start, end time.Duration // since the start of the test; end 0 = not ended
	started    bool
}

// env runs calls in virtual time and records the order in which they started.
type env struct {
	*Lanes[string, *call]
	began   time.Time
	started chan *call
}

func newEnv(cfg Config) *env {
	s := &env{began: time.Now(), started: make(chan *call, 10_000)}
	s.Lanes = New[string](cfg, func(c *call) Report {
		c.start, c.started = time.Since(s.began), true
		s.started <- c
		time.Sleep(c.takes)
		c.end = time.Since(s.began)
		return Report{Took: c.takes, OK: !c.fails, Called: !c.uncalled}
	})
	return s
}

// names drains and returns the names of the calls started so far.
func (s *env) names() (names []string) {
	synctest.Wait()
	for {
		select {
		case c := <-s.started:
			names = append(names, c.name)
		default:
			return names
		}
	}
}

func (s *env) mustSubmit(t *testing.T, group string, key uint64, c *call) *call {
	t.Helper()
	if !s.Submit(group, key, c) {
		t.Fatalf("%s of group %s was refused", c.name, group)
	}
	return c
}

// advance moves the clock and waits until all goroutines are blocked.
func advance(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// end closes the lanes and lets the running calls end.
func (s *env) end() {
	s.Close()
	advance(2 * time.Hour)
}

var wide = Config{Parallel: 3, MaxRunning: 100, HealthySlots: 25, MaxQueue: 1024, MaxWait: 15 * time.Second}

func TestParallelPerGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newEnv(wide)
		defer s.end()
		var calls []*call
		for i := range 7 {
			calls = append(calls, s.mustSubmit(t, "a", 0, &call{name: fmt.Sprint(i), takes: time.Second}))
		}
		if got := s.names(); !slices.Equal(got[:3], []string{"0", "1", "2"}) && len(got) != 3 {
			t.Errorf("started at once: %v, want three", got)
		}
		if s.Running() != 3 {
			t.Errorf("Running() = %d, want 3", s.Running())
		}
		advance(10 * time.Second)
		for i, c := range calls {
			if want := time.Duration(i/3) * time.Second; c.start != want {
				t.Errorf("item %d started at %v, want %v", i, c.start, want)
			}
		}
	})
}

func TestOrderPerKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newEnv(wide)
		defer s.end()
		a1 := s.mustSubmit(t, "g", 1, &call{name: "a1", takes: 5 * time.Second})
		a2 := s.mustSubmit(t, "g", 1, &call{name: "a2", takes: time.Second})
		a3 := s.mustSubmit(t, "g", 1, &call{name: "a3", takes: time.Second})
		b1 := s.mustSubmit(t, "g", 2, &call{name: "b1", takes: time.Second})
		b2 := s.mustSubmit(t, "g", 2, &call{name: "b2", takes: time.Second})
		free := s.mustSubmit(t, "g", 0, &call{name: "free", takes: time.Second})
		advance(time.Minute)
		for _, c := range []struct {
			*call
			want time.Duration
		}{{a1, 0}, {b1, 0}, {free, 0}, {b2, time.Second}, {a2, 5 * time.Second}, {a3, 6 * time.Second}} {
			if c.start != c.want {
				t.Errorf("%s started at %v, want %v", c.name, c.start, c.want)
			}
		}
	})
}

// TestKeysOfGroupsAreIndependent checks that a key only orders the items of its group.
func TestKeysOfGroupsAreIndependent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newEnv(wide)
		defer s.end()
		s.mustSubmit(t, "g", 1, &call{takes: time.Hour})
		other := s.mustSubmit(t, "h", 1, &call{takes: time.Second})
		advance(time.Second)
		if !other.started {
			t.Error("an item waits for another group's item of the same key")
		}
	})
}

func TestGroupsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newEnv(Config{Parallel: 3, MaxRunning: 1, MaxQueue: 1024, MaxWait: time.Hour})
		defer s.end()
		s.mustSubmit(t, "z", 0, &call{name: "z", takes: time.Second})
		for i := range 5 {
			s.mustSubmit(t, "long", 0, &call{name: fmt.Sprint("long", i), takes: time.Second})
		}
		s.mustSubmit(t, "short", 0, &call{name: "short", takes: time.Second})
		advance(10 * time.Second)
		want := []string{"z", "long0", "short", "long1", "long2", "long3", "long4"}
		if got := s.names(); !slices.Equal(got, want) {
			t.Errorf("order %v, want %v", got, want)
		}
	})
}

// TestHealthyAndUnhealthyTakeTurns checks that many groups that hang do not starve one that works, and vice versa.
func TestHealthyAndUnhealthyTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newEnv(Config{Parallel: 10, MaxRunning: 1, MaxQueue: 1024, MaxWait: time.Hour})
		defer s.end()
		for _, g := range []string{"good1", "good2", "good3"} {
			s.mustSubmit(t, g, 0, &call{takes: time.Millisecond})
			advance(time.Second)
		}
		s.mustSubmit(t, "holder", 0, &call{takes: time.Second})
		s.names()
		for i := range 4 {
			s.mustSubmit(t, "good1", 0, &call{name: "good", takes: time.Second})
			s.mustSubmit(t, fmt.Sprint("new", i), 0, &call{name: "new", takes: time.Second, fails: true})
		}
		advance(time.Minute)
		got := s.names()
		for i := 1; i < len(got); i++ {
			if got[i] == got[i-1] {
				t.Fatalf("order %v, want turns", got)
			}
		}
		if len(got) != 8 {
			t.Errorf("%d items ran, want 8: %v", len(got), got)
		}
	})
}

func TestReserveIsKeptForHealthyGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newEnv(Config{Parallel: 3, MaxRunning: 8, HealthySlots: 2, MaxQueue: 1024, MaxWait: 15 * time.Second})
		defer s.end()
		s.mustSubmit(t, "good", 0, &call{takes: time.Millisecond})
		advance(time.Second)
		for i := range 9 {
			s.mustSubmit(t, fmt.Sprint("hung", i/3), 0, &call{takes: 10 * time.Second, fails: true})
		}
		if s.Running() != 6 {
			t.Fatalf("%d items of unhealthy groups are running, want 8 - 2", s.Running())
		}
		good := s.mustSubmit(t, "good", 0, &call{takes: 10 * time.Millisecond})
		advance(20 * time.Millisecond)
		if good.end == 0 {
			t.Error("a healthy group waits although slots are reserved for it")
		}
	})
}

// A group that becomes healthy while its items are queued gets the slots reserved for healthy groups.
func TestGroupThatBecomesHealthyWhileItWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newEnv(Config{Parallel: 3, MaxRunning: 4, HealthySlots: 2, MaxQueue: 1024, MaxWait: 15 * time.Second})
		defer s.end()
		s.mustSubmit(t, "new", 0, &call{takes: time.Second})
		s.mustSubmit(t, "hung", 0, &call{takes: time.Hour, fails: true})
		// No shared slot is left. Both groups wait, the other one first.
		s.mustSubmit(t, "hung2", 0, &call{takes: time.Hour, fails: true})
		waits := s.mustSubmit(t, "new", 0, &call{takes: time.Second})
		advance(2 * time.Second)
		if !waits.started || waits.start != time.Second {
			t.Errorf("started: %v at %v, want at 1s: its group became healthy and 2 slots are free",
				waits.started, waits.start)
		}
	})
}

func TestQueueLimit(t *testing.T) {
	ok := func(d time.Duration) *call { return &call{takes: d} }
	tests := []struct {
		name  string
		calls []*call // made before, one after the other
		want  int     // items that are queued
	}{
		{"unknown", nil, 1024},
		{"no call was made", []*call{{takes: time.Minute, uncalled: true}}, 1024},
		{"1s", []*call{ok(time.Second)}, 45},                   // 3 wide × 15s
		{"50ms", []*call{ok(50 * time.Millisecond)}, 900 + 15}, // plus a quarter of a second
		{"fast", []*call{ok(time.Millisecond)}, 1024 + 750},    // MaxQueue
		{"instant", []*call{ok(0)}, 1024 + 1024},
		{"10s", []*call{{takes: 10 * time.Second, fails: true}}, 4},
		{"slow", []*call{ok(time.Minute)}, 4},
		{"average", []*call{ok(time.Second), ok(5 * time.Second)}, 22}, // 1 + (5-1)/4 = 2s: 3/2 × 15
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newEnv(wide)
				defer s.end()
				for _, c := range test.calls {
					s.mustSubmit(t, "g", 0, c)
					advance(2 * time.Minute)
				}
				for range 3 {
					s.mustSubmit(t, "g", 0, &call{takes: 30 * time.Second})
				}
				waiting := 0
				for s.Submit("g", 0, ok(0)) {
					waiting++
				}
				if waiting != test.want {
					t.Errorf("%d items are queued, want %d", waiting, test.want)
				}
				if !s.Submit("other", 0, ok(0)) {
					t.Error("another group's item was refused")
				}
			})
		})
	}
}

// TestHangIsDetectedEarly checks that the age of running calls shows a hang before the first of them times out.
func TestHangIsDetectedEarly(t *testing.T) {
	for _, known := range []bool{false, true} {
		t.Run(fmt.Sprintf("known=%v", known), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newEnv(wide)
				defer s.end()
				if known {
					s.mustSubmit(t, "g", 0, &call{takes: time.Millisecond})
					advance(time.Second)
				}
				before := s.Rate("g")
				for range 13 {
					s.mustSubmit(t, "g", 0, &call{takes: 10 * time.Second, fails: true})
				}
				advance(5 * time.Second)
				if s.Submit("g", 0, &call{}) {
					t.Error("accepted an item although 10 are queued behind calls that have run for 5s (limit 3/5 × 15 = 9)")
				}
				if got := s.Rate("g"); got != 3.0/5 {
					t.Errorf("Rate = %v after 5s (%v before), want 3 per 5s", got, before)
				}
				advance(time.Minute)
			})
		})
	}
}

func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newEnv(wide)
		defer s.end()
		if got := s.Rate("g"); got != 0 {
			t.Errorf("Rate of an unknown group = %v, want 0", got)
		}
		s.mustSubmit(t, "g", 0, &call{takes: 500 * time.Millisecond})
		if got := s.Rate("g"); got != 0 {
			t.Errorf("Rate at the start of the first call = %v, want 0", got)
		}
		advance(time.Second)
		if got := s.Rate("g"); got != 6 {
			t.Errorf("Rate = %v, want 3 per 0.5s", got)
		}
	})
}

func TestOverdue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newEnv(wide)
		defer s.end()
		for range 3 {
			s.mustSubmit(t, "g", 0, &call{takes: time.Minute})
		}
		s.mustSubmit(t, "g", 0, &call{name: "first"})
		s.mustSubmit(t, "g", 0, &call{name: "second"})
		advance(time.Second)
		s.mustSubmit(t, "g", 0, &call{name: "third"})
		advance(14 * time.Second)
		if late := s.Overdue(time.Now()); len(late) != 0 {
			t.Errorf("%d items are overdue after exactly 15s, want none", len(late))
		}
		advance(time.Millisecond)
		late := s.Overdue(time.Now())
		if len(late) != 2 || late[0].name != "first" || late[1].name != "second" {
			t.Errorf("overdue: %v, want first and second", late)
		}
		advance(time.Second)
		if late := s.Overdue(time.Now()); len(late) != 1 || late[0].name != "third" {
			t.Errorf("overdue: %v, want third", late)
		}
		advance(time.Minute)
		if s.Running() != 0 {
			t.Errorf("%d items run although they were removed", s.Running())
		}
	})
}

// TestOverdueOfHangingGroup checks that the newest items are returned if they would have to wait too long.
func TestOverdueOfHangingGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newEnv(wide)
		defer s.end()
		for i := range 23 {
			s.mustSubmit(t, "g", 0, &call{name: fmt.Sprint(i), takes: time.Minute})
		}
		advance(999 * time.Millisecond)
		if late := s.Overdue(time.Now()); len(late) != 0 {
			t.Errorf("%d items returned after 0.999s, want none", len(late))
		}
		advance(4001 * time.Millisecond)
		late := s.Overdue(time.Now())
		if len(late) != 11 || late[0].name != "22" || late[10].name != "12" { // 3 wide / 5s × 15s = 9 may wait
			t.Errorf("%d items returned after 5s, want the 11 newest", len(late))
		}
	})
}

func TestPurge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newEnv(wide)
		defer s.end()
		for range 3 {
			s.mustSubmit(t, "g", 0, &call{name: "running", takes: time.Second})
		}
		for i := range 6 {
			s.mustSubmit(t, "g", uint64(i%2+1), &call{name: fmt.Sprint(i), takes: time.Second})
		}
		gone := s.Purge(func(c *call) bool { return c.name == "0" || c.name == "3" || c.name == "running" })
		if len(gone) != 2 || gone[0].name != "0" || gone[1].name != "3" {
			t.Errorf("purged %v, want 0 and 3, and no running item", gone)
		}
		advance(time.Minute)
		got := s.names()
		slices.Sort(got)
		if want := []string{"1", "2", "4", "5", "running", "running", "running"}; !slices.Equal(got, want) {
			t.Errorf("ran: %v, want %v", got, want)
		}
		s.mustSubmit(t, "g", 0, &call{name: "later", takes: time.Second})
		if got := s.names(); !slices.Equal(got, []string{"later"}) {
			t.Error("the lane is stuck after a purge")
		}
		advance(time.Minute)
	})
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // fails if a goroutine leaks
		s := newEnv(wide)
		running := s.mustSubmit(t, "g", 1, &call{takes: time.Second})
		waiting := s.mustSubmit(t, "g", 1, &call{takes: time.Second})
		s.mustSubmit(t, "other", 0, &call{})
		synctest.Wait()
		s.Close()
		s.Close()
		after := s.mustSubmit(t, "new", 0, &call{})
		advance(time.Minute)
		if running.end == 0 {
			t.Error("a running item did not end")
		}
		if waiting.started || after.started {
			t.Error("a queued item started after Close")
		}
		if got := s.Purge(func(*call) bool { return true }); len(got) != 2 {
			t.Errorf("Purge returned %d items, want the 2 queued ones", len(got))
		}
	})
}

// TestForget checks that idle groups are forgotten once more than maxGroups are known.
func TestForget(t *testing.T) {
	l := New[int](wide, func(int) Report { return Report{} })
	defer l.Close()
	for id := range maxGroups + 3000 {
		l.groups[id] = &group[int, int]{}
	}
	l.Overdue(time.Now())
	if n := len(l.groups); n != maxGroups {
		t.Errorf("%d groups are known, want %d", n, maxGroups)
	}
}

func BenchmarkSubmitAndRun(b *testing.B) {
	for _, groups := range []int{1, 1000} {
		b.Run(fmt.Sprintf("groups=%d", groups), func(b *testing.B) {
			done := make(chan struct{}, 4096)
			l := New[int](Config{Parallel: 3, MaxRunning: 2000, HealthySlots: 500, MaxQueue: 1024, MaxWait: 15 * time.Second},
				func(int) Report {
					done <- struct{}{}
					return Report{Took: time.Microsecond, OK: true, Called: true}
				})
			defer l.Close()
			b.ReportAllocs()
			open := 0
			for i := 0; b.Loop(); i++ {
				for open >= 512 || !l.Submit(i%groups, uint64(i)|1, i) {
					<-done
					open--
				}
				open++
			}
			for ; open > 0; open-- {
				<-done
			}
		})
	}
}
