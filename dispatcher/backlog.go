package dispatcher

import (
	"slices"
	"sync"
	"time"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/pkg/webhook"
)

const (
	// guessedRate is the rate assumed for an endpoint that was never called, in events per second. If it is slower, its
	// events return once and go to a longer tier. A low guess would delay a burst for a fast one by half an hour.
	guessedRate = 100
	// lookupRate is the rate assumed for events that could not be looked up, in events per second and kind.
	lookupRate = 500
	// returnGrace is how long after its delay an event must have come back. If it has not, another instance has it.
	returnGrace = 30 * time.Second
)

// backlog estimates how many events of an endpoint are in each overflow tier, so that a long backlog goes to the long
// tiers and does not keep cycling through the short ones. It counts what this process has seen and starts from nothing
// after a restart.
type backlog struct {
	delays []time.Duration // of the tiers
	mu     sync.Mutex
	tiers  map[backlogKey][]tier
}

// backlogKey names a backlog: that of an endpoint, or that of all events of a kind that could not be looked up.
type backlogKey struct {
	endpoint   endpoint
	unresolved bool
}

func backlogOf(e *event.Event, unresolved bool) backlogKey {
	if unresolved {
		return unresolvedBacklog(e.Kind)
	}
	return backlogKey{endpoint: endpointOf(e)}
}

func unresolvedBacklog(kind webhook.Kind) backlogKey {
	return backlogKey{endpoint: endpoint{kind: kind}, unresolved: true}
}

// tier is the estimate of one backlog in one tier.
type tier struct {
	events int
	last   time.Time // when the newest was stored
}

func newBacklog(delays []time.Duration) *backlog {
	return &backlog{delays: delays, tiers: map[backlogKey][]tier{}}
}

// choose returns the shortest tier whose events the endpoint can finish within the tier's delay, or else the longest.
func (b *backlog) choose(key backlogKey, rate float64) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	tiers := b.tiers[key]
	if tiers == nil {
		return 0
	}
	for i, delay := range b.delays {
		if time.Since(tiers[i].last) > delay+returnGrace {
			tiers[i].events = 0
		}
		if float64(tiers[i].events) < rate*delay.Seconds() {
			return i
		}
	}
	return len(b.delays) - 1
}

// added counts an event that is stored in a tier.
func (b *backlog) added(key backlogKey, to int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	tiers := b.tiers[key]
	if tiers == nil {
		tiers = make([]tier, len(b.delays))
		b.tiers[key] = tiers
	}
	tiers[to].events++
	tiers[to].last = time.Now()
}

// returned counts an event that came back from a tier. It may have been stored before its endpoint could be looked up.
func (b *backlog) returned(ep endpoint, from int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, key := range []backlogKey{{endpoint: ep}, unresolvedBacklog(ep.kind)} {
		tiers := b.tiers[key]
		if tiers == nil || tiers[from].events == 0 {
			continue
		}
		if tiers[from].events--; empty(tiers) {
			delete(b.tiers, key)
		}
		return
	}
}

// forget drops events that must have come back, here or in another instance.
func (b *backlog) forget(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for key, tiers := range b.tiers {
		for i, delay := range b.delays {
			if now.Sub(tiers[i].last) > delay+returnGrace {
				tiers[i].events = 0
			}
		}
		if empty(tiers) {
			delete(b.tiers, key)
		}
	}
}

func empty(tiers []tier) bool {
	return !slices.ContainsFunc(tiers, func(t tier) bool { return t.events > 0 })
}
