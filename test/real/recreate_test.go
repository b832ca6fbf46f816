package real_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/smshooks/smshooks/test/real/harness"
)

// noticed is within what time a topic that was deleted and created again is in use, by contract.
const noticed = 30 * time.Second

// deleteTopics deletes topics and waits until the broker does not know them any more.
func deleteTopics(t testing.TB, w *world, topics ...string) {
	t.Helper()
	adm := kadm.NewClient(harness.Client(t, w.kafka.Addr))
	deleted, err := adm.DeleteTopics(t.Context(), topics...)
	if err == nil {
		err = deleted.Error()
	}
	if err != nil {
		t.Fatalf("delete %v: %v", topics, err)
	}
	harness.Eventually(t, 20*time.Second, func() bool {
		listed, err := adm.ListTopics(t.Context())
		if err != nil {
			return false
		}
		for _, topic := range topics {
			if listed.Has(topic) {
				return false
			}
		}
		return true
	}, "topics %v are gone", topics)
}

// TestRecreatedTopics deletes a source, a delay topic and the dead-letter topic under a running service. They are named
// by /readyz, and read and written again when they were created again, without a restart.
func TestRecreatedTopics(t *testing.T) {
	w := newWorld(t)
	w.configure(t, map[int64]harness.Webhook{1: w.all(1, ""), 2: w.all(2, "")})
	w.recv.On(path("dlr", 2), harness.Status(500))
	p := w.serve(t)
	// Offsets that the new topic does not reach at first: they must not count for it.
	var records []int64
	for sms := range int64(20) {
		records = append(records, sms)
		w.emit(t, w.dlr(1, sms))
	}
	w.emit(t, w.dlr(2, 100))
	w.recv.WaitCount(t, path("dlr", 1), len(records), 20*time.Second)
	w.dead(t, 2, 1, 20*time.Second)
	w.recv.Forget()

	topics := []string{w.topics.DLR, w.topics.DLR + "-retry-1s", w.topics.DLR + "-retry-2s", w.topics.DeadLetter}
	deleteTopics(t, w, topics...)
	gone := time.Now()
	harness.Eventually(t, noticed, func() bool {
		text := readyz(p)
		for _, topic := range topics {
			if !strings.Contains(text, "topic "+topic+" does not exist") {
				return false
			}
		}
		return true
	}, "/readyz names the topics that are gone")
	t.Logf("named after %v", time.Since(gone).Round(time.Millisecond))
	w.ensure(t)
	created := time.Now()
	want := []int64{}
	for sms := range int64(30) { // more than before, the first ones while the new topic is not read yet
		want = append(want, 1000+sms)
		w.emit(t, w.dlr(1, 1000+sms))
	}
	w.emit(t, w.dlr(2, 2000))
	w.recv.WaitCount(t, path("dlr", 1), len(want), noticed)
	t.Logf("read after %v", time.Since(created).Round(time.Millisecond))
	p.WaitReady(t, noticed-time.Since(created))
	got := map[string]int{}
	for _, r := range w.recv.Requests(path("dlr", 1)) {
		got[field(t, r.Body, "id")]++
	}
	for _, sms := range want {
		if n := got[fmt.Sprint(sms)]; n != 1 {
			t.Errorf("message %d was received %d times, want once", sms, n)
		}
	}
	w.recv.WaitCount(t, path("dlr", 2), 3, noticed)
	w.dead(t, 2, 1, 20*time.Second)
	p.WaitBalanced(t, 1, 10*time.Second)
	for _, line := range []string{"cannot fetch", "cannot store a record"} {
		if n := strings.Count(p.Log(), line); n > 2*len(topics) {
			t.Errorf("%d lines %q, want a line per topic", n, line)
		}
	}
}
