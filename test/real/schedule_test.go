package real_test

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/test/real/harness"
)

// TestScheduleChange changes retry.schedule and overflow.delays while records are delayed: first without retry.drain,
// which must be reported, then as in the runbook. Every event must get its attempts in time.
func TestScheduleChange(t *testing.T) {
	t.Parallel()
	e := newEnv(t, "--retry.schedule=7s,1s")
	e.configure(t, map[int64]harness.Webhook{1: e.all(1, ""), 2: e.all(2, "")})
	// The third attempt of one event may be before the second of another.
	e.recv.On("/dlr/1", func(rw http.ResponseWriter, r *http.Request, _ harness.Request) {
		if r.Header.Get("Webhook-Attempt") != "3" {
			rw.WriteHeader(http.StatusInternalServerError)
		}
	})
	e.recv.On("/revoke/2", harness.Codes(500, 200))
	p := e.serve(t)
	for i := range int64(5) {
		e.emit(t, e.dlr(1, i))
	}
	e.emit(t, e.revocation(2, numbers(1, 3), nil))
	first := e.recv.WaitCount(t, "", 6, harness.Patience)
	old := harness.Retry(e.topics.DLR, "7s")
	e.waitStored(t, old, 1, 5, harness.Patience)
	e.waitStored(t, harness.Retry(e.topics.Revocation, "7s"), 2, 1, harness.Patience)
	if code := p.Term(t); code != 0 {
		t.Fatalf("exit code %d", code)
	}

	// the old delay is not in any setting
	e.flags[len(e.flags)-1] = "--retry.schedule=2s,1s"
	e.ensure(t)
	p = e.serve(t)
	harness.Eventually(t, harness.Patience, func() bool { return p.Metrics(t).Sum("smshooks_unread_waiting_records") == 6 }, "6 records in orphaned delay topics")
	if log := p.Log(); !strings.Contains(log, old) || !strings.Contains(log, "retry.drain=7s") {
		t.Errorf("the log does not name %s and retry.drain=7s", old)
	}
	if code := p.Term(t); code != 0 {
		t.Fatalf("exit code %d", code)
	}

	p = e.serve(t, "--retry.drain=7s")
	e.recv.WaitCount(t, "/dlr/1", 15, harness.Patience)
	e.recv.WaitCount(t, "/revoke/2", 2, harness.Patience)
	p.WaitBalanced(t, 6, harness.Patience)
	due := first[0].End.Add(7 * time.Second)
	byID := map[string][]harness.Request{}
	for _, r := range e.recv.Requests("/dlr/1") {
		id := r.Header.Get("Webhook-Id")
		byID[id] = append(byID[id], r)
	}
	if len(byID) != 5 {
		t.Fatalf("%d events, want 5", len(byID))
	}
	for id, got := range byID {
		if len(got) != 3 {
			t.Fatalf("%s: %d attempts, want 3", id, len(got))
		}
		if got[1].Start.Before(due.Add(-time.Second)) || got[1].Start.Before(got[0].End.Add(7*time.Second-harness.Clocks)) {
			t.Errorf("%s: the second attempt came %v after the first", id, got[1].Start.Sub(got[0].End))
		}
		// the third follows the new schedule's second step
		if wait := got[2].Start.Sub(got[1].End); wait < time.Second-harness.Clocks || wait > time.Second+late+harness.Slack(got[1].End) {
			t.Errorf("%s: the third attempt came %v after the second", id, wait)
		}
		if n := got[2].Header.Get("Webhook-Attempt"); n != "3" {
			t.Errorf("%s: the third attempt is numbered %s", id, n)
		}
	}
	harness.Eventually(t, harness.Patience, func() bool {
		m := p.Metrics(t)
		return m.Sum("smshooks_unread_waiting_records") == 0 && m.Sum("smshooks_retry_waiting_records") == 0
	}, "nothing waits any more")
	if code := p.Term(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	p = e.serve(t) // empty: the setting can be removed
	harness.Eventually(t, harness.Patience, func() bool { return p.Metrics(t).Has("smshooks_unread_waiting_records") }, "a scrape")
	e.emit(t, e.dlr(1, 99))
	e.recv.WaitCount(t, "/dlr/1", 16, harness.Patience)
}

// TestPartitionsGrow follows docs/upgrade.md: it adds partitions to a source while the service runs and events fail,
// and then runs `topics ensure`. Without a restart, every event must get its attempts.
func TestPartitionsGrow(t *testing.T) {
	t.Parallel()
	const users, more = 24, 2 * partitions
	e := newEnv(t)
	settings := map[int64]harness.Webhook{}
	for user := int64(1); user <= users; user++ {
		settings[user] = e.all(user, "")
		e.recv.On(path("dlr", user), firstFails())
	}
	e.configure(t, settings)
	p := e.serve(t)
	emit := func(sms int64) (partitionsUsed map[int32]bool) {
		var load []*kgo.Record
		for user := int64(1); user <= users; user++ {
			load = append(load, e.dlr(user, sms))
		}
		partitionsUsed = map[int32]bool{}
		for _, r := range e.emit(t, load...) {
			partitionsUsed[r.Partition] = true
		}
		return partitionsUsed
	}
	emit(1)
	if _, err := kadm.NewClient(harness.Client(t, e.kafka.Addr)).UpdatePartitions(t.Context(), more, e.topics.DLR); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, harness.Patience, func() bool {
		_, _, code := harness.Run(t, e.options(), "topics", "check")
		return code == 1
	}, "topics check objects to unequal counts")
	e.ensure(t)
	harness.Eventually(t, harness.Patience, func() bool { return len(emit(2)) == more }, "events in all %d partitions", more)
	stored := len(harness.Consume(t, e.kafka.Addr, e.topics.DLR))
	harness.Eventually(t, 60*time.Second, func() bool {
		m := p.Metrics(t)
		return has(m, "smshooks_group_lag_records", "topic", e.topics.DLR, "partition", strconv.Itoa(more-1)) &&
			m.Sum("smshooks_group_lag_records") == 0 && m.Sum("smshooks_retry_waiting_records") == 0 && m.Sum("smshooks_settled_total", "fate", "delivered") >= float64(stored)
	}, "the added partitions are read to their end")
	attempts := map[string]int{}
	for _, r := range e.recv.Requests("") {
		attempts[r.Header.Get("Webhook-Id")]++
	}
	events := 0
	for partition := range int32(more) {
		for r := (&kgo.Record{Topic: e.topics.DLR, Partition: partition}); attempts[identity(r)] > 0; r.Offset++ {
			if n := attempts[identity(r)]; n != 2 {
				t.Errorf("%s: %d attempts, want 2", harness.Position(r), n)
			}
			events++
		}
	}
	if events != stored || len(attempts) != stored {
		t.Errorf("%d events of %d were sent, under %d identities", events, stored, len(attempts))
	}
}
