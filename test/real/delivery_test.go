package real_test

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/test/real/harness"
)

// TestDelivery has one member and a user per case.
func TestDelivery(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	users := map[int64]harness.Webhook{42: e.all(42, "user:pa:ss")}
	for user := int64(100); user < 130; user++ {
		users[user] = e.all(user, "")
	}
	users[110] = harness.Webhook{DLR: e.recv.URL("/dlr/110")}
	users[111] = harness.Webhook{} // a document without URLs
	users[119] = harness.Webhook{DLR: e.recv.URL("/dlr/119?token=a&b=c%20d")}
	e.configure(t, users)
	p := e.serve(t)
	cases := map[string]func(*testing.T, *env, *harness.Proc){
		"goldens":           testGoldens,
		"headers":           testRequestHeaders,
		"success":           testSuccess,
		"redirect":          testRedirect,
		"url at attempt":    testURLAtAttempt,
		"not configured":    testNotConfigured,
		"filtered":          testFiltered,
		"first click":       testFirstClick,
		"click without url": testClickWithoutURL,
		"miskeyed":          testMiskeyed,
		"poison":            testPoison,
		"odd json":          testOddJSON,
		"query":             testQuery,
		"failures":          testFailures,
		"reply":             testReply,
		"user removed":      testRemoved,
	}
	t.Run("case", func(t *testing.T) { // returns when the parallel ones have ended
		for name, test := range cases {
			t.Run(name, func(t *testing.T) { test(t, e, p) })
		}
	})
	p.WaitBalanced(t, 1, harness.Patience)
}

func testGoldens(t *testing.T, e *env, _ *harness.Proc) {
	for kind, topic := range map[string]string{"dlr": e.topics.DLR, "click": e.topics.Click, "inbound": e.topics.Inbound, "revoke_click": e.topics.Revocation} {
		e.emit(t, harness.Event(topic, 42, string(golden(t, kind+".record.json"))))
		got := e.recv.WaitCount(t, path(strings.TrimSuffix(kind, "_click"), 42), 1, harness.Patience)[0]
		if want := golden(t, kind+".body.txt"); string(got.Body) != string(want) {
			t.Errorf("%s body\n%s\nwant\n%s", kind, got.Body, want)
		}
		if auth := got.Header.Get("Authorization"); (auth != "") != (kind == "dlr") {
			t.Errorf("%s has Authorization %q", kind, auth)
		} else if kind == "dlr" && auth != "Basic dXNlcjpwYTpzcw==" {
			t.Errorf("dlr has Authorization %q", auth)
		}
		wantType := "application/x-www-form-urlencoded"
		if kind == "revoke_click" {
			wantType = "application/json"
		}
		if got.Header.Get("Content-Type") != wantType {
			t.Errorf("%s has Content-Type %q", kind, got.Header.Get("Content-Type"))
		}
	}
}

func testRequestHeaders(t *testing.T, e *env, _ *harness.Proc) {
	t.Parallel()
	version, _, _ := harness.Run(t, harness.Options{}, "version")
	version = strings.TrimPrefix(strings.TrimSpace(version), "smshooks ")
	e.recv.On("/dlr/100", harness.Codes(500, 500, 200))
	r := e.emit(t, e.dlr(100, 1))[0]
	for i, got := range e.recv.WaitCount(t, "/dlr/100", 3, harness.Patience) {
		if got.Method != http.MethodPost || got.Length != int64(len(got.Body)) {
			t.Errorf("%s with Content-Length %d and %d bytes", got.Method, got.Length, len(got.Body))
		}
		stamp, err := strconv.ParseInt(got.Header.Get("Webhook-Timestamp"), 10, 64)
		if age := got.Start.Unix() - stamp; err != nil || age < 0 || age > 1 {
			t.Errorf("Webhook-Timestamp %q at %d", got.Header.Get("Webhook-Timestamp"), got.Start.Unix())
		}
		for name, want := range map[string]string{
			"User-Agent": "smshooks/" + version, "Webhook-Id": identity(r), "Webhook-Attempt": strconv.Itoa(i + 1), "Authorization": "", "Transfer-Encoding": "",
		} {
			if got.Header.Get(name) != want {
				t.Errorf("attempt %d: %s is %q, want %q", i+1, name, got.Header.Get(name), want)
			}
		}
	}
}

func testSuccess(t *testing.T, e *env, _ *harness.Proc) {
	t.Parallel()
	codes := map[int64]int{104: 201, 105: 202, 106: 204, 107: 404, 108: 500}
	for user, code := range codes {
		e.recv.On(path("dlr", user), harness.Codes(code, 200))
		e.emit(t, e.dlr(user, 1))
	}
	for user, code := range codes {
		e.recv.WaitCount(t, path("dlr", user), 2, harness.Patience)
		r := e.waitStored(t, harness.Retry(e.topics.DLR, "1s"), user, 1, harness.Patience)[0]
		wantHeaders(t, r, map[string]string{"attempts": "1", "error": "http " + strconv.Itoa(code)})
	}
}

func testRedirect(t *testing.T, e *env, _ *harness.Proc) {
	t.Parallel()
	e.recv.On("/dlr/102", func(rw http.ResponseWriter, r *http.Request, _ harness.Request) {
		http.Redirect(rw, r, "/elsewhere", http.StatusFound)
	})
	e.emit(t, e.dlr(102, 1))
	r := e.dead(t, 102, 1, harness.Patience)[0]
	wantHeaders(t, r, map[string]string{"reason": "attempts_exhausted", "attempts": "3", "error": "http 302", "kind": "dlr"})
	if n := e.recv.Count("/elsewhere"); n != 0 {
		t.Errorf("the redirect was followed %d times", n)
	}
}

func testURLAtAttempt(t *testing.T, e *env, _ *harness.Proc) {
	t.Parallel()
	e.recv.On("/dlr/103", harness.Status(500))
	e.emit(t, e.dlr(103, 1))
	e.recv.WaitCount(t, "/dlr/103", 1, harness.Patience)
	e.configure(t, map[int64]harness.Webhook{103: {DLR: e.recv.URL("/dlr/103/new"), Auth: "new:secret"}})
	// the second attempt may still go to the old URL, the third may not: 3 s later the change takes effect
	got := e.recv.WaitCount(t, "/dlr/103/new", 1, harness.Patience)[0]
	if user, pass, ok := parseBasic(got.Header.Get("Authorization")); !ok || user != "new" || pass != "secret" {
		t.Errorf("Authorization %q", got.Header.Get("Authorization"))
	}
}

func parseBasic(header string) (user, pass string, ok bool) {
	r := http.Request{Header: http.Header{"Authorization": {header}}}
	return r.BasicAuth()
}

func testNotConfigured(t *testing.T, e *env, p *harness.Proc) {
	before := p.Metrics(t)
	e.emit(t, harness.Event(e.topics.Inbound, 110, harness.InboundValue(110, 1)), // has a dlr_url only
		e.dlr(111, 1), // has no URL
		e.dlr(777, 1)) // is unknown
	harness.Eventually(t, harness.Patience, func() bool {
		m := p.Metrics(t)
		return m.Sum("smshooks_settled_total", "kind", "dlr", "fate", "not_configured")-before.Sum("smshooks_settled_total", "kind", "dlr", "fate", "not_configured") == 2 &&
			m.Sum("smshooks_settled_total", "kind", "inbound", "fate", "not_configured")-before.Sum("smshooks_settled_total", "kind", "inbound", "fate", "not_configured") == 1
	}, "three events settled as not_configured")
}

func testFiltered(t *testing.T, e *env, p *harness.Proc) {
	before := p.Metrics(t).Sum("smshooks_settled_total", "kind", "click", "fate", "filtered")
	for _, flags := range []string{`"bot":true`, `"preview":true`, `"bot":true,"preview":true`} {
		e.emit(t, harness.Event(e.topics.Click, 112, `{"user_id":112,"sms":{"id":5},`+flags+`}`))
	}
	e.emit(t, harness.Event(e.topics.Click, 112, `{"user_id":112,"sms":{"id":5}}`)) // absent flags are false
	got := e.recv.WaitCount(t, "/click/112", 1, harness.Patience)[0]
	if id := got.Header.Get("Webhook-Id"); id != last(e, t) {
		t.Errorf("the click that fired is %s, want the last", id)
	}
	if field(t, got.Body, "clicked") != "true" {
		t.Errorf("clicked is %s", field(t, got.Body, "clicked"))
	}
	harness.Eventually(t, harness.Patience, func() bool {
		return p.Metrics(t).Sum("smshooks_settled_total", "kind", "click", "fate", "filtered")-before == 3
	}, "three clicks filtered")
}

// last is the offset of user 112's last click.
func last(e *env, t *testing.T) string {
	mine := of(harness.Consume(t, e.kafka.Addr, e.topics.Click), 112)
	return identity(mine[len(mine)-1])
}

func testFirstClick(t *testing.T, e *env, p *harness.Proc) {
	before := p.Metrics(t).Sum("smshooks_settled_total", "kind", "click", "fate", "duplicate")
	e.recv.On("/click/113", harness.Codes(500, 500, 200))
	r := e.emit(t, e.click(113, 1), e.click(113, 1), e.click(113, 2))
	e.recv.WaitCount(t, "/click/113", 4, harness.Patience)
	e.emit(t, e.click(113, 1))
	harness.Eventually(t, harness.Patience, func() bool {
		return p.Metrics(t).Sum("smshooks_settled_total", "kind", "click", "fate", "duplicate")-before == 2
	}, "two clicks are duplicates")
	for _, got := range e.recv.Requests("/click/113") {
		if id := got.Header.Get("Webhook-Id"); id != identity(r[0]) && id != identity(r[2]) {
			t.Errorf("%s was sent", id)
		}
	}
	// the same id of another user is another message
	e.emit(t, e.click(114, 1))
	e.recv.WaitCount(t, "/click/114", 1, harness.Patience)
	// a first click that ends as a dead letter is still the first
	e.recv.On("/click/115", harness.Status(500))
	e.emit(t, e.click(115, 9))
	wantHeaders(t, e.dead(t, 115, 1, harness.Patience)[0], map[string]string{"kind": "click", "reason": "attempts_exhausted", "attempts": "3"})
	e.emit(t, e.click(115, 9))
	harness.Eventually(t, harness.Patience, func() bool {
		return p.Metrics(t).Sum("smshooks_settled_total", "kind", "click", "fate", "duplicate")-before == 3
	}, "a click after a dead one is a duplicate")
	if n := e.recv.Count("/click/115"); n != 3 {
		t.Errorf("%d requests, want 3", n)
	}
}

func testClickWithoutURL(t *testing.T, e *env, p *harness.Proc) {
	before := p.Metrics(t).Sum("smshooks_settled_total", "kind", "click", "fate", "not_configured")
	e.emit(t, e.click(110, 1))
	harness.Eventually(t, harness.Patience, func() bool {
		return p.Metrics(t).Sum("smshooks_settled_total", "kind", "click", "fate", "not_configured")-before == 1
	}, "the click is not configured")
	e.configure(t, map[int64]harness.Webhook{110: {Click: e.recv.URL("/click/110")}})
	harness.Settle()
	e.emit(t, e.click(110, 1))
	e.recv.WaitCount(t, "/click/110", 1, harness.Patience)
}

func testMiskeyed(t *testing.T, e *env, p *harness.Proc) {
	before := p.Metrics(t).Sum("smshooks_miskeyed_records_total")
	for i, key := range []string{"other", "", "0116"} {
		e.emit(t, &kgo.Record{Topic: e.topics.DLR, Partition: harness.ByKey, Key: []byte(key), Value: []byte(harness.DLRValue(116, int64(i)))})
	}
	e.emit(t, &kgo.Record{Topic: e.topics.DLR, Partition: 1, Value: []byte(harness.DLRValue(116, 9))})
	e.recv.WaitCount(t, "/dlr/116", 4, harness.Patience)
	if n := p.Metrics(t).Sum("smshooks_miskeyed_records_total") - before; n != 4 {
		t.Errorf("smshooks_miskeyed_records_total rose by %v, want 4", n)
	}
	// its retry record is keyed by the user, its dead letter by the record's own key
	e.recv.On("/dlr/116", harness.Status(500))
	r := e.emit(t, &kgo.Record{Topic: e.topics.DLR, Partition: 0, Key: []byte("odd"), Value: []byte(harness.DLRValue(116, 10))})[0]
	e.waitStored(t, harness.Retry(e.topics.DLR, "1s"), 116, 1, harness.Patience)
	harness.Eventually(t, harness.Patience, func() bool {
		for _, d := range harness.Consume(t, e.kafka.Addr, e.topics.DeadLetter) {
			if harness.Header(d, "smshooks-id") == identity(r) {
				if string(d.Key) != "odd" && string(d.Key) != "116" {
					t.Errorf("dead letter's key %q", d.Key)
				}
				t.Logf("key of the dead letter of a miskeyed record: %q", d.Key)
				return true
			}
		}
		return false
	}, "a dead letter of %s", identity(r))
}

func testPoison(t *testing.T, e *env, p *harness.Proc) {
	type poison struct{ topic, value string }
	bad := []poison{
		{e.topics.DLR, ``}, {e.topics.DLR, `not json`}, {e.topics.DLR, `{"user_id":117,"sms":{"id":1}`}, {e.topics.DLR, `{"user_id":117,"sms":{"id":1}} x`},
		{e.topics.DLR, "{\"user_id\":117,\"sms\":{\"id\":\"\xff\"}}"}, {e.topics.DLR, `[]`}, {e.topics.DLR, `null`},
		{e.topics.DLR, `{"sms":{"id":1}}`}, {e.topics.DLR, `{"user_id":0,"sms":{"id":1}}`}, {e.topics.DLR, `{"user_id":-1,"sms":{"id":1}}`},
		{e.topics.DLR, `{"user_id":"117","sms":{"id":1}}`}, {e.topics.DLR, `{"user_id":1.5,"sms":{"id":1}}`}, {e.topics.DLR, `{"user_id":9223372036854775808,"sms":{"id":1}}`},
		{e.topics.DLR, `{"user_id":117}`}, {e.topics.DLR, `{"user_id":117,"sms":null}`}, {e.topics.DLR, `{"user_id":117,"sms":[]}`}, {e.topics.DLR, `{"user_id":117,"sms":"x"}`},
		{e.topics.DLR, `{"user_id":117,"sms":{}}`}, {e.topics.DLR, `{"user_id":117,"sms":{"id":null}}`}, {e.topics.DLR, `{"user_id":117,"sms":{"id":true}}`},
		{e.topics.DLR, `{"user_id":117,"sms":{"id":1,"text":{}}}`}, {e.topics.DLR, `{"user_id":117,"sms":{"id":1,"text":[]}}`},
		{e.topics.Click, `{"user_id":117,"sms":{"id":1},"bot":1}`}, {e.topics.Click, `{"user_id":117,"sms":{"id":1},"preview":"true"}`}, {e.topics.Click, `{"user_id":117,"sms":{"id":1},"bot":null}`},
		{e.topics.Inbound, `{"user_id":117,"sms":{"from":"1"}}`},
		{e.topics.Revocation, `{"user_id":117,"api_sms_ids":["1"]}`}, {e.topics.Revocation, `{"user_id":117,"api_sms_ids":[1.5]}`}, {e.topics.Revocation, `{"user_id":117,"campaign_sms_ids":{}}`},
		{e.topics.Revocation, `{"user_id":117,"campaign_sms_ids":[null]}`}, {e.topics.Revocation, `{"api_sms_ids":[1]}`}, {e.topics.Revocation, `x`},
	}
	kinds := map[string]string{e.topics.DLR: "dlr", e.topics.Click: "click", e.topics.Inbound: "inbound", e.topics.Revocation: "revoke_click"}
	var sent []*kgo.Record
	for i, b := range bad {
		sent = append(sent, &kgo.Record{Topic: b.topic, Partition: 0, Key: []byte(fmt.Sprintf("poison-%d", i)), Value: []byte(b.value), Timestamp: time.Now().Add(-time.Minute).Truncate(time.Millisecond)})
	}
	// a tombstone on a source, without key
	sent = append(sent, &kgo.Record{Topic: e.topics.DLR, Partition: 0, Timestamp: time.Now().Truncate(time.Millisecond)})
	good := &kgo.Record{Topic: e.topics.DLR, Partition: 0, Key: []byte("117"), Value: []byte(harness.DLRValue(117, 1))}
	e.emit(t, append(sent, good)...)
	e.recv.WaitCount(t, "/dlr/117", 1, harness.Patience)
	byID := map[string]*kgo.Record{}
	harness.Eventually(t, harness.Patience, func() bool {
		clear(byID)
		for _, d := range harness.Consume(t, e.kafka.Addr, e.topics.DeadLetter) {
			byID[harness.Header(d, "smshooks-id")] = d
		}
		for _, s := range sent {
			if byID[identity(s)] == nil {
				return false
			}
		}
		return true
	}, "a dead letter for each poison record")
	for _, s := range sent {
		d := byID[identity(s)]
		if string(d.Key) != string(s.Key) || string(d.Value) != string(s.Value) || (d.Value == nil) != (s.Value == nil) || (d.Key == nil) != (s.Key == nil) {
			t.Errorf("dead letter %q=%q (nil %v, %v) of %q=%q", d.Key, d.Value, d.Key == nil, d.Value == nil, s.Key, s.Value)
		}
		wantHeaders(t, d, map[string]string{"reason": "invalid_record", "attempts": "0", "kind": kinds[s.Topic], "due": ""})
		if harness.Header(d, "smshooks-error") == "" {
			t.Errorf("%s: no smshooks-error", s.Value)
		}
		if at := headerTime(t, d, "event-time"); !at.Equal(s.Timestamp) {
			t.Errorf("event time %v, want %v", at, s.Timestamp)
		}
	}
	if n := e.recv.Count("/dlr/117") + e.recv.Count("/click/117") + e.recv.Count("/inbound/117"); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
}

func testOddJSON(t *testing.T, e *env, _ *harness.Proc) {
	for i, test := range []struct{ sms, want string }{
		{`{"id":9007199254740993,"cost":1e2,"parts":-0.50,"to":4E+5}`, `"id":9007199254740993`},
		{`{"id":1,"id":2}`, `{"id":2,`},
		{`{"text":"<a href=\"/x?a&b\">","id":"s-1"}`, `"text":"<a href=\"/x?a&b\">"`},
		{"{\"id\":\"\\u00e9\\ud83d\\ude00\",\"text\":\"tab\\t nl\\n\"}", "\"id\":\"\u00e9\U0001F600\""},
		{"  {\n \"id\" : 3 , \"unknown\" : {\"a\":[1]} , \"clicked\" : null }  ", `{"id":3,"created":null,"updated":null,"from":null,"to":null,"verify_local":null,"shorten_url":null,"list_id":null,` +
			`"reference":null,"transactional":null,"preferred_route_id":null,"campaign_id":null,"delay_time":null,"country_id":null,"country_name":null,"country_iso":null,"clicked":null,"cost":null,` +
			`"parts":null,"original_url":null,"shortened_url":null,"text":null,"status":null,"dlr_status":null}`},
	} {
		e.emit(t, harness.Event(e.topics.DLR, 118, `{"user_id":118,"extra":[{}],"sms":`+test.sms+`}`))
		got := smsOf(t, e.recv.WaitCount(t, "/dlr/118", i+1, harness.Patience)[i].Body)
		if !strings.Contains(got, test.want) {
			t.Errorf("%s\nbecame %s\nwant %s", test.sms, got, test.want)
		}
	}
	if got := smsOf(t, e.recv.Requests("/dlr/118")[0].Body); !strings.Contains(got, `"cost":1e2,"parts":-0.50`) || !strings.Contains(got, `"to":4E+5`) {
		t.Errorf("numbers changed: %s", got)
	}
	// a doubled user_id and doubled sms: the last counts
	e.emit(t, harness.Event(e.topics.DLR, 118, `{"user_id":1,"sms":{"id":7,"text":"no"},"user_id":118,"sms":{"id":8}}`))
	if got := smsOf(t, e.recv.WaitCount(t, "/dlr/118", 6, harness.Patience)[5].Body); !strings.Contains(got, `"id":8`) || !strings.Contains(got, `"text":null`) {
		t.Errorf("doubled keys: %s", got)
	}
}

func testQuery(t *testing.T, e *env, _ *harness.Proc) {
	e.emit(t, e.dlr(119, 1))
	if got := e.recv.WaitCount(t, "/dlr/119", 1, harness.Patience)[0]; got.Path != "/dlr/119?token=a&b=c%20d" {
		t.Errorf("path %q", got.Path)
	}
}

func testFailures(t *testing.T, e *env, p *harness.Proc) {
	t.Parallel()
	e.recv.On("/dlr/120", func(rw http.ResponseWriter, _ *http.Request, _ harness.Request) {
		conn, _, err := rw.(http.Hijacker).Hijack()
		if err == nil {
			_ = conn.Close()
		}
	})
	e.configure(t, map[int64]harness.Webhook{
		121: {DLR: "http://" + harness.FreeAddr(t) + "/"}, 122: {DLR: "http://no-such-host.invalid/"},
		123: {DLR: "https://" + e.recv.Addr() + "/"}, 124: {DLR: "http://10.1.2.3:81/"}, 125: {DLR: "http://[::ffff:169.254.169.254]/"},
	})
	harness.Settle()
	want := map[int64]string{120: "connection reset", 121: "connection refused", 122: "dns", 123: "tls", 124: "blocked address", 125: "blocked address"}
	for user := range want {
		e.emit(t, e.dlr(user, 1))
	}
	for user, failure := range want {
		wantHeaders(t, e.dead(t, user, 1, harness.Patience)[0], map[string]string{"error": failure, "attempts": "3", "reason": "attempts_exhausted"})
	}
	if n := p.Metrics(t).Sum("smshooks_attempts_total", "kind", "dlr", "result", "blocked"); n != 6 {
		t.Errorf("%v attempts blocked, want 6", n)
	}
}

// testReply checks that nothing in a reply except its status matters.
func testReply(t *testing.T, e *env, _ *harness.Proc) {
	t.Parallel()
	e.recv.On("/dlr/126", func(rw http.ResponseWriter, r *http.Request, _ harness.Request) {
		rw.WriteHeader(http.StatusOK) // an endless body: 64 KiB are read, and the status decides
		for chunk := make([]byte, 4096); r.Context().Err() == nil; {
			if _, err := rw.Write(chunk); err != nil {
				return
			}
		}
	})
	e.emit(t, e.dlr(126, 1))
	e.recv.WaitCount(t, "/dlr/126", 1, harness.Patience)
	harness.Pass(2500 * time.Millisecond) // a retry would come after 1 s
	if n := e.recv.Count("/dlr/126"); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
}

func testRemoved(t *testing.T, e *env, p *harness.Proc) {
	e.emit(t, e.dlr(127, 1))
	e.recv.WaitCount(t, "/dlr/127", 1, harness.Patience)
	harness.RemoveUser(t, e.kafka.Addr, e.topics.Config, 127)
	harness.Settle()
	before := p.Metrics(t).Sum("smshooks_settled_total", "fate", "not_configured")
	e.emit(t, e.dlr(127, 2))
	harness.Eventually(t, harness.Patience, func() bool {
		return p.Metrics(t).Sum("smshooks_settled_total", "fate", "not_configured") == before+1
	}, "an event of a removed user is not configured")
	// an unreadable document leaves the previous one in effect
	e.configure(t, map[int64]harness.Webhook{127: {DLR: e.recv.URL("/dlr/127/again")}})
	e.emit(t, harness.Event(e.topics.Config, 127, `{"user_id":127,"dlr_url":`))
	harness.Settle()
	e.emit(t, e.dlr(127, 3))
	e.recv.WaitCount(t, "/dlr/127/again", 1, harness.Patience)
}

// TestAny2xx checks that dispatch.success extends the statuses that count as delivered.
func TestAny2xx(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.configure(t, map[int64]harness.Webhook{1: e.all(1, ""), 2: e.all(2, "")})
	e.recv.On("/dlr/1", harness.Status(204))
	e.recv.On("/dlr/2", harness.Status(304))
	p := e.serve(t, "--dispatch.success=2xx")
	e.emit(t, e.dlr(1, 1), e.dlr(2, 1))
	e.dead(t, 2, 1, harness.Patience)
	m := p.WaitBalanced(t, 4, harness.Patience)
	if n := m.Sum("smshooks_settled_total", "fate", "delivered"); n != 1 || e.recv.Count("/dlr/1") != 1 {
		t.Errorf("%v delivered, %d requests, want 1 and 1", n, e.recv.Count("/dlr/1"))
	}
}
