package consumer

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/pkg/offsets"
)

// decisions holds a test's decisions about offsets of the delay topic. Other offsets pass.
type decisions struct {
	mu       sync.Mutex
	released map[int64]bool
	open     map[int64]bool
	end      chan struct{} // closed when the end is reached
}

func newDecisions() *decisions {
	return &decisions{released: map[int64]bool{}, open: map[int64]bool{}, end: make(chan struct{})}
}

func (d *decisions) Any() bool { return true }

func (d *decisions) Decide(e *event.Event) (released, undecided bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.released[e.Offset], d.open[e.Offset]
}

func (d *decisions) AwaitEnd(ctx context.Context) error {
	select {
	case <-d.end:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// set changes the decision about offsets.
func (d *decisions) set(change func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change()
}

// wasReleased returns the offsets that were dispatched as released.
func (m *member) wasReleased() (offsets []int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.open {
		if e.Released {
			offsets = append(offsets, e.Offset)
		}
	}
	return offsets
}

// TestAwaitReleasesEnds checks that nothing waits for the releases once the last of the assignments that need them has
// ended: a topic that cannot be read would gather waiters with each rebalance.
func TestAwaitReleasesEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // fails if a goroutine is left
		c, a := pure(&handler{}, 0)
		b := c.newAssignment(topicPartition{delayed, 4})
		c.Releases, c.workCtx = newDecisions(), context.Background()
		c.awaitReleases([]*assignment{a, b})
		a.cancel()
		synctest.Wait()
		close(c.Releases.(*decisions).end)
		synctest.Wait()
		if !b.decidable.Load() {
			t.Error("the gate of the second partition is closed")
		}

		c.Releases = newDecisions()
		b = c.newAssignment(topicPartition{delayed, 5})
		c.awaitReleases([]*assignment{b})
		b.cancel()
	})
}

// TestGateHolds checks that an undecided due record is held while those behind it are dispatched. The gate's position
// is after all of them. Released records are dispatched as such.
func TestGateHolds(t *testing.T) {
	withEnv(t, 1, func(t *testing.T, w *env) {
		d := newDecisions()
		close(d.end)
		d.open[1], d.open[3], d.released[4] = true, true, true
		w.releases = d
		m := w.join(none)
		w.write(delayed, 0, 6, time.Now())
		rest(6 * time.Second)
		if got, want := m.ids(delayed), []string{"0/0", "0/2", "0/4", "0/5"}; !slices.Equal(got, want) {
			t.Fatalf("dispatched %v, want %v", got, want)
		}
		if got := m.wasReleased(); !slices.Equal(got, []int64{4}) {
			t.Errorf("released %v, want 4", got)
		}
		ps := m.Delayed()
		if len(ps) != 1 || ps[0].Topic != delayed || ps[0].Next != 6 || ps[0].Undecided != 2 || !ps[0].Owned() {
			t.Errorf("delayed partitions %+v", ps)
		}
		if records, _, _ := m.gates.usage(); records != 2 {
			t.Errorf("%d records in the gates, want the held ones", records)
		}
		d.set(func() { delete(d.open, 1); delete(d.open, 3); d.released[1] = true })
		rest(time.Second)
		if got, want := m.ids(delayed), []string{"0/0", "0/2", "0/4", "0/5", "0/1", "0/3"}; !slices.Equal(got, want) {
			t.Errorf("dispatched %v, want %v", got, want)
		}
		if got := m.wasReleased(); !slices.Equal(got, []int64{4, 1}) {
			t.Errorf("released %v, want 4 and 1", got)
		}
		m.leave()
		if ps[0].Owned() {
			t.Error("a member that has left still owns the partition")
		}
	})
}

// TestGateIsClosed checks that after an assignment no record of a delay topic is dispatched before all releases are
// known. Sources continue.
func TestGateIsClosed(t *testing.T) {
	withEnv(t, 1, func(t *testing.T, w *env) {
		d := newDecisions()
		w.releases = d
		w.write(delayed, 0, 200, time.Now())
		w.write(source, 0, 3, time.Time{})
		m := w.join(all)
		rest(30 * time.Second)
		if got := m.ids(delayed); len(got) != 0 || len(m.ids(source)) != 3 || len(m.Delayed()) != 0 {
			t.Fatalf("dispatched %v and %v, delayed partitions %v", got, m.ids(source), m.Delayed())
		}
		if records, _, paused := m.gates.usage(); paused != 1 || records > minPoll+200 {
			t.Errorf("%d records in the gates, %d partitions are paused", records, paused)
		}
		close(d.end)
		rest(6 * time.Second)
		if got := m.ids(delayed); !slices.Equal(got, offsetsOf(0, 0, 200)) {
			t.Errorf("dispatched %v", got)
		}
		m.leave()
	})
}

// TestHeldMovesToTheNextOwner checks that the next owner gets the held records.
func TestHeldMovesToTheNextOwner(t *testing.T) {
	withEnv(t, 1, func(t *testing.T, w *env) {
		d := newDecisions()
		close(d.end)
		d.open[0] = true
		w.releases = d
		w.write(delayed, 0, 2, time.Now())
		m := w.join(all)
		rest(6 * time.Second)
		m.leave()
		if records, bytes, _ := m.gates.usage(); records != 0 || bytes != 0 {
			t.Errorf("%d records with %d bytes are left in the gates", records, bytes)
		}
		d.set(func() { clear(d.open) })
		next := w.join(all)
		rest(6 * time.Second)
		if got := next.ids(delayed); !slices.Equal(got, []string{"0/0"}) {
			t.Errorf("dispatched to the next owner: %v", got)
		}
		next.leave()
	})
}

// TestMaxHeld checks that a gate that holds many records accepts no more until they are decided.
func TestMaxHeld(t *testing.T) {
	withEnv(t, 1, func(t *testing.T, w *env) {
		d := newDecisions()
		close(d.end)
		const (
			n    = maxUndecided + 16*maxPoll
			most = maxUndecided + 8*maxPoll // the poll loop may be some polls ahead of the loop that decides
		)
		for offset := range int64(n) {
			d.open[offset] = true
		}
		w.releases = d
		m := w.join(all)
		w.write(delayed, 0, n, time.Now())
		rest(time.Minute)
		ps := m.Delayed()
		if len(ps) != 1 || ps[0].Undecided != maxUndecided || ps[0].Next != maxUndecided {
			t.Fatalf("delayed partitions %+v", ps)
		}
		if records, _, paused := m.gates.usage(); paused != 1 || records > most {
			t.Errorf("%d records in the gates, %d partitions are paused", records, paused)
		}
		d.set(func() { clear(d.open) })
		rest(30 * time.Second)
		if got := len(m.ids(delayed)); got != n {
			t.Errorf("%d records dispatched, want %d", got, n)
		}
		m.leave()
	})
}

// TestAbortedCopies checks that records of an aborted transaction in the topic of released events do not count as lost.
func TestAbortedCopies(t *testing.T) {
	withEnv(t, 1, func(t *testing.T, w *env) {
		core, logged := observer.New(zap.ErrorLevel)
		w.log = zap.New(core)
		client, err := w.newClient(kgo.TransactionalID("id"))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		m := w.join(all)
		for n, end := range []kgo.TransactionEndTry{kgo.TryCommit, kgo.TryAbort, kgo.TryCommit} {
			if err := client.BeginTransaction(); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				if err := client.ProduceSync(t.Context(), &kgo.Record{Topic: delayed, Value: []byte{'0' + byte(n)}}).FirstErr(); err != nil {
					t.Fatal(err)
				}
			}
			if err := client.EndTransaction(t.Context(), end); err != nil {
				t.Fatal(err)
			}
			rest(10 * time.Second)
		}
		if n := len(m.ids(delayed)); n != 6 || logged.Len() > 0 {
			t.Errorf("%d events, errors %v", n, logged.All())
		}
		if at, _ := w.committed(delayed, 0); at != 12 {
			t.Errorf("committed %d, want 12", at)
		}
		m.leave()
	})
}

// TestFinishedByEpoch checks that a record that was written in place of a lost, finished one does not count as finished
// for a recovery.
func TestFinishedByEpoch(t *testing.T) {
	a := &assignment{tracker: offsets.New(0, "")}
	for offset := range int64(4) {
		if generation, _ := a.tracker.Track(offset); offset == 2 {
			a.tracker.Finish(generation, offset)
		}
	}
	for _, c := range []struct {
		known, epoch int32
		offset       int64
		want         bool
	}{{3, 3, 2, true}, {3, 2, 2, true}, {3, 4, 2, false}, {-1, 0, 2, true}, {3, -1, 2, true}, {3, 3, 1, false}, {3, 3, 9, false}} {
		a.epoch.Store(c.known)
		if got := a.finished([16]byte{}, c.offset, c.epoch); got != c.want {
			t.Errorf("offset %d of epoch %d, while %d is known: %v", c.offset, c.epoch, c.known, got)
		}
	}
}
