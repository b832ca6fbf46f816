package lanes

import "time"

// catchUpTicks is the number of calls of Overdue within which a backlog of first calls must drain to keep up.
const catchUpTicks = 4

// proofs counts the first calls that leave their group healthy. It distinguishes many new groups that work from many
// that hang. Without it, new groups would count as hanging: a poll that waits for them would mix their items with those
// of later groups, which would then be called after them.
type proofs struct {
	now  int    // since the last tick
	past [2]int // between the last ticks
}

// tick begins a new interval.
func (p *proofs) tick() { p.past, p.now = [2]int{p.now, p.past[0]}, 0 }

// keepUp reports whether n groups that were never called will soon be.
func (p *proofs) keepUp(n int) bool { return max(p.past[0], p.past[1], p.now) > n/catchUpTicks }

// firstCall is the first running call of a group of which no call has ended.
type firstCall[G comparable, T any] struct {
	g       *group[G, T]
	started time.Time
}

// oldestFirstCall returns the oldest first call that is running, or nil.
func (l *Lanes[G, T]) oldestFirstCall() *firstCall[G, T] {
	for l.firstCalls.len() > 0 {
		t := l.firstCalls.at(0)
		if !t.g.called() && len(t.g.slots) > 0 && t.g.slots[0].started.Equal(t.started) {
			return t
		}
		l.firstCalls.pop()
	}
	return nil
}
