package consumer

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/smshooks/smshooks/internal/event"
)

// TestHeldUp checks that a process that was suspended starts no attempt until the group has confirmed its membership.
// If the group has removed it, its requests are cancelled.
func TestHeldUp(t *testing.T) {
	withEnv(t, 1, func(t *testing.T, w *env) {
		w.write(source, 0, 2, time.Time{})
		m := w.join(none)
		rest(6 * time.Second)
		first, second := m.take(source+"/0/0"), m.take(source+"/0/1")
		if !first.Acquire() {
			t.Fatal("Acquire returned false")
		}
		m.holdUp()
		if at := time.Now(); !second.Acquire() || time.Since(at) > 2*time.Second {
			t.Errorf("Acquire of a member took %v, or returned false", time.Since(at))
		}
		if first.Context().Err() != nil {
			t.Error("the requests of a member were cancelled")
		}

		id, _ := m.client.GroupMetadata()
		req := kmsg.NewPtrLeaveGroupRequest()
		req.Group, req.MemberID = "group", id
		req.Members = append(req.Members, kmsg.LeaveGroupRequestMember{MemberID: id})
		if _, err := req.RequestWith(t.Context(), w.client); err != nil {
			t.Fatal(err)
		}
		m.wantRemoved(t, first, second)
		m.leave()
	})
}

// holdUp makes the member believe that it was suspended for a long time.
func (m *member) holdUp() { m.pulse.last.Store(int64(-time.Hour)) }

// wantRemoved checks that a suspended member that the group has removed starts no attempt and cancels the one of first,
// and that both events are read again.
func (m *member) wantRemoved(t *testing.T, first, second *event.Event) {
	t.Helper()
	m.holdUp()
	if second.Lease.Acquire() {
		t.Error("Acquire returned true for a member that the group does not know")
	}
	rest(0)
	if first.Context().Err() == nil {
		t.Error("the event in progress was not cancelled")
	}
	first.Abandon()
	second.Abandon()
	rest(30 * time.Second)
	if got := len(m.ids(source)); got != 4 {
		t.Errorf("%d events, want both again after the member has rejoined", got)
	}
}

// TestPulseRests checks that no beat is missed while the pulse is stopped.
func TestPulseRests(t *testing.T) {
	p := newPulse(0)
	if p.missed() {
		t.Error("missed before the first beat")
	}
	p.beat()
	time.Sleep(time.Millisecond)
	if !p.missed() {
		t.Error("a missed beat was not detected")
	}
	p.rest()
	if p.missed() {
		t.Error("reported as missed after the last beat")
	}
}
