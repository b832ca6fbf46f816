package lanes

import "time"

// workedOff is the number of calls of Overdue within which a backlog of first calls must be worked off to keep up.
const workedOff = 4

// proofs counts the first calls that leave their group healthy. It tells many new groups that work from many that hang.
// Without such calls new groups are taken for hanging: a poll that waits for them would mix their items with those of
// later groups, which would then be called after them.
type proofs struct {
	now  int    // since the last tick
	past [2]int // between the last ticks
}

// tick begins a new interval.
func (p *proofs) tick() { p.past, p.now = [2]int{p.now, p.past[0]}, 0 }

// keepUp reports whether n groups that were never called will soon be.
func (p *proofs) keepUp(n int) bool { return max(p.past[0], p.past[1], p.now) > n/workedOff }

// trial is the first running call of a group of which no call has ended.
type trial[G comparable, T any] struct {
	g       *group[G, T]
	started time.Time
}

// oldestTrial returns the oldest first call that is running, or nil.
func (l *Lanes[G, T]) oldestTrial() *trial[G, T] {
	for l.trials.len() > 0 {
		t := l.trials.at(0)
		if !t.g.called() && len(t.g.slots) > 0 && t.g.slots[0].started.Equal(t.started) {
			return t
		}
		l.trials.pop()
	}
	return nil
}
