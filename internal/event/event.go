// Package event is one record on its road: what was read from Kafka, what is known of it so far, and whom to
// tell when its fate is stored.
package event

import (
	"context"
	"time"

	"github.com/smshooks/smshooks/pkg/webhook"
)

// Class says which sort of topic an event was read from.
type Class uint8

// The classes of the topics that are consumed.
const (
	Source   Class = iota // written by the gateway
	Retry                 // waits for the next attempt after a failure
	Overflow              // waits because its endpoint's queue was full
)

// Lease is the right to work on a record, held as long as its partition is.
type Lease interface {
	// Begin asks for leave to start work that ends in a fate. False: the partition was given away, and the
	// event is to be abandoned.
	Begin() bool
	// Settle is told that e's fate is stored.
	Settle(e *Event, fate webhook.Fate)
	// Abandon gives e back undone; whoever owns the partition next reads it again. begun tells whether
	// Begin was answered with true.
	Abandon(e *Event, begun bool)
	// Gone tells whether the partition is being given away: no more work may begin.
	Gone() bool
	// Leaving tells whether the partition is being given away and what is stored now still counts: the group has not
	// given it to another yet. An event that is not gone, since others that share its lease have begun, must end then.
	Leaving() bool
	// Context ends when work on the record must stop.
	Context() context.Context
}

// Event is one record (or one batch of revocations) on its road. One goroutine holds it at a time; the holder
// ends it with exactly one Settle or Abandon.
type Event struct {
	Kind      webhook.Kind
	Class     Class
	Tier      int8 // which overflow tier it was read from, if Class is Overflow
	Topic     string
	Partition int32
	Offset    int64
	Key       []byte
	Value     []byte
	Memory    []byte // what Key and Value lie in, to be used again

	Namespace Namespace // of its topic, for Identity
	ID        string    // smshooks-id; "" until asked for, see Identity
	Origin    string    // smshooks-origin; "" until asked for, see Record

	Time     time.Time       // the origin record's timestamp
	Due      time.Time       // not before this (retry and overflow)
	Attempts int             // HTTP attempts made so far
	Error    webhook.Failure // the last failure, "" if there was none
	Reason   webhook.Reason  // why it becomes a dead letter, "" before it does

	UserID     int64
	MessageKey uint64             // hash of the message's id; 0 for revocations
	Message    webhook.Message    // dlr, click, inbound
	Batch      webhook.Revocation // revoke_click

	Arrived    time.Time // when it was taken over from Kafka or from the gate
	Size       int64     // bytes it counts for in the buffer
	Generation uint32    // of its partition's tracker
	Lease      Lease

	Traceparent string // of the span that records written of it continue, "" for none
	Trace       Trace  // nil if nobody follows it

	Claimed  bool   // a click that is known to be its message's first
	Replayed string // when it was sent again as a dead letter, "" if it was not

	named bool // by the gateway
	begun bool
}

// Trace follows one event. The batches made of revocations share the one of their first record, so it is safe for
// concurrent use, and an attempt may be told while another is made.
type Trace interface {
	// Attempt is told of an attempt when it is over.
	Attempt(a Attempt)
	// End is told last: how is the name of e's fate, or "abandoned".
	End(e *Event, how string)
}

// Attempt is one HTTP attempt that was made, for the log of deliveries.
type Attempt struct {
	UserID  int64
	Kind    webhook.Kind
	ID      string // the event's identity
	Number  int    // from 1
	Time    time.Time
	Host    string // of the URL
	Status  int    // HTTP status, 0 if no reply came
	Failure webhook.Failure
	Took    time.Duration
}

// Begin asks the lease, once, for leave to work on the event; true if it has been given before.
func (e *Event) Begin() bool {
	if !e.begun {
		e.begun = e.Lease.Begin()
	}
	return e.begun
}

// Settle ends the event: its fate is stored. A delivered event is used again for another record: it must not be
// looked at any more.
func (e *Event) Settle(fate webhook.Fate) { e.Lease.Settle(e, fate) }

// Abandon ends the event here without a fate: it will be read again by the partition's next owner.
func (e *Event) Abandon() { e.Lease.Abandon(e, e.begun) }

// Context ends when work on the event must stop because its partition is being given away.
func (e *Event) Context() context.Context { return e.Lease.Context() }
