package consumer

import (
	"context"
	"sync/atomic"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// buffer counts the dispatched records that have not ended, over all partitions. Nothing is polled while it is full.
type buffer struct {
	maxRecords, maxBytes int64
	records, bytes       atomic.Int64
	collected            atomic.Int64 // of records: revocations, which the collector bounds
	stalled              atomic.Bool
	room                 chan struct{}
}

func newBuffer(maxRecords, maxBytes int64) *buffer {
	return &buffer{maxRecords: maxRecords, maxBytes: maxBytes, room: make(chan struct{}, 1)}
}

func (b *buffer) full() bool {
	return b.records.Load()-b.collected.Load() >= b.maxRecords || b.bytes.Load() >= b.maxBytes
}

func (b *buffer) add(e *event.Event) {
	b.count(e, 1)
}

func (b *buffer) subtract(e *event.Event) {
	b.count(e, -1)
	if b.stalled.Load() && !b.full() && b.stalled.CompareAndSwap(true, false) {
		b.room <- struct{}{}
	}
}

func (b *buffer) count(e *event.Event, n int64) {
	if e.Kind == webhook.RevokeClick && e.Class == topics.Source {
		b.collected.Add(n)
	}
	b.records.Add(n)
	b.bytes.Add(n * e.Size)
}

// wait returns when there is room or ctx ends.
func (b *buffer) wait(ctx context.Context) {
	for b.full() {
		b.stalled.Store(true)
		if !b.full() && b.stalled.CompareAndSwap(true, false) {
			return
		}
		select {
		case <-b.room:
		case <-ctx.Done():
			return
		}
	}
}
