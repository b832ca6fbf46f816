package api

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zapcore"

	"github.com/smshooks/smshooks/internal/deadletter"
	"github.com/smshooks/smshooks/internal/deliverylog"
	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/sender"
	"github.com/smshooks/smshooks/internal/settings"
	"github.com/smshooks/smshooks/pkg/webhook"
)

const multipartBody = "--XX\r\nContent-Disposition: form-data; name=\"dlr_url\"\r\n\r\nhttp://a/;b&c=d\r\n" +
	"--XX\r\nContent-Disposition: form-data; name=\"auth\"\r\n\r\n\r\n--XX--\r\n"

const unset = `{"success":true,"data":{"dlr_url":null,"click_url":null,"inbound_url":null,"revoke_click_url":null,"auth":false}}`

func refusal(texts ...string) string {
	quoted := make([]string, len(texts))
	for i, text := range texts {
		quoted[i] = `"` + text + `"`
	}
	return `{"success":false,"data":[],"errors":[` + strings.Join(quoted, ",") + `]}`
}

func TestPathsAndMethods(t *testing.T) {
	s := newServer(t, Options{})
	for _, tc := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{"GET", "/", 404, ""},
		{"POST", "/v1/user/set-webhook/", 404, ""},
		{"POST", "//v1/user/set-webhook", 404, ""},
		{"POST", "/v1/user/Set-Webhook", 404, ""},
		{"GET", "/account/webhooks", 404, ""}, // no page is mounted
		{"GET", "/v1/user/set-webhook", 405, "POST"},
		{"OPTIONS", "/v1/user/set-webhook", 405, "POST"},
		{"DELETE", "/v1/user/get-webhook", 405, "GET, HEAD"},
		{"POST", "/v1/user/get-webhook", 405, "GET, HEAD"},
		{"GET", "/v1/user/test-webhook", 405, "POST"},
		{"POST", "/v1/user/deliveries", 405, "GET, HEAD"},
		{"PUT", "/v1/user/replay", 405, "POST"},
		{"POST", "/openapi.yaml", 405, "GET, HEAD"},
	} {
		w := s.do(t, tc.method, tc.path, "", "", "") // keys are not checked
		if w.Code != tc.status || w.Header().Get("Allow") != tc.allow {
			t.Errorf("%s %s: %d, Allow %q; want %d, %q", tc.method, tc.path, w.Code, w.Header().Get("Allow"), tc.status, tc.allow)
		}
		if w.Header().Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s %s: CORS", tc.method, tc.path)
		}
	}
	w := s.do(t, "GET", "/openapi.yaml", "", "", "")
	if w.Code != 200 || w.Body.String() != string(specification) {
		t.Errorf("/openapi.yaml: %d", w.Code)
	}
	want(t, s.do(t, "HEAD", "/v1/user/get-webhook", key42, "", ""), 200, unset)
}

func TestPageIsMounted(t *testing.T) {
	page := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "page ", r.URL.Path) })
	s := newServer(t, Options{Page: page})
	for path, status := range map[string]int{"/account/webhooks": 200, "/account/webhooks/test": 200, "/account/webhooksx": 404, "/account": 404} {
		if w := s.do(t, "POST", path, "", "", ""); w.Code != status {
			t.Errorf("%s: %d, want %d", path, w.Code, status)
		}
	}
}

func TestKeys(t *testing.T) {
	s := newServer(t, Options{})
	denied := refusal("X-API-KEY: the key is missing or unknown")
	for _, path := range []string{"/v1/user/get-webhook", "/v1/user/deliveries"} {
		want(t, s.do(t, "GET", path, "", "", ""), 401, denied)
		want(t, s.do(t, "GET", path+"?X-API-KEY="+key42, "smsh_unknown", "", ""), 401, denied)
	}
	for _, path := range []string{"/v1/user/set-webhook", "/v1/user/test-webhook", "/v1/user/replay"} {
		want(t, s.do(t, "POST", path, "", formType, "dlr_url=bad"), 401, denied)
		want(t, s.do(t, "POST", path, "smsh_unknown", formType, strings.Repeat("x", maxBody+1)), 401, denied)
	}
	want(t, s.post(t, "set-webhook", "dlr_url=http://a"), 200, "")
	want(t, s.do(t, "GET", "/v1/user/get-webhook", key43, "", ""), 200, unset)
	for _, entry := range s.logs.All() {
		if text := fmt.Sprint(entry.Message, entry.ContextMap()); strings.Contains(text, "smsh_") {
			t.Errorf("a key is logged: %s", text)
		}
	}
}

// TestUnknownKeys checks that a client that tries many keys is limited, and that no one else is: not even a valid
// key from the same address.
func TestUnknownKeys(t *testing.T) {
	s := newServer(t, Options{})
	from := func(remote, key string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", "/v1/user/get-webhook", nil)
		r.RemoteAddr = remote
		r.Header.Set("X-API-KEY", key)
		w := httptest.NewRecorder()
		s.handler.ServeHTTP(w, r)
		checkReply(t, r, w)
		return w
	}
	counts := map[int]int{}
	began := time.Now()
	for range 5000 {
		w := from("203.0.113.1:5000", "smsh_unknown")
		counts[w.Code]++
		if w.Code == http.StatusTooManyRequests && w.Header().Get("Retry-After") != "1" {
			t.Fatalf("Retry-After %q", w.Header().Get("Retry-After"))
		}
	}
	if most := 20 + 20*int(time.Since(began)/time.Second+1); counts[401] < 20 || counts[401] > most || counts[401]+counts[429] != 5000 {
		t.Errorf("replies %v; want 20 to %d times 401, otherwise 429", counts, most)
	}
	refused := from("203.0.113.1:5000", "smsh_unknown")
	for range 1000 { // a busy machine may pause long enough to allow some more
		if refused.Code == http.StatusTooManyRequests {
			break
		}
		refused = from("203.0.113.1:5000", "smsh_unknown")
	}
	want(t, refused, 429, refusal("X-API-KEY: too many requests with unknown keys; the limit is 20 per second"))
	want(t, from("203.0.113.1:5001", key42), 200, "")
	want(t, from("203.0.113.2:5000", "smsh_unknown"), 401, "")
}

func TestSetWebhook(t *testing.T) {
	s := newServer(t, Options{})
	data := func(dlr, click, inbound, revoke string, auth bool) string {
		return fmt.Sprintf(`{"success":true,"data":{"dlr_url":%s,"click_url":%s,"inbound_url":%s,"revoke_click_url":%s,"auth":%t}}`, dlr, click, inbound, revoke, auth)
	}
	steps := []struct{ contentType, body, want string }{
		{formType, "", unset},
		{formType, "dlr_url=https://a.example/x?a=1%26b=<2>;c&auth=u:p;x", data(`"https://a.example/x?a=1&b=<2>;c"`, "null", "null", "null", true)},
		{formType, "click_url=http://10.0.0.1:81/&unknown=1", data(`"https://a.example/x?a=1&b=<2>;c"`, `"http://10.0.0.1:81/"`, "null", "null", true)},
		{"application/json", `{"dlr_url":"x","dlr_url":"http://b","inbound_url":"http://c","auth":null}`, data(`"http://b"`, `"http://10.0.0.1:81/"`, `"http://c"`, "null", false)},
		{"application/json", ``, data(`"http://b"`, `"http://10.0.0.1:81/"`, `"http://c"`, "null", false)},
		{"application/json", `{"DLR_URL":"http://other-case"}`, data(`"http://b"`, `"http://10.0.0.1:81/"`, `"http://c"`, "null", false)},
		{"", "dlr_url=&click_url=bad&click_url=", data("null", "null", `"http://c"`, "null", false)},
		{"multipart/form-data; boundary=XX", multipartBody, data(`"http://a/;b&c=d"`, "null", `"http://c"`, "null", false)},
		{"text/html", "dlr_url=&inbound_url=&revoke_click_url=http://d", data("null", "null", "null", `"http://d"`, false)},
	}
	for _, step := range steps {
		want(t, s.do(t, "POST", "/v1/user/set-webhook?dlr_url=http://query", key42, step.contentType, step.body), 200, step.want)
		want(t, s.do(t, "GET", "/v1/user/get-webhook", key42, "", ""), 200, step.want)
	}
	if s.updates != 6 {
		t.Errorf("%d updates, want 6: a request without fields changes nothing", s.updates)
	}
}

func TestSetWebhookRefuses(t *testing.T) {
	s := newServer(t, Options{})
	want(t, s.post(t, "set-webhook", "dlr_url=http://before&auth=u:p"), 200, "")
	before := s.do(t, "GET", "/v1/user/get-webhook", key42, "", "").Body.String()
	notURL, notText := "must be an absolute http or https URL", "must be a string or null"
	file := "--XX\r\nContent-Disposition: form-data; name=\"dlr_url\"; filename=\"x\"\r\n\r\nhttp://a\r\n--XX--\r\n"
	for _, tc := range []struct {
		contentType, body string
		status            int
		errors            []string
	}{
		{formType, "dlr_url=/x", 422, []string{"dlr_url: " + notURL}},
		{formType, "auth=nocolon&revoke_click_url=ftp://a&dlr_url=http://ok&click_url=http://u:p@a", 422, []string{
			"click_url: must not contain credentials", "revoke_click_url: " + notURL, "auth: must be user:pass with a non-empty user"}},
		{formType, "inbound_url=http://a%23f", 422, []string{"inbound_url: must not contain a fragment"}},
		{formType, "dlr_url=http://a/" + strings.Repeat("x", 2048), 422, []string{"dlr_url: must be at most 2048 bytes"}},
		{formType, "dlr_url=http://a/%FF", 422, nil},
		{formType, "auth=%ff:b&dlr_url=http://a/%ff", 422, []string{"dlr_url: " + notURL, "auth: must be valid UTF-8"}},
		{"application/json", `{"auth":"u:\ud800","dlr_url":"http://a/\udc00"}`, 422, []string{"dlr_url: must be valid UTF-8", "auth: must be valid UTF-8"}},
		{formType, "auth=%00a:b", 422, []string{"auth: must not contain control characters"}},
		{"application/json", `{"auth":true,"click_url":["http://a"],"dlr_url":1,"inbound_url":{},"revoke_click_url":"x"}`, 422, []string{
			"dlr_url: " + notText, "click_url: " + notText, "inbound_url: " + notText, "revoke_click_url: " + notURL, "auth: " + notText}},
		{"multipart/form-data; boundary=XX", file, 422, []string{"dlr_url: " + notText}},
		{"multipart/form-data", multipartBody, 400, []string{"body: the Content-Type of a multipart form must have a boundary"}},
		{"application/json", `["dlr_url"]`, 422, []string{"body: must be a JSON object"}},
		{"application/json", `"dlr_url"`, 422, []string{"body: must be a JSON object"}},
		{"application/json", `null`, 422, []string{"body: must be a JSON object"}},
		{"application/json", ` 7 `, 422, []string{"body: must be a JSON object"}},
		{"application/json", `{"dlr_url":`, 400, []string{"body: is not JSON"}},
		{formType, "dlr_url=%zz", 400, []string{"parameters: % must be followed by two hexadecimal digits"}},
		{formType, strings.Repeat("x", maxBody+1), 413, []string{"body: must be at most 65536 bytes"}},
	} {
		body := ""
		if tc.errors != nil {
			body = refusal(tc.errors...)
		}
		want(t, s.do(t, "POST", "/v1/user/set-webhook", key42, tc.contentType, tc.body), tc.status, body)
	}
	want(t, s.do(t, "POST", "/v1/user/set-webhook", key42, formType, "x", "Content-Encoding", "gzip"), 415, refusal("Content-Encoding: must be identity"))
	want(t, s.do(t, "POST", "/v1/user/set-webhook", key42, formType, "x="+strings.Repeat("x", maxBody-2), "Content-Encoding", "Identity"), 200, before)
	want(t, s.do(t, "GET", "/v1/user/get-webhook", key42, "", ""), 200, before)
	if s.updates != 1 {
		t.Errorf("%d updates, want 1", s.updates)
	}
}

func TestChunkedBodyTooLarge(t *testing.T) {
	s := newServer(t, Options{})
	r := httptest.NewRequest("POST", "/v1/user/set-webhook", io.MultiReader(strings.NewReader(strings.Repeat("x", maxBody)), strings.NewReader("y")))
	r.ContentLength = -1
	r.Header.Set("X-API-KEY", key42)
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	want(t, w, 413, refusal("body: must be at most 65536 bytes"))
}

func TestRate(t *testing.T) {
	s := newServer(t, Options{Rate: 3})
	for range 3 {
		want(t, s.do(t, "GET", "/v1/user/get-webhook", key42, "", ""), 200, "")
	}
	w := s.do(t, "POST", "/v1/user/set-webhook", key42, "application/json", "{")
	want(t, w, 429, refusal("X-API-KEY: too many requests; the limit is 3 per second"))
	if w.Header().Get("Retry-After") != "1" {
		t.Errorf("Retry-After %q", w.Header().Get("Retry-After"))
	}
	want(t, s.do(t, "POST", "/v1/user/set-webhook", key42, "", strings.Repeat("x", maxBody+1)), 413, "")
	want(t, s.do(t, "GET", "/v1/user/get-webhook", key43, "", ""), 200, "")
}

func TestUnavailable(t *testing.T) {
	for name, tc := range map[string]struct {
		break_ func(*fakes)
		fails  []string
	}{
		"keys":    {func(f *fakes) { f.keysDown = true }, []string{"GET get-webhook", "POST set-webhook", "POST test-webhook", "GET deliveries", "POST replay"}},
		"store":   {func(f *fakes) { f.storeDown = true }, []string{"GET get-webhook", "POST set-webhook", "POST test-webhook"}},
		"log":     {func(f *fakes) { f.logDown = true }, []string{"GET deliveries", "GET events/x", "GET messages/x"}},
		"letters": {func(f *fakes) { f.kafkaDown = true }, []string{"POST replay", "GET events/x"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, Options{})
			s.events = map[int64][]deliverylog.Event{42: {{ID: "x"}}}
			tc.break_(s.fakes)
			for _, request := range tc.fails {
				method, path, _ := strings.Cut(request, " ")
				w := s.do(t, method, "/v1/user/"+path, key42, formType, "dlr_url=http://a&kind=dlr")
				want(t, w, 503, refusal("service: temporarily unavailable; try again"))
			}
			want(t, s.do(t, "GET", "/v1/user/get-webhook", "", "", ""), 401, "")
		})
	}
}

// An outage of the API is one log line when it begins and one when it ends, however many requests fail.
func TestUnavailableIsLoggedOnce(t *testing.T) {
	s := newServer(t, Options{})
	s.kafkaDown = true
	for range 3 {
		want(t, s.post(t, "replay", "kind=dlr"), 503, "")
	}
	s.kafkaDown = false
	for range 2 {
		want(t, s.post(t, "replay", "kind=dlr"), 200, "")
	}
	for message, level := range map[string]zapcore.Level{"request failed; API answers 503": zapcore.WarnLevel, "request succeeded again": zapcore.InfoLevel} {
		n := 0
		for _, entry := range s.logs.FilterMessage(message).All() {
			if entry.Level == level && entry.ContextMap()["request"] == "replay" {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%q is logged %d times, want once", message, n)
		}
	}
}

func TestTestWebhook(t *testing.T) {
	s := newServer(t, Options{})
	want(t, s.post(t, "test-webhook", ""), 200, `{"success":true,"data":{"dlr":{"status":"skipped","reason":"not configured"},`+
		`"click":{"status":"skipped","reason":"not configured"},"inbound":{"status":"skipped","reason":"not configured"},`+
		`"revoke_click":{"status":"skipped","reason":"not configured"}}}`)
	want(t, s.post(t, "set-webhook", "dlr_url=http://a&click_url=http://b&revoke_click_url=http://d&auth=u:p"), 200, "")
	s.outcomes[webhook.DLR] = sender.Outcome{Status: 200, Took: 244600 * time.Microsecond}
	s.outcomes[webhook.Click] = sender.Outcome{Status: 302, Failure: "http 302", Took: 2 * time.Second}
	s.outcomes[webhook.RevokeClick] = sender.Outcome{Failure: webhook.ConnectionRefused, Took: 400 * time.Microsecond}
	before := time.Now().UnixMilli()
	want(t, s.post(t, "test-webhook", ""), 200, `{"success":true,"data":{"dlr":{"status":"ok","http_code":200,"time":0.245},`+
		`"click":{"status":"failed","http_code":302,"time":2},"inbound":{"status":"skipped","reason":"not configured"},`+
		`"revoke_click":{"status":"error","reason":"connection refused","time":0}}}`)
	if len(s.sent) != 3 {
		t.Fatalf("%d sent, want 3", len(s.sent))
	}
	for _, r := range s.sent {
		body, err := os.ReadFile("../../pkg/webhook/testdata/" + r.Kind.String() + ".body.txt")
		if err != nil || string(body) != string(r.Body.AppendBody(nil)) {
			t.Errorf("%v: %v, body %s", r.Kind, err, r.Body)
		}
		var ms int64
		if n, _ := fmt.Sscanf(r.ID, "test_"+r.Kind.String()+"_%d", &ms); n != 1 || ms < before || ms > time.Now().UnixMilli() || r.Attempt != 1 {
			t.Errorf("%v: id %s, attempt %d", r.Kind, r.ID, r.Attempt)
		}
		if hasAuth := r.Endpoint.Authorization != ""; hasAuth != (r.Kind == webhook.DLR) {
			t.Errorf("%v: credentials %v", r.Kind, hasAuth)
		}
	}
	// A truncated reply is an error although it has a status.
	s.outcomes[webhook.DLR] = sender.Outcome{Status: 200, Failure: webhook.Timeout, Took: 10 * time.Second}
	if w := s.post(t, "test-webhook", ""); !strings.Contains(w.Body.String(), `"dlr":{"status":"error","reason":"timeout","time":10}`) {
		t.Errorf("%s", w.Body)
	}
}

func TestCut(t *testing.T) {
	long := strings.Repeat("ä", maxValue)
	for _, c := range []struct {
		value string
		want  int
	}{
		{"", 0}, {strings.Repeat("x", maxValue), maxValue}, {strings.Repeat("x", maxValue+1), maxValue},
		{long, maxValue}, {"x" + long, maxValue - 1}, {"xx" + strings.Repeat("😀", maxValue), maxValue - 2},
		{strings.Repeat("\x80", maxValue+9), maxValue - 4}, // no UTF-8 anyway
	} {
		if got := cut([]byte(c.value)); len(got) != c.want {
			t.Errorf("%.8q…: %d bytes are kept, want %d", c.value, len(got), c.want)
		}
	}
}

// TestTooManyTests checks that tests, which hold connections, are limited per user and in total.
func TestTooManyTests(t *testing.T) {
	s := newServer(t, Options{})
	for range testsOfUser {
		if !s.service.testing.begin(42, testsOfAll) {
			t.Fatal("refused too early")
		}
	}
	w := s.post(t, "test-webhook", "")
	want(t, w, 429, refusal("test-webhook: too many tests at once"))
	if w.Header().Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	for user := int64(1000); s.service.testing.begin(user, testsOfAll); user++ {
	}
	if s.service.testing.all != testsOfAll {
		t.Errorf("%d tests run, want %d", s.service.testing.all, testsOfAll)
	}
	s.service.testing.end(42)
	want(t, s.post(t, "test-webhook", ""), 200, "")
	if n := s.service.testing.of[42]; n != testsOfUser-1 {
		t.Errorf("%d tests of the user are counted, want %d", n, testsOfUser-1)
	}

	var few tests // because descriptors are few
	for few.begin(42, 8) {
	}
	if n := few.all; n != 2 || !few.begin(43, 8) {
		t.Errorf("one user has %d of 8 tests, want 2", n)
	}
	if few = (tests{}); !few.begin(42, 1) {
		t.Error("no test is allowed")
	}
}

func TestDemoRecordsAreTheDocumentedOnes(t *testing.T) {
	for _, kind := range webhook.Kinds() {
		ours, err := demo.ReadFile("demo/" + kind.String() + ".record.json")
		documented, err2 := os.ReadFile("../../pkg/webhook/testdata/" + kind.String() + ".record.json")
		if err != nil || err2 != nil || string(ours) != string(documented) {
			t.Errorf("%v: the records differ (%v, %v)", kind, err, err2)
		}
	}
}

func TestDeliveries(t *testing.T) {
	s := newServer(t, Options{})
	want(t, s.do(t, "GET", "/v1/user/deliveries", key42, "", ""), 200, `{"success":true,"data":[]}`)
	s.attempts = []event.LogEntry{
		{UserID: 42, Kind: webhook.DLR, ID: "sms-dlr/3/9", Number: 1, Time: noon, Host: "h", Status: 200, Took: 245 * time.Millisecond},
		{UserID: 42, Kind: webhook.Inbound, ID: "evt_1", Message: event.NewText([]byte("12345")), Number: 1, Time: noon, Host: "h:81", Failure: "dns", Failover: true, Next: noon.Add(time.Hour)},
		{UserID: 42, Kind: webhook.RevokeClick, ID: "click-revocation/0/7/0", Number: 3, Time: noon, Status: 503, Failure: "http 503", Took: time.Second},
		{UserID: 42, Kind: webhook.Click, ID: "x", Number: 2, Time: noon, Failure: webhook.BlockedAddress, Failover: true},
		{UserID: 43, Kind: webhook.Click, ID: "another's"},
	}
	want(t, s.do(t, "GET", "/v1/user/deliveries?kind=&status=&limit=&before=", key42, "", ""), 200, `{"success":true,"data":[`+
		`{"id":"sms-dlr/3/9","kind":"dlr","attempt":1,"time":"2026-02-27T12:00:00.123Z","status":"ok","http_code":200,"error":null,"duration":0.245,"message_id":null,"host":"h","next_attempt":null},`+
		`{"id":"evt_1","kind":"inbound","attempt":1,"time":"2026-02-27T12:00:00.123Z","status":"error","http_code":null,"error":"dns","duration":0,"message_id":"12345","host":"h:81","next_attempt":"2026-02-27T13:00:00.123Z","failover":true},`+
		`{"id":"click-revocation/0/7/0","kind":"revoke_click","attempt":3,"time":"2026-02-27T12:00:00.123Z","status":"failed","http_code":503,"error":"http 503","duration":1,"message_id":null,"host":"","next_attempt":null},`+
		`{"id":"x","kind":"click","attempt":2,"time":"2026-02-27T12:00:00.123Z","status":"blocked","http_code":null,"error":"blocked address","duration":0,"message_id":null,"host":"","next_attempt":null,"failover":true}]}`)
	if s.listed.Limit != 20 || s.listed.Kind != nil || s.listed.Result != nil || !s.listed.Before.IsZero() {
		t.Errorf("asked for %+v", s.listed)
	}
	want(t, s.do(t, "GET", "/v1/user/deliveries?limit=5&limit=100&kind=click&status=timeout&before=2026-02-27T13:00:00%2B01:00&x=;&message_id=a%2Fb&http_code=503", key42, "", ""), 200, "")
	if f := s.listed; f.Limit != 100 || *f.Kind != webhook.Click || *f.Result != webhook.TimedOut || f.Message != "a/b" || f.Status != 503 || !f.Before.Equal(noon.Truncate(time.Second)) {
		t.Errorf("asked for %+v", f)
	}
	want(t, s.do(t, "GET", "/v1/user/deliveries?before=2026-02-27T13:00:00+01:00", key42, "", ""), 200, "")
	want(t, s.do(t, "GET", "/v1/user/deliveries?http_code=ok&before=today&limit=101&status=OK&kind=sms", key42, "", ""), 422, refusal(
		"kind: "+mustBeKind, "status: must be ok, failed, timeout, error or blocked", "limit: must be a whole number from 1 to 100", "before: "+mustBeTime, "http_code: must be a status code such as 503"))
	for _, code := range []string{"99", "1000", "0503", "-503", "503.0", "+503"} {
		want(t, s.do(t, "GET", "/v1/user/deliveries?http_code="+code, key42, "", ""), 422, "")
	}
	for _, limit := range []string{"0", "-1", "1.5", "x", "99999999999999999999"} {
		want(t, s.do(t, "GET", "/v1/user/deliveries?limit="+limit, key42, "", ""), 422, "")
	}
	want(t, s.do(t, "GET", "/v1/user/deliveries?kind=%zz", key42, "", ""), 400, "")
}

func TestReplay(t *testing.T) {
	s := newServer(t, Options{})
	s.letters = []deadletter.Letter{{ID: "a/0/1", UserID: 42}, {ID: "a/0/2", UserID: 42}, {ID: "a/0/3", UserID: 43}}
	number := func(n int) string { return fmt.Sprintf(`{"success":true,"data":{"replayed":%d}}`, n) }
	for _, tc := range []struct {
		contentType, body string
		replayed          int
		ids               []string // nil: no replay
	}{
		{formType, "", 0, nil},
		{formType, "ids=&since=&kind=", 0, nil},
		{"application/json", `{"ids":[],"kind":"dlr"}`, 0, nil},
		{formType, "ids=,&kind=dlr", 0, nil},
		{"application/json", `{"ids":null,"kind":"dlr"}`, 2, []string{}},
		{"application/json", `{"ids":null,"kind":null}`, 0, nil},
		{formType, "ids=a/0/1,a/0/3&ids=+a/0/2", 2, []string{"a/0/1", "a/0/3", "a/0/2"}},
		{"application/json", `{"ids":["a/0/2","a,b"]}`, 1, []string{"a/0/2", "a,b"}},
		{"application/json", `{"ids":"a/0/1"}`, 1, []string{"a/0/1"}},
		{formType, "kind=dlr", 2, []string{}},
	} {
		s.replayed = nil
		want(t, s.do(t, "POST", "/v1/user/replay?kind=click", key42, tc.contentType, tc.body), 200, number(tc.replayed))
		if asked := len(s.replayed) > 0; asked != (tc.ids != nil) {
			t.Errorf("%s: replayed %v", tc.body, s.replayed)
		} else if asked && (strings.Join(s.replayed[0].IDs, " ") != strings.Join(tc.ids, " ") || s.replayed[0].UserID != 42) {
			t.Errorf("%s: asked for %+v", tc.body, s.replayed[0])
		}
	}
	s.replayed = nil
	want(t, s.post(t, "replay", "since=2026-02-27T12:00:00Z&until=2026-02-28T12:00:00%2B00:00&kind=inbound"), 200, "")
	if f := s.replayed[0]; !f.Since.Equal(noon.Truncate(time.Second)) || f.Until.Sub(f.Since) != 24*time.Hour || f.Kind != "inbound" {
		t.Errorf("asked for %+v", f)
	}
	want(t, s.do(t, "POST", "/v1/user/replay", key42, "application/json", `{"ids":[1],"since":"24h","until":[],"kind":"x"}`), 422, refusal(
		"ids: must be a list of strings", "since: "+mustBeTime, "until: must be a string or null", "kind: "+mustBeKind))
	if len(s.replayed) != 1 {
		t.Error("an invalid request was served")
	}
}

func TestGivenUp(t *testing.T) {
	s := newServer(t, Options{})
	for i := range 25 {
		s.letters = append(s.letters, deadletter.Letter{ID: fmt.Sprint(i), UserID: 42 + int64(i%2), Time: noon.Add(time.Duration(i) * time.Hour)})
	}
	letters, err := s.service.ListDeadLetters(t.Context(), 42, deadletter.Filter{UserID: 43}, 3)
	if err != nil || len(letters) != 3 || letters[0].ID != "24" || letters[2].ID != "20" {
		t.Errorf("%v, %+v", err, letters)
	}
}

// TestOverTheWire checks what httptest's recorder cannot show.
func TestOverTheWire(t *testing.T) {
	s := newServer(t, Options{})
	server := httptest.NewServer(s.handler)
	defer server.Close()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /v1/user/set-webhook HTTP/1.1\r\nHost: x\r\nX-Api-Key: %s\r\nContent-Length: 70000\r\nExpect: 100-continue\r\n\r\n", key42)
	r, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || r.StatusCode != 413 { // before the body was sent
		t.Errorf("%v, %v; want 413", r, err)
	}
	req, _ := http.NewRequestWithContext(context.Background(), "POST", server.URL+"/v1/user/set-webhook", strings.NewReader("dlr_url=http://a"))
	req.Header.Set("X-API-KEY", key42)
	res, err := server.Client().Do(req)
	if err != nil || res.StatusCode != 200 || res.Header.Get("Content-Type") != "application/json" || res.ContentLength < 0 {
		t.Errorf("%v, %v", res, err)
	}
}

func TestClear(t *testing.T) {
	text, empty := "http://a", ""
	d := settings.Document{UserID: 42, DLRURL: &text, Auth: &text}
	got := (&Change{URLs: [webhook.NumKinds]*string{webhook.DLR: &empty}, Auth: &empty}).apply(d)
	if got != (settings.Document{UserID: 42}) {
		t.Errorf("%+v", got)
	}
}
