package consumer

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/kafka"
	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/offsets"
	"github.com/smshooks/smshooks/pkg/webhook"
)

type topicPartition struct {
	topic     string
	partition int32
}

// assignment is a partition for as long as this member owns it: the lease of its events, the tracker of its offsets,
// the count of events in progress. A partition that is assigned again is a new assignment, so that late work cannot
// touch it.
type assignment struct {
	topicPartition
	info    topics.Info
	owner   *Consumer
	tracker *offsets.Tracker
	next    int64 // offset of the next record, -1 = any; set by restore before the first fetch, then poll loop only
	first   int64 // offset that was committed at the assignment, -1 = none
	// decidable: every release that a previous owner may have begun is known.
	decidable atomic.Bool
	// epoch is the newest leader epoch of the read records, or else the committed one; -1 = unknown. It is committed,
	// so it is the newest epoch of the records that the commit's metadata calls finished.
	epoch   atomic.Int32
	history []past

	topicID   [16]byte // as the fetches report it; poll loop only
	namespace event.Namespace
	mark      atomic.Pointer[string] // of the topic, for commits; nil while its id is not known

	times times // of a source's records

	ctx    context.Context
	cancel context.CancelFunc

	mu         sync.Mutex
	draining   bool          // no further event may be acquired
	lost       bool          // nothing may be committed
	refused    error         // why the broker did not return the committed offset; tracker is nil then
	replaced   bool          // the topic was deleted; there may be a new one of its name
	inProgress int           // acquired events
	idle       chan struct{} // closed when it is draining and nothing is in progress

	committed         int64 // offset that the broker stored last
	committedMetadata string
	maxMetadataBytes  int
}

// past is what this process remembers of an earlier assignment of a partition. A record that was finished then needs no
// work, whoever has owned the partition since, even if it could not be committed.
type past struct {
	tracker *offsets.Tracker // late work may still finish records in it
	topicID [16]byte         // a topic of the same name with another id has other records
	epoch   int32            // newest leader epoch; at the same offset, a newer one has another record
	ended   time.Time
}

const (
	historyKept = 10 * time.Minute
	maxHistory  = 4
	maxReused   = 8 << 10 // bytes of an event's memory that is reused
)

// finishedBefore reports whether an earlier assignment finished the record.
func (a *assignment) finishedBefore(offset int64, epoch int32) bool {
	return a.finishedIn(a.topicID, offset, epoch)
}

// finishedIn is finishedBefore for a record of the topic with that id.
func (a *assignment) finishedIn(topicID [16]byte, offset int64, epoch int32) bool {
	for _, f := range a.history {
		if f.topicID == topicID && epoch <= f.epoch && f.tracker.Finished(offset) {
			return true
		}
	}
	return false
}

// appendHistory returns what later assignments of the partition must know.
func (a *assignment) appendHistory(now time.Time) []past {
	if a.tracker == nil || a.namespace == "" {
		return a.history // nothing was read
	}
	all := append(a.history, past{a.tracker, a.topicID, a.epoch.Load(), now})
	return all[max(0, len(all)-maxHistory):]
}

func (c *Consumer) newAssignment(tp topicPartition) *assignment {
	ctx, cancel := context.WithCancel(c.workCtx)
	a := &assignment{
		topicPartition: tp, info: c.Topics.Describe(tp.topic), owner: c, next: -1, ctx: ctx, cancel: cancel,
		idle: make(chan struct{}), committed: -1, maxMetadataBytes: maxMetadata,
	}
	a.epoch.Store(-1)
	for _, f := range c.history[tp] {
		if time.Since(f.ended) < historyKept {
			a.history = append(a.history, f)
		}
	}
	delete(c.history, tp)
	return a
}

// identify stores the topic id of a fetch. While a cluster is being upgraded a broker may report none. The known one
// is kept then.
func (a *assignment) identify(id [16]byte, epoch string) {
	if a.namespace == "" || id != a.topicID && id != [16]byte{} {
		a.topicID, a.namespace = id, event.NamespaceOf(id, a.topic, epoch)
		a.mark.Store(kafka.CommitMark(id))
	}
}

// Acquire implements event.Lease.
func (a *assignment) Acquire() bool {
	if !a.awaitConfirmed() {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.draining {
		return false
	}
	a.inProgress++
	return true
}

// done ends the work on an acquired event.
func (a *assignment) done() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.inProgress--; a.inProgress == 0 && a.draining {
		close(a.idle)
	}
}

// Settle implements event.Lease.
func (a *assignment) Settle(e *event.Event, fate webhook.Fate) {
	if e.Trace != nil {
		e.Trace.End(e, fate.String())
	}
	if e.IsReplay() && a.owner.Replayed != nil && !fate.Stored() {
		a.owner.Replayed(e.UserID, e.Identity())
	}
	a.tracker.Finish(e.Generation, e.Offset)
	a.owner.Metrics.Settled(a.topic, e.Kind, fate)
	a.owner.buffer.subtract(e)
	if (fate == webhook.Delivered || fate.Stored()) && cap(e.Memory) <= maxReused {
		a.owner.events.Put(e)
	}
	a.done()
}

// Abandon implements event.Lease.
func (a *assignment) Abandon(e *event.Event) {
	if e.Trace != nil {
		e.Trace.End(e, "abandoned")
	}
	a.owner.buffer.subtract(e)
	if e.Acquired() {
		a.done()
	}
}

// Context implements event.Lease.
func (a *assignment) Context() context.Context { return a.ctx }

// drain prevents further events from being acquired.
func (a *assignment) drain() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.draining {
		return
	}
	a.draining = true
	if a.inProgress == 0 {
		close(a.idle)
	}
}

// restore sets what was committed. It is called once, before anything is fetched.
func (a *assignment) restore(t *offsets.Tracker, committed int64, epoch int32, state string) {
	a.epoch.Store(epoch)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refused = nil
	a.tracker, a.next, a.first, a.committed, a.committedMetadata = t, committed, committed, committed, state
	if committed < 0 { // without an id this may be another topic of the same name
		a.history = slices.DeleteFunc(a.history, func(f past) bool { return f.topicID == [16]byte{} })
	}
}

// hasCommitText reports whether a text is committed with the offset.
func (a *assignment) hasCommitText() bool {
	return a.info.Class == topics.Source && a.info.Kind == webhook.RevokeClick
}

// lose prevents further commits.
func (a *assignment) lose() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lost = true
}

// acknowledge stores what the broker has committed.
func (a *assignment) acknowledge(s snapshot) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.committed, a.committedMetadata = s.next, s.state
}

// halveMetadata is called when the broker refuses the metadata as too large.
func (a *assignment) halveMetadata() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.maxMetadataBytes /= 2
}

// State implements event.Lease.
func (a *assignment) State() event.State {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case !a.draining:
		return event.Held
	case !a.lost:
		return event.Draining
	}
	return event.Revoked
}
