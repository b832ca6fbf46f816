package real_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/test/real/harness"
)

// shownEvent is an event in a reply of the API.
type shownEvent struct {
	ID          string  `json:"id"`
	Kind        string  `json:"kind"`
	MessageID   *string `json:"message_id"`
	EventTime   string  `json:"event_time"`
	State       string  `json:"state"`
	NextAttempt *string `json:"next_attempt"`
	Attempts    []struct {
		Attempt  int     `json:"attempt"`
		Status   string  `json:"status"`
		HTTPCode *int    `json:"http_code"`
		Host     string  `json:"host"`
		Failover bool    `json:"failover"`
		Reply    *string `json:"reply"`
	} `json:"attempts"`
	Request *struct {
		ContentType string `json:"content_type"`
		Body        string `json:"body"`
	} `json:"request"`
}

// request makes a request to an instance's API and returns the status and the body.
func request(t testing.TB, p *harness.Proc, a account, method, path, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+p.Addr+"/v1/user/"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-API-KEY", a.key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// see returns an event and the text of the reply once an instance shows it in a state after that many attempts.
func see(t testing.TB, p *harness.Proc, a account, id, state string, attempts int) (e shownEvent, text string) {
	t.Helper()
	harness.Eventually(t, harness.Patience, func() bool {
		var status int
		status, text = request(t, p, a, "GET", "events/"+url.PathEscape(id), "")
		var reply struct{ Data shownEvent }
		if status != http.StatusOK {
			return false
		}
		if err := json.Unmarshal([]byte(text), &reply); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		e = reply.Data
		return e.State == state && len(e.Attempts) == attempts
	}, "event %s is %s after %d attempts", id, state, attempts)
	return e, text
}

// TestSeeAndResend reads events at one of two instances and resends them at the other.
func TestSeeAndResend(t *testing.T) {
	harness.Need(t)
	t.Parallel()
	e := newEnv(t, "--retry.schedule=1h,1h")
	users := accounts(t, e, 2)
	user, other := users[0], users[1]
	one, two := e.serve(t), e.serve(t)
	e.recv.On(path("dlr", user.user), func(w http.ResponseWriter, _ *http.Request, _ harness.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = w.Write([]byte("no route \xff <" + strings.Repeat("x", 4000)))
	})
	e.recv.On(path("revoke", user.user), harness.Status(503))

	// A failure: its state, attempt, reply and request.
	failed := e.dlr(user.user, 777)
	failed.Headers = []kgo.RecordHeader{{Key: "webhook-id", Value: []byte("order:7/1")}}
	e.emit(t, failed)
	got := e.recv.WaitCount(t, path("dlr", user.user), 1, harness.Patience)[0]
	event, text := see(t, two, user, "order:7/1", "waiting", 1)
	e.wantFailure(t, event, text, got)
	for _, p := range []*harness.Proc{one, two} {
		e.wantListed(t, p, user, other, *event.NextAttempt)
	}

	// Sent again: also a delivered event, but not another user's.
	e.recv.On(path("dlr", user.user), harness.Status(200))
	for i := range 2 {
		if n := replay(t, one, user, "order:7/1"); n != 1 {
			t.Fatalf("%d events sent again, want 1", n)
		}
		again := e.recv.WaitCount(t, path("dlr", user.user), 2+i, harness.Patience)[1+i]
		if again.Header.Get("Webhook-Id") != "order:7/1" || again.Header.Get("Webhook-Attempt") != "1" || string(again.Body) != string(got.Body) ||
			again.Header.Get("Webhook-Event-Time") != got.Header.Get("Webhook-Event-Time") {
			t.Errorf("sent again with %v", again.Header)
		}
		event, text = see(t, two, user, "order:7/1", "delivered", 2+i)
		if event.NextAttempt != nil || event.Attempts[0].Reply == nil || event.Attempts[1].Reply != nil || event.Request == nil {
			t.Errorf("after it was sent again: %s", text)
		}
	}
	if n := replay(t, two, other, "order:7/1"); n != 0 {
		t.Errorf("another user has sent %d events again", n)
	}

	// The body of a batch of revocations comes from its delayed record.
	batch := e.revocation(user.user, []int64{1, 2}, []int64{3})
	e.emit(t, batch)
	sent := e.recv.WaitCount(t, path("revoke", user.user), 1, harness.Patience)[0]
	event, text = see(t, one, user, harness.BatchIdentity(batch, 0), "waiting", 1)
	if event.Request == nil || event.Request.Body != string(sent.Body) || event.Request.ContentType != "application/json" || event.MessageID != nil {
		t.Errorf("the batch: %s", text)
	}

	// The body of a batch that was delivered at once is merged again from its source records.
	e.recv.On(path("revoke", user.user), harness.Status(200))
	batch = e.revocation(user.user, []int64{4, 5}, nil)
	e.emit(t, batch, e.revocation(user.user, []int64{5, 6}, []int64{7}))
	sent = e.recv.WaitCount(t, path("revoke", user.user), 2, harness.Patience)[1]
	event, text = see(t, one, user, harness.BatchIdentity(batch, 0), "delivered", 1)
	if event.Request == nil || event.Request.Body != string(sent.Body) || event.Request.ContentType != "application/json" {
		t.Errorf("the delivered batch: %s, the server received %s", text, sent.Body)
	}

	// It can be sent again as well.
	if n := replay(t, two, user, event.ID); n != 1 {
		t.Errorf("%d batches sent again, want 1", n)
	}
	again := e.recv.WaitCount(t, path("revoke", user.user), 3, harness.Patience)[2]
	if again.Header.Get("Webhook-Id") != event.ID || string(again.Body) != string(sent.Body) ||
		again.Header.Get("Webhook-Event-Time") != sent.Header.Get("Webhook-Event-Time") {
		t.Errorf("the batch was sent again with %v: %s, first with %v", again.Header, again.Body, sent.Header)
	}

	// Once the record is deleted from the topic, the body is unknown and the event cannot be sent again.
	var offsets kadm.Offsets
	offsets.Add(kadm.Offset{Topic: e.topics.DLR, Partition: failed.Partition, At: failed.Offset + 1})
	if resp, err := kadm.NewClient(harness.Client(t, e.kafka.Addr)).DeleteRecords(t.Context(), offsets); err != nil || resp.Error() != nil {
		t.Fatalf("delete records: %v, %v", err, resp.Error())
	}
	if event, text = see(t, one, user, "order:7/1", "delivered", 3); event.Request != nil {
		t.Errorf("a deleted record: %s", text)
	}
	if n := replay(t, one, user, "order:7/1"); n != 0 {
		t.Errorf("%d events with a deleted record were sent again", n)
	}
	wantLogSize(t, e, user)
}

// wantFailure checks an event whose first attempt, the request got, failed an hour before the next one. text is the
// reply of the API.
func (e *env) wantFailure(t testing.TB, event shownEvent, text string, got harness.Request) {
	t.Helper()
	reply := "no route \uFFFD <" + strings.Repeat("x", 1024-len("no route \uFFFD <"))
	if event.Kind != "dlr" || event.MessageID == nil || *event.MessageID != "777" || event.NextAttempt == nil || event.Attempts[0].Status != "failed" ||
		*event.Attempts[0].HTTPCode != 503 || event.Attempts[0].Host != e.recv.Addr() || event.Attempts[0].Failover {
		t.Errorf("the event is %s", text)
	}
	if r := event.Attempts[0].Reply; r == nil || len(*r) > 1024 || !strings.HasPrefix(reply, *r) || len(*r) < 1000 {
		t.Errorf("the reply is %s", text)
	}
	if event.Request == nil || event.Request.Body != string(got.Body) || event.Request.ContentType != got.Header.Get("Content-Type") {
		t.Errorf("the request is %s, the server received %s", text, got.Body)
	}
	if event.EventTime != got.Header.Get("Webhook-Event-Time") {
		t.Errorf("event time %s, sent %s", event.EventTime, got.Header.Get("Webhook-Event-Time"))
	}
	keys := regexp.MustCompile(`^\{"success":true,"data":\{"id":"order:7/1","kind":"dlr","message_id":"777","event_time":"[^"]+","state":"waiting",` +
		`"next_attempt":"[^"]+","attempts":\[\{"attempt":1,"time":"[^"]+","status":"failed","http_code":503,"error":"http 503","duration":[0-9.]+,` +
		`"host":"[^"]+","failover":false,"reply":"no route [^"]+"\}\],"request":\{"content_type":"application/x-www-form-urlencoded","body":"sms=[^"]+"\}\}\}$`)
	if !keys.MatchString(text) {
		t.Errorf("the reply does not match the contract: %s", text)
	}
	if next, err := time.Parse(time.RFC3339, *event.NextAttempt); err != nil || time.Until(next) > time.Hour || time.Until(next) < 50*time.Minute {
		t.Errorf("next attempt %s, want in an hour: %v", *event.NextAttempt, err)
	}
}

// wantListed checks that an instance lists the event to its user, and not to another one.
func (e *env) wantListed(t testing.TB, p *harness.Proc, user, other account, nextAttempt string) {
	t.Helper()
	status, list := request(t, p, user, "GET", "messages/777", "")
	if status != 200 || !strings.HasPrefix(list, `{"success":true,"data":[{"id":"order:7/1",`) || strings.Contains(list, `"request"`) {
		t.Errorf("the message: %d %s", status, list)
	}
	status, list = request(t, p, user, "GET", "deliveries?message_id=777&http_code=503", "")
	want := fmt.Sprintf(`"message_id":"777","host":"%s","next_attempt":"%s"}]}`, e.recv.Addr(), nextAttempt)
	if status != 200 || !strings.HasSuffix(list, want) {
		t.Errorf("deliveries: %d %s, want …%s", status, list, want)
	}
	if status, list = request(t, p, user, "GET", "deliveries?message_id=777&http_code=500", ""); list != `{"success":true,"data":[]}` {
		t.Errorf("deliveries with another status: %d %s", status, list)
	}
	if status, text := request(t, p, other, "GET", "events/order%3A7%2F1", ""); status != 404 {
		t.Errorf("another user's event: %d %s", status, text)
	}
	if status, text := request(t, p, other, "GET", "messages/777", ""); status != 200 || text != `{"success":true,"data":[]}` {
		t.Errorf("another user's message: %d %s", status, text)
	}
}

// replay requests the replay of an event, and returns the number of events that are sent again.
func replay(t testing.TB, p *harness.Proc, a account, id string) (n int) {
	t.Helper()
	status, text := request(t, p, a, "POST", "replay", `{"ids":["`+id+`"]}`)
	if _, err := fmt.Sscanf(text, `{"success":true,"data":{"replayed":%d}}`, &n); status != 200 || err != nil {
		t.Fatalf("replay: %d %s", status, text)
	}
	return n
}

// wantLogSize fills a user's log and reports its size in Redis.
func wantLogSize(t testing.TB, e *env, user account) {
	t.Helper()
	e.recv.On(path("dlr", user.user), func(w http.ResponseWriter, _ *http.Request, _ harness.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = w.Write([]byte(strings.Repeat("<not found> ", 100)))
	})
	const n = 1600
	var records []*kgo.Record
	for i := range int64(n) {
		records = append(records, e.dlr(user.user, 1_000_000_000+i))
	}
	e.emit(t, records...)
	e.recv.WaitCount(t, path("dlr", user.user), n+3, 60*time.Second)
	cl := e.redis.Client(t)
	id := strconv.FormatInt(user.user, 10)
	for name, most := range map[string]int64{"deliveries:": 500 << 10, "notes:": 500 << 10, "replies:": 200 << 10} {
		size, err := cl.MemoryUsage(t.Context(), e.topics.KeyPrefix+name+id, 0).Result()
		t.Logf("%s %d bytes", name, size)
		if err != nil || size == 0 || size > most {
			t.Errorf("%s has %d bytes, want at most %d: %v", name, size, most, err)
		}
	}
}
