package consumer

import (
	"context"
	"sync"
	"time"

	"github.com/smshooks/smshooks/internal/event"
)

// ahead is how long before its buffered records are due a paused partition is fetched again. A fetch that does not
// contain the partition may be at the broker for fetchWait.
const ahead = fetchWait + 250*time.Millisecond

// gates keep the records of delay topics until they are due. A topic has one delay, so a partition is sorted by due
// time, except for milliseconds. While its head is not due the partition is paused. It costs no CPU then, and only
// the records that were fetched with the head are in memory.
type gates struct {
	now      func() time.Time // the time of day
	releases Releases         // nil = none
	client   pauser           // set before the first partition is assigned
	kick     chan struct{}

	mu      sync.Mutex
	open    map[topicPartition]*gate
	bytes   int64 // buffered
	records int
	paused  int // partitions
}

// pauser is the needed part of a Kafka client; *kgo.Client implements it.
type pauser interface {
	PauseFetchPartitions(partitions map[string][]int32) map[string][]int32
	ResumeFetchPartitions(partitions map[string][]int32)
}

type gate struct {
	a          *assignment
	buffered   []*event.Event // not due
	undecided  []*event.Event // due, but not yet known whether released
	next       int64          // offset after the last record that was passed on or is undecided; -1 = none
	paused     bool
	asleep     bool             // paused because it is empty
	epoch      int32            // of the leader when the partition was last found empty; otherwise noEpoch
	dispatched []dispatchedHead // of which the first may be unsettled
}

// dispatchedHead is the first of the records that came due together.
type dispatchedHead struct {
	offset int64
	due    time.Time
}

const maxDispatched = 64 // remembered per partition

func newGates(now func() time.Time, releases Releases) *gates {
	return &gates{now: now, releases: releases, open: map[topicPartition]*gate{}, kick: make(chan struct{}, 1)}
}

// admit buffers records polled from a delay topic, and pauses their partition if they are not due soon.
func (gs *gates) admit(a *assignment, events []*event.Event) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	g := gs.open[a.topicPartition]
	if g == nil || g.a != a {
		g = &gate{a: a, next: -1, epoch: noEpoch}
		gs.open[a.topicPartition] = g
	}
	g.asleep, g.epoch = false, noEpoch
	g.buffered = append(g.buffered, events...)
	for _, e := range events {
		gs.bytes += e.Size
	}
	gs.records += len(events)
	if !g.paused && (g.stuck() || g.end().Sub(gs.now()) > ahead) {
		gs.client.PauseFetchPartitions(map[string][]int32{a.topic: {a.partition}})
		g.paused = true
		gs.paused++
	}
	gs.wake()
}

// wake makes run check the gates now.
func (gs *gates) wake() {
	select {
	case gs.kick <- struct{}{}:
	default:
	}
}

// end returns when the partition must be fetched again: when the last buffered record is due, or the first if it is due
// later, because no record overtakes it.
func (g *gate) end() time.Time {
	first, last := g.buffered[0].Due, g.buffered[len(g.buffered)-1].Due
	if first.After(last) {
		return first
	}
	return last
}

// drop forgets the buffered records of a partition whose assignment ends. A pause outlives the assignment, so drop ends
// it.
func (gs *gates) drop(tp topicPartition) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	g := gs.open[tp]
	if g == nil {
		return
	}
	for _, e := range append(g.buffered, g.undecided...) {
		gs.bytes -= e.Size
		gs.records--
	}
	if g.paused {
		gs.paused--
		gs.client.ResumeFetchPartitions(map[string][]int32{tp.topic: {tp.partition}})
	}
	delete(gs.open, tp)
}

// due removes and returns the records that are due at now, resumes partitions that must be fetched again, and
// returns when to call it next, the zero time if nothing is buffered.
func (gs *gates) due(now time.Time) (events []*event.Event, next time.Time) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	earliest := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	resume := map[string][]int32{}
	for tp, g := range gs.open {
		if g.asleep {
			continue
		}
		if passed := gs.decide(g, now); len(passed) > 0 {
			events = append(events, passed...)
			g.settledUpto(g.a.tracker.Committable())
			if len(g.dispatched) < maxDispatched {
				g.dispatched = append(g.dispatched, dispatchedHead{passed[0].Offset, passed[0].Due})
			}
		}
		if len(g.undecided) > 0 {
			earliest(now.Add(undecidedPoll))
		}
		if g.stuck() {
			continue
		}
		if len(g.buffered) > 0 {
			earliest(g.buffered[0].Due)
		}
		if !g.paused {
			continue
		}
		if len(g.buffered) == 0 || g.end().Sub(now) <= ahead {
			resume[tp.topic] = append(resume[tp.topic], tp.partition)
			g.paused = false
			gs.paused--
			continue
		}
		earliest(g.end().Add(-ahead))
	}
	if len(resume) > 0 {
		gs.client.ResumeFetchPartitions(resume)
	}
	return events, next
}

// run dispatches records as they come due, until ctx ends.
func (gs *gates) run(ctx context.Context, dispatch func([]*event.Event)) {
	const coarse = 5 * time.Millisecond // groups records that come due together
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-gs.kick:
		case <-timer.C:
		}
		events, next := gs.due(gs.now())
		if len(events) > 0 {
			dispatch(events)
		}
		if next.IsZero() {
			timer.Stop()
			continue
		}
		timer.Reset(min(max(next.Sub(gs.now()), coarse), time.Second)) // the time of day may be set
	}
}

// settledUpto forgets heads below next, which are settled.
func (g *gate) settledUpto(next int64) {
	n := 0
	for n < len(g.dispatched) && g.dispatched[n].offset < next {
		n++
	}
	g.dispatched = append(g.dispatched[:0], g.dispatched[n:]...)
}

// overdue returns, per topic, by how much the oldest unsettled record is overdue.
func (gs *gates) overdue(now time.Time) map[string]time.Duration {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	late := map[string]time.Duration{}
	for tp, g := range gs.open {
		g.settledUpto(g.a.tracker.Committable())
		switch {
		case len(g.dispatched) > 0:
			late[tp.topic] = max(late[tp.topic], now.Sub(g.dispatched[0].due))
		case len(g.undecided) > 0:
			late[tp.topic] = max(late[tp.topic], now.Sub(g.undecided[0].Due))
		case len(g.buffered) > 0:
			late[tp.topic] = max(late[tp.topic], now.Sub(g.buffered[0].Due))
		}
	}
	return late
}

// usage returns the number and the size of the buffered records, and the number of paused partitions.
func (gs *gates) usage() (records int, bytes int64, paused int) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	return gs.records, gs.bytes, gs.paused
}
