package lanes

import (
	"slices"
	"time"
)

const (
	hangLatency   = 3 // seconds; from this latency on, Overdue returns what is queued beyond the limit
	silentLatency = 1 // seconds; the same for a group that has never answered

	maxGroups     = 200_000 // known groups, beyond which idle ones are forgotten
	forgetAtATime = 4096    // groups that forget looks at
)

// Overdue removes and returns the items that have been queued for longer than MaxWait. Of groups that hang it also
// returns the newest items, as far as they would have to wait that long.
func (l *Lanes[G, T]) Overdue(now time.Time) []T {
	l.mu.Lock()
	defer l.mu.Unlock()
	var overdue []T
	for g := range l.waiting {
		before := g.queue.len()
		for g.queue.len() > 0 && now.Sub(g.queue.at(0).since) > l.cfg.MaxWait {
			overdue = append(overdue, g.queue.pop().item)
			l.markDeferred(g)
		}
		if latency := g.latency(now); latency >= hangLatency || g.average == 0 && latency >= silentLatency {
			for limit := l.limit(g, now); g.queue.len() > limit; {
				overdue = append(overdue, g.queue.removeLast().item)
			}
		}
		l.countQueued(g, g.queue.len()-before)
		l.unlistEmpty(g)
	}
	overdue = l.shed(overdue)
	l.proofs.tick()
	l.forget()
	return overdue
}

// markDeferred records that items of g were deferred.
func (l *Lanes[G, T]) markDeferred(g *group[G, T]) {
	if !g.called() && !g.deferred {
		g.deferred = true
		l.markReady(g)
	}
}

// shed removes what unhealthy groups have queued beyond MaxUnhealthyQueue and appends it to out. Each group keeps an
// equal part of the bound. If there are more groups than that, those that have waited longest lose their item.
func (l *Lanes[G, T]) shed(out []T) []T {
	if l.cfg.MaxUnhealthyQueue == 0 {
		return out
	}
	var groups []*group[G, T]
	total := 0
	for g := range l.waiting {
		if !g.healthy {
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
			l.countQueued(g, -1)
			l.markDeferred(g)
		}
	}
	if total <= l.cfg.MaxUnhealthyQueue {
		return out
	}
	slices.SortFunc(groups, func(a, b *group[G, T]) int { return a.queue.at(0).since.Compare(b.queue.at(0).since) })
	for _, g := range groups[:total-l.cfg.MaxUnhealthyQueue] {
		out = append(out, g.queue.pop().item)
		l.countQueued(g, -1)
		l.markDeferred(g)
		l.unlistEmpty(g)
	}
	return out
}

// Purge removes and returns the queued items for which gone returns true.
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
		l.countQueued(g, g.queue.len()-before)
		l.unlistEmpty(g)
	}
	return out
}

// unlistEmpty removes g from the waiting groups if its queue is empty.
func (l *Lanes[G, T]) unlistEmpty(g *group[G, T]) {
	if g.queue.len() == 0 {
		delete(l.waiting, g)
		l.spare.returnQueue(&g.queue)
	}
}

// forget drops idle groups while more than maxGroups are known.
func (l *Lanes[G, T]) forget() {
	tries := forgetAtATime
	for id, g := range l.groups {
		if len(l.groups) <= maxGroups || tries == 0 {
			return
		}
		if tries--; len(g.slots) == 0 && g.queue.len() == 0 && g.ready == stateNone {
			delete(l.groups, id)
		}
	}
}
