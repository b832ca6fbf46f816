package lanes

import "time"

// oldestEvery is how often, in a crowd, the deferred group that has waited longest goes before the newest one.
const oldestEvery = 8

// turns is the order in which the ready queues are tried. Healthy groups go first every second turn. The turns between
// belong alternately to groups never called (deferred ones included) and to groups that are probed.
var turns = [4][3]state{
	{stateHealthy, stateUnproven, stateProbing},
	{stateUnproven, stateProbing, stateHealthy},
	{stateHealthy, stateProbing, stateUnproven},
	{stateProbing, stateUnproven, stateHealthy},
}

// markReady puts g into the ready queue of its state if it has an item that may start.
func (l *Lanes[G, T]) markReady(g *group[G, T]) {
	if g.ready == g.state() || len(g.slots) >= l.cfg.Parallel || l.firstStartable(g) < 0 {
		return
	}
	g.ready = g.state()
	l.ready[g.ready].push(g)
}

// fill starts all items that may start.
func (l *Lanes[G, T]) fill(now time.Time) {
	for {
		j, ok := l.next(now)
		if !ok {
			return
		}
		l.launch(j)
	}
}

// next takes the item whose turn it is, if one may start.
func (l *Lanes[G, T]) next(now time.Time) (job[G, T], bool) {
	for {
		g, ok := l.nextGroup(now)
		if !ok {
			return job[G, T]{}, false
		}
		g.ready = stateNone
		i := l.firstStartable(g)
		if i < 0 || len(g.slots) >= l.cfg.Parallel {
			continue // its items have been purged or returned by now
		}
		j := l.take(g, g.queue.removeAt(i), now)
		l.countQueued(g, -1)
		l.unlistEmpty(g)
		l.markReady(g) // behind the other groups
		return j, true
	}
}

func (l *Lanes[G, T]) nextGroup(now time.Time) (*group[G, T], bool) {
	if l.closed {
		return nil, false
	}
	if l.cfg.Burst > 0 && l.recent.count(now) >= l.cfg.Burst {
		l.scheduleBurst(now)
		return nil, false
	}
	for _, s := range turns[l.started%uint(len(turns))] {
		if !l.slotFree(s, now) {
			continue
		}
		if g, ok := l.pop(s); ok {
			l.started++
			return g, true
		}
	}
	l.scheduleFirstCall(now)
	return nil, false
}

// pop removes and returns the next group from the ready queue of s.
func (l *Lanes[G, T]) pop(s state) (*group[G, T], bool) {
	if s == stateUnproven {
		return l.popUnproven()
	}
	for ready := &l.ready[s]; ready.len() > 0; {
		if g := ready.pop(); g.ready == s {
			return g, true
		}
	}
	return nil, false
}

// popUnproven removes and returns the next group that was never called.
//
// While shared slots are free, groups go in their order. In a crowd of groups that hang, each call keeps its slot for
// long, and a group that comes last would wait for all others. Then the newest goes first, except every oldestEvery-th
// time. Items that wait too long are deferred, and their group returns as stateDeferred.
func (l *Lanes[G, T]) popUnproven() (g *group[G, T], ok bool) {
	unproven, crowd := &l.ready[stateUnproven], !l.sharedSlotFree()
	oldest := l.crowded%oldestEvery == oldestEvery-1
	if crowd && oldest {
		g, ok = l.pop(stateDeferred)
	}
	for !ok && unproven.len() > 0 {
		if crowd && !oldest {
			g = unproven.removeLast()
		} else {
			g = unproven.pop()
		}
		ok = g.ready == stateUnproven
	}
	if !ok {
		g, ok = l.pop(stateDeferred)
	}
	if ok && crowd {
		l.crowded++
	}
	return g, ok
}

// scheduleFirstCall sets a timer for the next paced first call, in case no running item ends before.
func (l *Lanes[G, T]) scheduleFirstCall(now time.Time) {
	waiting := l.ready[stateUnproven].len() + l.ready[stateDeferred].len()
	if l.firstCallTimer != nil || waiting == 0 || l.first >= l.cfg.FirstCallSlots {
		return
	}
	l.firstCallTimer = time.AfterFunc(l.paced.Sub(now), func() {
		woken := time.Now()
		l.mu.Lock()
		defer l.mu.Unlock()
		l.firstCallTimer = nil
		l.fill(woken)
	})
}
