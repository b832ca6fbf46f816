package real_test

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/test/real/harness"
)

// pauseWindow is the retry.window of TestPause, and so the delay of its paused topics.
const pauseWindow = 20 * time.Second

// patch changes further settings and waits for the reply. It returns the time of the reply.
func patch(t testing.TB, p *harness.Proc, key, form string) time.Time {
	t.Helper()
	harness.Eventually(t, harness.Patience, func() bool {
		return ask(t, p, http.MethodPatch, key, "/v1/user/webhook-settings", form, nil) == http.StatusOK
	}, "the settings are changed by %s", form)
	return time.Now()
}

// pausedDocument returns a user's settings in the form of another program, with some kinds paused.
func (e *env) pausedDocument(t testing.TB, user int64, kinds ...string) *kgo.Record {
	t.Helper()
	r := harness.WebhookRecord(t, e.topics.Config, user, e.all(user, ""))
	flags := ""
	for _, kind := range kinds {
		flags += `,"` + kind + `_paused":true`
	}
	r.Value = []byte(strings.TrimSuffix(string(r.Value), "}") + flags + "}")
	return r
}

// paused reads the records of a user in the paused topic of a source.
func (e *env) paused(t testing.TB, source string, user int64) []*kgo.Record {
	t.Helper()
	return of(harness.Consume(t, e.kafka.Addr, harness.Paused(source, "20s")), user)
}

// wantPaused waits for n records of a user in the paused topic of a source, and checks that each is due a window after
// it was stored.
func (e *env) wantPaused(t testing.TB, source string, user int64, n int) []*kgo.Record {
	t.Helper()
	stored := e.waitStored(t, harness.Paused(source, "20s"), user, n, harness.Patience)
	for _, r := range stored {
		// The broker wrote the timestamp after the due time was computed; batches share one.
		if at := headerTime(t, r, "due").Add(-pauseWindow); at.After(r.Timestamp.Add(harness.Clocks)) || r.Timestamp.Sub(at) > 15*time.Second {
			t.Errorf("%s/%d, stored at %v, is due at %v", r.Topic, r.Offset, r.Timestamp, at.Add(pauseWindow))
		}
	}
	return stored
}

// TestPause checks that no attempt of a paused kind starts. Its events must be stored once, without an attempt, and be
// given up when the window ends, except revocations. Tests are still sent.
func TestPause(t *testing.T) {
	t.Parallel()
	e := newEnv(t, "--retry.window="+pauseWindow.String(), "--retry.schedule=8s,3s") // the pause comes before the second attempt
	e.configure(t, map[int64]harness.Webhook{1: e.all(1, ""), 2: e.all(2, ""), 3: e.all(3, "")})
	key := e.newKey(t, 1)
	p, q := e.serve(t), e.serve(t)
	e.recv.On(path("inbound", 1), harness.Status(503))
	e.emit(t, harness.Event(e.topics.Inbound, 1, harness.InboundValue(1, 500)))
	e.recv.WaitCount(t, path("inbound", 1), 1, harness.Patience)

	// One instance answers the change; the records of the user may belong to the other.
	var sent []*kgo.Record
	var changed time.Time
	for i := range int64(60) {
		if i == 20 {
			changed = patch(t, p, key, "dlr_paused=true&click_paused=true&inbound_paused=true&revoke_click_paused=true")
		}
		sent = append(sent, e.emit(t, e.dlr(1, i))...)
		harness.Pass(50 * time.Millisecond)
	}
	harness.Settle()
	e.emit(t, e.click(1, 700), e.click(1, 700), e.revocation(1, []int64{1, 2}, nil), e.dlr(3, 1))
	e.recv.WaitCount(t, path("dlr", 3), 1, harness.Patience)
	click := e.wantPaused(t, e.topics.Click, 1, 1)[0]
	batch := e.wantPaused(t, e.topics.Revocation, 1, 1)[0]
	retry := e.wantPaused(t, e.topics.Inbound, 1, 1)[0]
	wantHeaders(t, click, map[string]string{"kind": "click", "attempts": "0", "error": "", "reason": ""})
	wantHeaders(t, batch, map[string]string{"kind": "revoke_click", "attempts": "0", "error": ""})
	wantHeaders(t, retry, map[string]string{"kind": "inbound", "attempts": strconv.Itoa(e.recv.Count(path("inbound", 1))), "error": "http 503"})
	e.wantEachOnce(t, sent, changed)
	e.wantTests(t, q, key)
	requests := e.recv.Count("")

	// The window ends while everything is still paused.
	parked := len(e.paused(t, e.topics.DLR, 1))
	dead := e.dead(t, 1, parked+2, 3*pauseWindow)
	for _, r := range dead {
		if reason := harness.Header(r, "smshooks-reason"); reason != "window_expired" {
			t.Errorf("dead letter with reason %q", reason)
		}
	}
	again := e.waitStored(t, harness.Paused(e.topics.Revocation, "20s"), 1, 2, harness.Patience)[1]
	if harness.Header(again, "smshooks-id") != harness.Header(batch, "smshooks-id") || string(again.Value) != string(batch.Value) {
		t.Errorf("stored again: %s, want %s", again.Value, batch.Value)
	}

	e.wantReplayStored(t, p, key, parked)
	if n := e.recv.Count(""); n != requests {
		t.Errorf("%d requests during the pause", n-requests)
	}

	e.recv.Forget()
	e.wantResumed(t, p, q, key, harness.Header(batch, "smshooks-id"))
}

// wantTests sends tests of user 1 and checks that each kind gets one although it is paused.
func (e *env) wantTests(t testing.TB, p *harness.Proc, key string) {
	t.Helper()
	if status := post(t, p.Addr, key, "/v1/user/test-webhook", ""); status != http.StatusOK {
		t.Errorf("test-webhook: %d", status)
	}
	for _, kind := range []string{"dlr", "click", "inbound", "revoke"} {
		got := e.recv.Requests(path(kind, 1))
		if len(got) == 0 || !strings.HasPrefix(got[len(got)-1].Header.Get("Webhook-Id"), "test_") {
			t.Errorf("the last request to %s is not a test", path(kind, 1))
		}
	}
}

// wantReplayStored replays the dead receipts of user 1, and checks that they are stored in the paused topic, after as many
// that were parked there.
func (e *env) wantReplayStored(t testing.TB, p *harness.Proc, key string, parked int) {
	t.Helper()
	var replay struct{ Replayed int }
	harness.Eventually(t, harness.Patience, func() bool {
		return ask(t, p, http.MethodPost, key, "/v1/user/replay", "kind=dlr", &replay) == http.StatusOK
	}, "the dead letters are replayed")
	if replay.Replayed != parked {
		t.Errorf("%d replayed, want %d", replay.Replayed, parked)
	}
	for _, r := range e.wantPaused(t, e.topics.DLR, 1, 2*parked)[parked:] {
		if harness.Header(r, "smshooks-replayed") == "" {
			t.Errorf("%s/%d is not marked as replayed", r.Topic, r.Offset)
		}
	}
}

// wantResumed ends the pause of user 1, and checks that new events are sent, and the batch with that id.
func (e *env) wantResumed(t testing.TB, p, q *harness.Proc, key, batch string) {
	t.Helper()
	patch(t, q, key, "dlr_paused=false&revoke_click_paused=")
	harness.Settle()
	e.emit(t, e.dlr(1, 900))
	e.recv.WaitCount(t, path("dlr", 1), 1, harness.Patience)
	resumed := e.recv.WaitCount(t, path("revoke", 1), 1, 2*pauseWindow)[0]
	if resumed.Header.Get("Webhook-Attempt") != "1" || resumed.Header.Get("Webhook-Id") != batch {
		t.Errorf("after the pause: %v", resumed.Header)
	}
	harness.Eventually(t, 3*pauseWindow, func() bool {
		m, n := p.Metrics(t), q.Metrics(t)
		return m.Sum("smshooks_retry_waiting_records") == 0 && m.Sum("smshooks_buffered_records")+n.Sum("smshooks_buffered_records") == 0
	}, "nothing waits")
	for _, instance := range []*harness.Proc{p, q} {
		instance.WaitBalanced(t, 0, harness.Patience)
	}
}

// wantEachOnce checks that each event was either sent or stored, and that nothing started more than a second after the
// change.
func (e *env) wantEachOnce(t *testing.T, sent []*kgo.Record, changed time.Time) {
	t.Helper()
	ends := map[string]int{}
	requests := e.recv.Requests(path("dlr", 1))
	for _, r := range requests {
		ends[r.Header.Get("Webhook-Id")]++
		if after := r.Start.Sub(changed); after > harness.ChangeTakes+harness.Slack(changed) {
			t.Errorf("an attempt started %v after the pause", after)
		}
	}
	var stored []*kgo.Record
	harness.Eventually(t, harness.Patience, func() bool {
		stored = e.paused(t, e.topics.DLR, 1)
		return len(stored)+len(requests) >= len(sent)
	}, "all events are sent or stored")
	for _, r := range stored {
		ends[harness.Header(r, "smshooks-id")]++
		wantHeaders(t, r, map[string]string{"kind": "dlr", "attempts": "0", "error": ""})
	}
	for _, r := range sent {
		if n := ends[identity(r)]; n != 1 {
			t.Errorf("event %s was sent or stored %d times", harness.Position(r), n)
		}
	}
	if len(stored) == 0 || len(requests) == 0 {
		t.Errorf("%d sent and %d stored of %d: the pause did not begin in the middle", len(requests), len(stored), len(sent))
	}
}

// TestPauseByDocument checks that another program's document can pause an endpoint, and that a further one ends the
// pause and releases the stored events.
func TestPauseByDocument(t *testing.T) {
	t.Parallel()
	e := newEnv(t, "--retry.window="+pauseWindow.String())
	e.emit(t, e.pausedDocument(t, 1, "dlr"))
	p := e.serve(t)
	held := e.emit(t, e.dlr(1, 1), e.click(1, 2))
	e.recv.WaitCount(t, path("click", 1), 1, harness.Patience)
	stored := e.wantPaused(t, e.topics.DLR, 1, 1)[0]
	if string(stored.Value) != string(held[0].Value) || string(stored.Key) != "1" || stored.Partition != held[0].Partition {
		t.Errorf("stored %s in partition %d, want the record unchanged", stored.Value, stored.Partition)
	}
	wantHeaders(t, stored, map[string]string{"id": identity(held[0]), "origin": harness.Position(held[0]), "kind": "dlr", "attempts": "0", "error": "", "reason": "", "replayed": ""})
	e.emit(t, e.pausedDocument(t, 1, "click"))
	harness.Settle()
	e.emit(t, e.dlr(1, 3), e.click(1, 4))
	e.recv.WaitCount(t, path("dlr", 1), 2, harness.Patience)
	e.wantPaused(t, e.topics.Click, 1, 1)
	e.emit(t, harness.Event(e.topics.Config, 1, `{"user_id":1,"dlr_paused":true}`)) // nothing to send
	harness.Settle()
	e.emit(t, e.dlr(1, 5))
	p.WaitMetric(t, harness.Patience, harness.Exactly(1), "smshooks_settled_total", "kind", "dlr", "fate", "not_configured")
	if n := len(e.paused(t, e.topics.DLR, 1)); n != 1 {
		t.Errorf("%d receipts stored, want one", n)
	}
	var sent []string
	for _, r := range e.recv.Requests(path("dlr", 1)) {
		sent = append(sent, field(t, r.Body, "id")+" attempt "+r.Header.Get("Webhook-Attempt"))
	}
	if slices.Sort(sent); !slices.Equal(sent, []string{"1 attempt 1", "3 attempt 1"}) {
		t.Errorf("sent: %q", sent)
	}
}
