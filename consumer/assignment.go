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
	begun  int
	idle   chan struct{} // closed when closed and begun == 0

	committed      int64 // what the broker last took; under the commit semaphore
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

// Gone implements event.Lease.
func (a *assignment) Gone() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.closed
}
