package consumer

import (
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/topics"
)

// withSleepers is like withEnv, with two topics that may sleep. join starts a member that consumes them.
func withSleepers(t *testing.T, partitions int32, test func(t *testing.T, w *env, join func() *member)) {
	t.Helper()
	withEnv(t, partitions, func(t *testing.T, w *env) {
		if _, err := w.admin.CreateTopics(t.Context(), partitions, 1, nil, hourly, released); err != nil {
			t.Fatal(err)
		}
		test(t, w, func() *member {
			return w.join(all, func(c *Config) { c.Topics = append(c.Topics, hourly, released) })
		})
	})
}

// sleeping returns the number of partitions of a topic that the member does not fetch.
func (m *member) sleeping(topic string) int { return len(m.client.PauseFetchPartitions(nil)[topic]) }

// TestMaySleep checks which topics may sleep. Records of the others may be due before they would be found.
func TestMaySleep(t *testing.T) {
	for _, tc := range []struct {
		info topics.Info
		want bool
	}{
		{topics.Info{Class: topics.Source}, false},
		{topics.Info{Class: topics.Retry, Delay: time.Minute}, true},
		{topics.Info{Class: topics.Retry, Delay: time.Minute - time.Millisecond}, false},
		{topics.Info{Class: topics.Paused, Delay: time.Hour}, true},
		{topics.Info{Class: topics.Overflow, Tier: topics.NoTier}, true},
		{topics.Info{Class: topics.Overflow, Tier: 0, Delay: time.Hour}, false}, // of replayed events
		{topics.Info{Class: topics.Overflow, Tier: 1, Delay: time.Minute}, true},
		{topics.Info{Class: topics.Overflow, Tier: 1, Delay: time.Second}, false},
	} {
		if got := maySleep(tc.info); got != tc.want {
			t.Errorf("%+v: %v", tc.info, got)
		}
	}
}

// TestSleep checks that empty partitions of long delays are not fetched, and that records written to them are found
// long before they are due.
func TestSleep(t *testing.T) {
	withSleepers(t, 2, func(t *testing.T, w *env, join func() *member) {
		m := join()
		rest(10 * time.Second)
		for topic, want := range map[string]int{source: 0, delayed: 0, revocations: 0, hourly: 2, released: 2} {
			if n := m.sleeping(topic); n != want {
				t.Errorf("%d partitions of %s sleep, want %d", n, topic, want)
			}
		}
		due := time.Now().Add(time.Hour).Truncate(time.Millisecond)
		w.write(hourly, 1, 3, due)
		rest(3 * time.Second)
		if records, _, _ := m.gates.usage(); records != 3 {
			t.Errorf("%d records in the gates, want 3", records)
		}
		rest(time.Until(due))
		if got := m.ids(hourly); !slices.Equal(got, offsetsOf(1, 0, 3)) {
			t.Errorf("dispatched %v", got)
		}
		rest(10 * time.Second)
		if n := m.sleeping(hourly); n != 2 {
			t.Errorf("%d partitions sleep again, want 2", n)
		}
		m.leave()
	})
}

// TestWake checks that a released event is in the next fetch: the member that has written it calls Wake.
func TestWake(t *testing.T) {
	withSleepers(t, 1, func(t *testing.T, w *env, join func() *member) {
		m := join()
		rest(10 * time.Second)
		w.write(released, 0, 1, time.Now())
		m.Wake(released, 0)
		m.Wake(released, 7) // of another member
		rest(fetchWait + 100*time.Millisecond)
		if n := len(m.ids(released)); n != 1 {
			t.Errorf("%d events dispatched, want 1", n)
		}
		rest(10 * time.Second)
		w.write(released, 0, 1, time.Now())
		rest(3 * time.Second)
		if n := len(m.ids(released)); n != 2 {
			t.Errorf("%d events dispatched without a call, want 2", n)
		}
		m.leave()
	})
}

// TestWakeUnmeasured checks that all partitions are fetched while their ends are unknown.
func TestWakeUnmeasured(t *testing.T) {
	withSleepers(t, 1, func(t *testing.T, w *env, join func() *member) {
		m := join()
		rest(10 * time.Second)
		w.hideEnds()
		w.write(hourly, 0, 1, time.Now())
		rest(10 * time.Second)
		if n := len(m.ids(hourly)); n != 1 {
			t.Errorf("%d events dispatched, want 1", n)
		}
		if n := m.sleeping(hourly) + m.sleeping(released); n != 0 {
			t.Errorf("%d partitions sleep", n)
		}
		m.leave()
	})
}

// TestSleepersMoveToTheNextOwner checks that a partition that sleeps when it is revoked is fetched by its next owner,
// and by the previous one if it gets the partition again.
func TestSleepersMoveToTheNextOwner(t *testing.T) {
	withSleepers(t, 2, func(t *testing.T, w *env, join func() *member) {
		first := join()
		rest(10 * time.Second)
		second := join()
		rest(10 * time.Second)
		w.write(hourly, 0, 1, time.Now())
		w.write(hourly, 1, 1, time.Now())
		rest(3 * time.Second)
		if a, b := len(first.ids(hourly)), len(second.ids(hourly)); a != 1 || b != 1 {
			t.Errorf("dispatched by the two members: %d and %d, want one each", a, b)
		}
		rest(10 * time.Second)
		second.leave()
		w.write(hourly, 0, 1, time.Now())
		w.write(hourly, 1, 1, time.Now())
		rest(10 * time.Second)
		if n := len(first.ids(hourly)); n != 3 {
			t.Errorf("%d events dispatched by the first, want 3", n)
		}
		first.leave()
	})
}

// TestSleepStates checks that a partition sleeps if it was empty twice under the same leader, and not after it was
// revoked.
func TestSleepStates(t *testing.T) {
	cl, err := kgo.NewClient()
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	_, a := pure(&handler{}, 0)
	a.topic = hourly
	a.decidable.Store(true)
	gs := newGates(time.Now, nil)
	gs.client = cl
	paused := func() bool { return len(cl.PauseFetchPartitions(nil)[hourly]) == 1 }
	for i, step := range []struct {
		epoch int32
		want  bool
	}{
		{noEpoch, false}, {5, false}, {5, true}, {5, true},
		{6, false}, {6, true}, // a new leader
		{noEpoch, false}, {6, false}, {6, true},
	} {
		gs.sleep([]emptiness{{a, step.epoch}})
		gs.due(time.Now())
		if got := paused(); got != step.want {
			t.Errorf("step %d: sleeps %v, want %v", i, got, step.want)
		}
	}
	gs.admit(a, []*event.Event{{Lease: a, Delivery: event.Delivery{Due: time.Now()}}}) // polled before
	gs.due(time.Now())
	if paused() {
		t.Error("a partition with records sleeps")
	}
	a.drain()
	gs.drop(a.topicPartition)
	for range 3 {
		gs.sleep([]emptiness{{a, 6}})
	}
	if _, _, n := gs.usage(); n != 0 || paused() {
		t.Error("a revoked partition sleeps")
	}
}

// hideEnds makes Kafka return no start and end of any partition, as if they had no leader.
func (w *env) hideEnds() {
	w.kafka.ControlKey(int16(kmsg.ListOffsets), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.kafka.KeepControl()
		resp := req.ResponseKind().(*kmsg.ListOffsetsResponse)
		for _, rt := range req.(*kmsg.ListOffsetsRequest).Topics {
			topic := kmsg.NewListOffsetsResponseTopic()
			topic.Topic = rt.Topic
			for _, rp := range rt.Partitions {
				p := kmsg.NewListOffsetsResponseTopicPartition()
				p.Partition, p.ErrorCode = rp.Partition, kerr.NotLeaderForPartition.Code
				topic.Partitions = append(topic.Partitions, p)
			}
			resp.Topics = append(resp.Topics, topic)
		}
		return resp, nil, true
	})
}
