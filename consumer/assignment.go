package consumer

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/topics"
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
	info    topics.Info
	owner   *Consumer
	tracker *offsets.Tracker
	next    int64 // the offset that is expected next, -1 = any; poll loop only
	// epoch is the newest leader epoch of what was read, or of what was committed; -1 if neither is known. Commits carry
	// it, so it also is the newest epoch of the records that a commit's metadata calls finished.
	epoch  atomic.Int32
	former []former

	topicID   [16]byte // as the fetches report it; poll loop only
	namespace event.Namespace
	mark      atomic.Pointer[string] // of the topic, for commits; nil while its id is not known

	times times // of a source's records

	ctx    context.Context
	cancel context.CancelFunc

	mu       sync.Mutex
	closed   bool
	lost     bool // the group has given it to another: nothing may be committed
	replaced bool // its topic was deleted; there may be a new one of that name
	begun    int
	idle     chan struct{} // closed when closed and begun == 0

	committed      int64 // what the broker last took
	committedState string
	stateMax       int
}

// former is what this process knows of an earlier assignment of the same partition. What was finished then is
// finished, whoever held the partition meanwhile, even if it could not be committed: Kafka was away, or took this
// member for dead.
type former struct {
	tracker *offsets.Tracker // late work may still finish in it
	topicID [16]byte         // a topic of the same name that has another id has other records
	epoch   int32            // the newest leader epoch seen; records of a newer one are others at the same offsets
	ended   time.Time
}

const (
	formerKept = 10 * time.Minute
	formerMost = 4
	maxReused  = 8 << 10 // bytes of an event's memory that is used again
)

// finishedBefore: an earlier assignment finished the record.
func (a *assignment) finishedBefore(offset int64, epoch int32) bool {
	for _, f := range a.former {
		if f.topicID == a.topicID && epoch <= f.epoch && f.tracker.Finished(offset) {
			return true
		}
	}
	return false
}

// end of an assignment: what later ones of the partition must know.
func (a *assignment) legacy(now time.Time) []former {
	if a.tracker == nil || a.namespace == "" {
		return a.former // nothing was read
	}
	all := append(a.former, former{a.tracker, a.topicID, a.epoch.Load(), now})
	return all[max(0, len(all)-formerMost):]
}

func (c *Consumer) newAssignment(tp topicPartition) *assignment {
	ctx, cancel := context.WithCancel(c.work)
	a := &assignment{
		topicPartition: tp, info: c.topics.Describe(tp.topic), owner: c, next: -1, ctx: ctx, cancel: cancel,
		idle: make(chan struct{}), committed: -1, stateMax: maxMetadata,
	}
	a.epoch.Store(-1)
	for _, f := range c.former[tp] {
		if time.Since(f.ended) < formerKept {
			a.former = append(a.former, f)
		}
	}
	delete(c.former, tp)
	return a
}

// identify notes the topic id that came with a fetch. Brokers of a cluster that is being upgraded may not know it yet:
// the one that is known stays then.
func (a *assignment) identify(id [16]byte, epoch string) {
	if a.namespace == "" || id != a.topicID && id != [16]byte{} {
		a.topicID, a.namespace = id, event.NamespaceOf(id, a.topic, epoch)
		a.mark.Store(markOf(id))
	}
}

// Acquire implements event.Lease.
func (a *assignment) Acquire() bool {
	if !a.confirmed() {
		return false
	}
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
	if e.Trace != nil {
		e.Trace.End(e, fate.String())
	}
	if e.Replayed != "" && a.owner.replayed != nil && fate != webhook.Retry && fate != webhook.Overflow {
		a.owner.replayed(e.UserID, e.Identity())
	}
	a.tracker.Finish(e.Generation, e.Offset)
	a.owner.metrics.Settled(a.topic, e.Kind, fate)
	a.owner.buffer.release(e)
	if fate == webhook.Delivered && cap(e.Memory) <= maxReused {
		a.owner.events.Put(e) // nobody has it any more; other fates' records may still be in a producer's hands
	}
	a.end()
}

// Abandon implements event.Lease.
func (a *assignment) Abandon(e *event.Event) {
	if e.Trace != nil {
		e.Trace.End(e, "abandoned")
	}
	a.owner.buffer.release(e)
	if e.Acquired() {
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
func (a *assignment) begin(t *offsets.Tracker, committed int64, epoch int32, state string) {
	a.epoch.Store(epoch)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tracker, a.next, a.committed, a.committedState = t, committed, committed, state
	if committed < 0 { // it may be another topic of the same name, which only an id tells
		a.former = slices.DeleteFunc(a.former, func(f former) bool { return f.topicID == [16]byte{} })
	}
}

// hasNotes: a note travels with the partition's committed offset.
func (a *assignment) hasNotes() bool {
	return a.info.Class == topics.Source && a.info.Kind == webhook.RevokeClick
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

// State implements event.Lease.
func (a *assignment) State() event.State {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case !a.closed:
		return event.Held
	case !a.lost:
		return event.Draining
	}
	return event.Revoked
}
