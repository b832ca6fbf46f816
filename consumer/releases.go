package consumer

import (
	"cmp"
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/topics"
)

const (
	// maxUndecided is the number of undecided records that a gate keeps in addition to those that are not due.
	maxUndecided = 4096
	// undecidedPoll is the interval at which the gates decide again about undecided records.
	undecidedPoll = 20 * time.Millisecond
)

// awaitReleases opens the gates of partitions that were just assigned, once every release that a previous owner may
// have begun is known.
func (c *Consumer) awaitReleases(as []*assignment) {
	open := func() {
		for _, a := range as {
			a.decidable.Store(true)
		}
		c.gates.wake()
	}
	if c.Releases == nil || len(as) == 0 {
		open()
		return
	}
	ctx, cancel := context.WithCancel(c.workCtx)
	left := atomic.Int64{}
	left.Store(int64(len(as)))
	for _, a := range as {
		context.AfterFunc(a.ctx, func() {
			if left.Add(-1) == 0 {
				cancel() // nothing waits for it any more
			}
		})
	}
	go func() {
		defer cancel()
		if c.Releases.AwaitEnd(ctx) == nil {
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
			Owned:    func() bool { return a.awaitConfirmed() && a.State() == event.Held },
			Finished: a.finished,
		}
		p.Next, p.Undecided = c.gates.position(a)
		ps = append(ps, p)
	}
	slices.SortFunc(ps, func(a, b event.Partition) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Number, b.Number))
	})
	return ps
}

// finished reports whether a record of the topic with that id is finished. A record that was committed as finished has
// the topic's current id, since the commit of a deleted topic is not restored.
func (a *assignment) finished(topicID [16]byte, offset int64, epoch int32) bool {
	// A newer epoch than all that were read is another record at the offset: sawEpoch has not seen it yet.
	if known := a.epoch.Load(); (known < 0 || epoch <= known) && a.tracked().Finished(offset) {
		return true
	}
	return a.finishedIn(topicID, offset, epoch)
}

// position returns the offset after the records that the gate of a has passed on or is undecided about, and how many
// are undecided.
func (gs *gates) position(a *assignment) (next int64, undecided int) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	g := gs.open[a.topicPartition]
	if g == nil || g.a != a || g.next < 0 {
		return max(a.first, 0), 0
	}
	return g.next, len(g.undecided)
}

// decide removes the records that are due at now from a gate. It returns those to pass on, and keeps those that are
// undecided, so that the records behind them do not wait.
func (gs *gates) decide(g *gate, now time.Time) (passed []*event.Event) {
	if !g.a.decidable.Load() {
		return nil
	}
	some := gs.releases != nil && gs.releases.Any()
	isUndecided := func(e *event.Event) (undecided bool) {
		if some {
			e.Released, undecided = gs.releases.Decide(e)
		}
		return undecided
	}
	if len(g.undecided) > 0 {
		kept := g.undecided[:0]
		for _, e := range g.undecided {
			if isUndecided(e) {
				kept = append(kept, e)
			} else {
				passed = append(passed, e)
			}
		}
		clear(g.undecided[len(kept):])
		g.undecided = kept
	}
	n := 0
	for n < len(g.buffered) && len(g.undecided) < maxUndecided && !g.buffered[n].Due.After(now) {
		e := g.buffered[n]
		if isUndecided(e) {
			g.undecided = append(g.undecided, e)
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
func (g *gate) stuck() bool { return !g.a.decidable.Load() || len(g.undecided) >= maxUndecided }
