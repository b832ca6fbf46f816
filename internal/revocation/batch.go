package revocation

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// batches merges one user's records into batches.
func (u *userRecords) batches(maxIDs int) []*event.Event {
	revocations := make([]webhook.Revocation, len(u.records))
	for i, e := range u.records {
		revocations[i] = e.Batch
	}
	first, last := u.records[0], u.records[len(u.records)-1]
	lease := &sharedLease{records: u.records, fate: webhook.Batched}
	var batches []*event.Event
	for n, one := range webhook.Batches(revocations, maxIDs) {
		batches = append(batches, &event.Event{
			Record: event.Record{
				Class: topics.Source, Topic: first.Topic, Partition: first.Partition, Offset: first.Offset, End: last.Offset + 1,
				Key: strconv.AppendInt(nil, first.UserID, 10), Value: one.AppendRecord(nil), Origin: first.SourcePosition(),
			},
			Delivery: event.Delivery{
				Kind: webhook.RevokeClick, ID: first.BatchIdentity(n), Time: first.Time, UserID: first.UserID, Batch: one,
				Arrived: time.Now(),
			},
			Lease:       lease,
			Trace:       first.Trace,
			Traceparent: first.Traceparent,
		})
	}
	lease.open = len(batches)
	return batches
}

// sharedLease is the lease of the batches that one tick made of a user's records. It settles the records when all of
// the batches are settled.
type sharedLease struct {
	records []*event.Event

	mu        sync.Mutex
	open      int // batches that have not ended
	acquired  bool
	abandoned bool
	fate      webhook.Fate // of the records
}

// Acquire implements event.Lease.
func (l *sharedLease) Acquire() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.records {
		if !e.Acquire() {
			return false
		}
	}
	l.acquired = true
	return true
}

// Settle implements event.Lease. A batch that was stored in another topic counts as done: it is a record of its own.
func (l *sharedLease) Settle(_ *event.Event, fate webhook.Fate) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if fate == webhook.Dead || fate == webhook.NotConfigured && l.fate == webhook.Batched {
		l.fate = fate
	}
	l.end()
}

// Abandon implements event.Lease.
func (l *sharedLease) Abandon(*event.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.abandoned = true
	l.end()
}

func (l *sharedLease) end() {
	if l.open--; l.open > 0 {
		return
	}
	for _, e := range l.records {
		if l.abandoned {
			e.Abandon()
		} else {
			e.Settle(l.fate)
		}
	}
}

// State implements event.Lease. Only all batches together settle the records. Once one of them is in progress, the
// others must be stored while the lease is draining. When it is revoked nothing is committed any more, and they may
// continue until their context ends.
func (l *sharedLease) State() event.State {
	l.mu.Lock()
	defer l.mu.Unlock()
	state := l.records[0].Lease.State()
	if l.acquired && state == event.Revoked {
		return event.Held
	}
	return state
}

// Context implements event.Lease.
func (l *sharedLease) Context() context.Context { return l.records[0].Context() }
