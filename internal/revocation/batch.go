package revocation

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// batches makes the batches of one user's records: each id once within its list, in the order first seen, at most
// maxIDs in a batch.
func (u *userIDs) batches(maxIDs int, now time.Time) []*event.Event {
	var all webhook.Revocation
	seenAPI, seenCampaign := map[string]struct{}{}, map[string]struct{}{}
	for _, e := range u.records {
		all.APISMSIDs = appendNew(all.APISMSIDs, e.Batch.APISMSIDs, seenAPI)
		all.CampaignSMSIDs = appendNew(all.CampaignSMSIDs, e.Batch.CampaignSMSIDs, seenCampaign)
	}
	first := u.records[0]
	lease := &flush{records: u.records, open: (all.Count() + maxIDs - 1) / maxIDs, fate: webhook.Batched}
	batches := make([]*event.Event, 0, lease.open)
	for n := range lease.open {
		one := webhook.Revocation{UserID: first.UserID}
		one.APISMSIDs, all.APISMSIDs = split(all.APISMSIDs, maxIDs)
		one.CampaignSMSIDs, all.CampaignSMSIDs = split(all.CampaignSMSIDs, maxIDs-len(one.APISMSIDs))
		batches = append(batches, &event.Event{
			Kind: webhook.RevokeClick, Class: event.Source, Topic: first.Topic, Partition: first.Partition, Offset: first.Offset,
			Key: strconv.AppendInt(nil, first.UserID, 10), Value: one.AppendRecord(nil), ID: first.Identity() + "/" + strconv.Itoa(n),
			Time: first.Time, UserID: first.UserID, Batch: one, Arrived: now, Lease: lease,
			Trace: first.Trace, Traceparent: first.Traceparent,
		})
	}
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

func split(ids [][]byte, n int) (head, tail [][]byte) {
	n = min(n, len(ids))
	return ids[:n:n], ids[n:]
}

func settleEmpty(e *event.Event) {
	if !e.Begin() {
		e.Abandon()
		return
	}
	e.Settle(webhook.Batched)
}

// flush is the lease of one user's batches of one tick: the records they were made of are settled when all of the
// batches are.
type flush struct {
	records []*event.Event

	mu     sync.Mutex
	open   int // batches without an end
	begun  bool
	undone bool
	fate   webhook.Fate // of the records
}

// Begin implements event.Lease.
func (f *flush) Begin() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range f.records {
		if !e.Begin() {
			return false
		}
	}
	f.begun = true
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
func (f *flush) Abandon(*event.Event, bool) {
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

// Gone implements event.Lease. Once one of the batches has begun the others may follow: only all of them together
// settle the records.
func (f *flush) Gone() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.begun && f.records[0].Lease.Gone()
}

// Context implements event.Lease.
func (f *flush) Context() context.Context { return f.records[0].Context() }
