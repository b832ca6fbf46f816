// Package lanes runs items in order per key, at most N wide per group, and fairly between groups.
//
// A group is an endpoint, a key is a message: two items of one key never run at the same time and start in the
// order in which they were submitted; a group has at most Parallel items running; when all slots of the process
// are taken, waiting groups take turns, and a share of the slots is kept for groups whose last call succeeded, so
// that groups that hang cannot take them all. Each group's queue is bounded by what the group can do in
// Patience, measured by its latency: what does not fit is refused, never buffered without limit.
package lanes

import (
	"sync"
	"time"
)

// Config bounds the lanes. All fields must be positive, Reserve may be 0.
type Config struct {
	Parallel   int           // items of one group running at the same time
	MaxRunning int           // items of all groups running at the same time
	Reserve    int           // of MaxRunning, kept for groups whose last call succeeded
	QueueMax   int           // items of one group waiting
	Patience   time.Duration // an item is not to wait longer than this
	// Burst bounds the running items that were started within the last Pace, 0 = not. Items that end fast keep it from
	// ever being felt; when the machine itself is what is slow, more at a time would only be slower.
	// Pace grows while the machine is behind.
	Burst int
	Pace  time.Duration
}

const (
	queueLeast = 4    // a slow group's queue
	hanging    = 3    // seconds of latency from which on what is queued beyond the limit is given back
	silent     = 1    // the same for a group that has never answered
	slack      = 0.25 // seconds of a group's work that may be queued beyond the limit: a burst for a fast group
	swiftly    = 0.01 // seconds of latency below which a queue is soon worked off
	smoothing  = 0.25 // weight of the newest call in the latency average
	maxIdle    = 256  // goroutines kept for the next items
	maxGroups  = 200_000

	stretch      = 10 // Pace grows by so much for each moment that the machine is behind,
	maxStretched = 100 * time.Millisecond
)

// The two queues of ready groups.
const (
	notReady side = iota
	inUnproven
	inProven
)

type side uint8

// Report says how the call behind an item went.
type Report struct {
	Took   time.Duration
	OK     bool
	Called bool // false: no call was made, nothing is learned from it
}

// Lanes holds the groups. Its methods may be called from any goroutine.
type Lanes[G comparable, T any] struct {
	cfg Config
	run func(T) Report

	mu       sync.Mutex
	groups   map[G]*group[G, T]
	waiting  map[*group[G, T]]struct{} // groups with a queue
	proven   fifo[*group[G, T]]        // ready groups whose last call succeeded
	unproven fifo[*group[G, T]]        // the other ready groups
	turn     bool                      // which of the two is asked first
	running  int
	doubtful int // running items that were started from unproven
	queued   int // waiting items of swift groups
	recent   recent
	wake     *time.Timer   // starts what Burst held back
	late     time.Duration // by how much the machine is behind lately
	idle     []chan job[G, T]
	closed   bool
}

type entry[T any] struct {
	item  T
	key   uint64
	since time.Time
}

type slot struct {
	key     uint64
	started time.Time
}

type group[G comparable, T any] struct {
	id      G
	queue   fifo[entry[T]]
	slots   []slot
	average float64 // seconds; 0 = no call yet
	proven  bool
	swift   bool // proven, and so fast that a queue is soon worked off
	ready   side // the ready queue that it is in; an entry in the other is stale
}

type job[G comparable, T any] struct {
	g        *group[G, T]
	e        entry[T]
	slot     slot
	doubtful bool
	number   uint64 // among all that were started
}

// New gives lanes that call run for each item, on a goroutine of their own. run may block.
func New[G comparable, T any](cfg Config, run func(T) Report) *Lanes[G, T] {
	l := &Lanes[G, T]{cfg: cfg, run: run, groups: map[G]*group[G, T]{}, waiting: map[*group[G, T]]struct{}{}}
	l.recent.pace = cfg.Pace
	return l
}

// Submit puts an item into its group's lane; key 0 is no key: such items have no order. False: the group's queue
// is full and the item was not taken.
func (l *Lanes[G, T]) Submit(id G, key uint64, item T) bool {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	g := l.groups[id]
	if g == nil {
		g = &group[G, T]{id: id, slots: make([]slot, 0, min(l.cfg.Parallel, 4))}
		l.groups[id] = g
	}
	e := entry[T]{item: item, key: key, since: now}
	if g.queue.len() == 0 && l.startable(g, key) && l.mayStart(g, now) {
		l.launch(l.take(g, e, now))
		return true
	}
	if g.queue.len() >= l.limit(g, now) {
		return false
	}
	g.queue.push(e)
	l.changed(g, 1)
	l.waiting[g] = struct{}{}
	l.markReady(g)
	l.fill(now)
	return true
}

// changed counts n items into or out of g's queue.
func (l *Lanes[G, T]) changed(g *group[G, T], n int) {
	if g.swift {
		l.queued += n
	}
}

// Rate is what a group is believed to do, in items per second; 0 while nothing is known.
func (l *Lanes[G, T]) Rate(id G) float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	g := l.groups[id]
	if g == nil {
		return 0
	}
	if latency := g.latency(time.Now()); latency > 0 {
		return float64(l.cfg.Parallel) / latency
	}
	return 0
}

// Overdue takes out and returns the items that have waited longer than Patience, and the newest ones of groups that
// hang which would have to.
func (l *Lanes[G, T]) Overdue(now time.Time) []T {
	l.mu.Lock()
	defer l.mu.Unlock()
	var late []T
	for g := range l.waiting {
		before := g.queue.len()
		for g.queue.len() > 0 && now.Sub(g.queue.at(0).since) > l.cfg.Patience {
			late = append(late, g.queue.pop().item)
		}
		if latency := g.latency(now); latency >= hanging || g.average == 0 && latency >= silent {
			for limit := l.limit(g, now); g.queue.len() > limit; {
				late = append(late, g.queue.removeLast().item)
			}
		}
		l.changed(g, g.queue.len()-before)
		l.unlist(g)
	}
	l.forget()
	return late
}

// Purge takes out and returns the waiting items for which gone is true.
func (l *Lanes[G, T]) Purge(gone func(T) bool) []T {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []T
	for g := range l.waiting {
		before := g.queue.len()
		g.queue.filter(func(e *entry[T]) bool {
			if gone(e.item) {
				out = append(out, e.item)
				return false
			}
			return true
		})
		l.changed(g, g.queue.len()-before)
		l.unlist(g)
	}
	return out
}

// Running is the number of items running now.
func (l *Lanes[G, T]) Running() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.running
}

// Ready is what waits for nothing but a moment: the groups whose last call succeeded that have an item to start, and the
// items waiting in groups that answer at once.
func (l *Lanes[G, T]) Ready() (groups, items int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.proven.len(), l.queued
}

// Close ends the idle goroutines and starts no waiting item any more; running items end by themselves.
func (l *Lanes[G, T]) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.wake != nil {
		l.wake.Stop()
		l.wake = nil
	}
	for _, c := range l.idle {
		close(c)
	}
	l.idle = nil
}

// latency is the group's seconds per call: the average, or the age of its oldest running call where that is more,
// so that a group that has begun to hang is seen before its first time-out. 0 = unknown.
func (g *group[G, T]) latency(now time.Time) float64 {
	seconds := g.average
	for _, s := range g.slots {
		if age := now.Sub(s.started).Seconds(); age > seconds && (seconds > 0 || age > 0.25) {
			seconds = age
		}
	}
	return seconds
}

func (l *Lanes[G, T]) limit(g *group[G, T], now time.Time) int {
	latency, most := g.latency(now), float64(l.cfg.QueueMax)
	if latency == 0 {
		return l.cfg.QueueMax // nothing is known yet, and will be soon
	}
	rate := float64(l.cfg.Parallel) / latency
	n := min(max(rate*l.cfg.Patience.Seconds(), queueLeast), most)
	return int(n + min(rate*slack, most))
}

// startable: the group has a slot free and no running item of the key.
func (l *Lanes[G, T]) startable(g *group[G, T], key uint64) bool {
	if len(g.slots) >= l.cfg.Parallel {
		return false
	}
	if key == 0 {
		return true
	}
	for _, s := range g.slots {
		if s.key == key {
			return false
		}
	}
	return true
}

// mayStart: the process has a slot for the group.
func (l *Lanes[G, T]) mayStart(g *group[G, T], now time.Time) bool {
	if l.closed || l.running >= l.cfg.MaxRunning || l.cfg.Burst > 0 && l.recent.count(now) >= l.cfg.Burst {
		return false
	}
	return g.proven || l.doubtful < l.cfg.MaxRunning-l.cfg.Reserve
}

// candidate is the index of the first waiting item that may start, -1 if there is none.
func (l *Lanes[G, T]) candidate(g *group[G, T]) int {
	for i := range g.queue.len() {
		if l.startable(g, g.queue.at(i).key) {
			return i
		}
	}
	return -1
}

func (l *Lanes[G, T]) markReady(g *group[G, T]) {
	if g.ready == g.side() || len(g.slots) >= l.cfg.Parallel || l.candidate(g) < 0 {
		return
	}
	if g.ready = g.side(); g.ready == inProven {
		l.proven.push(g)
	} else {
		l.unproven.push(g)
	}
}

func (g *group[G, T]) side() side {
	if g.proven {
		return inProven
	}
	return inUnproven
}

// take moves e, already out of its queue, into a slot of g.
func (l *Lanes[G, T]) take(g *group[G, T], e entry[T], now time.Time) job[G, T] {
	j := job[G, T]{g: g, e: e, slot: slot{e.key, now}, doubtful: !g.proven}
	if l.cfg.Burst > 0 {
		j.number = l.recent.started(now)
	}
	g.slots = append(g.slots, j.slot)
	l.running++
	if j.doubtful {
		l.doubtful++
	}
	return j
}

// next picks the item whose turn it is.
func (l *Lanes[G, T]) next(now time.Time) (job[G, T], bool) {
	for {
		g, ok := l.nextGroup(now)
		if !ok {
			return job[G, T]{}, false
		}
		g.ready = notReady
		i := l.candidate(g)
		if i < 0 || len(g.slots) >= l.cfg.Parallel {
			continue // purged or swept meanwhile
		}
		j := l.take(g, g.queue.removeAt(i), now)
		l.changed(g, -1)
		l.unlist(g)
		l.markReady(g) // behind the others
		return j, true
	}
}

func (l *Lanes[G, T]) nextGroup(now time.Time) (*group[G, T], bool) {
	if l.closed || l.running >= l.cfg.MaxRunning {
		return nil, false
	}
	if l.cfg.Burst > 0 && l.recent.count(now) >= l.cfg.Burst {
		l.comeBack(now)
		return nil, false
	}
	l.turn = !l.turn
	for _, proven := range [2]bool{l.turn, !l.turn} {
		ready, from := &l.unproven, inUnproven
		if proven {
			ready, from = &l.proven, inProven
		}
		for ready.len() > 0 && (proven || l.doubtful < l.cfg.MaxRunning-l.cfg.Reserve) {
			if g := ready.pop(); g.ready == from {
				return g, true
			}
		}
	}
	return nil, false
}

// comeBack sees to it that what Burst holds back is started in time even if no running item ends. How late it is itself
// tells how far the machine is behind.
func (l *Lanes[G, T]) comeBack(now time.Time) {
	if l.wake != nil || l.proven.len() == 0 && l.unproven.len() == 0 {
		return
	}
	wait := l.recent.next(now)
	l.wake = time.AfterFunc(wait, func() {
		woken := time.Now()
		l.mu.Lock()
		defer l.mu.Unlock()
		l.behind(woken.Sub(now) - wait)
		l.wake = nil
		l.fill(woken)
	})
}

// behind stretches the pace by how late the machine is.
func (l *Lanes[G, T]) behind(late time.Duration) {
	l.late += (late - l.late) / 8
	l.recent.pace = min(l.cfg.Pace+stretch*l.late, maxStretched)
}

// fill starts what may start.
func (l *Lanes[G, T]) fill(now time.Time) {
	for {
		j, ok := l.next(now)
		if !ok {
			return
		}
		l.launch(j)
	}
}

func (l *Lanes[G, T]) launch(j job[G, T]) {
	if n := len(l.idle); n > 0 {
		l.idle[n-1] <- j // has room for one, and an idle worker has none
		l.idle = l.idle[:n-1]
		return
	}
	go l.work(j)
}

func (l *Lanes[G, T]) work(j job[G, T]) {
	var mine chan job[G, T]
	for {
		report := l.run(j.e.item)
		var more bool
		if j, more = l.finished(j, report); more {
			continue
		}
		l.mu.Lock()
		if l.closed || len(l.idle) >= maxIdle {
			l.mu.Unlock()
			return
		}
		if mine == nil {
			mine = make(chan job[G, T], 1)
		}
		l.idle = append(l.idle, mine)
		l.mu.Unlock()
		if j, more = <-mine; !more {
			return
		}
	}
}

// finished frees j's slot and gives the worker its next item.
func (l *Lanes[G, T]) finished(j job[G, T], r Report) (job[G, T], bool) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	g := j.g
	for i := range g.slots {
		if g.slots[i] == j.slot {
			g.slots = append(g.slots[:i], g.slots[i+1:]...)
			break
		}
	}
	l.running--
	if j.doubtful {
		l.doubtful--
	}
	if l.cfg.Burst > 0 {
		l.recent.ended(j.number)
	}
	if r.Called {
		g.proven = r.OK
		if seconds := max(r.Took.Seconds(), 1e-6); g.average == 0 {
			g.average = seconds
		} else {
			g.average += smoothing * (seconds - g.average)
		}
		l.changed(g, -g.queue.len())
		g.swift = g.proven && g.average < swiftly
		l.changed(g, g.queue.len())
	}
	l.markReady(g)
	mine, ok := l.next(now)
	if ok {
		l.fill(now)
	}
	return mine, ok
}

// unlist keeps the set of waiting groups true.
func (l *Lanes[G, T]) unlist(g *group[G, T]) {
	if g.queue.len() == 0 {
		delete(l.waiting, g)
	}
}

// forget drops some of the groups that have nothing running or waiting, once there are very many.
func (l *Lanes[G, T]) forget() {
	tries := 4096
	for id, g := range l.groups {
		if len(l.groups) <= maxGroups || tries == 0 {
			return
		}
		if tries--; len(g.slots) == 0 && g.queue.len() == 0 && g.ready == notReady {
			delete(l.groups, id)
		}
	}
}
