package lanes

import "time"

// slotClass is the part of the slots that a running item counts against.
type slotClass uint8

const (
	classHealthy slotClass = iota // healthy groups use all slots except FirstCallSlots
	classShared                   // shared by all unhealthy groups
	classFirst                    // first half of FirstCallSlots
	classPaced                    // second half of FirstCallSlots
)

// mayStart reports whether the process has a slot for g.
func (l *Lanes[G, T]) mayStart(g *group[G, T], now time.Time) bool {
	if l.closed || l.cfg.Burst > 0 && l.recent.count(now) >= l.cfg.Burst {
		return false
	}
	return l.slotFree(g.state(), now)
}

// slotFree reports whether a group in state s could take a slot.
func (l *Lanes[G, T]) slotFree(s state, now time.Time) bool {
	switch s {
	case stateHealthy:
		return l.running-l.first < l.cfg.MaxRunning-l.cfg.FirstCallSlots
	case stateProbing:
		return l.sharedSlotFree()
	}
	return l.sharedSlotFree() || l.firstCallSlotFree(now)
}

func (l *Lanes[G, T]) sharedSlotFree() bool {
	return l.running-l.first < l.cfg.MaxRunning-l.cfg.FirstCallSlots &&
		l.shared < l.cfg.MaxRunning-l.cfg.HealthySlots-l.cfg.FirstCallSlots
}

// firstCallSlotFree reports whether one of FirstCallSlots may be taken now.
//
// The first half is handed out at once. If those calls hang, the second half is handed out evenly over the time of a
// call, so that its calls end as fast as others may start. So the next first call always gets a slot after the same
// short wait, however many groups hang. A paced call that ends quickly returns its turn.
func (l *Lanes[G, T]) firstCallSlotFree(now time.Time) bool {
	return l.first < l.firstHalf() || l.first < l.cfg.FirstCallSlots && !now.Before(l.paced)
}

func (l *Lanes[G, T]) firstHalf() int { return (l.cfg.FirstCallSlots + 1) / 2 }

// pacedInterval is the time between the start of item in classPaced and the next one.
func (l *Lanes[G, T]) pacedInterval(item T) time.Duration {
	if l.max == nil {
		return 0
	}
	return l.max(item) / time.Duration(max(1, l.cfg.FirstCallSlots/2))
}

// classOf returns the class of the free slot that g takes next.
func (l *Lanes[G, T]) classOf(g *group[G, T]) slotClass {
	switch {
	case g.healthy:
		return classHealthy
	case g.state() == stateProbing || l.sharedSlotFree():
		return classShared
	case l.first >= l.firstHalf():
		return classPaced
	}
	return classFirst
}

// take moves e, which is in no queue any more, into a slot of g.
func (l *Lanes[G, T]) take(g *group[G, T], e entry[T], now time.Time) job[G, T] {
	j := job[G, T]{g: g, e: e, slot: slot{e.key, now}, class: l.classOf(g)}
	if l.cfg.Burst > 0 {
		j.number = l.recent.started(now)
	}
	l.spare.lendSlots(&g.slots)
	g.slots = append(g.slots, j.slot)
	if !g.called() && len(g.slots) == 1 {
		l.oldestFirstCall() // drops those that have ended
		l.firstCalls.push(firstCall[G, T]{g, now})
	}
	l.running++
	switch j.class {
	case classShared:
		l.shared++
	case classPaced:
		j.pacedBy = l.pacedInterval(e.item)
		l.paced = now.Add(j.pacedBy)
		l.first++
	case classFirst:
		l.first++
	}
	return j
}

// release frees the slot of j.
func (l *Lanes[G, T]) release(j job[G, T], now time.Time) {
	g := j.g
	for i := range g.slots {
		if g.slots[i] == j.slot {
			g.slots = append(g.slots[:i], g.slots[i+1:]...)
			break
		}
	}
	l.spare.returnSlots(&g.slots)
	l.running--
	switch j.class {
	case classShared:
		l.shared--
	case classPaced:
		if now.Sub(j.slot.started).Seconds() < quickFailure {
			l.paced = l.paced.Add(-j.pacedBy)
		}
		l.first--
	case classFirst:
		l.first--
	}
	if l.cfg.Burst > 0 {
		l.recent.ended(j.number)
	}
}
