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

// wantAttempts compares the requests of an event with the schedule: never early, at most a second late, numbered.
func wantAttempts(t *testing.T, got []harness.Request, schedule ...time.Duration) {
	t.Helper()
	if len(got) != len(schedule)+1 {
		t.Fatalf("%d attempts, want %d", len(got), len(schedule)+1)
	}
	for i, r := range got {
		if n := r.Header.Get("Webhook-Attempt"); n != strconv.Itoa(i+1) {
			t.Errorf("attempt %d is numbered %s", i+1, n)
		}
		if r.Header.Get("Webhook-Id") != got[0].Header.Get("Webhook-Id") {
			t.Errorf("attempt %d has Webhook-Id %s, the first %s", i+1, r.Header.Get("Webhook-Id"), got[0].Header.Get("Webhook-Id"))
		}
		if i == 0 {
			continue
		}
		if after := r.Start.Sub(got[i-1].End) - schedule[i-1]; after < -harness.Clocks || after > late+harness.Slack(got[i-1].End) {
			t.Errorf("attempt %d came %v after the previous failure, want %v to %v", i+1, after+schedule[i-1], schedule[i-1], schedule[i-1]+late)
		}
	}
}

// TestRetry follows failing events through their attempts, retry records and dead letters.
func TestRetry(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	users := map[int64]harness.Webhook{}
	for user := int64(1); user <= 9; user++ {
		users[user] = e.all(user, "")
	}
	e.configure(t, users)
	p := e.serve(t, "--dispatch.timeout=700ms")
	t.Run("case", func(t *testing.T) {
		for name, test := range map[string]func(*testing.T, *env){
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
			t.Run(name, func(t *testing.T) { t.Parallel(); test(t, e) })
		}
	})
	p.WaitBalanced(t, 1, harness.Patience)
	harness.Eventually(t, harness.Patience, func() bool { return p.Metrics(t).Sum("smshooks_retry_overdue_seconds") == 0 }, "no record is overdue")
	harness.Eventually(t, harness.Patience, func() bool { return p.Metrics(t).Sum("smshooks_retry_waiting_records") == 0 }, "no record waits")
}

func testThirdAttempt(t *testing.T, e *env) {
	e.recv.On("/dlr/1", harness.Codes(500, 503, 200))
	at := time.Now().Add(-time.Hour).Truncate(time.Millisecond)
	r := &kgo.Record{Topic: e.topics.DLR, Partition: harness.ByKey, Key: []byte("1"), Value: []byte(harness.DLRValue(1, 1)), Timestamp: at,
		Headers: []kgo.RecordHeader{{Key: "smshooks-attempts", Value: []byte("2")}, {Key: "trace", Value: []byte("x")}}}
	e.emit(t, r)
	got := e.recv.WaitCount(t, "/dlr/1", 3, harness.Patience)
	wantAttempts(t, got, time.Second, 2*time.Second)
	for i, topic := range []string{harness.Retry(e.topics.DLR, "1s"), harness.Retry(e.topics.DLR, "2s")} {
		stored := e.waitStored(t, topic, 1, 1, harness.Patience)[0]
		if string(stored.Value) != string(r.Value) || stored.Partition != r.Partition {
			t.Errorf("%s: partition %d value %s", topic, stored.Partition, stored.Value)
		}
		wantHeaders(t, stored, map[string]string{"id": identity(r), "origin": harness.Position(r), "kind": "dlr", "attempts": strconv.Itoa(i + 1), "error": []string{"http 500", "http 503"}[i], "reason": ""})
		if got := headerTime(t, stored, "event-time"); !got.Equal(at) {
			t.Errorf("event time %v, want %v", got, at)
		}
		due := headerTime(t, stored, "due")
		if wait := due.Sub(got[i].End); wait < time.Duration(i+1)*time.Second-harness.Clocks || wait > time.Duration(i+1)*time.Second+300*time.Millisecond+harness.Slack(got[i].End) {
			t.Errorf("due %v after the failure", wait)
		}
		if got[i+1].Start.Before(due.Add(-harness.Clocks)) {
			t.Errorf("attempt %d began %v before it was due", i+2, due.Sub(got[i+1].Start))
		}
	}
}

func testExhausted(t *testing.T, e *env) {
	e.recv.On("/click/2", harness.Codes(500, 503, 404))
	r := e.emit(t, e.click(2, 1))[0]
	d := e.dead(t, 2, 1, harness.Patience)[0]
	if string(d.Value) != string(r.Value) {
		t.Errorf("value %s", d.Value)
	}
	wantHeaders(t, d, map[string]string{"id": identity(r), "origin": harness.Position(r), "kind": "click", "attempts": "3", "error": "http 404", "reason": "attempts_exhausted", "due": ""})
	headerTime(t, d, "event-time")
	harness.Pass(2500 * time.Millisecond)
	wantAttempts(t, e.recv.Requests("/click/2"), time.Second, 2*time.Second)
}

func testTimeout(t *testing.T, e *env) {
	e.recv.On("/dlr/3", harness.Hang())
	e.emit(t, e.dlr(3, 1))
	wantHeaders(t, e.dead(t, 3, 1, harness.Patience)[0], map[string]string{"error": "timeout", "attempts": "3"})
	for _, r := range e.recv.Requests("/dlr/3") {
		if took := r.End.Sub(r.Start); took < 500*time.Millisecond || took > time.Second+harness.Slack(r.Start) {
			t.Errorf("a request took %v, want about the timeout of 700 ms", took)
		}
	}
}

// testTooOld has records past their window at the first attempt. A revocation has no window.
func testTooOld(t *testing.T, e *env) {
	old := time.Now().Add(-25 * time.Hour).Truncate(time.Millisecond)
	r := e.dlr(4, 1)
	rev := e.revocation(4, numbers(1, 2), nil)
	r.Timestamp, rev.Timestamp = old, old
	e.emit(t, r, rev)
	d := e.dead(t, 4, 1, harness.Patience)[0]
	wantHeaders(t, d, map[string]string{"id": identity(r), "attempts": "0", "reason": "window_expired", "error": "", "due": ""})
	if got := headerTime(t, d, "event-time"); !got.Equal(old) {
		t.Errorf("event time %v, want %v", got, old)
	}
	e.recv.WaitCount(t, "/revoke/4", 1, harness.Patience)
	if n := e.recv.Count("/dlr/4"); n != 0 {
		t.Errorf("%d requests", n)
	}
}

// testWindowEnds has events whose next due time is past the window, so that they are dead at once.
func testWindowEnds(t *testing.T, e *env) {
	e.recv.On("/dlr/5", harness.Status(500))
	const window = 24 * time.Hour
	// One may be attempted again after 1 s, but not after 2 s more; the other not even after 1 s. On a busy machine there
	// may be fewer attempts of each.
	for i, left := range []time.Duration{2500 * time.Millisecond, 500 * time.Millisecond} {
		r := e.dlr(5, int64(i))
		r.Timestamp = time.Now().Add(-window + left).Truncate(time.Millisecond)
		before := e.recv.Count("/dlr/5")
		e.emit(t, r)
		var d *kgo.Record
		harness.Eventually(t, harness.Patience, func() bool {
			for _, letter := range of(harness.Consume(t, e.kafka.Addr, e.topics.DeadLetter), 5) {
				if harness.Header(letter, "smshooks-id") == identity(r) {
					d = letter
				}
			}
			return d != nil
		}, "a dead letter when the window has %v left", left)
		wantWindow(t, d, e.recv.Requests("/dlr/5")[before:], r.Timestamp.Add(window), time.Second, 2*time.Second)
	}
}

// wantWindow compares a dead letter and the failed attempts before it with the end of the event's window. Each attempt
// except the last one left time for the next.
func wantWindow(t *testing.T, dead *kgo.Record, got []harness.Request, end time.Time, schedule ...time.Duration) {
	t.Helper()
	failure := "http 500"
	if len(got) == 0 {
		failure = ""
	}
	wantHeaders(t, dead, map[string]string{"attempts": strconv.Itoa(len(got)), "reason": "window_expired", "error": failure})
	busy := 100*time.Millisecond + harness.Slack(end.Add(-3*time.Second))
	for i, r := range got {
		if r.Start.After(end.Add(busy)) {
			t.Errorf("attempt %d came %v after the window", i+1, r.Start.Sub(end))
		}
		if i == len(got)-1 && r.End.Add(schedule[i]+busy).Before(end) {
			t.Errorf("given up after attempt %d, %v before the window ends and with %v to the next", i+1, end.Sub(r.End), schedule[i])
		}
	}
	if len(got) == 0 && dead.Timestamp.Before(end.Add(-harness.Clocks)) {
		t.Errorf("given up %v before the window ends, without an attempt", end.Sub(dead.Timestamp))
	}
}

func testManyInARow(t *testing.T, e *env) {
	e.recv.On("/dlr/6", firstFails())
	var records []*kgo.Record
	for i := range int64(300) {
		records = append(records, e.dlr(6, i))
	}
	e.emit(t, records...)
	byID := map[string][]harness.Request{}
	for _, r := range e.recv.WaitCount(t, "/dlr/6", 600, harness.Patience) {
		byID[r.Header.Get("Webhook-Id")] = append(byID[r.Header.Get("Webhook-Id")], r)
	}
	for _, r := range records {
		wantAttempts(t, byID[identity(r)], time.Second)
	}
	if n := e.recv.Widest("/dlr/6"); n > 3 {
		t.Errorf("%d requests at once", n)
	}
}

func testInboundRetry(t *testing.T, e *env) {
	e.recv.On("/inbound/7", harness.Codes(500, 200))
	e.emit(t, harness.Event(e.topics.Inbound, 7, harness.InboundValue(7, 1)))
	got := e.recv.WaitCount(t, "/inbound/7", 2, harness.Patience)
	wantAttempts(t, got, time.Second)
	if string(got[0].Body) != string(got[1].Body) {
		t.Errorf("the second body is %s, the first %s", got[1].Body, got[0].Body)
	}
}

// testURLGoes checks that a delayed event whose URL is removed is settled as not_configured, not as dead.
func testURLGoes(t *testing.T, e *env) {
	e.recv.On("/dlr/8", harness.Codes(500, 500, 200))
	e.emit(t, e.dlr(8, 1))
	e.recv.WaitCount(t, "/dlr/8", 2, harness.Patience)
	changed := time.Now()
	e.configure(t, map[int64]harness.Webhook{8: {}}) // takes effect within 1 s; the third attempt is 2 s away
	harness.Pass(4 * time.Second)
	if n := e.recv.Count("/dlr/8"); n != 2 && harness.Slack(changed) < time.Second {
		t.Errorf("%d requests, want 2", n)
	}
	if n := len(of(harness.Consume(t, e.kafka.Addr, e.topics.DeadLetter), 8)); n != 0 {
		t.Errorf("%d dead letters", n)
	}
}

// testEndpointDown checks that idle connections closed by an endpoint do not cause failures.
func testEndpointDown(t *testing.T, e *env) {
	for i := range int64(5) {
		e.emit(t, e.dlr(9, i))
		e.recv.WaitCount(t, "/dlr/9", int(i)+1, harness.Patience)
		harness.Pass(300 * time.Millisecond)
	}
	for _, r := range e.recv.Requests("/dlr/9") {
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
			e := newEnv(t, "--retry.schedule=3s,2s")
			e.configure(t, map[int64]harness.Webhook{1: e.all(1, ""), 2: e.all(2, "")})
			e.recv.On("/dlr/1", harness.Status(500))
			e.recv.On("/click/2", harness.Codes(500, 500, 500, 500, 500, 200))
			p := e.serve(t)
			var records []*kgo.Record
			for i := range int64(20) {
				records = append(records, e.dlr(1, i))
			}
			for i := range int64(5) {
				records = append(records, e.click(2, i))
			}
			e.emit(t, records...)
			e.recv.WaitCount(t, "", 25, harness.Patience)
			e.waitStored(t, harness.Retry(e.topics.DLR, "3s"), 1, 20, harness.Patience)
			e.waitStored(t, harness.Retry(e.topics.Click, "3s"), 2, 5, harness.Patience)
			e.waitCommitted(t, e.topics.DLR, e.topics.Click)
			if signal == syscall.SIGTERM {
				if code := p.Term(t); code != 0 {
					t.Errorf("exit code %d", code)
				}
			} else {
				p.Kill()
			}
			p = e.serve(t)
			e.recv.WaitCount(t, "/dlr/1", 60, harness.Patience)
			e.recv.WaitCount(t, "/click/2", 10, harness.Patience)
			e.dead(t, 1, 20, harness.Patience)
			p.WaitBalanced(t, 1, harness.Patience)
			byID := map[string]int{}
			for _, r := range e.recv.Requests("") {
				byID[r.Header.Get("Webhook-Id")+" "+r.Header.Get("Webhook-Attempt")]++
			}
			for _, r := range records {
				want := 3
				if r.Topic == e.topics.Click {
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
