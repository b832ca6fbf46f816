// Package endpoints tracks which endpoints fail, and reports it in endpoint events.
//
// A [Tracker] receives the result of every attempt and every dead letter of its instance. It keeps the states of the
// endpoints that fail, decides when an event is due, and produces it. The states of all instances are in a [Store] in
// Redis, so that an endpoint that moves to another instance is reported once. They are written when an event is made,
// not with each attempt.
//
// The dispatcher calls Attempted, which takes a lock for reading if any endpoint fails and none otherwise. Run, in the
// caller's goroutine, does the rest. The API reads the Store.
package endpoints

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/metrics"
	"github.com/smshooks/smshooks/internal/outage"
	"github.com/smshooks/smshooks/pkg/webhook"
)

const (
	room         = 16384           // notes that are queued
	batchMax     = 1000            // notes of one batch
	maxEndpoints = 100_000         // endpoints whose state is kept in memory
	maxProducing = 10_000          // events that are not acknowledged yet
	syncInterval = 5 * time.Second // between readings of what other instances stored
	answer       = 2 * time.Second // of Redis, to one batch
	scanTime     = 10 * time.Second
	maxRounds    = 4           // of swaps of one batch, each lost to another instance
	stopTime     = time.Second // for the last notes, and for the last events to be acknowledged
)

// Producer is the needed part of a Kafka client; *kgo.Client implements it.
type Producer interface {
	TryProduce(ctx context.Context, r *kgo.Record, promise func(*kgo.Record, error))
}

// Parts are the dependencies of a Tracker. There are no defaults.
type Parts struct {
	Store    *Store
	Producer Producer
	Topic    string
	Metrics  *metrics.Metrics
	Log      *zap.Logger
	Now      func() time.Time
	// Host returns the host of a user's URL of a kind, without port, "" if there is none or it is not known.
	Host func(userID int64, kind webhook.Kind) string
}

// Tracker tracks the endpoints of an instance. It is safe for concurrent use.
type Tracker struct {
	Parts
	notes chan note

	// failing holds the endpoints that fail according to their last note. The lock is held while a note is queued, so that
	// the notes have the order of the changes.
	mu      sync.RWMutex
	failing map[key]struct{}
	count   atomic.Int64 // of failing

	entries   map[key]*entry // Run only
	producing sync.WaitGroup
	pending   atomic.Int64 // in producing

	unread, unstored, unproduced *outage.Outage
}

// entry is the state of one endpoint.
type entry struct {
	state
	base    state  // that of stored
	stored  string // as this instance has seen it in Redis last
	unsaved bool   // state must be stored at the next sync
}

// New returns a Tracker. Nothing is produced unless Run runs.
func New(parts Parts) *Tracker {
	t := &Tracker{
		Parts: parts, notes: make(chan note, room), failing: map[key]struct{}{}, entries: map[key]*entry{},
		unread: outage.New(parts.Log, "cannot read the states of endpoints in Redis; endpoint events may repeat",
			"the states of endpoints are read again"),
		unstored: outage.New(parts.Log, "cannot store the states of endpoints in Redis; endpoint events may repeat",
			"the states of endpoints are stored again"),
		unproduced: outage.New(parts.Log.With(zap.String("topic", parts.Topic)),
			"cannot store endpoint events, dropping them: check the topic", "endpoint events are stored again"),
	}
	parts.Metrics.Read(metrics.FailingEndpoints, func() float64 { return float64(t.count.Load()) })
	return t
}

// Attempted receives the result of an attempt at e. It never blocks: if the queue is full, the result is not counted.
func (t *Tracker) Attempted(e *event.Event, failure webhook.Failure) {
	if failure == "" {
		t.succeeded(key{e.UserID, e.Kind})
		return
	}
	n := note{key: key{e.UserID, e.Kind}, at: e.Started.UTC(), host: e.Endpoint.Hostname(), failure: failure}
	n.url = Fingerprint(e.Endpoint)
	if t.failedAgain(&n) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.failing) >= maxEndpoints {
		t.Metrics.EndpointEventDropped()
	} else if t.queue(&n) {
		t.mark(n.key)
	}
}

// succeeded queues the success of a failing endpoint. For other endpoints it costs next to nothing.
func (t *Tracker) succeeded(k key) {
	if t.count.Load() == 0 || !t.isFailing(k) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.queue(&note{key: k, change: succeeded}) {
		t.unmark(k)
	}
}

// failedAgain queues the failure of an endpoint that fails already; false if it does not.
func (t *Tracker) failedAgain(n *note) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	_, failing := t.failing[n.key]
	if failing {
		t.queue(n)
	}
	return failing
}

func (t *Tracker) isFailing(k key) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	_, failing := t.failing[k]
	return failing
}

// mark adds an endpoint to failing. The caller holds the lock.
func (t *Tracker) mark(k key) {
	t.failing[k] = struct{}{}
	t.count.Store(int64(len(t.failing)))
}

// unmark removes an endpoint from failing. The caller holds the lock.
func (t *Tracker) unmark(k key) {
	delete(t.failing, k)
	t.count.Store(int64(len(t.failing)))
}

// Died receives an event that was stored as a dead letter. It never blocks. Records that cannot be decoded belong to no
// endpoint.
func (t *Tracker) Died(e *event.Event) {
	if e.Reason == webhook.InvalidRecord {
		return
	}
	n := note{key: key{e.UserID, e.Kind}, change: died, at: t.Now().UTC(), failure: e.Failure}
	if e.Endpoint != nil {
		n.host = e.Endpoint.Hostname()
	}
	t.queue(&n)
}

// queue returns false if there is no room.
func (t *Tracker) queue(n *note) bool {
	select {
	case t.notes <- *n:
		return true
	default:
		t.Metrics.EndpointEventDropped()
		return false
	}
}

// Load reads which endpoints fail. Called before the first attempt, it lets a success be recognised as a recovery.
func (t *Tracker) Load(ctx context.Context) { t.sync(ctx) }

// Run produces events until ctx ends, then those of the notes that are left, and stores what was counted. Load must
// have returned.
func (t *Tracker) Run(ctx context.Context) {
	ticker := time.NewTicker(syncInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			t.stop()
			return
		case <-ticker.C:
			t.sync(ctx)
		case n := <-t.notes:
			t.settle(ctx, t.gather(n))
		}
	}
}

// gather returns n and the notes that are queued, by endpoint.
func (t *Tracker) gather(n note) map[key][]note {
	work := map[key][]note{n.key: {n}}
	for i := 1; i < batchMax && len(t.notes) > 0; i++ {
		n = <-t.notes
		work[n.key] = append(work[n.key], n)
	}
	return work
}

// stop ends the work of Run.
func (t *Tracker) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	for len(t.notes) > 0 {
		t.settle(ctx, t.gather(<-t.notes))
	}
	work := map[key][]note{}
	for k, e := range t.entries {
		if e.state != e.base { // counts, which need not be stored earlier
			e.unsaved, work[k] = true, nil
		}
	}
	t.settle(ctx, work)
	done := make(chan struct{})
	go func() { t.producing.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// settle applies the notes, stores the states that changed, and produces the events that follow from them. If another
// instance has changed a state by then, the notes are applied to that one.
func (t *Tracker) settle(ctx context.Context, work map[key][]note) {
	ctx, cancel := context.WithTimeout(ctx, answer)
	defer cancel()
	for round := 0; len(work) > 0; round++ {
		changes := t.changes(work)
		if len(changes) == 0 {
			return
		}
		swaps := make([]*swap, len(changes))
		for i, c := range changes {
			swaps[i] = &c.swap
		}
		switch err := t.Store.swap(ctx, swaps); {
		case err == nil:
			t.unstored.Recover()
		case !errors.Is(ctx.Err(), context.Canceled): // otherwise stop tries again
			t.unstored.Fail(err)
		}
		for _, c := range changes {
			if t.conclude(c, round) {
				delete(work, c.key)
			}
		}
	}
}

// changed is a state that is to be stored.
type changed struct {
	swap
	entry  *entry
	next   state
	events []Event
}

// changes applies the notes and returns the states that must be stored. The others are done, and leave work.
func (t *Tracker) changes(work map[key][]note) (changes []*changed) {
	now := t.Now().UTC()
	for k, notes := range work {
		e := t.entry(k)
		if e == nil {
			t.Metrics.EndpointEventDropped()
			delete(work, k)
			continue
		}
		next, stored := e.state, e.unsaved
		var all []Event
		for i := range notes {
			events, must := next.apply(&notes[i], now)
			all, stored = append(all, events...), stored || must
		}
		if stored { // most failures of a failing endpoint change nothing
			if to := next.text(); to != e.stored || len(all) > 0 {
				c := changed{swap{key: k, from: e.stored, to: to}, e, next, all}
				changes = append(changes, &c)
				continue
			}
			e.unsaved = false
		}
		t.keep(k, e, next)
		delete(work, k)
	}
	return changes
}

// conclude takes over the result of a swap; false if the notes are to be applied again.
func (t *Tracker) conclude(c *changed, round int) bool {
	e := c.entry
	switch {
	case c.err != nil: // other instances do not know it until it is stored
		e.unsaved = true
	case c.current == c.to:
		e.stored, e.base, e.unsaved = c.to, c.next, false
	default:
		t.adopt(c.key, e, c.current)
		if round < maxRounds {
			return false
		}
		e.unsaved = true
	}
	t.keep(c.key, e, c.next)
	for i := range c.events {
		t.produce(&c.events[i])
	}
	return true
}

// adopt takes over what another instance has stored.
func (t *Tracker) adopt(k key, e *entry, current string) {
	theirs := parse(current)
	e.state, e.base, e.stored = e.onto(e.base, theirs), theirs, current
	if e.Failing.Since.IsZero() { // it works according to the other instance
		t.mu.Lock()
		defer t.mu.Unlock()
		t.unmark(k)
	}
}

// entry returns the entry of an endpoint, nil if there are too many.
func (t *Tracker) entry(k key) *entry {
	e := t.entries[k]
	if e == nil && len(t.entries) < maxEndpoints {
		e = &entry{}
		t.entries[k] = e
	}
	return e
}

// keep sets the state of an entry and drops an empty entry.
func (t *Tracker) keep(k key, e *entry, s state) {
	e.state = s
	if e.state == (state{}) && e.stored == "" && !e.unsaved {
		delete(t.entries, k)
	}
	if s.Failing.Since.IsZero() || t.isFailing(k) {
		return
	}
	// Another instance found that it fails, or a success is queued behind the notes that were applied: a further one
	// does no harm.
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mark(k)
}

// sync adopts what other instances have stored, and stores what Redis did not accept before, what time has changed, and
// failures other than the stored one.
func (t *Tracker) sync(ctx context.Context) {
	scan, cancel := context.WithTimeout(ctx, scanTime)
	defer cancel()
	texts, err := t.Store.all(scan)
	switch {
	case err == nil:
		t.unread.Recover()
		t.adoptAll(texts)
	case ctx.Err() == nil:
		t.unread.Fail(err)
	}
	work, now := map[key][]note{}, t.Now()
	for k, e := range t.entries {
		if e.Failing.Failure != e.base.Failing.Failure { // States shows it
			e.unsaved = true
		}
		if e.unsaved || e.due(now) {
			work[k] = []note{{key: k, change: passed}}
		}
	}
	t.settle(ctx, work)
}

func (t *Tracker) adoptAll(texts map[key]string) {
	for k, text := range texts {
		if e := t.entry(k); e != nil && e.stored != text && !e.unsaved {
			t.adopt(k, e, text)
			t.keep(k, e, e.state)
		}
	}
	for k, e := range t.entries {
		if _, stored := texts[k]; !stored && e.stored != "" && !e.unsaved {
			t.adopt(k, e, "")
			t.keep(k, e, e.state)
		}
	}
}

// produce stores an event. It does not wait.
func (t *Tracker) produce(e *Event) {
	if e.Host == "" {
		e.Host = t.Host(e.UserID, e.Kind)
	}
	if t.pending.Load() >= maxProducing {
		t.Metrics.EndpointEventDropped()
		return
	}
	t.pending.Add(1)
	t.producing.Add(1)
	t.Producer.TryProduce(context.Background(), e.record(t.Topic), func(_ *kgo.Record, err error) {
		defer t.producing.Done()
		t.pending.Add(-1)
		if err != nil {
			t.Metrics.EndpointEventDropped()
			t.unproduced.Fail(err)
			return
		}
		t.Metrics.EndpointEvent(string(e.Type))
		t.unproduced.Recover()
	})
}
