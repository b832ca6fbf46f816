package lanes

import "math"

// workedOff is the number of calls of Overdue within which a backlog of first calls must be worked off to keep up.
const workedOff = 4

// proofs counts the first calls that leave their group healthy. So it distinguishes many new groups that work from many
// that hang, before the first of them times out.
type proofs struct {
	now  int    // since the last tick
	past [2]int // between the last ticks; MaxInt after one that found a free slot: nothing hangs
}

func newProofs() proofs { return proofs{past: [2]int{math.MaxInt, math.MaxInt}} }

// tick begins a new interval.
func (p *proofs) tick(slotFree bool) {
	if slotFree {
		p.now = math.MaxInt
	}
	p.past = [2]int{p.now, p.past[0]}
	p.now = 0
}

// keepUp reports whether n groups that were never called will soon be.
func (p *proofs) keepUp(n int) bool { return max(p.past[0], p.past[1], p.now) >= n/workedOff }
