package dispatcher

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/pkg/webhook"
)

const (
	maxLookups     = 5_000 // events in the queue; more overflow at once
	lookupBatch    = 1_000
	lookupInterval = 200 * time.Millisecond // between rounds while Redis does not answer
	lookupTimeout  = 2 * time.Second        // of one round
)

// lookupQueue holds the events that Redis must be asked about: for the settings of their user, or whether a click is
// the first of its message. One goroutine works through it in order, in pipelined batches. While Redis does not
// answer, events stay here. Events of known users never enter it, except clicks.
type lookupQueue struct {
	mu    sync.Mutex
	queue []*event.Event
	count map[endpoint]int // events of an endpoint in the queue or in the current round
	total atomic.Int64     // sum of count
	slow  atomic.Bool      // most events of the last round could not be looked up
	added chan struct{}    // signals the goroutine
}

func newLookupQueue() *lookupQueue {
	return &lookupQueue{count: map[endpoint]int{}, added: make(chan struct{}, 1)}
}

// holds reports whether an earlier event of the endpoint is here, which a later one must not overtake.
func (q *lookupQueue) holds(ep endpoint) bool {
	if q.total.Load() == 0 {
		return false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.count[ep] > 0
}

// add returns false if the queue is full.
func (q *lookupQueue) add(e *event.Event) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.queue) >= maxLookups {
		return false
	}
	q.queue = append(q.queue, e)
	q.count[endpointOf(e)]++
	q.total.Add(1)
	select {
	case q.added <- struct{}{}:
	default:
	}
	return true
}

// take returns the first events of the queue, for one round.
func (q *lookupQueue) take() []*event.Event {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := min(len(q.queue), lookupBatch)
	batch := append([]*event.Event(nil), q.queue[:n]...)
	q.queue = append(q.queue[:0:0], q.queue[n:]...)
	return batch
}

// putBack puts events that could not be looked up behind the others, together with later events of their endpoints. An
// event that can never be looked up, such as one of a user whose settings are sealed with another key, blocks no
// others.
func (q *lookupQueue) putBack(events []*event.Event) {
	waits := map[endpoint]bool{}
	for _, e := range events {
		waits[endpointOf(e)] = true
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	queue := make([]*event.Event, 0, len(q.queue)+len(events))
	for _, e := range q.queue {
		if waits[endpointOf(e)] {
			events = append(events, e)
		} else {
			queue = append(queue, e)
		}
	}
	q.queue = append(queue, events...)
}

// leave subtracts events that have left, by their endpoints.
func (q *lookupQueue) leave(endpoints ...endpoint) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, ep := range endpoints {
		if q.count[ep]--; q.count[ep] <= 0 {
			delete(q.count, ep)
		}
	}
	q.total.Add(-int64(len(endpoints)))
}

// behind reports whether more events than two rounds take wait for Redis while it answers.
func (q *lookupQueue) behind() bool { return q.total.Load() > 2*lookupBatch && !q.slow.Load() }

func endpointsOf(events []*event.Event) []endpoint {
	all := make([]endpoint, len(events))
	for i, e := range events {
		all[i] = endpointOf(e)
	}
	return all
}

// purge removes and returns the events that match.
func (q *lookupQueue) purge(match func(*event.Event) bool) []*event.Event {
	q.mu.Lock()
	var out, kept []*event.Event
	for _, e := range q.queue {
		if match(e) {
			out = append(out, e)
		} else {
			kept = append(kept, e)
		}
	}
	q.queue = kept
	q.mu.Unlock()
	q.leave(endpointsOf(out)...)
	return out
}

// runLookups works through the queue until ctx ends.
func (d *Dispatcher) runLookups(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	added := d.lookups.added
	for {
		select {
		case <-ctx.Done():
			return
		case <-added:
		case <-timer.C:
			added = d.lookups.added
		}
		for {
			batch := d.lookups.take()
			if len(batch) == 0 {
				break
			}
			left := d.lookUp(ctx, batch)
			d.lookups.slow.Store(len(left) > len(batch)/2)
			if len(left) > 0 {
				d.lookups.putBack(left)
				timer.Reset(lookupInterval)
				added = nil // Redis does not answer: do not ask again at once because of a new event
				break
			}
		}
	}
}

// lookUp asks Redis about a batch. It enqueues the events in order and returns those that could not be looked up.
func (d *Dispatcher) lookUp(ctx context.Context, batch []*event.Event) (left []*event.Event) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	d.loadUnknown(ctx, batch)
	var (
		ready  []*event.Event
		clicks []*event.Event
		behind map[endpoint]bool // endpoints with an event in left: their later events must stay behind it
	)
	keep := func(e *event.Event) {
		if behind == nil {
			behind = map[endpoint]bool{}
		}
		behind[endpointOf(e)] = true
		left = append(left, e)
	}
	for _, e := range batch {
		s, known := d.Settings.Lookup(e.UserID)
		if known {
			e.Endpoint = s.Endpoints[e.Kind]
		}
		switch {
		case revoked(e):
			d.finishLookup(e, d.onRevoke(e))
		case !known || behind[endpointOf(e)]:
			keep(e)
		case needsClaim(e) && e.Endpoint != nil:
			clicks = append(clicks, e)
		default:
			ready = append(ready, e)
		}
	}
	if first := make([]bool, len(clicks)); len(clicks) > 0 {
		if err := d.FirstClicks.Claim(ctx, clicks, first); err != nil {
			d.noFirstClicks.Fail(err, zap.Int("clicks", len(clicks)))
			for _, e := range clicks {
				keep(e)
			}
		} else {
			d.noFirstClicks.Recover()
			ready = append(ready, d.claimed(clicks, first)...)
		}
	}
	leaving := endpointsOf(ready) // read before they are enqueued: the memory of a delivered event is reused
	for _, e := range ready {
		d.finish(e, d.run(queueing, e))
	}
	d.lookups.leave(leaving...) // not before they are enqueued: a later event must not overtake them
	return d.expire(left)
}

// finishLookup ends an event of the current round.
func (d *Dispatcher) finishLookup(e *event.Event, v verdict) {
	d.lookups.leave(endpointOf(e))
	d.finish(e, v)
}

// claimed marks and returns the first clicks, and settles the others.
func (d *Dispatcher) claimed(clicks []*event.Event, first []bool) []*event.Event {
	ready := clicks[:0]
	for i, e := range clicks {
		if e.Claimed = first[i]; e.Claimed {
			ready = append(ready, e)
		} else {
			d.finishLookup(e, settle(webhook.Duplicate))
		}
	}
	return ready
}

// loadUnknown loads the settings of users that are not in memory.
func (d *Dispatcher) loadUnknown(ctx context.Context, batch []*event.Event) {
	var unknown []int64
	seen := map[int64]bool{}
	for _, e := range batch {
		if _, known := d.Settings.Lookup(e.UserID); !known && !seen[e.UserID] {
			seen[e.UserID] = true
			unknown = append(unknown, e.UserID)
		}
	}
	if len(unknown) == 0 {
		return
	}
	if err := d.Settings.Load(ctx, unknown); err != nil {
		d.noSettings.Fail(err, zap.Int("users", len(unknown)))
		return
	}
	d.noSettings.Recover()
}

// expire overflows events that were buffered for too long and returns the others.
func (d *Dispatcher) expire(left []*event.Event) []*event.Event {
	now := time.Now()
	rest := left[:0]
	for _, e := range left {
		if now.Sub(e.Arrived) <= maxWait {
			rest = append(rest, e)
		} else {
			d.finishLookup(e, d.overflowUnresolved(e))
		}
	}
	return rest
}
