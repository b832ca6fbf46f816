package real_test

import (
	"fmt"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/test/real/harness"
)

// wantAttempts holds requests of one event against the schedule: never early, at most a second late, numbered.
func wantAttempts(t *testing.T, got []harness.Request, schedule ...time.Duration) {
	t.Helper()
	if len(got) != len(schedule)+1 {
		t.Fatalf("%d attempts, want %d", len(got), len(schedule)+1)
	}
	for i, r := range got {
		if n := r.Header.Get("Webhook-Attempt"); n != strconv.Itoa(i+1) {
			t.Errorf("attempt %d says it is %s", i+1, n)
		}
		if r.Header.Get("Webhook-Id") != got[0].Header.Get("Webhook-Id") {
			t.Errorf("attempt %d has Webhook-Id %s, the first %s", i+1, r.Header.Get("Webhook-Id"), got[0].Header.Get("Webhook-Id"))
		}
		if i == 0 {
			continue
		}
		if after := r.Start.Sub(got[i-1].End) - schedule[i-1]; after < 0 || after > late {
			t.Errorf("attempt %d came %v after the failure before it, want %v to %v", i+1, after+schedule[i-1], schedule[i-1], schedule[i-1]+late)
		}
	}
}

// TestRetry follows failing events through their attempts, retry records and dead letters.
func TestRetry(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	users := map[int64]harness.Webhook{}
	for user := int64(1); user <= 9; user++ {
		users[user] = w.all(user, "")
	}
	w.configure(t, users)
	p := w.serve(t, "--dispatch.timeout=700ms")
	t.Run("case", func(t *testing.T) {
		for name, test := range map[string]func(*testing.T, *world){
			"third attempt":   testThirdAttempt,
			"exhausted":       testExhausted,
			"timeout":         testTimeout,
			"too old":         testTooOld,
			"window ends":     testWindowEnds,
			"many in a row":   testManyInARow,
			"inbound":         testInboundRetry,
			"url goes":        testURLGoes,
			"endpoint's down": testEndpointDown,
		} {
			t.Run(name, func(t *testing.T) { t.Parallel(); test(t, w) })
		}
	})
	m := p.WaitBalanced(t, 1, 10*time.Second)
	if n := m.Sum("smshooks_retry_overdue_seconds"); n != 0 {
		t.Errorf("%v s overdue when all is done", n)
	}
	harness.Eventually(t, 5*time.Second, func() bool { return p.Metrics(t).Sum("smshooks_retry_waiting_records") == 0 }, "no record waits")
}

func testThirdAttempt(t *testing.T, w *world) {
	w.recv.On("/dlr/1", harness.Codes(500, 503, 200))
	at := time.Now().Add(-time.Hour).Truncate(time.Millisecond)
	r := &kgo.Record{Topic: w.topics.DLR, Partition: harness.ByKey, Key: []byte("1"), Value: []byte(harness.DLRValue(1, 1)), Timestamp: at,
		Headers: []kgo.RecordHeader{{Key: "smshooks-attempts", Value: []byte("2")}, {Key: "trace", Value: []byte("x")}}}
	w.emit(t, r)
	got := w.recv.WaitCount(t, "/dlr/1", 3, 10*time.Second)
	wantAttempts(t, got, time.Second, 2*time.Second)
	for i, topic := range []string{harness.Retry(w.topics.DLR, "1s"), harness.Retry(w.topics.DLR, "2s")} {
		stored := w.waitStored(t, topic, 1, 1, 5*time.Second)[0]
		if string(stored.Value) != string(r.Value) || stored.Partition != r.Partition {
			t.Errorf("%s: partition %d value %s", topic, stored.Partition, stored.Value)
		}
		wantHeaders(t, stored, map[string]string{"id": identity(r), "kind": "dlr", "attempts": strconv.Itoa(i + 1), "error": []string{"http 500", "http 503"}[i], "reason": ""})
		if e := headerTime(t, stored, "event-time"); !e.Equal(at) {
			t.Errorf("event time %v, want %v", e, at)
		}
		due := headerTime(t, stored, "due")
		if wait := due.Sub(got[i].End); wait < time.Duration(i+1)*time.Second-time.Millisecond || wait > time.Duration(i+1)*time.Second+300*time.Millisecond {
			t.Errorf("due %v after the failure", wait)
		}
		if got[i+1].Start.Before(due) {
			t.Errorf("attempt %d began %v before it was due", i+2, due.Sub(got[i+1].Start))
		}
	}
}

func testExhausted(t *testing.T, w *world) {
	w.recv.On("/click/2", harness.Codes(500, 503, 404))
	r := w.emit(t, w.click(2, 1))[0]
	d := w.dead(t, 2, 1, 10*time.Second)[0]
	if string(d.Value) != string(r.Value) {
		t.Errorf("value %s", d.Value)
	}
	wantHeaders(t, d, map[string]string{"id": identity(r), "kind": "click", "attempts": "3", "error": "http 404", "reason": "attempts_exhausted", "due": ""})
	headerTime(t, d, "event-time")
	harness.Pass(2500 * time.Millisecond)
	wantAttempts(t, w.recv.Requests("/click/2"), time.Second, 2*time.Second)
}

func testTimeout(t *testing.T, w *world) {
	w.recv.On("/dlr/3", harness.Hang())
	w.emit(t, w.dlr(3, 1))
	wantHeaders(t, w.dead(t, 3, 1, 12*time.Second)[0], map[string]string{"error": "timeout", "attempts": "3"})
	for _, r := range w.recv.Requests("/dlr/3") {
		if took := r.End.Sub(r.Start); took < 500*time.Millisecond || took > time.Second {
			t.Errorf("a request took %v, want about the timeout of 700 ms", took)
		}
	}
}

// testTooOld: a record past its window at its first attempt. A revocation has no window.
func testTooOld(t *testing.T, w *world) {
	old := time.Now().Add(-25 * time.Hour).Truncate(time.Millisecond)
	r := w.dlr(4, 1)
	rev := w.revocation(4, numbers(1, 2), nil)
	r.Timestamp, rev.Timestamp = old, old
	w.emit(t, r, rev)
	d := w.dead(t, 4, 1, 5*time.Second)[0]
	wantHeaders(t, d, map[string]string{"id": identity(r), "attempts": "0", "reason": "window_expired", "error": "", "due": ""})
	if e := headerTime(t, d, "event-time"); !e.Equal(old) {
		t.Errorf("event time %v, want %v", e, old)
	}
	w.recv.WaitCount(t, "/revoke/4", 1, 5*time.Second)
	if n := w.recv.Count("/dlr/4"); n != 0 {
		t.Errorf("%d requests", n)
	}
}

// testWindowEnds: the next due time is past the window, so the event is dead at once.
func testWindowEnds(t *testing.T, w *world) {
	w.recv.On("/dlr/5", harness.Status(500))
	first, second := w.dlr(5, 1), w.dlr(5, 2)
	// the first may be tried again after 1 s, not after 2 s more; the second not even after 1 s
	first.Timestamp = time.Now().Add(-24*time.Hour + 2500*time.Millisecond)
	w.emit(t, first)
	w.recv.WaitCount(t, "/dlr/5", 2, 4*time.Second)
	d := w.dead(t, 5, 1, 900*time.Millisecond)[0]
	wantHeaders(t, d, map[string]string{"id": identity(first), "attempts": "2", "reason": "window_expired", "error": "http 500"})
	second.Timestamp = time.Now().Add(-24*time.Hour + 500*time.Millisecond)
	w.emit(t, second)
	d = w.dead(t, 5, 2, 900*time.Millisecond)[1]
	if harness.Header(d, "smshooks-id") != identity(second) {
		d = w.dead(t, 5, 2, time.Second)[0]
	}
	wantHeaders(t, d, map[string]string{"id": identity(second), "attempts": "1", "reason": "window_expired", "error": "http 500"})
}

func testManyInARow(t *testing.T, w *world) {
	w.recv.On("/dlr/6", firstFails())
	var records []*kgo.Record
	for i := range int64(300) {
		records = append(records, w.dlr(6, i))
	}
	w.emit(t, records...)
	byID := map[string][]harness.Request{}
	for _, r := range w.recv.WaitCount(t, "/dlr/6", 600, 15*time.Second) {
		byID[r.Header.Get("Webhook-Id")] = append(byID[r.Header.Get("Webhook-Id")], r)
	}
	for _, r := range records {
		wantAttempts(t, byID[identity(r)], time.Second)
	}
	if n := w.recv.Widest("/dlr/6"); n > 3 {
		t.Errorf("%d requests at once", n)
	}
}

func testInboundRetry(t *testing.T, w *world) {
	w.recv.On("/inbound/7", harness.Codes(500, 200))
	w.emit(t, harness.Event(w.topics.Inbound, 7, harness.InboundValue(7, 1)))
	got := w.recv.WaitCount(t, "/inbound/7", 2, 5*time.Second)
	wantAttempts(t, got, time.Second)
	if string(got[0].Body) != string(got[1].Body) {
		t.Errorf("the second body is %s, the first %s", got[1].Body, got[0].Body)
	}
}

// testURLGoes: an event whose URL goes while it waits is settled as not_configured, not dead.
func testURLGoes(t *testing.T, w *world) {
	w.recv.On("/dlr/8", harness.Status(500))
	w.emit(t, w.dlr(8, 1))
	w.recv.WaitCount(t, "/dlr/8", 2, 5*time.Second)
	w.configure(t, map[int64]harness.Webhook{8: {}}) // counts within 1 s, the third attempt is 2 s away
	harness.Pass(4 * time.Second)
	if n := w.recv.Count("/dlr/8"); n != 2 {
		t.Errorf("%d requests, want 2", n)
	}
	if n := len(of(harness.Consume(t, w.kafka.Addr, w.topics.DeadLetter), 8)); n != 0 {
		t.Errorf("%d dead letters", n)
	}
}

// testEndpointDown: idle connections that an endpoint closed are no failures.
func testEndpointDown(t *testing.T, w *world) {
	for i := range int64(5) {
		w.emit(t, w.dlr(9, i))
		w.recv.WaitCount(t, "/dlr/9", int(i)+1, 5*time.Second)
		harness.Pass(300 * time.Millisecond)
	}
	for _, r := range w.recv.Requests("/dlr/9") {
		if n := r.Header.Get("Webhook-Attempt"); n != "1" {
			t.Errorf("attempt %s", n)
		}
	}
}

// TestRestartWhileParked stops or kills the only member while events wait for their next attempt.
func TestRestartWhileParked(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		t.Run(fmt.Sprint(signal), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "--retry.schedule=3s,2s", "--kafka.session_timeout=2s")
			w.configure(t, map[int64]harness.Webhook{1: w.all(1, ""), 2: w.all(2, "")})
			w.recv.On("/dlr/1", harness.Status(500))
			w.recv.On("/click/2", harness.Codes(500, 500, 500, 500, 500, 200))
			p := w.serve(t)
			var records []*kgo.Record
			for i := range int64(20) {
				records = append(records, w.dlr(1, i))
			}
			for i := range int64(5) {
				records = append(records, w.click(2, i))
			}
			w.emit(t, records...)
			w.recv.WaitCount(t, "", 25, 10*time.Second)
			w.waitStored(t, harness.Retry(w.topics.DLR, "3s"), 1, 20, 5*time.Second)
			w.waitStored(t, harness.Retry(w.topics.Click, "3s"), 2, 5, 5*time.Second)
			harness.Pass(1200 * time.Millisecond) // the offsets are committed once per second
			if signal == syscall.SIGTERM {
				if code := p.Term(t); code != 0 {
					t.Errorf("exit code %d", code)
				}
			} else {
				p.Kill()
			}
			p = w.serve(t)
			w.recv.WaitCount(t, "/dlr/1", 60, 25*time.Second)
			w.recv.WaitCount(t, "/click/2", 10, 5*time.Second)
			w.dead(t, 1, 20, 5*time.Second)
			p.WaitBalanced(t, 1, 10*time.Second)
			byID := map[string]int{}
			for _, r := range w.recv.Requests("") {
				byID[r.Header.Get("Webhook-Id")+" "+r.Header.Get("Webhook-Attempt")]++
			}
			for _, r := range records {
				want := 3
				if r.Topic == w.topics.Click {
					want = 2
				}
				for n := 1; n <= 3; n++ {
					if got := byID[identity(r)+" "+strconv.Itoa(n)]; got != 1 && n <= want || got != 0 && n > want {
						t.Errorf("%s: %d attempts numbered %d", identity(r), got, n)
					}
				}
			}
		})
	}
}
