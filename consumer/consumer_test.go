package consumer

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// rest lets time pass, and then waits until all goroutines are blocked.
func rest(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// Offsets finished above an open record are committed with the offset, at least once a second, and not dispatched
// again.
func TestOutOfOrder(t *testing.T) {
	withEnv(t, 1, func(t *testing.T, w *env) {
		w.write(source, 0, 10, time.Time{})
		m := w.join(func(e *event.Event) bool { return e.Offset != 2 && e.Offset != 5 })
		rest(6 * time.Second)
		if got := m.ids(source); !slices.Equal(got, offsetsOf(0, 0, 10)) {
			t.Fatalf("dispatched: %v", got)
		}
		if at, state := w.committed(source, 0); at != 2 || state == "" {
			t.Errorf("committed %d with %q, want 2 and the finished offsets above", at, state)
		}
		if took := m.leave(); took > time.Second {
			t.Errorf("left after %v, want at once: nothing was in progress", took)
		}
		next := w.join(all)
		rest(6 * time.Second)
		if got, want := next.ids(source), []string{"0/2", "0/5"}; !slices.Equal(got, want) {
			t.Errorf("dispatched to the next: %v, want %v", got, want)
		}
		next.leave()
		if at, state := w.committed(source, 0); at != 10 || state != "" {
			t.Errorf("committed %d with %q, want 10 and no metadata", at, state)
		}
	})
}

func TestCommitWithinASecond(t *testing.T) {
	withEnv(t, 1, func(t *testing.T, w *env) {
		m := w.join(all)
		rest(6 * time.Second)
		for n := range 20 {
			rest(time.Duration(n*137) * time.Millisecond)
			w.write(source, 0, 1, time.Time{})
			rest(time.Second)
			if at, _ := w.committed(source, 0); at != int64(n+1) {
				t.Errorf("committed %d one second after record %d", at, n)
			}
		}
		m.leave()
	})
}

// A stop waits for events in progress.
func TestLeaveWaits(t *testing.T) {
	withEnv(t, 1, func(t *testing.T, w *env) {
		w.write(source, 0, 2, time.Time{})
		m := w.join(none)
		rest(6 * time.Second)
		e := m.take(source + "/0/0")
		if !e.Acquire() {
			t.Fatal("Acquire returned false")
		}
		go func() {
			time.Sleep(3 * time.Second)
			if e.Context().Err() != nil {
				t.Error("cancelled within the grace")
			}
			e.Settle(webhook.Delivered)
		}()
		if took := m.leave(); took < 3*time.Second || took > 4*time.Second {
			t.Errorf("left after %v, want 3s", took)
		}
		if at, _ := w.committed(source, 0); at != 1 {
			t.Errorf("committed %d, want 1", at)
		}
	})
}

func TestLeaveCancels(t *testing.T) {
	withEnv(t, 1, func(t *testing.T, w *env) {
		w.write(source, 0, 2, time.Time{})
		m := w.join(none)
		rest(6 * time.Second)
		e := m.take(source + "/0/0")
		e.Acquire()
		go func() {
			<-e.Context().Done()
			if e.Lease.Acquire() {
				t.Error("an event of a revoked partition was acquired")
			}
			e.Abandon()
		}()
		if took := m.leave(); took < 11*time.Second || took > 12*time.Second {
			t.Errorf("left after %v, want 11s, the grace less the time for the last commit", took)
		}
		next := w.join(all)
		rest(6 * time.Second)
		if got := next.ids(source); !slices.Equal(got, offsetsOf(0, 0, 2)) {
			t.Errorf("dispatched to the next: %v, want both", got)
		}
		next.leave()
	})
}

// TestRebalance checks that a rebalance repeats nothing: events in progress get five seconds, and the new owner starts
// after them.
func TestRebalance(t *testing.T) {
	withEnv(t, 2, func(t *testing.T, w *env) {
		w.write(source, 0, 3, time.Time{})
		w.write(source, 1, 3, time.Time{})
		first := w.join(none)
		rest(6 * time.Second)
		for _, p := range []int{0, 1} {
			e := first.take(fmt.Sprintf("%s/%d/1", source, p))
			if !e.Acquire() {
				t.Fatal("Acquire returned false")
			}
			go func() { // ends only when it is asked to hurry
				for e.Lease.State() == event.Held {
					time.Sleep(10 * time.Millisecond)
				}
				time.Sleep(2 * time.Second)
				e.Settle(webhook.Delivered)
			}()
		}
		second := w.join(none)
		rest(30 * time.Second)
		if n := second.ids(source); len(n) != 2 {
			t.Errorf("dispatched to the second: %v, want the two open ones of one partition", n)
		}
		var again []string
		again = append(again, first.ids(source)[6:]...)
		again = append(again, second.ids(source)...)
		slices.Sort(again)
		if want := []string{"0/0", "0/2", "1/0", "1/2"}; !slices.Equal(again, want) {
			t.Errorf("dispatched after the rebalance: %v, want %v", again, want)
		}
		if n := first.value(t, "smshooks_rebalances_total"); n < 2 {
			t.Errorf("the first counted %v rebalances, want a join and the loss of a partition", n)
		}
		first.leave()
		second.leave()
	})
}

func TestRebalanceCancels(t *testing.T) {
	withEnv(t, 1, func(t *testing.T, w *env) {
		w.write(source, 0, 1, time.Time{})
		first := w.join(none)
		rest(6 * time.Second)
		e := first.take(source + "/0/0")
		e.Acquire()
		ended := make(chan time.Duration, 1)
		go func() {
			for e.Lease.State() == event.Held {
				time.Sleep(10 * time.Millisecond)
			}
			at := time.Now()
			<-e.Context().Done()
			ended <- time.Since(at)
			e.Abandon()
		}()
		second := w.join(none)
		rest(30 * time.Second)
		if took := <-ended; took < revokeWait-20*time.Millisecond || took > revokeWait+100*time.Millisecond {
			t.Errorf("cancelled after %v, want %v", took, revokeWait)
		}
		if n := len(first.ids(source)) + len(second.ids(source)); n != 2 {
			t.Errorf("dispatched %d times, want a repeat at the new owner", n)
		}
		first.leave()
		second.leave()
	})
}

// TestLostPartitions checks that records finished while Kafka is unreachable for longer than the session stay finished.
func TestLostPartitions(t *testing.T) {
	withEnv(t, 1, func(t *testing.T, w *env) {
		w.write(source, 0, 6, time.Time{})
		m := w.join(none)
		rest(6 * time.Second)
		w.cut(true)
		m.settleNow(t, "0/0", "0/3")
		rest(2 * time.Minute)
		w.cut(false)
		w.write(source, 0, 1, time.Time{})
		rest(2 * time.Minute)
		got := m.ids(source)[6:]
		if want := []string{"0/1", "0/2", "0/4", "0/5", "0/6"}; !slices.Equal(got, want) {
			t.Errorf("dispatched again: %v, want %v", got, want)
		}
		m.settleNow(t, "0/1", "0/2", "0/4", "0/5", "0/6")
		rest(time.Second)
		if at, _ := w.committed(source, 0); at != 7 {
			t.Errorf("committed %d, want 7", at)
		}
		m.leave()
	})
}

// TestRefusedCommits checks that refused commits are one log line when they begin and one when they end, however many
// there are.
func TestRefusedCommits(t *testing.T) {
	withEnv(t, 3, func(t *testing.T, w *env) {
		core, logged := observer.New(zap.InfoLevel)
		w.log = zap.New(core)
		var refuse atomic.Bool
		refuse.Store(true)
		w.kafka.ControlKey(int16(kmsg.OffsetCommit), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
			w.kafka.KeepControl()
			req := kreq.(*kmsg.OffsetCommitRequest)
			resp := req.ResponseKind().(*kmsg.OffsetCommitResponse)
			for _, rt := range req.Topics {
				topic := kmsg.NewOffsetCommitResponseTopic()
				topic.Topic, topic.TopicID = rt.Topic, rt.TopicID
				for _, rp := range rt.Partitions {
					p := kmsg.NewOffsetCommitResponseTopicPartition()
					p.Partition, p.ErrorCode = rp.Partition, kerr.GroupAuthorizationFailed.Code
					topic.Partitions = append(topic.Partitions, p)
				}
				resp.Topics = append(resp.Topics, topic)
			}
			return resp, nil, refuse.Load()
		})
		for partition := range int32(3) {
			w.write(source, partition, 2, time.Time{})
		}
		m := w.join(all)
		rest(time.Minute)
		if n := logged.FilterMessage("cannot commit offsets; retrying").Len(); n != 1 {
			t.Errorf("%d lines about refused offsets, want one", n)
		}
		refuse.Store(false)
		rest(time.Minute)
		if n := logged.FilterMessage("offsets are committed again").Len(); n != 1 {
			t.Errorf("%d lines about commits that work again, want one", n)
		}
		for partition := range int32(3) {
			if at, _ := w.committed(source, partition); at != 2 {
				t.Errorf("partition %d: committed %d, want 2", partition, at)
			}
		}
		m.leave()
	})
}

// Records finished before the first commit stay finished.
func TestLostBeforeTheFirstCommit(t *testing.T) {
	withEnv(t, 1, func(t *testing.T, w *env) {
		w.write(source, 0, 6, time.Time{})
		m := w.join(all)
		rest(commitInterval / 2)
		if n := len(m.ids(source)); n != 6 {
			t.Fatalf("%d events dispatched before the first commit, want 6", n)
		}
		w.cut(true)
		rest(2 * time.Minute)
		w.cut(false)
		w.write(source, 0, 1, time.Time{})
		rest(2 * time.Minute)
		if got, want := m.ids(source)[6:], []string{"0/6"}; !slices.Equal(got, want) {
			t.Errorf("dispatched after the loss: %v, want %v", got, want)
		}
		if at, _ := w.committed(source, 0); at != 7 {
			t.Errorf("committed %d, want 7", at)
		}
		m.leave()
	})
}

// settleNow ends open events of the source.
func (m *member) settleNow(t *testing.T, ids ...string) {
	t.Helper()
	for _, id := range ids {
		e := m.take(source + "/" + id)
		if !e.Acquire() {
			t.Fatalf("Acquire of %s returned false", id)
		}
		e.Settle(webhook.Delivered)
	}
}

// Records of a delay topic are dispatched when they are due, never early.
func TestGate(t *testing.T) {
	withEnv(t, 2, func(t *testing.T, w *env) {
		m := w.join(all)
		rest(6 * time.Second)
		var due []time.Time
		for i := range 40 {
			at := time.Now().Add(10 * time.Minute).Truncate(time.Millisecond)
			due = append(due, at)
			w.write(delayed, int32(i%2), 1, at)
			rest(time.Duration(i*i) * time.Millisecond)
		}
		rest(9 * time.Minute)
		if n := len(m.ids(delayed)); n != 0 {
			t.Fatalf("%d events are early", n)
		}
		rest(5 * time.Minute)
		if got := m.ids(delayed); len(got) != 40 {
			t.Fatalf("%d events dispatched, want 40", len(got))
		}
		for _, g := range m.got {
			var p, o int
			if _, err := fmt.Sscanf(strings.TrimPrefix(g.id, delayed+"/"), "%d/%d", &p, &o); err != nil {
				t.Fatal(err)
			}
			if late := g.at.Sub(due[2*o+p]); late < 0 || late > 10*time.Millisecond {
				t.Errorf("event %d of partition %d is %v late", o, p, late)
			}
		}
		if records, bytes, paused := m.gates.usage(); records != 0 || bytes != 0 || paused != 0 {
			t.Errorf("the gates hold %d records, %d bytes, %d paused partitions", records, bytes, paused)
		}
		m.leave()
	})
}

// TestGateMovesToTheNextOwner checks that the next owner delays a gate's records until the same time.
func TestGateMovesToTheNextOwner(t *testing.T) {
	withEnv(t, 1, func(t *testing.T, w *env) {
		first := w.join(all)
		rest(6 * time.Second)
		due := time.Now().Add(10 * time.Minute).Truncate(time.Millisecond)
		w.write(delayed, 0, 5, due)
		rest(time.Minute)
		first.leave()
		if n := first.ids(delayed); len(n) != 0 {
			t.Errorf("dispatched early: %v", n)
		}
		second := w.join(all)
		rest(time.Until(due) - time.Millisecond)
		if n := second.ids(delayed); len(n) != 0 {
			t.Errorf("dispatched early: %v", n)
		}
		rest(20 * time.Millisecond)
		if got := second.ids(delayed); !slices.Equal(got, offsetsOf(0, 0, 5)) {
			t.Errorf("dispatched: %v, want all 5", got)
		}
		second.leave()
	})
}

// Of a delayed partition, only the records polled with the head are held. That also holds if the head is due later than
// the records behind it, and delays them: replayed events go to the first overflow topic and are due at once.
func TestGateHoldsFew(t *testing.T) {
	for name, head := range map[string]int{"all due later": 3000, "the head due later": 1} {
		t.Run(name, func(t *testing.T) {
			withEnv(t, 1, func(t *testing.T, w *env) {
				due := time.Now().Add(10 * time.Minute)
				w.write(delayed, 0, head, due)
				w.write(delayed, 0, 3000-head, time.Now())
				m := w.join(all)
				rest(time.Minute)
				synctest.Wait()
				if records, _, paused := m.gates.usage(); records == 0 || records > maxPoll || paused != 1 {
					t.Errorf("%d records are held, %d partitions paused", records, paused)
				}
				rest(time.Until(due) + 2*time.Second)
				if n := len(m.ids(delayed)); n != 3000 {
					t.Errorf("%d events 2s after they were due, want 3000", n)
				}
				m.leave()
			})
		})
	}
}

// While the buffer is full, nothing is fetched.
func TestFullBuffer(t *testing.T) {
	withEnv(t, 1, func(t *testing.T, w *env) {
		w.write(source, 0, 300, time.Time{})
		m := w.join(none, func(c *Config) { c.MaxBufferedBytes = 100 * (overhead + 4) })
		rest(20 * time.Second)
		if n := len(m.ids(source)); n < 90 || n > 110 {
			t.Errorf("%d events dispatched, want about 100", n)
		}
		for range 10 {
			m.mu.Lock()
			open := m.open
			m.open = nil
			m.mu.Unlock()
			for _, e := range open {
				e.Acquire()
				e.Settle(webhook.Delivered)
			}
			rest(time.Second)
		}
		if n := len(m.ids(source)); n != 300 {
			t.Errorf("%d events dispatched, want 300", n)
		}
		if m.buffer.records.Load() != 0 || m.buffer.bytes.Load() != 0 {
			t.Errorf("%d records, %d bytes are counted while idle", m.buffer.records.Load(), m.buffer.bytes.Load())
		}
		m.leave()
	})
}

func TestPauseTopic(t *testing.T) {
	withEnv(t, 1, func(t *testing.T, w *env) {
		m := w.join(all)
		rest(6 * time.Second)
		m.PauseTopic(revocations)
		rest(time.Second)
		w.write(revocations, 0, 3, time.Time{})
		w.write(source, 0, 1, time.Time{})
		rest(10 * time.Second)
		if r, s := m.ids(revocations), m.ids(source); len(r) != 0 || len(s) != 1 {
			t.Errorf("dispatched: revocations %v, dlr %v, want the dlr only", r, s)
		}
		m.ResumeTopic(revocations)
		rest(time.Second)
		if r := m.ids(revocations); len(r) != 3 {
			t.Errorf("dispatched: %v, want 3", r)
		}
		m.leave()
	})
}

// TestCommitTexts checks that texts are committed only with the offsets of revocations.
func TestCommitTexts(t *testing.T) {
	withEnv(t, 1, func(t *testing.T, w *env) {
		w.write(revocations, 0, 4, time.Time{})
		w.write(source, 0, 4, time.Time{})
		m := w.join(func(e *event.Event) bool { return e.Offset != 1 })
		rest(6 * time.Second)
		m.mu.Lock()
		m.text = "2.4"
		m.mu.Unlock()
		m.CommitNow(context.Background())
		if at, state := w.committed(revocations, 0); at != 1 || !strings.HasSuffix(state, ";2.4") {
			t.Errorf("committed %d with %q, want 1 and the text", at, state)
		}
		if _, state := w.committed(source, 0); state == "" || strings.Contains(state, ";") {
			t.Errorf("committed of dlr: %q, want no text", state)
		}
		m.leave()
		next := w.join(all)
		rest(6 * time.Second)
		if want := []string{revocations + "/0: 2.4"}; !slices.Equal(next.restored, want) {
			t.Errorf("restored %v, want %v", next.restored, want)
		}
		if got := next.ids(revocations); !slices.Equal(got, []string{"0/1"}) {
			t.Errorf("dispatched: %v, want the open one", got)
		}
		next.leave()
		if m.forgot != 1 || next.forgot != 1 {
			t.Errorf("forgotten %d and %d times, want once each", m.forgot, next.forgot)
		}
	})
}

// TestCutOffStop checks that a stop that is cut off at the end of the grace logs that, and not what fails because of it.
func TestCutOffStop(t *testing.T) {
	withEnv(t, 1, func(t *testing.T, w *env) {
		core, logged := observer.New(zap.WarnLevel)
		w.log = zap.New(core)
		w.write(source, 0, 2, time.Time{})
		m := w.join(none)
		rest(6 * time.Second)
		stuck := m.take(source + "/0/1")
		if !stuck.Acquire() {
			t.Fatal("the event cannot be acquired")
		}
		m.leave()
		if lines := logged.All(); len(lines) != 1 || !strings.HasPrefix(lines[0].Message, "shutdown.grace has passed") {
			t.Errorf("logged %v, want one line about the grace", lines)
		}
		stuck.Abandon()
	})
}
