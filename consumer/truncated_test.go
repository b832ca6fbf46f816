package consumer

import (
	"testing"

	"github.com/smshooks/smshooks/pkg/offsets"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// TestTruncatedBelowTheCommittable checks that new records are dispatched after a truncation, although the offsets that
// a previous owner finished had become committable: the last one missing below them is finished before they come.
func TestTruncatedBelowTheCommittable(t *testing.T) {
	previous := offsets.New(5, "")
	for o := int64(5); o < 10; o++ {
		previous.Track(o)
		if o > 5 {
			previous.Finish(0, o)
		}
	}
	committed, state := previous.Snapshot(100)
	h := &handler{}
	c, a := pure(h, -1)
	a.restore(offsets.New(committed, state), committed, 3, state)
	c.ingest(fetch(source, records(3, 5)...))
	h.events[0].Acquire()
	h.events[0].Settle(webhook.Delivered)
	if s, _ := c.snapshot(a); s.next != 10 {
		t.Fatalf("%d is committable, want 10", s.next)
	}
	c.ingest(fetch(source, records(4, 6, 7)...))
	if n := len(h.events); n != 3 {
		t.Errorf("%d events dispatched, want 3", n)
	}
	if s, changed := c.snapshot(a); s.next != 6 || s.epoch != 4 || !changed {
		t.Errorf("%d with epoch %d would be committed (%v), want 6 with epoch 4", s.next, s.epoch, changed)
	}
}
