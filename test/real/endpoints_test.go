package real_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/test/real/harness"
)

const milliseconds = "2006-01-02T15:04:05.000Z"

// receiptOf returns a receipt with a status.
func (e *env) receiptOf(user, sms int64, status string) *kgo.Record {
	return harness.Event(e.topics.DLR, user, fmt.Sprintf(`{"user_id":%d,"sms":{"id":%d,"dlr_status":%q}}`, user, sms, status))
}

// statusOf returns the status of a message at a receiver that accepts each receipt and applies it at once.
func statusOf(t *testing.T, requests []harness.Request, sms int64) (status string) {
	t.Helper()
	for _, r := range requests {
		if field(t, r.Body, "id") == fmt.Sprint(sms) {
			status = field(t, r.Body, "dlr_status")
		}
	}
	return status
}

// TestLatestOrder lets a retry of Pending come due, after an outage of the receiver, when Delivered was already
// delivered. With dlr_order latest it must not be sent, so a receiver that applies statuses in order of arrival ends
// with the right one; without it, with the wrong one. While Redis is unreachable, every receipt must be attempted.
func TestLatestOrder(t *testing.T) {
	t.Parallel()
	e := &env{kafka: harness.Kafka(t), redis: harness.OwnRedis(t), topics: harness.TopicsFor(t)}
	e.begin(t, []string{"--retry.schedule=6s,6s"})
	e.configure(t, map[int64]harness.Webhook{1: e.all(1, ""), 2: e.all(2, "")})
	key := e.newKey(t, 1)
	p := e.serve(t)
	var further struct {
		Order string `json:"dlr_order"`
	}
	harness.Eventually(t, harness.Patience, func() bool {
		return ask(t, p, http.MethodPatch, key, "/v1/user/webhook-settings", "dlr_order=latest", &further) == http.StatusOK
	}, "dlr_order is set")
	if further.Order != "latest" {
		t.Errorf("dlr_order is %q", further.Order)
	}
	harness.Settle()
	outage := func(sms int64) {
		t.Helper()
		failed := func(n float64) {
			p.WaitMetric(t, harness.Patience, harness.Exactly(n), "smshooks_attempts_total", "kind", "dlr", "result", "error")
		}
		before := p.Metrics(t).Sum("smshooks_attempts_total", "kind", "dlr", "result", "error")
		e.recv.Stop()
		e.emit(t, e.receiptOf(1, sms, "Pending"), e.receiptOf(2, sms, "Pending"))
		failed(before + 2)
		e.recv.Start(t)
		e.emit(t, e.receiptOf(1, sms, "Delivered"), e.receiptOf(2, sms, "Delivered"))
	}
	outage(1)
	e.recv.WaitCount(t, path("dlr", 1), 1, harness.Patience)
	wrong := e.recv.WaitCount(t, path("dlr", 2), 2, harness.Patience)
	p.WaitMetric(t, harness.Patience, harness.Exactly(1), "smshooks_settled_total", "kind", "dlr", "fate", "superseded")
	if got := statusOf(t, e.recv.Requests(path("dlr", 1)), 1); got != `"Delivered"` {
		t.Errorf("with latest the message ends as %s", got)
	}
	if got := statusOf(t, wrong, 1); got != `"Pending"` {
		t.Errorf("without latest the message ends as %s: the test is meaningless", got)
	}
	if n := e.recv.Count(path("dlr", 1)); n != 1 {
		t.Errorf("%d requests with latest, want 1", n)
	}

	outage(2)
	e.recv.WaitCount(t, path("dlr", 1), 2, harness.Patience)
	e.redis.Stop(t)
	all := e.recv.WaitCount(t, path("dlr", 1), 3, harness.Patience)
	if got := statusOf(t, all, 2); got != `"Pending"` {
		t.Errorf("without Redis the last receipt is %s, want attempts for each", got)
	}
	p.WaitMetric(t, harness.Patience, harness.Exactly(1), "smshooks_settled_total", "kind", "dlr", "fate", "superseded")
}

// endpointEvents returns type and value of a user's endpoint events, and checks the ids and times in their headers.
func (e *env) endpointEvents(t *testing.T, user int64) (events []string) {
	t.Helper()
	for _, r := range of(harness.Consume(t, e.kafka.Addr, e.topics.Events), user) {
		var names []string
		for _, h := range r.Headers {
			names = append(names, h.Key)
		}
		want := []string{"ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "ce_subject", "content-type"}
		if !slices.Equal(names, want) {
			t.Errorf("headers %q, want %q", names, want)
		}
		for name, want := range map[string]string{
			"ce_specversion": "1.0", "ce_source": "smshooks", "ce_subject": fmt.Sprintf("%d/dlr", user), "content-type": "application/json",
		} {
			if got := harness.Header(r, name); got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
		at, err := time.Parse(milliseconds, harness.Header(r, "ce_time"))
		if err != nil || r.Timestamp.Sub(at).Abs() > time.Minute {
			t.Errorf("ce_time %q, but the record was written at %v: %v", harness.Header(r, "ce_time"), r.Timestamp, err)
		}
		events = append(events, strings.TrimPrefix(harness.Header(r, "ce_type"), "smshooks.")+" "+string(r.Value))
	}
	return events
}

// TestEndpointEvents lets an endpoint fail, its events die, the process be killed, and the endpoint work again at
// another instance. webhook-events must record it, byte for byte, and GET /v1/user/endpoints must show it.
func TestEndpointEvents(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.configure(t, map[int64]harness.Webhook{1: {DLR: e.recv.URL(path("dlr", 1)), Click: "https://example.com:8443/c"}, 2: e.all(2, "")})
	key := e.newKey(t, 1)
	e.recv.On(path("dlr", 1), harness.Status(http.StatusServiceUnavailable))
	p := e.serve(t)
	e.emit(t, e.dlr(2, 1), e.dlr(1, 1), e.dlr(1, 2))
	e.dead(t, 1, 2, harness.Patience)
	attempts := e.recv.Requests(path("dlr", 1))
	if len(attempts) != 6 {
		t.Fatalf("%d attempts", len(attempts))
	}
	var listed []struct{ Time string } // newest first
	harness.Eventually(t, harness.Patience, func() bool {
		return ask(t, p, http.MethodGet, key, "/v1/user/deliveries?kind=dlr", "", &listed) == http.StatusOK && len(listed) == 6
	}, "six attempts are listed")

	var events []string
	harness.Eventually(t, harness.Patience, func() bool { events = e.endpointEvents(t, 1); return len(events) >= 2 }, "two events")
	first := decodeEvent(t, events[0], "endpoint.failing")
	if first.Count != 1 {
		t.Errorf("failing: %s", events[0])
	}
	// Two attempts in the same millisecond are listed a millisecond apart.
	if oldest := listed[len(listed)-1].Time; first.Since != oldest && first.Since != listed[len(listed)-2].Time {
		t.Errorf("failing since %s, but the first attempt was at %s", first.Since, oldest)
	}
	if dead := decodeEvent(t, events[1], "events.dead"); dead.Count != 1 {
		t.Errorf("dead: %s", events[1])
	}
	var endpoints json.RawMessage
	if status := ask(t, p, http.MethodGet, key, "/v1/user/endpoints", "", &endpoints); status != http.StatusOK {
		t.Fatalf("endpoints: %d", status)
	}
	rest := `,{"kind":"click","host":"example.com","state":"ok","since":null,"failure":null}` +
		`,{"kind":"inbound","host":null,"state":"unset","since":null,"failure":null}` +
		`,{"kind":"revoke_click","host":null,"state":"unset","since":null,"failure":null}]`
	if want := fmt.Sprintf(`[{"kind":"dlr","host":"127.0.0.1","state":"failing","since":%q,"failure":"http 503"}`, first.Since) + rest; string(endpoints) != want {
		t.Errorf("endpoints %s\nwant %s", endpoints, want)
	}

	kept := []string{e.topics.DLR, harness.Retry(e.topics.DLR, "1s"), harness.Retry(e.topics.DLR, "2s")}
	e.waitCommitted(t, kept...)
	p.Kill()
	p = e.serve(t)
	e.emit(t, e.dlr(1, 3))
	e.recv.WaitCount(t, path("dlr", 1), 7, harness.Patience)
	e.recv.On(path("dlr", 1), harness.Status(http.StatusOK))
	e.emit(t, e.dlr(1, 4))
	harness.Eventually(t, harness.Patience, func() bool { events = e.endpointEvents(t, 1); return len(events) >= 3 }, "the endpoint recovers")
	// A killed process forgets how many attempts failed since its last event.
	if r := decodeEvent(t, events[2], "endpoint.recovered"); r.Since != first.Since || r.Count < 2 || r.Count > 8 {
		t.Errorf("recovered: %s", events[2])
	}
	e.waitCommitted(t, kept...)
	if events = e.endpointEvents(t, 1); len(events) != 3 {
		t.Errorf("events %q", events)
	}
	if events = e.endpointEvents(t, 2); len(events) != 0 {
		t.Errorf("events of a working endpoint: %q", events)
	}
	ask(t, p, http.MethodGet, key, "/v1/user/endpoints", "", &endpoints)
	if want := `[{"kind":"dlr","host":"127.0.0.1","state":"ok","since":null,"failure":null}` + rest; string(endpoints) != want {
		t.Errorf("endpoints %s\nwant %s", endpoints, want)
	}
	p.WaitMetric(t, harness.Patience, harness.Exactly(0), "smshooks_endpoint_events_dropped_total")

	e.wantMails(t)
}

// failures is the variable part of an endpoint event.
type failures struct {
	Since string
	Count int
}

// decodeEvent checks an event of user 1's dlr endpoint, byte for byte, and returns its variable part.
func decodeEvent(t testing.TB, event, kind string) (f failures) {
	t.Helper()
	value, ok := strings.CutPrefix(event, kind+" ")
	if !ok || json.Unmarshal([]byte(value), &f) != nil {
		t.Fatalf("%s, want %s", event, kind)
	}
	want := fmt.Sprintf(`{"user_id":1,"kind":"dlr","host":"127.0.0.1","since":%q,"failure":"http 503","count":%d}`, f.Since, f.Count)
	if value != want {
		t.Errorf("%s %s, want %s", kind, value, want)
	}
	return f
}

// wantMails checks that the example prints a mail for each event of user 1.
func (e *env) wantMails(t testing.TB) {
	t.Helper()
	printed := harness.StartProgram(t, nil, harness.Example(t, "notifier"), "-brokers="+e.kafka.Addr, "-topic="+e.topics.Events, "-group="+e.topics.Group+"-notifier")
	harness.Eventually(t, harness.Patience, func() bool { return strings.Count(printed(), "To: user 1\n") == 3 }, "three mails")
	for _, subject := range []string{
		"127.0.0.1 does not accept dlr webhooks", "1 dlr events were not delivered to 127.0.0.1", "127.0.0.1 accepts dlr webhooks again",
	} {
		if !strings.Contains(printed(), "Subject: "+subject+"\n") {
			t.Errorf("no mail %q in\n%s", subject, printed())
		}
	}
}
