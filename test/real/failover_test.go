package real_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/test/real/harness"
)

// spare returns the path of a user's failover URL.
func spare(user int64) string { return fmt.Sprintf("/spare/%d", user) }

// withSpare returns a user's document with a failover URL for receipts.
func (e *env) withSpare(t testing.TB, user int64, auth string) *kgo.Record {
	t.Helper()
	r := harness.WebhookRecord(t, e.topics.Config, user, e.all(user, auth))
	r.Value = []byte(strings.TrimSuffix(string(r.Value), "}") + `,"dlr_failover_url":"` + e.recv.URL(spare(user)) + `"}`)
	return r
}

// delivery is an entry of the list of deliveries.
type delivery struct {
	ID       string
	Attempt  int
	Status   string
	HTTPCode *int `json:"http_code"`
	Error    *string
	Failover *bool
}

// TestFailover checks that the failover URL is called at once if the first URL fails, under the same number, as one
// attempt.
func TestFailover(t *testing.T) {
	t.Parallel()
	e := newEnv(t, "--dispatch.timeout=2s")
	e.configure(t, map[int64]harness.Webhook{1: e.all(1, "u:hush")})
	for user := int64(2); user <= 5; user++ {
		e.emit(t, e.withSpare(t, user, ""))
	}
	key := e.newKey(t, 1)
	p := e.serve(t)
	patch(t, p, key, "dlr_failover_url="+e.recv.URL(spare(1))+"&click_failover_url="+e.recv.URL("/none"))
	harness.Eventually(t, harness.Patience, func() bool {
		return post(t, p.Addr, key, "/v1/user/webhook-secret/rotate", "") == http.StatusOK
	}, "requests are signed")
	harness.Settle()

	t.Run("second succeeds", func(t *testing.T) { testFailoverSucceeds(t, e, p, key) })
	t.Run("both fail", func(t *testing.T) { testFailoverFails(t, e, p) })
	t.Run("slots", func(t *testing.T) {
		t.Run("first hangs", func(t *testing.T) { t.Parallel(); testFailoverSlots(t, e, 3, harness.Hang(), harness.Status(200)) })
		t.Run("second hangs", func(t *testing.T) { t.Parallel(); testFailoverSlots(t, e, 4, harness.Status(500), harness.Hang()) })
		t.Run("both hang", func(t *testing.T) { t.Parallel(); testFailoverSlots(t, e, 5, harness.Hang(), harness.Hang()) })
	})
	t.Run("without the first URL", func(t *testing.T) {
		e.emit(t, harness.Event(e.topics.Config, 9, `{"user_id":9,"dlr_failover_url":"`+e.recv.URL(spare(9))+`"}`))
		harness.Settle()
		e.emit(t, e.dlr(9, 1))
		p.WaitMetric(t, harness.Patience, harness.Exactly(1), "smshooks_settled_total", "kind", "dlr", "fate", "not_configured")
		if n := e.recv.Count(spare(9)); n != 0 {
			t.Errorf("%d requests to the failover URL alone", n)
		}
	})
	p.WaitBalanced(t, 1, time.Minute)
}

func testFailoverSucceeds(t *testing.T, e *env, p *harness.Proc, key string) {
	e.recv.On(path("dlr", 1), harness.Status(503))
	before := p.Metrics(t)
	r := e.emit(t, e.dlr(1, 1))[0]
	second := e.recv.WaitCount(t, spare(1), 1, harness.Patience)[0]
	first := e.recv.Requests(path("dlr", 1))[0]
	if second.Start.Sub(first.End) > late+harness.Slack(first.End) {
		t.Errorf("the failover URL was called %v after the failure", second.Start.Sub(first.End))
	}
	auth := "Basic " + base64.StdEncoding.EncodeToString([]byte("u:hush"))
	for name, want := range map[string]string{"Webhook-Failover": "http 503", "Webhook-Id": identity(r), "Webhook-Attempt": "1", "Authorization": auth,
		"Content-Type": "application/x-www-form-urlencoded", "Webhook-Event-Time": first.Header.Get("Webhook-Event-Time")} {
		if got := second.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if first.Header.Get("Webhook-Failover") != "" || string(first.Body) != string(second.Body) || second.Header.Get("Webhook-Signature") == "" {
		t.Errorf("the first request had %v, the second %v", first.Header, second.Header)
	}
	harness.Eventually(t, harness.Patience, func() bool {
		m := p.Metrics(t)
		since := func(name string, labels ...string) float64 {
			return m.Sum(name, labels...) - before.Sum(name, labels...)
		}
		return since("smshooks_settled_total", "kind", "dlr", "fate", "delivered") == 1 && since("smshooks_attempts_total", "kind", "dlr") == 1 &&
			since("smshooks_attempts_total", "kind", "dlr", "result", "ok") == 1 && since("smshooks_attempt_seconds_count", "kind", "dlr") == 1 &&
			since("smshooks_failover_total") == 1 && since("smshooks_failover_total", "kind", "dlr", "result", "ok") == 1
	}, "one attempt is counted, which succeeded")
	var log []delivery
	harness.Eventually(t, harness.Patience, func() bool {
		return ask(t, p, http.MethodGet, key, "/v1/user/deliveries", "", &log) == http.StatusOK && len(log) == 2
	}, "both requests are in the list of deliveries")
	if n, o := log[0], log[1]; n.ID != identity(r) || n.Attempt != 1 || n.Status != "ok" || *n.HTTPCode != 200 || n.Failover == nil || !*n.Failover ||
		o.ID != identity(r) || o.Attempt != 1 || o.Status != "failed" || *o.HTTPCode != 503 || *o.Error != "http 503" || o.Failover != nil {
		t.Errorf("the list of deliveries is %+v", log)
	}
	// Tests, and events that succeed there, go only to the first URL.
	if status := post(t, p.Addr, key, "/v1/user/test-webhook", ""); status != http.StatusOK {
		t.Errorf("test-webhook: %d", status)
	}
	e.recv.On(path("dlr", 1), harness.Status(200))
	e.emit(t, e.dlr(1, 2), e.click(1, 3))
	e.recv.WaitCount(t, path("dlr", 1), 3, harness.Patience)
	e.recv.WaitCount(t, path("click", 1), 1, harness.Patience)
	if n, m := e.recv.Count(spare(1)), e.recv.Count("/none"); n != 1 || m != 0 {
		t.Errorf("%d and %d requests to the failover URLs, want 1 and 0", n, m)
	}
}

func testFailoverFails(t *testing.T, e *env, p *harness.Proc) {
	e.recv.On(path("dlr", 2), harness.Codes(500, 501, 502))
	e.recv.On(spare(2), harness.Codes(301, 404, 410))
	r := e.emit(t, e.dlr(2, 1))[0]
	firsts := e.recv.WaitCount(t, path("dlr", 2), 3, harness.Patience)
	seconds := e.recv.WaitCount(t, spare(2), 3, harness.Patience)
	wantAttempts(t, seconds, time.Second, 2*time.Second)
	for i := range seconds {
		want := []string{"http 500", "http 501", "http 502"}[i]
		if got := seconds[i].Header.Get("Webhook-Failover"); got != want || firsts[i].Header.Get("Webhook-Attempt") != seconds[i].Header.Get("Webhook-Attempt") {
			t.Errorf("attempt %d: Webhook-Failover %q, want %q, of attempt %s", i+1, got, want, firsts[i].Header.Get("Webhook-Attempt"))
		}
	}
	stored := e.waitStored(t, harness.Retry(e.topics.DLR, "1s"), 2, 1, harness.Patience)[0]
	wantHeaders(t, stored, map[string]string{"id": identity(r), "attempts": "1", "error": "http 301"})
	wantHeaders(t, e.dead(t, 2, 1, harness.Patience)[0], map[string]string{"attempts": "3", "error": "http 410", "reason": "attempts_exhausted"})
	e.recv.Quiet(t, 3*time.Second, time.Minute)
	if n, m := e.recv.Count(path("dlr", 2)), e.recv.Count(spare(2)); n != 3 || m != 3 {
		t.Errorf("%d and %d requests, want 3 each", n, m)
	}
	p.WaitMetric(t, harness.Patience, harness.Exactly(3), "smshooks_failover_total", "kind", "dlr", "result", "failed")
}

// testFailoverSlots checks that neither URL receives more than three requests at a time, and that every event gets its
// attempt.
func testFailoverSlots(t *testing.T, e *env, user int64, first, second harness.Behaviour) {
	e.recv.On(path("dlr", user), first)
	e.recv.On(spare(user), second)
	for sms := range int64(9) {
		e.emit(t, e.dlr(user, sms))
	}
	harness.Eventually(t, 2*time.Minute, func() bool {
		messages := map[string]bool{}
		for _, r := range e.recv.Requests(spare(user)) {
			messages[field(t, r.Body, "id")] = true
		}
		return len(messages) == 9
	}, "every event was sent to the failover URL")
	for _, at := range []string{path("dlr", user), spare(user)} {
		if n := e.recv.Widest(at); n > 3 {
			t.Errorf("%d requests at once to %s", n, at)
		}
	}
	e.recv.On(path("dlr", user), harness.Status(200)) // the rest is delivered
}

// TestFailoverInARebalance stops an instance while a second request hangs. The next owner must repeat the attempt under
// the same number, and nothing may be lost.
func TestFailoverInARebalance(t *testing.T) {
	t.Parallel()
	e := newEnv(t, "--dispatch.timeout=30s", "--shutdown.grace=3s")
	e.emit(t, e.withSpare(t, 1, ""))
	p := e.serve(t)
	e.recv.On(path("dlr", 1), harness.Status(503))
	e.recv.On(spare(1), harness.Hang())
	r := e.emit(t, e.dlr(1, 1))[0]
	e.recv.WaitCount(t, spare(1), 1, harness.Patience)
	if code := p.Term(t); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	e.recv.On(spare(1), harness.Status(200))
	q := e.serve(t)
	got := e.recv.WaitCount(t, spare(1), 2, harness.Patience)
	q.WaitMetric(t, harness.Patience, harness.Exactly(1), "smshooks_settled_total", "kind", "dlr", "fate", "delivered")
	e.recv.Quiet(t, 3*time.Second, time.Minute)
	for _, one := range append(got, e.recv.Requests(path("dlr", 1))...) {
		if one.Header.Get("Webhook-Attempt") != "1" || one.Header.Get("Webhook-Id") != identity(r) {
			t.Errorf("a request had %v", one.Header)
		}
	}
	if n, m := e.recv.Count(path("dlr", 1)), e.recv.Count(spare(1)); n != 2 || m != 2 {
		t.Errorf("%d and %d requests, want the attempt twice", n, m)
	}
	q.WaitBalanced(t, 1, harness.Patience)
}
