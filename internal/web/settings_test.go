package web

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/smshooks/smshooks/internal/deadletter"
	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/sender"
	"github.com/smshooks/smshooks/internal/settings"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// fill stores entries of every kind for user 42, and a few for user 43.
func (s *site) fill() {
	failures := []webhook.Failure{"", "", "", "http 503", webhook.Timeout, webhook.ConnectionRefused, webhook.BlockedAddress}
	for i := range 60 {
		a := event.LogEntry{
			UserID: 42, Kind: webhook.Kinds()[i%4], ID: fmt.Sprintf("sms-dlr/0/%d", i), Number: 1 + i%3, Host: "hooks.example.com",
			Time: time.Now().Add(-time.Duration(i) * time.Minute), Failure: failures[i%len(failures)], Took: time.Duration(i) * time.Millisecond,
		}
		if a.Failure == "" {
			a.Status = 200
		}
		s.attempts = append(s.attempts, a)
	}
	s.attempts = append(s.attempts, event.LogEntry{UserID: 43, Kind: webhook.DLR, ID: "of-43", Time: time.Now(), Host: "h", Number: 1, Status: 200})
	for i, reason := range []webhook.Reason{webhook.AttemptsExhausted, webhook.WindowExpired, webhook.InvalidRecord} {
		s.letters = append(s.letters, deadletter.Letter{
			ID: fmt.Sprintf("sms-click/1/%d", i), UserID: 42, Kind: "click", Reason: string(reason), Attempts: 3 - i, Error: "http 500",
			Time: time.Now().Add(-time.Duration(i) * 40 * time.Hour), Value: []byte(`{"user_id":42}`),
		})
	}
	s.letters = append(s.letters, deadletter.Letter{ID: "letter-of-43", UserID: 43, Kind: "dlr", Reason: "attempts_exhausted", Time: time.Now()})
}

func TestShow(t *testing.T) {
	s := newSite(t)
	s.documents[42] = settings.Document{DLRURL: ptr("https://a.example/dlr?token=s3cret&x=1"), Auth: ptr("user:pa55word")}
	s.documents[43] = settings.Document{ClickURL: ptr("https://other.example/")}
	w := s.signIn(t, key42).get("/settings")
	want(t, w, http.StatusOK, `value="https://a.example/dlr?token=s3cret&amp;x=1"`, `id="auth-state">set<`, `name="auth_clear"`,
		"!pa55word", "!other.example", "!aria-invalid")
	for _, label := range []string{"dlr_url", "click_url", "inbound_url", "revoke_click_url", "auth"} {
		want(t, w, http.StatusOK, `<label for="`+label+`"`, `id="`+label+`"`)
	}
	want(t, s.signIn(t, key43).get("/settings"), http.StatusOK, "other.example", `id="auth-state">not set<`, `!name="auth_clear"`)
	for _, entry := range s.logs.All() {
		if text := fmt.Sprint(entry.Message, entry.ContextMap()); strings.Contains(text, "s3cret") {
			t.Errorf("the log contains a URL's query: %s", text)
		}
	}
}

// TestWarnings covers stored URLs that will not work, or not safely.
func TestWarnings(t *testing.T) {
	s := newSite(t)
	d := settings.Document{DLRURL: ptr("http://a.example/"), ClickURL: ptr("http://10.1.2.3/"), InboundURL: ptr("http://b.example/"), Auth: ptr("u:p")}
	d.Set("dlr_failover_url", ptr("HTTP://c.example/"))
	d.Set("click_failover_url", ptr("https://10.1.2.4:8443/"))
	s.documents[42] = d
	b := s.signIn(t, key42)
	want(t, b.get("/settings"), http.StatusOK, `id="dlr_url-warning">Your credentials are sent to this URL without encryption`, `aria-describedby="dlr_url-warning dlr_url-hint"`,
		`id="click_url-warning">No request will reach this URL`, `id="dlr_failover_url-warning">Your credentials`, `id="click_failover_url-warning">No request`, "!inbound_url-warning")
	d.Auth = nil
	s.documents[42] = d
	want(t, b.get("/settings"), http.StatusOK, "!dlr_url-warning", "!dlr_failover_url-warning", "click_url-warning")
}

func TestSave(t *testing.T) {
	const stored = "https://a.example/dlr"
	for name, tc := range map[string]struct {
		form      []string
		want      settings.Document
		unchanged bool
	}{
		"all": {
			[]string{"was_dlr_url", stored, "dlr_url", "http://b.example/?a=b;c", "click_url", " https://c.example/ ", "inbound_url", "https://d.example", "revoke_click_url", "https://e.example/", "auth", "u:p"},
			settings.Document{DLRURL: ptr("http://b.example/?a=b;c"), ClickURL: ptr("https://c.example/"), InboundURL: ptr("https://d.example"), RevokeClickURL: ptr("https://e.example/"), Auth: ptr("u:p")}, false,
		},
		"a URL is cleared":         {[]string{"was_dlr_url", stored, "dlr_url", ""}, settings.Document{InboundURL: ptr("https://new.example/"), Auth: ptr("old:one")}, false},
		"credentials are cleared":  {[]string{"was_dlr_url", stored, "dlr_url", stored, "auth_clear", "1"}, settings.Document{DLRURL: ptr(stored), InboundURL: ptr("https://new.example/")}, false},
		"credentials are replaced": {[]string{"was_dlr_url", stored, "dlr_url", stored, "auth", "new:two"}, settings.Document{DLRURL: ptr(stored), InboundURL: ptr("https://new.example/"), Auth: ptr("new:two")}, false},
		"nothing":                  {[]string{"was_dlr_url", stored, "dlr_url", stored, "was_inbound_url", "", "inbound_url", ""}, settings.Document{}, true}, // another page set inbound meanwhile
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			before := settings.Document{DLRURL: ptr(stored), InboundURL: ptr("https://new.example/"), Auth: ptr("old:one")}
			s.documents[42] = before
			b := s.signIn(t, key42)
			w := b.post("/settings", tc.form...)
			if w.Code != http.StatusSeeOther || w.Header().Get("Location") != settingsPath+"?done=saved" {
				t.Fatalf("%d %v\n%s", w.Code, w.Header(), w.Body)
			}
			want(t, b.get("/settings?done=saved"), http.StatusOK, "Saved.", `role="status"`)
			expected := tc.want
			if tc.unchanged {
				expected = before
			}
			text := func(d settings.Document) string { d.UserID = 42; return string(d.AppendJSON(nil, nil)) }
			if got := text(s.documents[42]); got != text(expected) {
				t.Errorf("stored %s, want %s", got, text(expected))
			}
			if (s.changes == 0) != tc.unchanged {
				t.Errorf("%d changes", s.changes)
			}
		})
	}
}

func TestInlineErrors(t *testing.T) {
	s := newSite(t)
	s.documents[42] = settings.Document{Auth: ptr("old:one")}
	b := s.signIn(t, key42)
	w := b.post("", "dlr_url", "https://good.example/", "click_url", "ftp://bad.example/", "inbound_url", "https://u:p@bad.example/", "auth", "nocolon", "auth_set", "1")
	want(t, w, http.StatusUnprocessableEntity,
		`value="https://good.example/"`, `value="ftp://bad.example/"`, "!nocolon",
		`id="click_url-error">Must be an absolute http or https URL.`, `aria-describedby="click_url-error click_url-hint"`, `id="auth-error">Must be user:pass`,
		`id="inbound_url-error">Must not contain credentials.`, `id="auth-state">set<`, "!dlr_url-error")
	if n := strings.Count(w.Body.String(), "autofocus"); n != 1 || !strings.Contains(w.Body.String(), `aria-describedby="click_url-error click_url-hint" aria-invalid="true" autofocus`) {
		t.Errorf("%d fields have the focus, or not the first with an error", n)
	}
	want(t, b.post("", "auth", "a:b", "auth_clear", "1", "auth_set", "1"), http.StatusUnprocessableEntity, `id="auth-error">Must be empty`, `value="1" checked`)
	if s.changes != 0 {
		t.Errorf("%d changes", s.changes)
	}
}

// TestUnavailable checks that input is not lost while Kafka or Redis is unreachable, except the credentials, which no
// page shows.
func TestUnavailable(t *testing.T) {
	entered := []string{"was_dlr_url", "https://was.example/", "dlr_url", "https://now.example/", "auth", "u:typed", "auth_set", "1", "user", "42"}
	for name, away := range map[string]func(*site, *browser){
		"store":          func(s *site, _ *browser) { s.storeDown = true },
		"keys":           func(s *site, _ *browser) { s.keysDown = true },
		"Redis at start": func(s *site, b *browser) { b.page = s.instance(t); s.mini.Close() },
		"too many":       func(s *site, b *browser) { s.exhaust(b) },
	} {
		s := newSite(t)
		b := s.signIn(t, key42)
		away(s, b)
		w := b.post("", entered...)
		status, text := http.StatusServiceUnavailable, "Nothing was changed"
		switch name {
		case "store": // Kafka may have stored the change
			text = "may or may not have been saved"
		case "too many":
			status = http.StatusTooManyRequests
		}
		if w.Header().Get("Retry-After") == "" {
			t.Errorf("%s: no Retry-After", name)
		}
		want(t, w, status, text, `value="https://now.example/"`, `name="was_dlr_url" value="https://was.example/"`, "!u:typed", `id="auth-error">These credentials were not saved`, b.token, "User 42", `role="alert"`)
	}
	s := newSite(t)
	s.fill()
	b := s.signIn(t, key42)
	s.readDown = true
	want(t, b.get("/settings"), http.StatusServiceUnavailable, "Your settings are temporarily unavailable", "!name=\"dlr_url\"")
	want(t, b.get(""), http.StatusServiceUnavailable, "Your settings are temporarily unavailable", "!name=\"dlr_url\"", "of 60 attempts")
	s.readDown, s.logDown, s.kafkaDown = false, true, true
	want(t, b.get("?period=1d"), http.StatusOK, "Your deliveries are temporarily", "Events that were given up are temporarily", "The state of your endpoints is temporarily", `name="dlr_url"`, "!No attempts")
	want(t, b.get("/deliveries"), http.StatusServiceUnavailable, "Your deliveries are temporarily", "!No deliveries yet")
	want(t, b.get("/events/sms-dlr%2F0%2F1"), http.StatusServiceUnavailable, "Your deliveries are temporarily")
	want(t, b.get("/settings"), http.StatusOK, `name="dlr_url"`)
	want(t, b.post("/replay", "ids", "sms-click/1/0"), http.StatusServiceUnavailable, "may have been sent", "!Nothing was changed")
	s.storeDown = true
	want(t, b.post("/test"), http.StatusServiceUnavailable, "Nothing was changed")
	s.storeDown, s.keysDown = false, true
	for _, path := range []string{"/test", "/replay"} {
		want(t, b.post(path), http.StatusServiceUnavailable)
	}
	for _, view := range []string{"", "/deliveries", "/settings", "/events/x"} {
		want(t, b.get(view), http.StatusServiceUnavailable)
	}
	if len(s.sent) != 0 || len(s.replayed) != 0 {
		t.Errorf("%v sent, %v replayed", s.sent, s.replayed)
	}
}

// exhaust uses up the user's limit of costly requests.
func (s *site) exhaust(b *browser) {
	for b.post("/test").Code != http.StatusTooManyRequests {
		s.sent = nil
	}
}

func (s *site) outcomes42() {
	s.documents[42] = settings.Document{DLRURL: ptr("https://a.example/"), ClickURL: ptr("https://b.example/"), InboundURL: ptr("https://c.example/")}
	s.outcomes = map[webhook.Kind]sender.Outcome{
		webhook.DLR:     {Status: 200, Took: 245 * time.Millisecond},
		webhook.Click:   {Status: 503, Failure: "http 503", Took: time.Second},
		webhook.Inbound: {Failure: webhook.ConnectionRefused, Took: time.Millisecond},
	}
}

func TestTestWithoutScript(t *testing.T) {
	s := newSite(t)
	s.outcomes42()
	want(t, s.signIn(t, key42).post("/test"), http.StatusOK,
		`<tr id="result-dlr"><th scope="row">Delivery receipts</th><td><span class="badge ok">succeeded</span> <span class="text">HTTP 200 in 245 ms</span>`,
		`<span class="badge failed">failed</span> <span class="text">HTTP 503 in 1.0 s`,
		`<span class="badge failed">no connection</span> <span class="text">connection refused after 1.0 ms`,
		`<span class="badge none">not set</span> <span class="text">no URL is saved`, `role="status"`)
	s.sent = nil
	w := s.signIn(t, key42).post("/test", "kind", "click")
	want(t, w, http.StatusOK, `<span class="badge failed">failed</span> <span class="text">HTTP 503 in 1.0 s`, "not tested yet", "!HTTP 200")
	if len(s.sent) != 1 {
		t.Errorf("%d test events, want the one of the pressed button", len(s.sent))
	}
	for failure, want := range map[webhook.Failure]string{webhook.Timeout: "timed out", webhook.BlockedAddress: "URL not allowed"} {
		s.outcomes[webhook.Click] = sender.Outcome{Failure: failure}
		if body := s.signIn(t, key42).post("/test", "kind", "click").Body.String(); !strings.Contains(body, `<span class="badge failed">`+want+"</span>") {
			t.Errorf("%s is not shown as %q", failure, want)
		}
	}
}

func TestTestWithScript(t *testing.T) {
	s := newSite(t)
	s.outcomes42()
	b := s.signIn(t, key42)
	r := b.form("/test")
	r.Header.Set("Accept", "application/x-ndjson")
	w := serve(s.page, r)
	if w.Code != http.StatusOK || w.Header().Get("Content-Type") != "application/x-ndjson" || !w.Flushed {
		t.Errorf("%d %v flushed %v", w.Code, w.Header(), w.Flushed)
	}
	got := map[string]testView{}
	for lines := bufio.NewScanner(w.Body); lines.Scan(); {
		var v testView
		if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
			t.Fatal(err)
		}
		got[v.Kind] = v
	}
	for kind, want := range map[string]testView{
		"dlr":          {Kind: "dlr", State: badge{"ok", "succeeded"}, Text: "HTTP 200 in 245 ms"},
		"click":        {Kind: "click", State: badge{"failed", "failed"}, Text: "HTTP 503 in 1.0 s"},
		"inbound":      {Kind: "inbound", State: badge{"failed", "no connection"}, Text: "connection refused after 1.0 ms"},
		"revoke_click": {Kind: "revoke_click", State: badge{"none", "not set"}, Text: "no URL is saved"},
	} {
		if got[kind] != want {
			t.Errorf("%s: %+v, want %+v", kind, got[kind], want)
		}
	}
	s.storeDown = true
	r = b.form("/test")
	r.Header.Set("Accept", "application/x-ndjson")
	want(t, serve(s.page, r), http.StatusServiceUnavailable, `role="alert"`)
}

var _ http.Handler = (*Page)(nil)
