package api

import (
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/smshooks/smshooks/internal/deadletter"
	"github.com/smshooks/smshooks/internal/deliverylog"
	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// loggedEvents returns the logged events of users 42 and 43.
func loggedEvents() map[int64][]deliverylog.Event {
	attempt := func(number, status int, failure webhook.Failure) event.LogEntry {
		return event.LogEntry{Number: number, Time: noon.Add(time.Duration(number) * time.Hour), Status: status, Failure: failure,
			Took: 245 * time.Millisecond, Host: "example.com"}
	}
	second := attempt(2, 500, "http 500")
	second.Failover, second.Reply = true, "<no> & \"body\"\n"
	return map[int64][]deliverylog.Event{
		42: {
			{ID: "evt_1", Kind: webhook.DLR, Message: "12345", Time: noon, Fate: webhook.Retry, Next: noon.Add(8 * time.Hour), Changed: noon.Add(2 * time.Hour), Partition: 3, Offset: 17,
				Attempts: []deliverylog.Attempt{{LogEntry: attempt(1, 0, webhook.Timeout)}, {LogEntry: second, HasReply: true}}},
			{ID: "a/b", Kind: webhook.Click, Message: "12345", Time: noon, Fate: webhook.Delivered, Changed: noon.Add(time.Hour), Partition: 1, Offset: 2,
				Attempts: []deliverylog.Attempt{{LogEntry: attempt(1, 200, "")}}},
			{ID: "evt_2", Kind: webhook.RevokeClick, Fate: webhook.Dead, Offset: -1},
			{ID: "evt_3", Kind: webhook.DLR, Message: "7", Fate: webhook.NotConfigured, Partition: 1, Offset: 3},
			{ID: "evt_6", Kind: webhook.DLR, Message: "8", Fate: webhook.Dead, Partition: 1, Offset: 6},
			{ID: "evt_7", Kind: webhook.RevokeClick, Fate: webhook.Delivered, Partition: 1, Offset: 7, End: 9, IDs: 3},
		},
		43: {{ID: "evt_4", Kind: webhook.DLR, Message: "12345", Partition: 1, Offset: 4}},
	}
}

const (
	first = `{"id":"evt_1","kind":"dlr","message_id":"12345","event_time":"2026-02-27T12:00:00.123Z","state":"waiting",` +
		`"next_attempt":"2026-02-27T20:00:00.123Z","attempts":[{"attempt":1,"time":"2026-02-27T13:00:00.123Z","status":"timeout",` +
		`"http_code":null,"error":"timeout","duration":0.245,"host":"example.com","failover":false,"reply":null},` +
		`{"attempt":2,"time":"2026-02-27T14:00:00.123Z","status":"failed","http_code":500,"error":"http 500","duration":0.245,` +
		`"host":"example.com","failover":true,"reply":"<no> & \"body\"\n"}]`
	second = `{"id":"a/b","kind":"click","message_id":"12345","event_time":"2026-02-27T12:00:00.123Z","state":"delivered","next_attempt":null,` +
		`"attempts":[{"attempt":1,"time":"2026-02-27T13:00:00.123Z","status":"ok","http_code":200,"error":null,"duration":0.245,` +
		`"host":"example.com","failover":false,"reply":null}]`
	gone = `{"success":false,"data":[],"errors":["id: no such event among your latest deliveries"]}`
)

func TestEvent(t *testing.T) {
	s := newServer(t, Options{})
	s.events = loggedEvents()
	get := func(key, path string) *httptest.ResponseRecorder {
		return s.do(t, "GET", "/v1/user/"+path, key, "", "")
	}
	want(t, get(key42, "events/evt_1"), 200, `{"success":true,"data":`+first+`,"request":null}}`)
	s.records = map[deadletter.Origin]string{
		{ID: "evt_1", UserID: 42, Kind: webhook.DLR, Partition: 3, Offset: 17}: `{"user_id":42,"sms":{"id":12345,"text":"<é>"}}`,
		{ID: "a/b", UserID: 42, Kind: webhook.Click, Partition: 1, Offset: 2}:  string(ExampleRecord(webhook.Click)),
	}
	const null = "%22%3Anull%2C%22"
	w := get(key42, "events/evt_1")
	body := `sms=%7B%22id%22%3A12345%2C%22created` + null + `updated`
	if got := w.Body.String(); w.Code != 200 || got[:len(`{"success":true,"data":`+first)] != `{"success":true,"data":`+first ||
		!strings.Contains(got, `,"request":{"content_type":"application/x-www-form-urlencoded","body":"`+body) || !strings.Contains(got, `%22text%22%3A%22%3C%C3%A9%3E%22`) {
		t.Errorf("%d %s", w.Code, got)
	}
	example, err := bodyOf(webhook.Click, ExampleRecord(webhook.Click))
	if err != nil {
		t.Fatal(err)
	}
	click := `{"success":true,"data":` + second + `,"request":{"content_type":"application/x-www-form-urlencoded","body":"` + string(example) + `"}}}`
	want(t, get(key42, "events/a%2Fb"), 200, click)
	want(t, get(key42, "events/evt_2"), 200, `{"success":true,"data":{"id":"evt_2","kind":"revoke_click","message_id":null,"event_time":null,`+
		`"state":"dead","next_attempt":null,"attempts":[],"request":null}}`)
	for _, path := range []string{"events/evt_4", "events/evt_5", "events/12345", "events/a%252Fb"} {
		want(t, get(key42, path), 404, gone)
	}
	want(t, get(key43, "events/evt_1"), 404, gone)
	want(t, get("", "events/evt_1"), 401, "")
	want(t, s.do(t, "POST", "/v1/user/events/evt_1", key42, "", ""), 405, "")
	want(t, s.do(t, "HEAD", "/v1/user/events/evt_1", key42, "", ""), 200, "")
	for _, path := range []string{"events", "events/", "messages/", "event/x", "events/a/b"} {
		want(t, get(key42, path), 404, `{"success":false,"data":[],"errors":["path: not found"]}`)
	}
}

func TestMessage(t *testing.T) {
	s := newServer(t, Options{})
	s.events = loggedEvents()
	get := func(key, path string) *httptest.ResponseRecorder {
		return s.do(t, "GET", "/v1/user/"+path, key, "", "")
	}
	want(t, get(key42, "messages/12345"), 200, `{"success":true,"data":[`+first+`},`+second+`}]}`)
	want(t, get(key42, "messages/%31234%35"), 200, `{"success":true,"data":[`+first+`},`+second+`}]}`)
	want(t, get(key42, "messages/evt_2"), 200, `{"success":true,"data":[]}`)
	want(t, get(key43, "messages/7"), 200, `{"success":true,"data":[]}`)
	want(t, s.do(t, "DELETE", "/v1/user/messages/7", key42, "", ""), 405, "")
}

// TestResend checks that logged events are sent again from their records, and that other ids are searched among the
// dead letters.
func TestResend(t *testing.T) {
	origin := func(id string, kind webhook.Kind, partition int32, offset int64) deadletter.Origin {
		return deadletter.Origin{ID: id, UserID: 42, Kind: kind, Partition: partition, Offset: offset}
	}
	for _, c := range []struct {
		body   string
		resent []string
		scan   []string // the ids searched among the dead letters
		n      int
	}{
		{`{"ids":["evt_1"]}`, []string{"evt_1"}, nil, 1},
		{`{"ids":["evt_1","a/b","evt_1"]}`, []string{"evt_1", "a/b"}, nil, 2},
		{`{"ids":["evt_3"]}`, nil, nil, 0},               // its record is gone
		{`{"ids":["evt_7"]}`, []string{"evt_7"}, nil, 1}, // a batch of revocations
		{`{"ids":["evt_6"]}`, nil, []string{"evt_6"}, 1}, // it has a dead letter
		{`{"ids":["evt_2","evt_4","evt_1"]}`, []string{"evt_1"}, []string{"evt_2", "evt_4"}, 2},
		{`{"ids":["evt_1","a/b"],"kind":"click"}`, []string{"a/b"}, []string{"evt_1"}, 1},
		{`{"ids":["evt_1","a/b"],"since":"2026-02-27T13:30:00Z"}`, []string{"evt_1"}, []string{"a/b"}, 1},
		{`{"ids":["evt_1","a/b"],"until":"2026-02-27T13:30:00Z"}`, []string{"a/b"}, []string{"evt_1"}, 1},
	} {
		s := newServer(t, Options{})
		s.events = loggedEvents()
		s.letters = []deadletter.Letter{{ID: "evt_2", UserID: 42}, {ID: "evt_4", UserID: 43}, {ID: "evt_6", UserID: 42}}
		batch := origin("evt_7", webhook.RevokeClick, 1, 7)
		batch.End, batch.IDs = 9, 3
		s.records = map[deadletter.Origin]string{batch: "", origin("evt_1", webhook.DLR, 3, 17): "", origin("a/b", webhook.Click, 1, 2): "", origin("evt_6", webhook.DLR, 1, 6): ""}
		w := s.do(t, "POST", "/v1/user/replay", key42, "application/json", c.body)
		want(t, w, 200, fmt.Sprintf(`{"success":true,"data":{"replayed":%d}}`, c.n))
		var resent, scanned []string
		for _, o := range s.resent {
			resent = append(resent, o.ID)
		}
		for _, f := range s.replayed {
			scanned = append(scanned, f.IDs...)
			if f.UserID != 42 {
				t.Errorf("%s: asked for user %d", c.body, f.UserID)
			}
		}
		if !slices.Equal(resent, c.resent) || !slices.Equal(scanned, c.scan) {
			t.Errorf("%s: sent again %v, searched %v; want %v, %v", c.body, resent, scanned, c.resent, c.scan)
		}
	}
}
