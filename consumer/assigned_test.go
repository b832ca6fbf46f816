package consumer

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

func serverAssigned(c *Config) { c.ServerAssigned = true }

func withID(id string) func(*Config) { return func(c *Config) { c.InstanceID = id } }

// TestServerAssigned checks that the brokers' range assignor also gives a member the same partition numbers of all
// topics, and that a rebalance repeats nothing.
func TestServerAssigned(t *testing.T) {
	withEnv(t, 4, func(t *testing.T, w *env) {
		for p := range 4 {
			w.write(source, int32(p), 3, time.Time{})
			w.write(delayed, int32(p), 1, time.Now())
		}
		first := w.join(all, serverAssigned)
		rest(10 * time.Second)
		second := w.join(all, serverAssigned)
		rest(time.Minute)
		for p := range 4 {
			w.write(source, int32(p), 1, time.Time{})
			w.write(delayed, int32(p), 1, time.Now())
		}
		rest(10 * time.Second)
		for p := range 4 {
			var owners []int
			for i, m := range []*member{first, second} {
				reads := slices.Contains(m.ids(source), fmt.Sprintf("%d/3", p))
				if reads != slices.Contains(m.ids(delayed), fmt.Sprintf("%d/1", p)) {
					t.Errorf("partition %d of the source and of its delay topic have different owners", p)
				}
				if reads {
					owners = append(owners, i)
				}
			}
			if len(owners) != 1 {
				t.Errorf("partition %d was read by %v", p, owners)
			}
		}
		if n := len(first.ids(source)) + len(second.ids(source)); n != 16 {
			t.Errorf("%d events of 16 records", n)
		}
		if len(second.ids(source)) == 0 {
			t.Error("the second member has no partition")
		}
		first.leave()
		second.leave()
	})
}

// TestServerAssignedHeldUp checks that a suspended member asks the group without taking an assignment from its client.
func TestServerAssignedHeldUp(t *testing.T) {
	withEnv(t, 1, func(t *testing.T, w *env) {
		w.write(source, 0, 2, time.Time{})
		m := w.join(none, serverAssigned)
		rest(10 * time.Second)
		first, second := m.take(source+"/0/0"), m.take(source+"/0/1")
		m.holdUp()
		if !first.Acquire() {
			t.Error("Acquire returned false for a member")
		}
		id, _ := m.client.GroupMetadata()
		req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
		req.Group, req.MemberID, req.MemberEpoch = "group", id, -1
		if _, err := req.RequestWith(t.Context(), w.client); err != nil {
			t.Fatal(err)
		}
		m.wantRemoved(t, first, second)
		m.leave()
	})
}

// TestServerAssignedInstanceInUse checks that a second process with the same instance id does not join. It ends once
// the first one cannot be a crashed process whose session has not expired yet.
func TestServerAssignedInstanceInUse(t *testing.T) {
	withEnv(t, 1, func(t *testing.T, w *env) {
		first := w.join(all, serverAssigned, withID("a"))
		rest(10 * time.Second)
		second := w.join(all, serverAssigned, withID("a"))
		began := time.Now()
		rest(40 * time.Second)
		select {
		case err := <-second.stopped:
			t.Fatalf("ended after %v: %v", time.Since(began), err)
		default:
		}
		if err := second.Joined(); err == nil || !strings.Contains(err.Error(), "kafka.instance_id") {
			t.Errorf("Joined() = %v", err)
		}
		w.write(source, 0, 1, time.Time{})
		var fenced *FencedError
		if err := <-second.stopped; !errors.As(err, &fenced) {
			t.Errorf("the second process ended with %v", err)
		}
		if n := len(first.ids(source)); n != 1 {
			t.Errorf("the first process got %d events", n)
		}
		first.leave()
	})
}
