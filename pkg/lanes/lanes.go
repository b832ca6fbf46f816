// Package lanes runs items in order per key, at most N wide per group, and fairly between groups.
//
// A group is an endpoint, a key is a message: two items of one key never run at the same time and start in the
// order in which they were submitted; a group has at most Parallel items running; when all slots of the process
// are taken, waiting groups take turns. A share of the slots is kept for groups whose last call succeeded, or failed
// soon, and another for the first calls of groups, so that groups that hang cannot take them all. Each group's queue is bounded by what the group can do in
// MaxWait, measured by its latency: what does not fit is refused, never buffered without limit.
package lanes

import (
	"slices"
	"sync"
	"time"
)

// Config bounds the lanes. All fields must be positive, except where 0 is said to mean something.
type Config struct {
	Parallel       int           // items of one group running at the same time
	MaxRunning     int           // items of all groups running at the same time
	HealthySlots   int           // of MaxRunning, kept for groups whose last call succeeded or failed soon; 0 = none
	FirstCallSlots int           // of MaxRunning, kept for first calls; 0 = none
	MaxCall        time.Duration // what a call may take; 0 = nothing is known of it
	MaxQueue       int           // items of one group waiting
	MaxWait        time.Duration // an item is not to wait longer than this
	// Burst bounds the running items that were started within the last BurstWindow, 0 = not. Items that end fast keep it from
	// ever being felt; when the machine itself is what is slow, more at a time would only be slower.
	// BurstWindow grows while the machine is behind.
	Burst       int
	BurstWindow time.Duration
	// MaxUnhealthyQueue bounds the waiting items of the groups that are not proven, 0 = not. Overdue returns what is more.
	MaxUnhealthyQueue int
}

const (
	queueLeast = 4    // a slow group's queue
	hanging    = 3    // seconds of latency from which on what is queued beyond the limit is given back
	silent     = 1    // the same for a group that has never answered
	slack      = 0.25 // seconds of a group's work that may be queued beyond the limit: a burst for a fast group
	swiftly    = 0.01 // seconds of latency below which a queue is soon worked off
	soon       = 1    // seconds within which a failed call says that its group does not hang
	smoothing  = 0.25 // weight of the newest call in the latency average
	maxIdle    = 256  // goroutines kept for the next items
	maxGroups  = 200_000

	stretch      = 10 // BurstWindow grows by so much for each moment that the machine is behind,
	maxStretched = 100 * time.Millisecond
)

// The queues of ready groups.
const (
	notReady   side = iota
	inProven        // the last call succeeded, or failed soon
	inDoubtful      // it did not; or the first call has not ended
	inNew           // never called
	inLate          // never called either, but it has had to wait for so long that its items were given back
	numSides
)

type side uint8

// oldEvery is how often the group that has waited longest for its first call has its turn before the newest one.
const oldEvery = 8

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
	ready    [numSides]fifo[*group[G, T]]
	turn     uint // items taken out of the queues
	firsts   uint // of them, those of groups never called, in the slots kept for them
	running  int
	doubtful int       // running items of groups that are not proven, in the slots that they share
	fresh    int       // running first calls in the slots that are kept for them
	paced    time.Time // when the next one in the second half of them may be started
	queued   int       // waiting items of swift groups
	recent   recent
	wake     *time.Timer   // starts what Burst held back
	wakeNew  *time.Timer   // starts the next first call
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
	proven  bool    // the last call succeeded, or failed soon
	late    bool    // before its first call, items had to be given back
	swift   bool    // proven, and so fast that a queue is soon worked off
	ready   side    // the ready queue that it is in; an entry in the other is stale
}

type job[G comparable, T any] struct {
	g      *group[G, T]
	e      entry[T]
	slot   slot
	share  share
	number uint64 // among all that were started
}

// share is the slots of which an item has one.
type share uint8

const (
	anyShare share = iota // of proven groups, which may take all but those kept for first calls
	inCommon              // shared by the groups that are not proven
	inFirst               // kept for first calls
	inPaced               // the second half of those
)

// New gives lanes that call run for each item, on a goroutine of their own. run may block.
func New[G comparable, T any](cfg Config, run func(T) Report) *Lanes[G, T] {
	l := &Lanes[G, T]{cfg: cfg, run: run, groups: map[G]*group[G, T]{}, waiting: map[*group[G, T]]struct{}{}}
	l.recent.pace = cfg.BurstWindow
	return l
}

// Submit puts an item into its group's lane; key 0 is no key: such items have no order. False: the group's queue
// is full and the item was not taken.
func (l *Lanes[G, T]) Submit(id G, key uint64, item T) bool { return l.submit(id, key, item, false) }

// SubmitDeferred is Submit for an item that has waited elsewhere. If nothing is known of its group, other groups have their
// first calls before it.
func (l *Lanes[G, T]) SubmitDeferred(id G, key uint64, item T) bool {
	return l.submit(id, key, item, true)
}

func (l *Lanes[G, T]) submit(id G, key uint64, item T, late bool) bool {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	g := l.groups[id]
	if g == nil {
		g = &group[G, T]{id: id, late: late, slots: make([]slot, 0, min(l.cfg.Parallel, 4))}
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

// Overdue takes out and returns the items that have waited longer than MaxWait, and the newest ones of groups that
// hang which would have to.
func (l *Lanes[G, T]) Overdue(now time.Time) []T {
	l.mu.Lock()
	defer l.mu.Unlock()
	var late []T
	for g := range l.waiting {
		before := g.queue.len()
		for g.queue.len() > 0 && now.Sub(g.queue.at(0).since) > l.cfg.MaxWait {
			late = append(late, g.queue.pop().item)
			l.delayed(g)
		}
		if latency := g.latency(now); latency >= hanging || g.average == 0 && latency >= silent {
			for limit := l.limit(g, now); g.queue.len() > limit; {
				late = append(late, g.queue.removeLast().item)
			}
		}
		l.changed(g, g.queue.len()-before)
		l.unlist(g)
	}
	late = l.shed(late)
	l.forget()
	return late
}

// delayed notes that g had items given back.
func (l *Lanes[G, T]) delayed(g *group[G, T]) {
	if !g.called() && !g.late {
		g.late = true
		l.markReady(g)
	}
}

// shed appends to out what the groups that are not proven have waiting beyond MaxUnhealthyQueue: of each what is more than its
// part, and if these are too many groups, all of those that have waited longest.
func (l *Lanes[G, T]) shed(out []T) []T {
	if l.cfg.MaxUnhealthyQueue == 0 {
		return out
	}
	var groups []*group[G, T]
	total := 0
	for g := range l.waiting {
		if !g.proven {
			groups = append(groups, g)
			total += g.queue.len()
		}
	}
	if total <= l.cfg.MaxUnhealthyQueue {
		return out
	}
	for _, g := range groups {
		for part := max(1, l.cfg.MaxUnhealthyQueue/len(groups)); g.queue.len() > part; total-- {
			out = append(out, g.queue.removeLast().item)
			l.delayed(g)
		}
	}
	if total <= l.cfg.MaxUnhealthyQueue {
		return out
	}
	slices.SortFunc(groups, func(a, b *group[G, T]) int { return a.queue.at(0).since.Compare(b.queue.at(0).since) })
	for _, g := range groups[:total-l.cfg.MaxUnhealthyQueue] {
		out = append(out, g.queue.pop().item)
		l.delayed(g)
		l.unlist(g)
	}
	return out
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

// Ready is what waits for nothing but a moment: the proven groups that have an item to start, and the items waiting in groups that answer at once.
func (l *Lanes[G, T]) Ready() (groups, items int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ready[inProven].len(), l.queued
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
	if l.wakeNew != nil {
		l.wakeNew.Stop()
		l.wakeNew = nil
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
	latency, most := g.latency(now), float64(l.cfg.MaxQueue)
	if latency == 0 {
		return l.cfg.MaxQueue // nothing is known yet, and will be soon
	}
	rate := float64(l.cfg.Parallel) / latency
	n := min(max(rate*l.cfg.MaxWait.Seconds(), queueLeast), most)
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
	if l.closed || l.cfg.Burst > 0 && l.recent.count(now) >= l.cfg.Burst {
		return false
	}
	return l.hasRoom(g.side(), now)
}

// hasRoom: there is a slot for a group of that queue.
func (l *Lanes[G, T]) hasRoom(of side, now time.Time) bool {
	switch of {
	case inProven:
		return l.running-l.fresh < l.cfg.MaxRunning-l.cfg.FirstCallSlots
	case inDoubtful:
		return l.commonRoom()
	}
	return l.commonRoom() || l.firstRoom(now)
}

func (l *Lanes[G, T]) commonRoom() bool {
	return l.running-l.fresh < l.cfg.MaxRunning-l.cfg.FirstCallSlots && l.doubtful < l.cfg.MaxRunning-l.cfg.HealthySlots-l.cfg.FirstCallSlots
}

// firstRoom: one of the slots kept for first calls may be taken. One half of them is given away at once. If these calls
// hang, the other half is given away evenly over the longest time that a call may take. By its end the first have ended,
// so there is always a slot for the next first call, after the same short wait. A call that ends soon gives its turn back.
func (l *Lanes[G, T]) firstRoom(now time.Time) bool {
	return l.fresh < l.firstHalf() || l.fresh < l.cfg.FirstCallSlots && !now.Before(l.paced)
}

func (l *Lanes[G, T]) firstHalf() int { return (l.cfg.FirstCallSlots + 1) / 2 }

// firstPace is the pause between first calls in the second half of their slots.
func (l *Lanes[G, T]) firstPace() time.Duration {
	return l.cfg.MaxCall / time.Duration(max(1, l.cfg.FirstCallSlots/2))
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
	g.ready = g.side()
	l.ready[g.ready].push(g)
}

// called: a call of the group has ended.
func (g *group[G, T]) called() bool { return g.average > 0 }

func (g *group[G, T]) side() side {
	switch {
	case g.proven:
		return inProven
	case g.called() || len(g.slots) > 0:
		return inDoubtful
	case g.late:
		return inLate
	}
	return inNew
}

// take moves e, already out of its queue, into a slot of g.
func (l *Lanes[G, T]) take(g *group[G, T], e entry[T], now time.Time) job[G, T] {
	j := job[G, T]{g: g, e: e, slot: slot{e.key, now}, share: l.shareOf(g)}
	if l.cfg.Burst > 0 {
		j.number = l.recent.started(now)
	}
	g.slots = append(g.slots, j.slot)
	l.running++
	switch j.share {
	case inCommon:
		l.doubtful++
	case inPaced:
		l.paced = now.Add(l.firstPace())
		l.fresh++
	case inFirst:
		l.fresh++
	}
	return j
}

// shareOf is the slots from which g takes its next one, which has been found free.
func (l *Lanes[G, T]) shareOf(g *group[G, T]) share {
	switch {
	case g.proven:
		return anyShare
	case g.side() == inDoubtful || l.commonRoom():
		return inCommon
	case l.fresh >= l.firstHalf():
		return inPaced
	}
	return inFirst
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
	if l.closed {
		return nil, false
	}
	if l.cfg.Burst > 0 && l.recent.count(now) >= l.cfg.Burst {
		l.comeBack(now)
		return nil, false
	}
	for _, of := range turns[l.turn%uint(len(turns))] {
		if !l.hasRoom(of, now) {
			continue
		}
		if g, ok := l.pop(of); ok {
			l.turn++
			return g, true
		}
	}
	l.comeBackForNew(now)
	return nil, false
}

// turns is the order in which the queues are asked: proven groups and the others have every second turn, and of the others
// those to be called for the first time (the late ones among them) and those called before.
var turns = [4][3]side{{inProven, inNew, inDoubtful}, {inNew, inDoubtful, inProven}, {inProven, inDoubtful, inNew}, {inDoubtful, inNew, inProven}}

// pop takes the next group out of a queue.
func (l *Lanes[G, T]) pop(of side) (*group[G, T], bool) {
	if of == inNew {
		return l.popNew()
	}
	for ready := &l.ready[of]; ready.len() > 0; {
		if g := ready.pop(); g.ready == of {
			return g, true
		}
	}
	return nil, false
}

// popNew takes out the next of the groups that were never called: in their order while there are slots enough. In a crowd
// of groups that hang, each of which keeps its slot for long, one that comes later would have to wait for all of them:
// then the newest comes first, but for every oldEvery-th time. What waits for too long is given back, and comes here again.
func (l *Lanes[G, T]) popNew() (g *group[G, T], ok bool) {
	fresh, crowd := &l.ready[inNew], !l.commonRoom()
	old := l.firsts%oldEvery == oldEvery-1
	if crowd && old {
		g, ok = l.pop(inLate)
	}
	for !ok && fresh.len() > 0 {
		if crowd && !old {
			g = fresh.removeLast()
		} else {
			g = fresh.pop()
		}
		ok = g.ready == inNew
	}
	if !ok {
		g, ok = l.pop(inLate)
	}
	if ok && crowd {
		l.firsts++
	}
	return g, ok
}

// comeBackForNew sees to it that the next first call is started when its time comes, even if no running item ends.
func (l *Lanes[G, T]) comeBackForNew(now time.Time) {
	if l.wakeNew != nil || l.ready[inNew].len()+l.ready[inLate].len() == 0 || l.fresh >= l.cfg.FirstCallSlots {
		return
	}
	l.wakeNew = time.AfterFunc(l.paced.Sub(now), func() {
		woken := time.Now()
		l.mu.Lock()
		defer l.mu.Unlock()
		l.wakeNew = nil
		l.fill(woken)
	})
}

// comeBack sees to it that what Burst holds back is started in time even if no running item ends. How late it is itself
// tells how far the machine is behind.
func (l *Lanes[G, T]) comeBack(now time.Time) {
	if l.wake != nil || l.waitingReady() == 0 {
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

// waitingReady is how many ready groups there are, with some that are not any more.
func (l *Lanes[G, T]) waitingReady() (n int) {
	for i := range l.ready {
		n += l.ready[i].len()
	}
	return n
}

// behind stretches the pace by how late the machine is.
func (l *Lanes[G, T]) behind(late time.Duration) {
	l.late += (late - l.late) / 8
	l.recent.pace = min(l.cfg.BurstWindow+stretch*l.late, maxStretched)
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
	switch j.share {
	case inCommon:
		l.doubtful--
	case inPaced:
		if now.Sub(j.slot.started).Seconds() < soon {
			l.paced = l.paced.Add(-l.firstPace())
		}
		l.fresh--
	case inFirst:
		l.fresh--
	}
	if l.cfg.Burst > 0 {
		l.recent.ended(j.number)
	}
	if r.Called {
		g.proven = r.OK || r.Took.Seconds() < soon
		if seconds := max(r.Took.Seconds(), 1e-6); g.average == 0 {
			g.average = seconds
		} else {
			g.average += smoothing * (seconds - g.average)
		}
		l.changed(g, -g.queue.len())
		g.swift = r.OK && g.average < swiftly
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
