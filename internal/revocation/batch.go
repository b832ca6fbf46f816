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

// maxBytes bounds the ids of a batch by their length, so that it fits into a waiting topic: topics take 2 MiB.
const maxBytes = 512 << 10

// batches makes the batches of one user's records: each id once within its list, in the order first seen, at most
// maxIDs in a batch, and maxBytes.
func (u *userIDs) batches(maxIDs int) []*event.Event {
	var all webhook.Revocation
	seenAPI, seenCampaign := map[string]struct{}{}, map[string]struct{}{}
	for _, e := range u.records {
		all.APISMSIDs = appendNew(all.APISMSIDs, e.Batch.APISMSIDs, seenAPI)
		all.CampaignSMSIDs = appendNew(all.CampaignSMSIDs, e.Batch.CampaignSMSIDs, seenCampaign)
	}
	first := u.records[0]
	lease := &flush{records: u.records, fate: webhook.Batched}
	var batches []*event.Event
	for n := 0; all.Count() > 0; n++ {
		one := webhook.Revocation{UserID: first.UserID}
		room := room{maxIDs, maxBytes}
		one.APISMSIDs, all.APISMSIDs = room.take(all.APISMSIDs)
		one.CampaignSMSIDs, all.CampaignSMSIDs = room.take(all.CampaignSMSIDs)
		batches = append(batches, &event.Event{
			Record:      event.Record{Class: topics.Source, Topic: first.Topic, Partition: first.Partition, Offset: first.Offset, Key: strconv.AppendInt(nil, first.UserID, 10), Value: one.AppendRecord(nil), Origin: first.SourcePosition()},
			Delivery:    event.Delivery{Kind: webhook.RevokeClick, ID: first.BatchIdentity(n), Time: first.Time, UserID: first.UserID, Batch: one, Arrived: time.Now()},
			Lease:       lease,
			Trace:       first.Trace,
			Traceparent: first.Traceparent,
		})
	}
	lease.open = len(batches)
	return batches
}

func appendNew(list, ids [][]byte, seen map[string]struct{}) [][]byte {
	for _, id := range ids {
		if _, ok := seen[string(id)]; !ok {
			seen[string(id)] = struct{}{}
			list = append(list, id)
		}
	}
	return list
}

// room is what a batch can still take.
type room struct{ ids, bytes int }

// take gives the ids that have room, at least one if none was taken before, and the others.
func (r *room) take(ids [][]byte) (taken, left [][]byte) {
	n := 0
	for n < len(ids) && r.ids > 0 && (r.bytes >= len(ids[n]) || r.bytes == maxBytes) {
		r.ids--
		r.bytes -= len(ids[n])
		n++
	}
	return ids[:n:n], ids[n:]
}

func settleEmpty(e *event.Event) {
	if !e.Acquire() {
		e.Abandon()
		return
	}
	e.Settle(webhook.Batched)
}

// flush is the lease of one user's batches of one tick: the records they were made of are settled when all of the
// batches are.
type flush struct {
	records []*event.Event

	mu       sync.Mutex
	open     int // batches without an end
	acquired bool
	undone   bool
	fate     webhook.Fate // of the records
}

// Acquire implements event.Lease.
func (f *flush) Acquire() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range f.records {
		if !e.Acquire() {
			return false
		}
	}
	f.acquired = true
	return true
}

// Settle implements event.Lease. A batch that was stored somewhere is a record of its own from then on.
func (f *flush) Settle(_ *event.Event, fate webhook.Fate) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fate == webhook.Dead || fate == webhook.NotConfigured && f.fate == webhook.Batched {
		f.fate = fate
	}
	f.ended()
}

// Abandon implements event.Lease.
func (f *flush) Abandon(*event.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.undone = true
	f.ended()
}

func (f *flush) ended() {
	if f.open--; f.open > 0 {
		return
	}
	for _, e := range f.records {
		if f.undone {
			e.Abandon()
		} else {
			e.Settle(f.fate)
		}
	}
}

// State implements event.Lease. Only all batches together settle the records. Once one of them is in progress the others
// must be stored while that counts, and may go on when it counts no more.
func (f *flush) State() event.State {
	f.mu.Lock()
	defer f.mu.Unlock()
	state := f.records[0].Lease.State()
	if f.acquired && state == event.Revoked {
		return event.Held
	}
	return state
}

// Context implements event.Lease.
func (f *flush) Context() context.Context { return f.records[0].Context() }
