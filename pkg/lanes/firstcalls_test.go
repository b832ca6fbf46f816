package lanes

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// crowd is many groups whose calls hang for 10 s. Deferred items are submitted again after 10 s, as from an overflow
// topic.
type crowd struct {
	*env
	mu       sync.Mutex
	groups   map[*call]string
	deferred int
}

func newCrowd(cfg Config) *crowd {
	c := &crowd{env: newEnv(cfg), groups: map[*call]string{}}
	c.started = make(chan *call, 100_000)
	return c
}

func (c *crowd) submit(group string, one *call, deferred bool) {
	c.mu.Lock()
	c.groups[one] = group
	c.mu.Unlock()
	take := c.Submit
	if deferred {
		take = c.SubmitDeferred
	}
	if !take(group, 0, one) {
		c.resubmit(one)
	}
}

func (c *crowd) resubmit(one *call) {
	c.mu.Lock()
	c.deferred++
	group := c.groups[one]
	c.mu.Unlock()
	time.AfterFunc(10*time.Second, func() {
		if !c.SubmitDeferred(group, 0, one) {
			c.resubmit(one)
		}
	})
}

// deferOverdue defers the overdue items.
func (c *crowd) deferOverdue() {
	for _, one := range c.Overdue(time.Now()) {
		c.resubmit(one)
	}
}

// production holds the values that the service uses.
var production = Config{
	Parallel: 3, MaxRunning: 2000, HealthySlots: 500, FirstCallSlots: 250,
	MaxQueue: 1024, MaxUnhealthyQueue: 8000,
	MaxWait: 15 * time.Second,
}

// TestFirstCallsInACrowd submits items of thousands of groups that hang, all at once as after a restart. The first call
// of a group that comes later must start within a second, and every group that hangs must still get its calls.
func TestFirstCallsInACrowd(t *testing.T) {
	for _, test := range []struct {
		name     string
		hung     int
		cfg      func(*Config)
		within   time.Duration
		all      time.Duration // within which all groups are called
		deferred bool
		each     int
		requests int // of a hung call, which take 10 s each
	}{
		{"351 in few slots", 351, func(c *Config) { c.MaxRunning, c.HealthySlots, c.FirstCallSlots = 512, 128, 64 },
			time.Second, time.Minute, false, 3, 1},
		{"3000", 3000, func(*Config) {}, time.Second, 2 * time.Minute, false, 3, 1},
		{"3000 with two requests each", 3000, func(*Config) {}, time.Second, 4 * time.Minute, false, 3, 2},
		{"3000 whose items return", 3000, func(*Config) {}, time.Second, 2 * time.Minute, true, 3, 1},
		{"20000", 20_000, func(*Config) {}, time.Second, 5 * time.Minute, false, 1, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := production
				test.cfg(&cfg)
				c := newCrowd(cfg)
				takes := time.Duration(test.requests) * 10 * time.Second
				c.Pace(func(one *call) time.Duration { return one.takes + 50*time.Millisecond })
				c.began = time.Now()
				defer c.end()
				var hung []*call
				for i := range test.hung {
					for range test.each {
						one := &call{takes: takes, fails: true}
						hung = append(hung, one)
						c.submit(fmt.Sprint("hung", i), one, test.deferred)
					}
				}
				type first struct {
					*call
					came time.Duration
				}
				var firsts []first
				for i := range 720 {
					if advance(83 * time.Millisecond); i%3 == 0 {
						c.deferOverdue()
					}
					one := first{&call{takes: 5 * time.Millisecond}, time.Since(c.began)}
					firsts = append(firsts, one)
					c.submit(fmt.Sprint("new", i), one.call, false)
				}
				advance(time.Second)
				var worst time.Duration
				for _, one := range firsts {
					if !one.started {
						t.Fatalf("the first call submitted at %v did not start", one.came)
					}
					worst = max(worst, one.start-one.came)
				}
				if worst > test.within {
					t.Errorf("a first call started %v late, want at most %v", worst, test.within)
				}
				for time.Since(c.began) < test.all {
					advance(250 * time.Millisecond)
					c.deferOverdue()
				}
				called := map[string]bool{}
				for _, one := range hung {
					if one.started {
						called[c.groups[one]] = true
					}
				}
				if len(called) != test.hung {
					t.Errorf("%d of %d hanging groups were called within %v", len(called), test.hung, test.all)
				}
				t.Logf("first calls at most %v late, %d items deferred", worst, c.deferred)
			})
		})
	}
}

// TestFirstCallsOfManyThatWork has a consumer poll items of 30,000 groups that were never called, as after a restart
// with a backlog. While Ready reports many groups, the consumer waits. Groups that work must be called without a
// detour; groups that hang must not delay the consumer.
func TestFirstCallsOfManyThatWork(t *testing.T) {
	const (
		groups    = 30_000
		eachPoll  = 512
		many      = 256
		pollTakes = 10  // ms
		longest   = 100 // ms that a poll waits
		unhealthy = 8000
	)
	for _, test := range []struct {
		name  string
		takes time.Duration
		works bool
		max   time.Duration // until all were polled
	}{
		{"1ms", time.Millisecond, true, 2 * time.Second},
		{"80ms", 80 * time.Millisecond, true, 4 * time.Second},
		{"hung", 10 * time.Second, false, 650 * time.Millisecond},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := production
				cfg.Burst, cfg.BurstWindow = 64, 2*time.Millisecond
				c := newCrowd(cfg)
				defer c.end()
				tick := 0
				advanceMS := func() {
					advance(time.Millisecond)
					if tick++; tick%250 == 0 {
						c.deferOverdue()
					}
				}
				for n := range groups {
					c.submit(fmt.Sprint(n), &call{takes: test.takes, fails: !test.works}, false)
					if n%eachPoll != 0 {
						continue
					}
					for range pollTakes {
						advanceMS()
					}
					for range longest {
						if ready, _ := c.Ready(); ready <= many {
							break
						}
						advanceMS()
					}
				}
				if took := time.Since(c.began); took > test.max {
					t.Errorf("all were polled after %v, want at most %v", took, test.max)
				}
				if !test.works {
					c.deferOverdue()
					if most := unhealthy + cfg.MaxRunning; groups-c.deferred > most {
						t.Errorf("%d items are in memory, want at most %d", groups-c.deferred, most)
					}
					return
				}
				for c.Running() > 0 {
					advanceMS()
				}
				if c.deferred > 0 {
					t.Errorf("%d items were deferred, want none", c.deferred)
				}
			})
		})
	}
}

// TestQuickFailureIsHealthy checks that a group whose call failed quickly does not wait for groups that hang.
func TestQuickFailureIsHealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newEnv(Config{Parallel: 3, MaxRunning: 8, HealthySlots: 2, MaxQueue: 1024, MaxWait: 15 * time.Second})
		defer s.end()
		s.mustSubmit(t, "refused", 0, &call{takes: time.Millisecond, fails: true})
		advance(time.Second)
		for i := range 9 {
			s.mustSubmit(t, fmt.Sprint("hung", i/3), 0, &call{takes: 10 * time.Second, fails: true})
		}
		one := s.mustSubmit(t, "refused", 0, &call{takes: time.Millisecond})
		advance(time.Millisecond)
		if one.end == 0 {
			t.Error("the item waits for groups that hang")
		}
	})
}

// TestMaxUnhealthyQueue checks that the bound covers all unhealthy groups and leaves healthy ones alone.
func TestMaxUnhealthyQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := wide
		cfg.MaxUnhealthyQueue = 20
		s := newEnv(cfg)
		defer s.end()
		s.mustSubmit(t, "good", 0, &call{takes: time.Millisecond})
		advance(time.Second)
		for range 103 {
			s.mustSubmit(t, "good", 0, &call{takes: time.Hour})
		}
		for range 30 {
			s.mustSubmit(t, "large", 0, &call{name: "large", takes: time.Hour})
		}
		for i := range 5 {
			for range 5 {
				s.mustSubmit(t, fmt.Sprint("small", i), 0, &call{name: "small", takes: time.Hour})
			}
		}
		synctest.Wait()
		late := s.Overdue(time.Now())
		deferred := map[string]int{}
		for _, c := range late {
			deferred[c.name]++
		}
		// 27 + 5 × 2 items are queued; each group keeps 20 / 6 of them.
		if deferred["large"] != 24 || len(late) != 24 {
			t.Errorf("shed %v, want 24 items of the large group", deferred)
		}
	})
}
