package lanes

import "time"

const (
	minQueue      = 4    // length of a slow group's queue
	queueSlack    = 0.25 // seconds of work that a group may queue beyond its limit: a burst for a fast group
	fastLatency   = 0.01 // seconds; below it a group is fast
	quickFailure  = 1    // seconds within which a failed call shows that its group does not hang
	knownAge      = 0.25 // seconds after which the first running call counts as the group's latency
	smoothing     = 0.25 // weight of the newest call in the average latency
	leastDuration = 1e-6 // seconds; keeps the average latency of a called group above 0
)

// state classifies a group by its past calls. It decides which slots the group's items may take.
type state uint8

const (
	stateNone     state = iota // in no ready queue
	stateHealthy               // the last call succeeded or failed quickly
	stateProbing               // the last call hung, or the first call is running
	stateUnproven              // never called
	stateDeferred              // never called, and its items were deferred because they waited too long
	numStates
)

// entry is a queued item.
type entry[T any] struct {
	item  T
	key   uint64
	since time.Time
}

// slot is held by a running item.
type slot struct {
	key     uint64
	started time.Time
}

// group is the lane of one group: its queue and its slots.
type group[G comparable, T any] struct {
	queue    fifo[entry[T]]
	slots    []slot
	average  float64 // latency in seconds; 0 = never called
	healthy  bool    // the last call succeeded or failed quickly
	deferred bool    // items were deferred before the first call
	fast     bool    // the last call succeeded and the average latency is below fastLatency
	ready    state   // the ready queue that holds the group; entries in other ready queues are stale
}

// called reports whether a call of the group has ended.
func (g *group[G, T]) called() bool { return g.average > 0 }

func (g *group[G, T]) state() state {
	switch {
	case g.healthy:
		return stateHealthy
	case g.called() || len(g.slots) > 0:
		return stateProbing
	case g.deferred:
		return stateDeferred
	}
	return stateUnproven
}

// latency returns the group's seconds per call, or 0 if unknown. It is the average or the age of the oldest running
// call, whichever is more: a group that begins to hang shows before its first timeout.
func (g *group[G, T]) latency(now time.Time) float64 {
	seconds := g.average
	for _, s := range g.slots {
		if age := now.Sub(s.started).Seconds(); age > seconds && (seconds > 0 || age > knownAge) {
			seconds = age
		}
	}
	return seconds
}

// learn updates the state of g from a call.
func (l *Lanes[G, T]) learn(g *group[G, T], r Report) {
	l.countQueued(g, -g.queue.len())
	g.healthy = r.OK || r.Took.Seconds() < quickFailure
	if g.healthy && !g.called() {
		l.proofs.now++
	}
	if seconds := max(r.Took.Seconds(), leastDuration); g.average == 0 {
		g.average = seconds
	} else {
		g.average += smoothing * (seconds - g.average)
	}
	g.fast = r.OK && g.average < fastLatency
	l.countQueued(g, g.queue.len())
}

// countQueued adds n, the change of g's queue length, to the queued items of groups of its sort.
func (l *Lanes[G, T]) countQueued(g *group[G, T], n int) {
	switch {
	case g.fast:
		l.fast += n
	case !g.called():
		l.unproven += n
	}
}

// limit returns how many items g may queue: as many as it can run within MaxWait.
func (l *Lanes[G, T]) limit(g *group[G, T], now time.Time) int {
	latency, most := g.latency(now), float64(l.cfg.MaxQueue)
	if latency == 0 {
		return l.cfg.MaxQueue // the first call will soon show its latency
	}
	rate := float64(l.cfg.Parallel) / latency
	n := min(max(rate*l.cfg.MaxWait.Seconds(), minQueue), most)
	return int(n + min(rate*queueSlack, most))
}

// startable reports whether g has a free slot and no running item of the key.
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

// firstStartable returns the index of the first queued item that g could start, or -1.
func (l *Lanes[G, T]) firstStartable(g *group[G, T]) int {
	for i := range g.queue.len() {
		if l.startable(g, g.queue.at(i).key) {
			return i
		}
	}
	return -1
}
