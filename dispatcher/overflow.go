package dispatcher

import (
	"slices"
	"sync"
	"time"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/topics"
)

// guessRate is the events per second of an endpoint of which nothing is known. If it is slower they come back once and
// go on to a longer tier; guessing low would let a burst for a fast one wait half an hour.
const guessRate = 100

// toLanes puts events into their endpoints' lanes. What does not fit goes to an overflow topic at once: nothing on
// this road waits for one endpoint.
func (d *Dispatcher) toLanes(events []*event.Event) {
	for _, e := range events {
		submit := d.lanes.Submit
		if e.Class != topics.Source {
			submit = d.lanes.SubmitDeferred
		}
		if !submit(endpoint{e.UserID, e.Kind}, e.MessageKey, e) {
			d.spill(e)
		}
	}
}

// spill stores an event in an overflow topic.
func (d *Dispatcher) spill(e *event.Event) {
	ep := endpoint{e.UserID, e.Kind}
	rate := d.lanes.Rate(ep)
	if rate == 0 {
		rate = guessRate
	}
	d.spillAs(e, ep, rate)
}

func (d *Dispatcher) spillAs(e *event.Event, ep endpoint, rate float64) {
	d.overflow(e, ep, d.backlog.choose(ep, rate))
}

// overflow stores an event of ep in an overflow tier, or a nearer one if its window ends before.
func (d *Dispatcher) overflow(e *event.Event, ep endpoint, tier int) {
	if !e.Acquire() {
		e.Abandon()
		return
	}
	if to := d.Waiting.Overflow(e, tier, d.Now()); to >= 0 {
		d.backlog.added(ep, to)
	}
}

// backlog estimates how many events of an endpoint wait in each overflow tier, so that a long backlog goes to the
// long tiers and does not circle fast. It counts what this process has seen; after a restart it starts from nothing
// and learns.
type backlog struct {
	tiers []time.Duration
	mu    sync.Mutex
	held  map[endpoint][]tier
}

// tier is what is known of one endpoint in one tier.
type tier struct {
	events int
	last   time.Time // when the newest was stored
}

// comeBack is how long after its delay an event must have come back; if it has not, another instance has it.
const comeBack = 30 * time.Second

func newBacklog(tiers []time.Duration) *backlog {
	return &backlog{tiers: tiers, held: map[endpoint][]tier{}}
}

// choose gives the nearest tier that holds fewer events of ep than ep works off in the tier's delay, else the last.
func (b *backlog) choose(ep endpoint, rate float64) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	held := b.held[ep]
	if held == nil {
		return 0
	}
	for i, delay := range b.tiers {
		if time.Since(held[i].last) > delay+comeBack {
			held[i].events = 0
		}
		if float64(held[i].events) < rate*delay.Seconds() {
			return i
		}
	}
	return len(b.tiers) - 1
}

func (b *backlog) added(ep endpoint, to int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	held := b.held[ep]
	if held == nil {
		held = make([]tier, len(b.tiers))
		b.held[ep] = held
	}
	held[to].events++
	held[to].last = time.Now()
}

func (b *backlog) returned(ep endpoint, from int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	held := b.held[ep]
	if held == nil || held[from].events == 0 {
		ep = endpoint{0, ep.kind} // it waited for Redis, see prepareRate
		if held = b.held[ep]; held == nil || held[from].events == 0 {
			return
		}
	}
	if held[from].events--; empty(held) {
		delete(b.held, ep)
	}
}

// forget drops what must have come back, here or elsewhere.
func (b *backlog) forget(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for ep, held := range b.held {
		for i, delay := range b.tiers {
			if now.Sub(held[i].last) > delay+comeBack {
				held[i].events = 0
			}
		}
		if empty(held) {
			delete(b.held, ep)
		}
	}
}

func empty(held []tier) bool {
	return !slices.ContainsFunc(held, func(t tier) bool { return t.events > 0 })
}
