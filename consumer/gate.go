package consumer

import (
	"context"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/internal/event"
)

// A waiting partition is fetched again this long before what is held of it has come due.
const ahead = 500 * time.Millisecond

// gates hold back the records of waiting topics until they are due. A topic has one delay, so a partition is sorted
// by due time but for milliseconds: while its head is not due the partition is paused, costs no CPU, and only the
// few records that came with the head are in memory.
type gates struct {
	now  func() time.Time // the time of day
	mu   sync.Mutex
	open map[topicPartition]*gate
	held int64 // bytes

	records int
	paused  int // partitions
	kick    chan struct{}
}

type gate struct {
	a      *assignment
	held   []*event.Event
	paused bool
	handed []handed // heads of what was handed over, as far as it may not be settled
}

// handed is a record that was handed over.
type handed struct {
	offset int64
	due    time.Time
}

const maxHanded = 64 // remembered per partition, for the figure of what is overdue

func newGates(now func() time.Time) *gates {
	return &gates{now: now, open: map[topicPartition]*gate{}, kick: make(chan struct{}, 1)}
}

// admit takes over records just polled from a waiting partition, and pauses it if they are not due soon.
func (gs *gates) admit(cl *kgo.Client, a *assignment, events []*event.Event) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	g := gs.open[a.topicPartition]
	if g == nil || g.a != a {
		g = &gate{a: a}
		gs.open[a.topicPartition] = g
	}
	g.held = append(g.held, events...)
	for _, e := range events {
		gs.held += e.Size
	}
	gs.records += len(events)
	if !g.paused && g.end().Sub(gs.now()) > ahead {
		cl.PauseFetchPartitions(map[string][]int32{a.topic: {a.partition}})
		g.paused = true
		gs.paused++
	}
	select {
	case gs.kick <- struct{}{}:
	default:
	}
}

// end is when the partition is to be fetched again: when the last of what is held comes due; or the first, if that is
// later, since nothing behind it can go before.
func (g *gate) end() time.Time {
	first, last := g.held[0].Due, g.held[len(g.held)-1].Due
	if first.After(last) {
		return first
	}
	return last
}

// drop forgets what is held of a partition that is given away. Pausing outlives an assignment, so it is undone.
func (gs *gates) drop(cl *kgo.Client, tp topicPartition) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	g := gs.open[tp]
	if g == nil {
		return
	}
	for _, e := range g.held {
		gs.held -= e.Size
	}
	gs.records -= len(g.held)
	if g.paused {
		gs.paused--
		cl.ResumeFetchPartitions(map[string][]int32{tp.topic: {tp.partition}})
	}
	delete(gs.open, tp)
}

// due takes out what is due at now, resumes the partitions that have nothing left to wait for, and tells when to
// look again; the zero time if nothing is held.
func (gs *gates) due(cl *kgo.Client, now time.Time) (events []*event.Event, next time.Time) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	earliest := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	for tp, g := range gs.open {
		n := 0
		for n < len(g.held) && !g.held[n].Due.After(now) {
			gs.held -= g.held[n].Size
			n++
		}
		gs.records -= n
		if n > 0 {
			events = append(events, g.held[:n]...)
			g.settledUpto(g.a.tracker.Committable())
			if len(g.handed) < maxHanded {
				g.handed = append(g.handed, handed{g.held[0].Offset, g.held[0].Due})
			}
			g.held = append([]*event.Event(nil), g.held[n:]...)
		}
		if len(g.held) > 0 {
			earliest(g.held[0].Due)
		}
		if !g.paused {
			continue
		}
		if len(g.held) == 0 || g.end().Sub(now) <= ahead {
			cl.ResumeFetchPartitions(map[string][]int32{tp.topic: {tp.partition}})
			g.paused = false
			gs.paused--
			continue
		}
		earliest(g.end().Add(-ahead))
	}
	return events, next
}

// run hands over what comes due until ctx ends.
func (gs *gates) run(ctx context.Context, cl *kgo.Client, handOver func([]*event.Event)) {
	const coarse = 5 * time.Millisecond // records that come due together go together
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-gs.kick:
		case <-timer.C:
		}
		events, next := gs.due(cl, gs.now())
		if len(events) > 0 {
			handOver(events)
		}
		wait := time.Second // not longer: due times are of the time of day, which may be set
		if !next.IsZero() {
			wait = min(max(next.Sub(gs.now()), coarse), wait)
		}
		timer.Reset(wait)
	}
}

// settledUpto forgets what was handed over and is settled.
func (g *gate) settledUpto(next int64) {
	n := 0
	for n < len(g.handed) && g.handed[n].offset < next {
		n++
	}
	g.handed = append(g.handed[:0], g.handed[n:]...)
}

// overdue is, per topic, by how much the oldest record that is not settled is overdue.
func (gs *gates) overdue(now time.Time) map[string]time.Duration {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	late := map[string]time.Duration{}
	for tp, g := range gs.open {
		g.settledUpto(g.a.tracker.Committable())
		switch {
		case len(g.handed) > 0:
			late[tp.topic] = max(late[tp.topic], now.Sub(g.handed[0].due))
		case len(g.held) > 0:
			late[tp.topic] = max(late[tp.topic], now.Sub(g.held[0].Due))
		}
	}
	return late
}

// load is how many records and bytes are held, and of how many partitions no more can come now.
func (gs *gates) load() (records int, bytes int64, paused int) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	return gs.records, gs.held, gs.paused
}
