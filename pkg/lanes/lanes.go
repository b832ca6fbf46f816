// Package lanes runs items concurrently: in order per key, with bounded concurrency per group, and fairly between
// groups.
//
// In smshooks a group is an endpoint and a key is a message. The package itself knows neither.
//
//   - Two items of one key never run at the same time. They start in the order in which they were submitted.
//   - A group has at most [Config.Parallel] running items, the process at most [Config.MaxRunning]. When all slots are
//     taken, groups with queued items take turns.
//   - Some slots are reserved for healthy groups and some for first calls, so groups that hang cannot take them all.
//   - A group's queue holds only what the group can finish within [Config.MaxWait], judged by its latency. Items beyond
//     that are refused or returned by [Lanes.Overdue], never buffered without limit.
package lanes

import (
	"sync"
	"time"
)

// Config bounds the lanes. Parallel, MaxRunning, MaxQueue and MaxWait must be positive; there are no defaults.
// In the other fields 0 switches the bound off.
type Config struct {
	// Parallel is the number of items of one group that may run at the same time.
	Parallel int
	// MaxRunning is the number of items of all groups that may run at the same time: the slots.
	MaxRunning int
	// HealthySlots is the number of slots, out of MaxRunning, that only healthy groups use. A group is healthy if its
	// last call succeeded or failed within a second. 0 reserves none.
	HealthySlots int
	// FirstCallSlots is the number of slots, out of MaxRunning, that only first calls of groups use. 0 reserves none. See
	// [Lanes.Pace].
	FirstCallSlots int
	// MaxQueue is the number of items of one group that may be queued.
	MaxQueue int
	// MaxWait is the longest time that an item should be queued.
	MaxWait time.Duration
	// MaxUnhealthyQueue is the number of items that may be queued for all unhealthy groups together. Overdue returns
	// the excess. 0 means no bound.
	MaxUnhealthyQueue int
	// Burst is the number of running items that may have started within the last BurstWindow. Items that end fast never
	// reach it. When the machine itself is slow, starting more at a time would only slow it further. 0 means no bound.
	Burst int
	// BurstWindow is the window of Burst. It grows while the machine lags behind. Needed if Burst is set.
	BurstWindow time.Duration
}

// Report describes the call that was made for an item.
type Report struct {
	// Took is the duration of the call.
	Took time.Duration
	// OK reports whether the call succeeded.
	OK bool
	// Called reports whether a call was made at all. If it is false, the other fields are ignored.
	Called bool
}

// Lanes queues and runs items. Its methods may be called from any goroutine.
type Lanes[G comparable, T any] struct {
	cfg Config
	run func(T) Report
	max func(T) time.Duration // of a call; nil = first calls are not paced

	mu         sync.Mutex
	groups     map[G]*group[G, T]
	waiting    map[*group[G, T]]struct{}     // groups with a queue
	ready      [numStates]fifo[*group[G, T]] // groups with an item that may start, by state
	started    uint                          // items taken out of the queues
	running    int                           // items of all groups
	shared     int                           // running items in classShared
	first      int                           // running items in classFirst and classPaced
	crowded    uint                          // first calls that started while no shared slot was free
	proofs     proofs                        // whether first calls keep up
	paced      time.Time                     // when the next item in classPaced may start
	fast       int                           // queued items of fast groups
	unproven   int                           // queued items of groups of which no call has ended
	firstCalls fifo[firstCall[G, T]]         // in the order of their start
	recent     recent                        // enforces Burst
	lag        time.Duration                 // moving average of how late timers fire
	idle       []chan job[G, T]              // workers without an item
	spare      spare[T]
	closed     bool

	burstTimer     *time.Timer // starts the items that Burst held back
	firstCallTimer *time.Timer // starts the next paced first call
}

// New returns lanes that call run for each item, each on its own goroutine. run may block.
func New[G comparable, T any](cfg Config, run func(T) Report) *Lanes[G, T] {
	l := &Lanes[G, T]{cfg: cfg, run: run, groups: map[G]*group[G, T]{}, waiting: map[*group[G, T]]struct{}{}}
	l.recent.window = cfg.BurstWindow
	return l
}

// Pace sets the longest time that a call of an item can take, which paces the calls in FirstCallSlots. It is called
// before the first Submit. maxCall is called with a lock held and must not block.
func (l *Lanes[G, T]) Pace(maxCall func(item T) time.Duration) { l.max = maxCall }

// Submit starts an item or queues it in its group's lane. Items with key 0 have no order. It returns false if the
// group's queue is full; the item is then not queued.
func (l *Lanes[G, T]) Submit(id G, key uint64, item T) bool { return l.submit(id, key, item, false) }

// SubmitDeferred is Submit for an item that has been deferred before. If its group was never called, first calls of
// other groups go before it.
func (l *Lanes[G, T]) SubmitDeferred(id G, key uint64, item T) bool {
	return l.submit(id, key, item, true)
}

func (l *Lanes[G, T]) submit(id G, key uint64, item T, deferred bool) bool {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	g := l.groups[id]
	if g == nil {
		g = &group[G, T]{deferred: deferred}
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
	l.spare.lendQueue(&g.queue)
	g.queue.push(e)
	l.countQueued(g, 1)
	l.waiting[g] = struct{}{}
	l.markReady(g)
	l.fill(now)
	return true
}

// Queued reports whether any items are queued.
func (l *Lanes[G, T]) Queued() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waiting) > 0
}

// Rate returns the number of items per second that the group can finish, judged by its latency. It returns 0 while the
// latency is unknown.
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

// Running returns the number of running items.
func (l *Lanes[G, T]) Running() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.running
}

// Ready measures the backlog of groups that work: the groups with an item that may start, and the items queued for
// groups that answer within milliseconds. Groups that were never called count with the healthy ones while enough
// first calls succeed, and their items count while no first call takes long. They do not while first calls hang.
func (l *Lanes[G, T]) Ready() (groups, items int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	groups = l.ready[stateHealthy].len()
	if n := l.ready[stateUnproven].len(); l.proofs.keepUp(n) {
		groups += n
	}
	items = l.fast
	if t := l.oldestFirstCall(); t != nil && time.Since(t.started).Seconds() < knownAge {
		items += l.unproven
	}
	return groups, items
}

// Close stops the idle goroutines. No queued item starts any more; running items run to their end.
func (l *Lanes[G, T]) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.burstTimer != nil {
		l.burstTimer.Stop()
		l.burstTimer = nil
	}
	if l.firstCallTimer != nil {
		l.firstCallTimer.Stop()
		l.firstCallTimer = nil
	}
	for _, c := range l.idle {
		close(c)
	}
	l.idle = nil
}
