package consumer

import (
	"context"
	"sync"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/pkg/offsets"
	"github.com/smshooks/smshooks/pkg/webhook"
)

type topicPartition struct {
	topic     string
	partition int32
}

// assignment is one partition for as long as this member holds it: its lease, its tracker, its count of work that
// has begun. A partition that comes back is a new assignment, so that nothing late can touch the new one.
type assignment struct {
	topicPartition
	info    Info
	owner   *Consumer
	tracker *offsets.Tracker
	next    int64 // the offset that is expected next, -1 = any; poll loop only

	ctx    context.Context
	cancel context.CancelFunc

	mu     sync.Mutex
	closed bool
	lost   bool // the group has given it to another: nothing may be committed
	begun  int
	idle   chan struct{} // closed when closed and begun == 0

	committed      int64 // what the broker last took
	committedState string
	stateMax       int
}

func (c *Consumer) newAssignment(tp topicPartition) *assignment {
	ctx, cancel := context.WithCancel(c.work)
	return &assignment{
		topicPartition: tp, info: c.topics.Describe(tp.topic), owner: c, next: -1, ctx: ctx, cancel: cancel,
		idle: make(chan struct{}), committed: -1, stateMax: maxMetadata,
	}
}

// Begin implements event.Lease.
func (a *assignment) Begin() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return false
	}
	a.begun++
	return true
}

func (a *assignment) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.begun--; a.begun == 0 && a.closed {
		close(a.idle)
	}
}

// Settle implements event.Lease.
func (a *assignment) Settle(e *event.Event, fate webhook.Fate) {
	a.tracker.Finish(e.Generation, e.Offset)
	a.owner.metrics.Settled(a.topic, e.Kind, fate)
	a.owner.buffer.release(e)
	a.end()
}

// Abandon implements event.Lease.
func (a *assignment) Abandon(e *event.Event, begun bool) {
	a.owner.buffer.release(e)
	if begun {
		a.end()
	}
}

// Context implements event.Lease.
func (a *assignment) Context() context.Context { return a.ctx }

// close lets no more work begin.
func (a *assignment) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return
	}
	a.closed = true
	if a.begun == 0 {
		close(a.idle)
	}
}

// begin is called once, with what was committed, before anything is fetched.
func (a *assignment) begin(t *offsets.Tracker, committed int64, state string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tracker, a.next, a.committed, a.committedState = t, committed, committed, state
}

// hasNotes: a note travels with the partition's committed offset.
func (a *assignment) hasNotes() bool {
	return a.info.Class == event.Source && a.info.Kind == webhook.RevokeClick
}

func (a *assignment) lose() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lost = true
}

// tookOver notes what the broker took.
func (a *assignment) tookOver(s snapshot) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.committed, a.committedState = s.next, s.state
}

// tooLong notes that the broker takes less metadata than was sent.
func (a *assignment) tooLong() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stateMax /= 2
}

// Gone implements event.Lease.
func (a *assignment) Gone() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.closed
}
