package consumer

import (
	"cmp"
	"slices"
	"time"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/topics"
)

const (
	// maxHeld is the number of undecided records that a gate holds in addition to those that are not due.
	maxHeld = 4096
	// heldPoll is the interval at which the gates decide again about held records.
	heldPoll = 20 * time.Millisecond
)

// awaitReleases opens the gates of partitions that were just assigned, once every release that a former owner may have
// begun is known.
func (c *Consumer) awaitReleases(as []*assignment) {
	open := func() {
		for _, a := range as {
			a.decidable.Store(true)
		}
		c.gates.wake()
	}
	if c.releases == nil || len(as) == 0 {
		open()
		return
	}
	go func() {
		if c.releases.AwaitEnd(c.work) == nil {
			open()
		}
	}()
}

// Delayed returns the partitions of delay topics that this member owns and whose gates are open, in a fixed order.
func (c *Consumer) Delayed() []event.Partition {
	var ps []event.Partition
	for _, a := range c.owned(nil) {
		if a.info.Class == topics.Source || a.tracked() == nil || !a.decidable.Load() || a.State() != event.Held {
			continue
		}
		p := event.Partition{
			Topic: a.topic, Number: a.partition, Kind: a.info.Kind, Class: a.info.Class, Lease: a,
			Owned:    func() bool { return a.confirmed() && a.State() == event.Held },
			Finished: a.finished,
		}
		p.Next, p.Held = c.gates.position(a)
		ps = append(ps, p)
	}
	slices.SortFunc(ps, func(a, b event.Partition) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Number, b.Number))
	})
	return ps
}

// finished reports whether a record of the topic with that id is finished. A record that was committed as finished has
// the topic's present id, since the commit of a deleted topic is not restored.
func (a *assignment) finished(topicID [16]byte, offset int64, epoch int32) bool {
	// A newer epoch than all that were read is another record at the offset: sawEpoch has not seen it yet.
	if known := a.epoch.Load(); (known < 0 || epoch <= known) && a.tracked().Finished(offset) {
		return true
	}
	return a.finishedIn(topicID, offset, epoch)
}

// position returns the offset after the records that the gate of a has passed on or holds, and how many it holds.
func (gs *gates) position(a *assignment) (next int64, held int) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	g := gs.open[a.topicPartition]
	if g == nil || g.a != a || g.next < 0 {
		return max(a.first, 0), 0
	}
	return g.next, len(g.held)
}

// decide removes the records that are due at now from a gate. It returns those to pass on, and holds those that are not
// decided yet, so that the records behind them do not wait.
func (gs *gates) decide(g *gate, now time.Time) (passed []*event.Event) {
	if !g.a.decidable.Load() {
		return nil
	}
	some := gs.releases != nil && gs.releases.Any()
	undecided := func(e *event.Event) (undecided bool) {
		if some {
			e.Released, undecided = gs.releases.Decide(e)
		}
		return undecided
	}
	if len(g.held) > 0 {
		kept := g.held[:0]
		for _, e := range g.held {
			if undecided(e) {
				kept = append(kept, e)
			} else {
				passed = append(passed, e)
			}
		}
		clear(g.held[len(kept):])
		g.held = kept
	}
	n := 0
	for n < len(g.buffered) && len(g.held) < maxHeld && !g.buffered[n].Due.After(now) {
		e := g.buffered[n]
		if undecided(e) {
			g.held = append(g.held, e)
		} else {
			passed = append(passed, e)
		}
		g.next = e.Offset + 1
		n++
	}
	if n > 0 {
		g.buffered = append([]*event.Event(nil), g.buffered[n:]...)
	}
	for _, e := range passed {
		gs.bytes -= e.Size
	}
	gs.records -= len(passed)
	return passed
}

// stuck reports whether the gate accepts no more records, due or not.
func (g *gate) stuck() bool { return !g.a.decidable.Load() || len(g.held) >= maxHeld }
