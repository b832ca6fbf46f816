package dispatcher

import (
	"sync"
	"time"

	"github.com/smshooks/smshooks/internal/event"
)

const (
	// A full queue of an endpoint that would take what does not fit this soon is waited for: for so little a
	// trip through an overflow topic does not pay.
	soon      = 250 * time.Millisecond
	lookAgain = time.Millisecond
	guessRate = 3 // events per second of an endpoint of which nothing is known
)

// toLanes puts events into their endpoints' lanes. What does not fit goes to an overflow topic, unless there is
// room soon.
func (d *Dispatcher) toLanes(events []*event.Event) {
	var late []*event.Event
	var full map[endpoint]int
	for _, e := range events {
		ep := endpoint{e.UserID, e.Kind}
		if full[ep] == 0 && d.lanes.Submit(ep, e.MessageKey, e) {
			continue
		}
		if full == nil {
			full = map[endpoint]int{}
		}
		full[ep]++
		late = append(late, e)
	}
	for deadline := time.Now().Add(soon); len(late) > 0; {
		late = d.submitLate(late, full, deadline)
		if len(late) > 0 {
			time.Sleep(lookAgain)
		}
	}
}

// submitLate tries the events of full queues once more, in order, and gives back those that are worth waiting for.
func (d *Dispatcher) submitLate(late []*event.Event, full map[endpoint]int, deadline time.Time) []*event.Event {
	now := time.Now()
	refused := map[endpoint]bool{}
	rest := late[:0]
	for _, e := range late {
		ep := endpoint{e.UserID, e.Kind}
		if !refused[ep] && d.lanes.Submit(ep, e.MessageKey, e) {
			full[ep]--
			continue
		}
		refused[ep] = true
		rate := d.lanes.Rate(ep)
		if now.Before(deadline) && (rate == 0 || float64(full[ep])/rate < soon.Seconds()) {
			rest = append(rest, e)
			continue
		}
		full[ep]--
		d.spill(e, now)
	}
	return rest
}

// spill stores an event in an overflow topic.
func (d *Dispatcher) spill(e *event.Event, now time.Time) {
	ep := endpoint{e.UserID, e.Kind}
	rate := d.lanes.Rate(ep)
	if rate == 0 {
		rate = guessRate
	}
	d.spillAs(e, ep, rate, now)
}

func (d *Dispatcher) spillAs(e *event.Event, ep endpoint, rate float64, now time.Time) {
	if tier := d.Waiting.Overflow(e, d.backlog.choose(ep, rate), now); tier >= 0 {
		d.backlog.added(ep, tier)
	}
}

// backlog estimates how many events of an endpoint wait in each overflow tier, so that a long backlog goes to the
// long tiers and does not circle fast. It counts what this process has seen; after a restart it starts from nothing
// and learns.
type backlog struct {
	tiers []time.Duration
	mu    sync.Mutex
	held  map[endpoint][]int
}

func newBacklog(tiers []time.Duration) *backlog {
	return &backlog{tiers: tiers, held: map[endpoint][]int{}}
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
		if float64(held[i]) < rate*delay.Seconds() {
			return i
		}
	}
	return len(b.tiers) - 1
}

func (b *backlog) added(ep endpoint, tier int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	held := b.held[ep]
	if held == nil {
		held = make([]int, len(b.tiers))
		b.held[ep] = held
	}
	held[tier]++
}

func (b *backlog) returned(ep endpoint, tier int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	held := b.held[ep]
	if held == nil || held[tier] == 0 {
		ep = endpoint{0, ep.kind} // it waited for Redis, see prepareRate
		if held = b.held[ep]; held == nil || held[tier] == 0 {
			return
		}
	}
	held[tier]--
	for _, n := range held {
		if n > 0 {
			return
		}
	}
	delete(b.held, ep)
}
