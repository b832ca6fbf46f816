package lanes

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// crowd is many groups that hang for 10 s with each call. What is given back comes again after 10 s, as from an overflow
// topic.
type crowd struct {
	*stage
	mu     sync.Mutex
	groups map[*call]string
	given  int
}

func newCrowd(cfg Config) *crowd {
	c := &crowd{stage: newStage(cfg), groups: map[*call]string{}}
	c.started = make(chan *call, 100_000)
	return c
}

func (c *crowd) submit(group string, one *call, again bool) {
	c.mu.Lock()
	c.groups[one] = group
	c.mu.Unlock()
	take := c.Submit
	if again {
		take = c.SubmitDeferred
	}
	if !take(group, 0, one) {
		c.later(one)
	}
}

func (c *crowd) later(one *call) {
	c.mu.Lock()
	c.given++
	group := c.groups[one]
	c.mu.Unlock()
	time.AfterFunc(10*time.Second, func() {
		if !c.SubmitDeferred(group, 0, one) {
			c.later(one)
		}
	})
}

// look gives back what waits for too long.
func (c *crowd) look() {
	for _, one := range c.Overdue(time.Now()) {
		c.later(one)
	}
}

// usual is what the service uses.
var usual = Config{
	Parallel: 3, MaxRunning: 2000, HealthySlots: 500, FirstCallSlots: 250, MaxCall: 10*time.Second + 50*time.Millisecond, MaxQueue: 1024, MaxUnhealthyQueue: 8000,
	MaxWait: 15 * time.Second,
}

// TestFirstCallsInACrowd: with thousands of groups that hang, all at once as after a restart, the first call of a group
// that comes later starts within a second, and each that hangs has its calls all the same.
func TestFirstCallsInACrowd(t *testing.T) {
	for _, test := range []struct {
		name     string
		hung     int
		cfg      func(*Config)
		within   time.Duration
		all      time.Duration // in which all have been called
		lateness bool
		each     int
	}{
		{"351 in few slots", 351, func(c *Config) { c.MaxRunning, c.HealthySlots, c.FirstCallSlots = 512, 128, 64 }, time.Second, time.Minute, false, 3},
		{"3000", 3000, func(*Config) {}, time.Second, 2 * time.Minute, false, 3},
		{"3000 that come back", 3000, func(*Config) {}, time.Second, 2 * time.Minute, true, 3},
		{"20000", 20_000, func(*Config) {}, time.Second, 5 * time.Minute, false, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := usual
				test.cfg(&cfg)
				c := newCrowd(cfg)
				c.began = time.Now()
				defer c.end()
				var hung []*call
				for i := range test.hung {
					for range test.each {
						one := &call{takes: 10 * time.Second, fails: true}
						hung = append(hung, one)
						c.submit(fmt.Sprint("hung", i), one, test.lateness)
					}
				}
				type first struct {
					*call
					came time.Duration
				}
				var firsts []first
				for i := range 720 {
					if rest(83 * time.Millisecond); i%3 == 0 {
						c.look()
					}
					one := first{&call{takes: 5 * time.Millisecond}, time.Since(c.began)}
					firsts = append(firsts, one)
					c.submit(fmt.Sprint("new", i), one.call, false)
				}
				rest(time.Second)
				var worst time.Duration
				for _, one := range firsts {
					if !one.started {
						t.Fatalf("a first call at %v was not made", one.came)
					}
					worst = max(worst, one.start-one.came)
				}
				if worst > test.within {
					t.Errorf("a first call was %v late, want at most %v", worst, test.within)
				}
				for time.Since(c.began) < test.all {
					rest(250 * time.Millisecond)
					c.look()
				}
				called := map[string]bool{}
				for _, one := range hung {
					if one.started {
						called[c.groups[one]] = true
					}
				}
				if len(called) != test.hung {
					t.Errorf("%d of %d groups that hang were called in %v", len(called), test.hung, test.all)
				}
				t.Logf("first calls at most %v late, %d items given back", worst, c.given)
			})
		})
	}
}

// A group that failed soon does not hang: it waits for no group that does.
func TestFailedSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(Config{Parallel: 3, MaxRunning: 8, HealthySlots: 2, MaxQueue: 1024, MaxWait: 15 * time.Second})
		defer s.end()
		s.mustTake(t, "refused", 0, &call{takes: time.Millisecond, fails: true})
		rest(time.Second)
		for i := range 9 {
			s.mustTake(t, fmt.Sprint("hung", i/3), 0, &call{takes: 10 * time.Second, fails: true})
		}
		one := s.mustTake(t, "refused", 0, &call{takes: time.Millisecond})
		rest(time.Millisecond)
		if one.end == 0 {
			t.Error("it waits for groups that hang")
		}
	})
}

// What groups that are not proven have waiting is bounded over all of them; that of proven ones is not touched.
func TestQueueAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := wide
		cfg.MaxUnhealthyQueue = 20
		s := newStage(cfg)
		defer s.end()
		s.mustTake(t, "good", 0, &call{takes: time.Millisecond})
		rest(time.Second)
		for range 103 {
			s.mustTake(t, "good", 0, &call{takes: time.Hour})
		}
		for range 30 {
			s.mustTake(t, "large", 0, &call{name: "large", takes: time.Hour})
		}
		for i := range 5 {
			for range 5 {
				s.mustTake(t, fmt.Sprint("small", i), 0, &call{name: "small", takes: time.Hour})
			}
		}
		synctest.Wait()
		late := s.Overdue(time.Now())
		given := map[string]int{}
		for _, c := range late {
			given[c.name]++
		}
		// 27 + 5 × 2 wait; the part of each is 20 / 6.
		if given["large"] != 24 || len(late) != 24 {
			t.Errorf("given back: %v, want 24 of the large one", given)
		}
	})
}
