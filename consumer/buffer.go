package consumer

import (
	"context"
	"sync/atomic"
)

// buffer counts the records that were taken over and are not settled, over the whole process. While it is full
// nothing more is polled.
type buffer struct {
	maxRecords, maxBytes int64
	records, bytes       atomic.Int64
	stalled              atomic.Bool
	room                 chan struct{}
}

func newBuffer(maxRecords, maxBytes int64) *buffer {
	return &buffer{maxRecords: maxRecords, maxBytes: maxBytes, room: make(chan struct{}, 1)}
}

func (b *buffer) full() bool {
	return b.records.Load() >= b.maxRecords || b.bytes.Load() >= b.maxBytes
}

func (b *buffer) take(size int64) {
	b.records.Add(1)
	b.bytes.Add(size)
}

func (b *buffer) release(size int64) {
	b.records.Add(-1)
	b.bytes.Add(-size)
	if b.stalled.Load() && !b.full() && b.stalled.CompareAndSwap(true, false) {
		b.room <- struct{}{}
	}
}

// wait returns when there is room, or ctx ends.
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
