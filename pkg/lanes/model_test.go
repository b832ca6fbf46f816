package lanes

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// modelItem is an item and its history.
type modelItem struct {
	n     int
	group int
	key   uint64
	takes time.Duration
	fails bool

	ran, back int
}

// ending holds the results of the calls of a group that ended last. Of several that ended at one moment, any may count
// as the last.
type ending struct {
	at         time.Time
	ok, failed bool
}

// model is a naive implementation of the lanes' rules: it tracks what runs and what was accepted, by group and key.
type model struct {
	t   *testing.T
	cfg Config
	l   *Lanes[int, *modelItem]

	mu       sync.Mutex
	running  map[int]map[*modelItem]bool
	total    int
	last     map[int]ending
	accepted []*modelItem
	pending  map[int]map[uint64][]*modelItem // accepted but not started, by group and key, in order
}

func newModel(t *testing.T, cfg Config) *model {
	m := &model{
		t: t, cfg: cfg, running: map[int]map[*modelItem]bool{}, last: map[int]ending{},
		pending: map[int]map[uint64][]*modelItem{},
	}
	m.l = New[int](cfg, m.run)
	if cfg.FirstCallSlots > 0 {
		m.l.Pace(func(*modelItem) time.Duration { return 10 * time.Second })
	}
	return m
}

func (m *model) run(it *modelItem) Report {
	m.begin(it)
	time.Sleep(it.takes)
	m.mu.Lock()
	delete(m.running[it.group], it)
	m.total--
	end := m.last[it.group]
	if now := time.Now(); !end.at.Equal(now) {
		end = ending{at: now}
	}
	if it.fails && it.takes >= quickFailure*time.Second {
		end.failed = true
	} else {
		end.ok = true
	}
	m.last[it.group] = end
	m.mu.Unlock()
	return Report{Took: it.takes, OK: !it.fails, Called: true}
}

func (m *model) begin(it *modelItem) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if it.ran++; it.ran > 1 || it.back > 0 {
		m.t.Errorf("item %d ran %d times, returned %d times", it.n, it.ran, it.back)
	}
	for other := range m.running[it.group] {
		if it.key != 0 && other.key == it.key {
			m.t.Errorf("items %d and %d of key %d run at the same time", other.n, it.n, it.key)
		}
	}
	if q := m.pending[it.group][it.key]; it.key != 0 && q[0] != it {
		m.t.Errorf("item %d of key %d started before item %d", it.n, it.key, q[0].n)
	}
	m.unpend(it)
	if m.running[it.group] == nil {
		m.running[it.group] = map[*modelItem]bool{}
	}
	m.running[it.group][it] = true
	m.total++
	if n := len(m.running[it.group]); n > m.cfg.Parallel {
		m.t.Errorf("%d items of group %d run, want at most %d", n, it.group, m.cfg.Parallel)
	}
	if m.total > m.cfg.MaxRunning {
		m.t.Errorf("%d items run, want at most %d", m.total, m.cfg.MaxRunning)
	}
}

func (m *model) unpend(it *modelItem) {
	q := m.pending[it.group][it.key]
	for i := range q {
		if q[i] == it {
			m.pending[it.group][it.key] = append(q[:i:i], q[i+1:]...)
			return
		}
	}
	m.t.Errorf("item %d was never accepted, or has already started or been returned", it.n)
}

func (m *model) submit(it *modelItem) {
	m.mu.Lock()
	if m.pending[it.group] == nil {
		m.pending[it.group] = map[uint64][]*modelItem{}
	}
	m.pending[it.group][it.key] = append(m.pending[it.group][it.key], it)
	m.mu.Unlock()
	if m.l.Submit(it.group, it.key, it) {
		m.accepted = append(m.accepted, it)
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.unpend(it)
	waiting := 0
	for _, q := range m.pending[it.group] {
		waiting += len(q)
	}
	if waiting < min(minQueue, m.cfg.MaxQueue) {
		m.t.Errorf("item %d was refused although only %d items of its group are queued", it.n, waiting)
	}
}

func (m *model) returned(items []*modelItem) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, it := range items {
		if it.back++; it.back > 1 || it.ran > 0 {
			m.t.Errorf("item %d was returned %d times and ran %d times", it.n, it.back, it.ran)
		}
		m.unpend(it)
	}
}

// check compares idle lanes with the model: no startable item is queued, and all counters are right.
func (m *model) check() {
	synctest.Wait()
	m.l.mu.Lock()
	defer m.l.mu.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.l.running != m.total {
		m.t.Errorf("lanes count %d running items, want %d", m.l.running, m.total)
	}
	queued, unknown := 0, 0
	for _, g := range m.l.groups {
		if g.fast {
			queued += g.queue.len()
		}
		if !g.called() {
			unknown += g.queue.len()
		}
	}
	if m.l.fast != queued || m.l.unproven != unknown {
		m.t.Errorf("lanes count %d and %d queued items of fast and new groups, want %d and %d",
			m.l.fast, m.l.unproven, queued, unknown)
	}
	if most := m.cfg.MaxRunning - m.cfg.HealthySlots - m.cfg.FirstCallSlots; m.l.shared > most {
		m.t.Errorf("%d items of unhealthy groups run, want at most %d", m.l.shared, most)
	}
	if m.l.first > m.cfg.FirstCallSlots || m.l.running-m.l.first > m.cfg.MaxRunning-m.cfg.FirstCallSlots {
		m.t.Errorf("%d of %d running items are first calls in the %d slots reserved for them",
			m.l.first, m.l.running, m.cfg.FirstCallSlots)
	}
	for id, keys := range m.pending {
		g, waiting := m.l.groups[id], 0
		for key, q := range keys {
			if waiting += len(q); len(q) == 0 || g == nil {
				continue
			}
			if m.l.startable(g, key) && m.l.mayStart(g, time.Now()) {
				m.t.Errorf("item %d of group %d (healthy: %v) could run but is queued: %d running, %d of them in shared slots",
					q[0].n, id, g.healthy, m.l.running, m.l.shared)
			}
		}
		if g == nil {
			continue
		}
		// A group is not healthy before its first call.
		if end := m.last[id]; g.healthy && !end.ok || !g.healthy && end.ok && !end.failed {
			m.t.Errorf("group %d: healthy = %v, its last calls: %+v", id, g.healthy, end)
		}
		if g.queue.len() != waiting {
			m.t.Errorf("group %d: %d items in its queue, but %d were accepted and have not started", id, g.queue.len(), waiting)
		}
		if _, listed := m.l.waiting[g]; listed != (waiting > 0) {
			m.t.Errorf("group %d with %d queued items: listed = %v", id, waiting, listed)
		}
	}
}

// play makes n random calls, then lets everything end.
func (m *model) play(random *rand.Rand, n int) {
	groups := 1 + random.IntN(12)
	steady := make([]int, groups) // per group: 0 fails sometimes, 1 works, 2 hangs
	for i := range steady {
		steady[i] = random.IntN(3)
	}
	for i := 0; i < n && !m.t.Failed(); i++ {
		switch random.IntN(20) {
		case 0:
			m.returned(m.l.Overdue(time.Now()))
		case 1:
			modulus := 1 + random.IntN(5)
			m.returned(m.l.Purge(func(it *modelItem) bool { return it.n%modulus == 0 }))
		case 2, 3, 4, 5, 6:
			time.Sleep(time.Duration(random.IntN(3000)) * time.Millisecond)
		default:
			g := random.IntN(groups)
			it := &modelItem{
				n: i, group: g, key: uint64(random.IntN(4)),
				takes: time.Duration(random.IntN(500)) * time.Millisecond,
			}
			switch steady[g] {
			case 0:
				if it.fails = random.IntN(3) == 0; random.IntN(2) == 0 {
					it.takes *= 8
				}
			case 2:
				it.takes, it.fails = 10*time.Second, true
			}
			m.submit(it)
		}
		m.check()
	}
	time.Sleep(24 * time.Hour)
	if m.t.Failed() {
		return
	}
	m.check()
	for _, it := range m.accepted {
		if it.ran+it.back != 1 {
			m.t.Errorf("item %d ran %d times and was returned %d times, want one of them once", it.n, it.ran, it.back)
		}
	}
}

func playSeed(t *testing.T, seed uint64, n int) {
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(seed, 1))
		cfg := Config{
			Parallel: 1 + random.IntN(3), MaxRunning: 1 + random.IntN(8), MaxQueue: 1 + random.IntN(80),
			MaxWait: 15 * time.Second,
		}
		cfg.HealthySlots = random.IntN(cfg.MaxRunning)
		if seed%3 == 1 {
			cfg.FirstCallSlots = random.IntN(cfg.MaxRunning - cfg.HealthySlots)
		}
		if seed%5 == 1 {
			cfg.MaxUnhealthyQueue = 1 + random.IntN(100)
		}
		if seed%2 == 1 {
			cfg.Burst, cfg.BurstWindow = 1+random.IntN(3), 300*time.Millisecond
		}
		m := newModel(t, cfg)
		defer m.l.Close()
		m.play(random, n)
	})
}

func TestModel(t *testing.T) {
	for seed := range uint64(300) {
		if t.Run(fmt.Sprint(seed), func(t *testing.T) { playSeed(t, seed, 200) }); t.Failed() {
			return
		}
	}
}

func FuzzModel(f *testing.F) {
	for seed := range uint64(20) {
		f.Add(seed, 100)
	}
	f.Fuzz(func(t *testing.T, seed uint64, n int) { playSeed(t, seed, min(max(n, 0), 2000)) })
}

// FuzzFIFO compares the ring buffer with a plain list.
func FuzzFIFO(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 0, 0, 2, 3, 0, 4})
	f.Fuzz(func(t *testing.T, ops []byte) {
		var q fifo[int]
		var list []int
		for n, op := range ops {
			switch {
			case op%5 < 3:
				q.push(n)
				list = append(list, n)
			case op%5 == 3 && len(list) > 0:
				i := int(op) % len(list)
				if got := q.removeAt(i); got != list[i] {
					t.Fatalf("removeAt(%d) = %d, want %d", i, got, list[i])
				}
				list = append(list[:i:i], list[i+1:]...)
			case op%5 == 4:
				modulus := int(op)%4 + 1
				q.filter(func(e *int) bool { return *e%modulus != 0 })
				var kept []int
				for _, e := range list {
					if e%modulus != 0 {
						kept = append(kept, e)
					}
				}
				list = kept
			}
			if q.len() != len(list) {
				t.Fatalf("len() = %d, want %d", q.len(), len(list))
			}
			for i := range list {
				if *q.at(i) != list[i] {
					t.Fatalf("at(%d) = %d, want %d", i, *q.at(i), list[i])
				}
			}
		}
	})
}
