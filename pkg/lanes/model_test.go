package lanes

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// modelItem is an item with what the model knows of it.
type modelItem struct {
	n     int
	group int
	key   uint64
	takes time.Duration
	fails bool

	ran, back int
}

// ending is what the calls of a group said that ended last. Of several that end at one moment, the lanes may hear of any last.
type ending struct {
	at         time.Time
	ok, failed bool
}

// world is the lanes said plainly: what runs and what was accepted, by group and key.
type world struct {
	t   *testing.T
	cfg Config
	l   *Lanes[int, *modelItem]

	mu       sync.Mutex
	running  map[int]map[*modelItem]bool
	total    int
	last     map[int]ending
	accepted []*modelItem
	pending  map[int]map[uint64][]*modelItem // accepted and not started, by group and key, in order
}

func newWorld(t *testing.T, cfg Config) *world {
	w := &world{t: t, cfg: cfg, running: map[int]map[*modelItem]bool{}, last: map[int]ending{}, pending: map[int]map[uint64][]*modelItem{}}
	w.l = New[int](cfg, w.run)
	return w
}

func (w *world) run(it *modelItem) Report {
	w.begin(it)
	time.Sleep(it.takes)
	w.mu.Lock()
	delete(w.running[it.group], it)
	w.total--
	end := w.last[it.group]
	if now := time.Now(); !end.at.Equal(now) {
		end = ending{at: now}
	}
	if it.fails && it.takes >= soon*time.Second {
		end.failed = true
	} else {
		end.ok = true
	}
	w.last[it.group] = end
	w.mu.Unlock()
	return Report{Took: it.takes, OK: !it.fails, Called: true}
}

func (w *world) begin(it *modelItem) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if it.ran++; it.ran > 1 || it.back > 0 {
		w.t.Errorf("item %d ran %d times, given back %d times", it.n, it.ran, it.back)
	}
	for other := range w.running[it.group] {
		if it.key != 0 && other.key == it.key {
			w.t.Errorf("items %d and %d of key %d run at the same time", other.n, it.n, it.key)
		}
	}
	if q := w.pending[it.group][it.key]; it.key != 0 && q[0] != it {
		w.t.Errorf("item %d of key %d started before item %d", it.n, it.key, q[0].n)
	}
	w.unpend(it)
	if w.running[it.group] == nil {
		w.running[it.group] = map[*modelItem]bool{}
	}
	w.running[it.group][it] = true
	w.total++
	if n := len(w.running[it.group]); n > w.cfg.Parallel {
		w.t.Errorf("%d items of group %d run, want at most %d", n, it.group, w.cfg.Parallel)
	}
	if w.total > w.cfg.MaxRunning {
		w.t.Errorf("%d items run, want at most %d", w.total, w.cfg.MaxRunning)
	}
}

func (w *world) unpend(it *modelItem) {
	q := w.pending[it.group][it.key]
	for i := range q {
		if q[i] == it {
			w.pending[it.group][it.key] = append(q[:i:i], q[i+1:]...)
			return
		}
	}
	w.t.Errorf("item %d was not accepted, or had been started or given back", it.n)
}

func (w *world) submit(it *modelItem) {
	w.mu.Lock()
	if w.pending[it.group] == nil {
		w.pending[it.group] = map[uint64][]*modelItem{}
	}
	w.pending[it.group][it.key] = append(w.pending[it.group][it.key], it)
	w.mu.Unlock()
	if w.l.Submit(it.group, it.key, it) {
		w.accepted = append(w.accepted, it)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.unpend(it)
	waiting := 0
	for _, q := range w.pending[it.group] {
		waiting += len(q)
	}
	if waiting < min(queueLeast, w.cfg.MaxQueue) {
		w.t.Errorf("item %d was refused though only %d items of its group wait", it.n, waiting)
	}
}

func (w *world) returned(items []*modelItem) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, it := range items {
		if it.back++; it.back > 1 || it.ran > 0 {
			w.t.Errorf("item %d given back %d times, ran %d times", it.n, it.back, it.ran)
		}
		w.unpend(it)
	}
}

// check looks at the lanes at rest: nothing may wait that might run, and the books are true.
func (w *world) check() {
	synctest.Wait()
	w.l.mu.Lock()
	defer w.l.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.l.running != w.total {
		w.t.Errorf("lanes count %d running items, it is %d", w.l.running, w.total)
	}
	queued := 0
	for _, g := range w.l.groups {
		if g.swift {
			queued += g.queue.len()
		}
	}
	if w.l.queued != queued {
		w.t.Errorf("lanes count %d waiting items of swift groups, it is %d", w.l.queued, queued)
	}
	if most := w.cfg.MaxRunning - w.cfg.HealthySlots - w.cfg.FirstCallSlots; w.l.doubtful > most {
		w.t.Errorf("%d items of groups not proven run, want at most %d", w.l.doubtful, most)
	}
	if w.l.fresh > w.cfg.FirstCallSlots || w.l.running-w.l.fresh > w.cfg.MaxRunning-w.cfg.FirstCallSlots {
		w.t.Errorf("%d of %d running items are first calls in the %d slots kept for them", w.l.fresh, w.l.running, w.cfg.FirstCallSlots)
	}
	for id, keys := range w.pending {
		g, waiting := w.l.groups[id], 0
		for key, q := range keys {
			if waiting += len(q); len(q) == 0 || g == nil {
				continue
			}
			if w.l.startable(g, key) && w.l.mayStart(g, time.Now()) {
				w.t.Errorf("item %d of group %d (proven %v) might run but waits: %d running, %d of them doubtful",
					q[0].n, id, g.proven, w.l.running, w.l.doubtful)
			}
		}
		if g == nil {
			continue
		}
		// before its first call a group isn't proven
		if end := w.last[id]; g.proven && !end.ok || !g.proven && end.ok && !end.failed {
			w.t.Errorf("group %d: proven = %v, its last calls: %+v", id, g.proven, end)
		}
		if g.queue.len() != waiting {
			w.t.Errorf("group %d: %d items in its queue, accepted and not started are %d", id, g.queue.len(), waiting)
		}
		if _, listed := w.l.waiting[g]; listed != (waiting > 0) {
			w.t.Errorf("group %d with %d waiting items: listed = %v", id, waiting, listed)
		}
	}
}

// play does n random things, then lets everything come to its end.
func (w *world) play(random *rand.Rand, n int) {
	groups := 1 + random.IntN(12)
	steady := make([]int, groups) // per group: 0 fails at times, 1 works, 2 hangs
	for i := range steady {
		steady[i] = random.IntN(3)
	}
	for i := 0; i < n && !w.t.Failed(); i++ {
		switch random.IntN(20) {
		case 0:
			w.returned(w.l.Overdue(time.Now()))
		case 1:
			modulus := 1 + random.IntN(5)
			w.returned(w.l.Purge(func(it *modelItem) bool { return it.n%modulus == 0 }))
		case 2, 3, 4, 5, 6:
			time.Sleep(time.Duration(random.IntN(3000)) * time.Millisecond)
		default:
			g := random.IntN(groups)
			it := &modelItem{n: i, group: g, key: uint64(random.IntN(4)), takes: time.Duration(random.IntN(500)) * time.Millisecond}
			switch steady[g] {
			case 0:
				if it.fails = random.IntN(3) == 0; random.IntN(2) == 0 {
					it.takes *= 8
				}
			case 2:
				it.takes, it.fails = 10*time.Second, true
			}
			w.submit(it)
		}
		w.check()
	}
	time.Sleep(24 * time.Hour)
	if w.t.Failed() {
		return
	}
	w.check()
	for _, it := range w.accepted {
		if it.ran+it.back != 1 {
			w.t.Errorf("item %d ran %d times and was given back %d times, want once in all", it.n, it.ran, it.back)
		}
	}
}

func playSeed(t *testing.T, seed uint64, n int) {
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(seed, 1))
		cfg := Config{
			Parallel: 1 + random.IntN(3), MaxRunning: 1 + random.IntN(8), MaxQueue: 1 + random.IntN(80), MaxWait: 15 * time.Second,
		}
		cfg.HealthySlots = random.IntN(cfg.MaxRunning)
		if seed%3 == 1 {
			cfg.FirstCallSlots = random.IntN(cfg.MaxRunning - cfg.HealthySlots)
			cfg.MaxCall = 10 * time.Second
		}
		if seed%5 == 1 {
			cfg.MaxUnhealthyQueue = 1 + random.IntN(100)
		}
		if seed%2 == 1 {
			cfg.Burst, cfg.BurstWindow = 1+random.IntN(3), 300*time.Millisecond
		}
		w := newWorld(t, cfg)
		defer w.l.Close()
		w.play(random, n)
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

// A ring buffer is a list.
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
