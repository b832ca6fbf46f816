// Package event represents one record on its way through the service: the data read from Kafka, the state of its
// delivery, and the lease on its partition.
package event

import (
	"context"
	"time"

	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// State is the state of a lease.
type State uint8

// The states of a lease, in the order in which it passes through them.
const (
	Held     State = iota // work may begin
	Draining              // the partition is being revoked: what is stored now still counts
	Revoked               // nothing counts any more
)

// Lease is the right to work on a record. It lasts as long as this member holds the record's partition.
type Lease interface {
	// State returns the state of the lease. Unless it is Held, an event that is not in progress must end.
	State() State
	// Acquire reports whether work that ends in a fate may begin. If it returns false the event is to be abandoned. It may
	// block after the process was suspended, until the group confirms the membership.
	Acquire() bool
	// Settle records that e's fate is stored.
	Settle(e *Event, fate webhook.Fate)
	// Abandon returns e without a fate: the next owner of its partition reads the record again.
	Abandon(e *Event)
	// Context ends when work on the record must stop.
	Context() context.Context
}

// Event is one record, or one batch of revocations, on its way through the service. One goroutine owns it at a time.
// The owner ends it with exactly one Settle or Abandon.
type Event struct {
	Record
	Delivery

	Lease    Lease
	acquired bool

	Traceparent string // of the span that the records written for the event continue; "" = none
	Trace       Trace  // nil if the event is not traced
}

// Record is an event's record, as it was read from Kafka.
type Record struct {
	Topic     string
	Partition int32
	Offset    int64
	End       int64 // of a batch of revocations at its source: the offset after its last record; otherwise 0
	Class     topics.Class
	Tier      int8      // index of the overflow tier it was read from, if Class is Overflow
	Namespace Namespace // of the topic, for Identity
	Key       []byte
	Value     []byte
	Memory    []byte // backs Key and Value; reused once the event has ended
	Size      int64  // bytes that count towards the buffer's limit

	Origin      string    // position of the source record; "" until SourcePosition has derived it
	SourceTopic Namespace // of a record from a delay topic: that of its source; "" = unknown
	Generation  uint32    // of the partition's tracker
	Epoch       int32     // leader epoch, -1 = unknown
	Released    bool      // a copy of the record is sent instead
}

// Delivery is the state of an event's delivery.
type Delivery struct {
	ID     string // "" until Identity has derived it
	Kind   webhook.Kind
	UserID int64

	MessageKey uint64             // hash of the message's id; 0 for revocations
	Message    webhook.Message    // decoded dlr, click or inbound
	Batch      webhook.Revocation // decoded revoke_click

	Time     time.Time       // timestamp of the source record
	Due      time.Time       // earliest time of the next attempt, of an event from a delay topic
	Arrived  time.Time       // when it was dispatched last: from a poll, or when it came due
	Attempts int             // attempts made so far
	Failure  webhook.Failure // of the last attempt; "" = none failed
	Reason   webhook.Reason  // why it became a dead letter; "" = it did not

	Endpoint *webhook.Endpoint // as it was looked up last; nil = the user has none of the kind
	Started  time.Time         // when the attempt in progress started

	Claimed  bool      // the click is known to be the first of its message
	Replayed time.Time // when somebody asked to send it again; zero = nobody did
	named    bool      // ID was given by the gateway
}

// Trace records what happens to one event. The batches of a tick share the trace of their first record, so it is
// safe for concurrent use.
type Trace interface {
	// Attempt records a finished attempt.
	Attempt(a LogEntry)
	// End is called last. how is the name of e's fate, or "abandoned".
	End(e *Event, how string)
}

// Decode parses the record's value and sets UserID, or 0 if it cannot be read. The error is that of
// webhook.Decode or webhook.DecodeRevocation.
func (e *Event) Decode() error {
	if e.Kind == webhook.RevokeClick {
		err := webhook.DecodeRevocation(e.Value, &e.Batch)
		e.UserID = e.Batch.UserID
		return err
	}
	err := webhook.Decode(e.Kind, e.Value, &e.Message)
	e.UserID = e.Message.UserID
	return err
}

// IsReplay reports whether the event is sent again because somebody asked for it.
func (e *Event) IsReplay() bool { return !e.Replayed.IsZero() }

// WindowStart returns when the window for attempts began: when the event happened, or was replayed.
func (e *Event) WindowStart() time.Time {
	if e.IsReplay() {
		return e.Replayed
	}
	return e.Time
}

// Acquire asks the lease, once, whether work on the event may begin. It returns true if it has before.
func (e *Event) Acquire() bool {
	if !e.acquired {
		e.acquired = e.Lease.Acquire()
	}
	return e.acquired
}

// Acquired reports whether Acquire has returned true.
func (e *Event) Acquired() bool { return e.acquired }

// Settle ends the event: its fate is stored. The memory of a delivered or stored event is reused for another record, so
// the caller must not touch it afterwards.
func (e *Event) Settle(fate webhook.Fate) { e.Lease.Settle(e, fate) }

// Abandon ends the event without a fate: the next owner of its partition reads the record again.
func (e *Event) Abandon() { e.Lease.Abandon(e) }

// Context ends when work on the event must stop because its partition is revoked.
func (e *Event) Context() context.Context { return e.Lease.Context() }
