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
	prepareMax   = 5_000 // events waiting for Redis; more go to an overflow topic at once
	prepareBatch = 1_000
	prepareAgain = 200 * time.Millisecond
	prepareLimit = 2 * time.Second // of one round's questions
	// While Redis is away its events go to the overflow tiers as if an endpoint worked off so many a second.
	prepareRate = 500
)

// prepare is the queue of events for which Redis must be asked: whose settings, and whether a click is the first. One
// goroutine works through it in order, a pipelined batch at a time. While Redis does not answer events wait here;
// those of known users that are no clicks never come here.
type prepare struct {
	mu    sync.Mutex
	queue []*event.Event
	count map[endpoint]int // events of an endpoint in here, being worked on or not
	total atomic.Int64
	kick  chan struct{}
}

func newPrepare() *prepare {
	return &prepare{count: map[endpoint]int{}, kick: make(chan struct{}, 1)}
}

// holds: an earlier event of the endpoint is here, so a later one must not overtake it.
func (p *prepare) holds(ep endpoint) bool {
	if p.total.Load() == 0 {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count[ep] > 0
}

func (p *prepare) add(e *event.Event) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) >= prepareMax {
		return false
	}
	p.queue = append(p.queue, e)
	p.count[endpoint{e.UserID, e.Kind}]++
	p.total.Add(1)
	select {
	case p.kick <- struct{}{}:
	default:
	}
	return true
}

// take gives the first events of the queue to work on.
func (p *prepare) take() []*event.Event {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := min(len(p.queue), prepareBatch)
	batch := append([]*event.Event(nil), p.queue[:n]...)
	p.queue = append(p.queue[:0:0], p.queue[n:]...)
	return batch
}

// putBack puts events that must wait on behind the others, with those of their endpoints that came after them: one
// that can't be helped, such as of a user whose settings are sealed with another key, must not stand in the way.
func (p *prepare) putBack(events []*event.Event) {
	waits := map[endpoint]bool{}
	for _, e := range events {
		waits[endpointOf(e)] = true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	queue := make([]*event.Event, 0, len(p.queue)+len(events))
	for _, e := range p.queue {
		if waits[endpointOf(e)] {
			events = append(events, e)
		} else {
			queue = append(queue, e)
		}
	}
	p.queue = append(queue, events...)
}

// leave counts events out that went on, by their endpoints.
func (p *prepare) leave(endpoints ...endpoint) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, ep := range endpoints {
		if p.count[ep]--; p.count[ep] <= 0 {
			delete(p.count, ep)
		}
	}
	p.total.Add(-int64(len(endpoints)))
}

func endpointOf(e *event.Event) endpoint { return endpoint{e.UserID, e.Kind} }

func endpointsOf(events []*event.Event) []endpoint {
	all := make([]endpoint, len(events))
	for i, e := range events {
		all[i] = endpointOf(e)
	}
	return all
}

func (p *prepare) purge(gone func(*event.Event) bool) []*event.Event {
	p.mu.Lock()
	var out, kept []*event.Event
	for _, e := range p.queue {
		if gone(e) {
			out = append(out, e)
		} else {
			kept = append(kept, e)
		}
	}
	p.queue = kept
	p.mu.Unlock()
	p.leave(endpointsOf(out)...)
	return out
}

func (d *Dispatcher) toPrepare(e *event.Event) {
	if !d.prepare.add(e) {
		d.spillAs(e, endpoint{0, e.Kind}, prepareRate)
	}
}

// runPrepare works through the queue until ctx ends.
func (d *Dispatcher) runPrepare(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	kick := d.prepare.kick
	for {
		select {
		case <-ctx.Done():
			return
		case <-kick:
		case <-timer.C:
			kick = d.prepare.kick
		}
		for {
			batch := d.prepare.take()
			if len(batch) == 0 {
				break
			}
			if left := d.prepareRound(ctx, batch); len(left) > 0 {
				d.prepare.putBack(left)
				timer.Reset(prepareAgain)
				kick = nil // Redis does not answer: new events are no reason to ask at once
				break
			}
		}
	}
}

// prepareRound sends on what it can of batch, in order, and gives back what must wait on.
func (d *Dispatcher) prepareRound(ctx context.Context, batch []*event.Event) []*event.Event {
	ctx, cancel := context.WithTimeout(ctx, prepareLimit)
	defer cancel()
	d.loadUnknown(ctx, batch)
	var (
		left   []*event.Event
		behind map[endpoint]bool // endpoints of which an earlier event must wait on
		ready  []*event.Event
		clicks []*event.Event
	)
	wait := func(e *event.Event) {
		if behind == nil {
			behind = map[endpoint]bool{}
		}
		behind[endpoint{e.UserID, e.Kind}] = true
		left = append(left, e)
	}
	for _, e := range batch {
		s, known := d.Settings.Lookup(e.UserID)
		switch {
		case revoked(e):
			d.prepare.leave(endpointOf(e))
			d.spill(e)
		case !known || behind[endpoint{e.UserID, e.Kind}]:
			wait(e)
		case needsClaim(e) && s.Endpoints[e.Kind] != nil:
			clicks = append(clicks, e)
		default:
			ready = append(ready, e)
		}
	}
	if first := make([]bool, len(clicks)); len(clicks) > 0 {
		if err := d.Clicks.Claim(ctx, clicks, first); err != nil {
			d.noClicks.Fail(err, zap.Int("clicks", len(clicks)))
			for _, e := range clicks {
				wait(e)
			}
		} else {
			d.noClicks.Recover()
			ready = append(ready, d.claimed(clicks, first)...)
		}
	}
	leaving := endpointsOf(ready) // before they go: one that is delivered is soon another
	d.toLanes(ready)
	d.prepare.leave(leaving...) // only now may a later event of theirs go its own way
	return d.expire(left)
}

// claimed marks the first clicks, and settles the others.
func (d *Dispatcher) claimed(clicks []*event.Event, first []bool) []*event.Event {
	ready := clicks[:0]
	for i, e := range clicks {
		if e.Claimed = first[i]; e.Claimed {
			ready = append(ready, e)
			continue
		}
		d.prepare.leave(endpointOf(e))
		d.settle(e, webhook.Duplicate)
	}
	return ready
}

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

// expire stores what has waited too long in an overflow topic and gives back the rest.
func (d *Dispatcher) expire(left []*event.Event) []*event.Event {
	now := time.Now()
	rest := left[:0]
	for _, e := range left {
		if now.Sub(e.Arrived) <= patience {
			rest = append(rest, e)
			continue
		}
		d.prepare.leave(endpointOf(e))
		d.spillAs(e, endpoint{0, e.Kind}, prepareRate)
	}
	return rest
}
