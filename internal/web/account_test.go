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
	"github.com/smshooks/smshooks/internal/endpoints"
	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/sender"
	"github.com/smshooks/smshooks/internal/settings"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// fill stores entries of every kind for user 42, and a few for user 43.
func (s *site) fill() {
	failures := []webhook.Failure{"", "", "", "http 503", webhook.Timeout, webhook.ConnectionRefused, webhook.BlockedAddress}
	for i := range 60 {
		a := event.Attempt{
			UserID: 42, Kind: webhook.Kinds()[i%4], ID: fmt.Sprintf("sms-dlr/0/%d", i), Number: 1 + i%3, Host: "hooks.example.com",
			Time: time.Now().Add(-time.Duration(i) * time.Minute), Failure: failures[i%len(failures)], Took: time.Duration(i) * time.Millisecond,
		}
		if a.Failure == "" {
			a.Status = 200
		}
		s.attempts = append(s.attempts, a)
	}
	s.attempts = append(s.attempts, event.Attempt{UserID: 43, Kind: webhook.DLR, ID: "of-43", Time: time.Now(), Host: "h", Number: 1, Status: 200})
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
	w := s.signIn(t, key42).get("")
	want(t, w, http.StatusOK, `value="https://a.example/dlr?token=s3cret&amp;x=1"`, `id="auth-state">set<`, `name="auth_clear"`, "No deliveries yet",
		"!pa55word", "!other.example", "!aria-invalid")
	for _, label := range []string{"dlr_url", "click_url", "inbound_url", "revoke_click_url", "auth", "kind", "status", "period"} {
		want(t, w, http.StatusOK, `<label for="`+label+`"`, `id="`+label+`"`)
	}
	want(t, s.signIn(t, key43).get(""), http.StatusOK, "other.example", `id="auth-state">not set<`, `!name="auth_clear"`)
	for _, entry := range s.logs.All() {
		if text := fmt.Sprint(entry.Message, entry.ContextMap()); strings.Contains(text, "s3cret") {
			t.Errorf("the log tells a URL's query: %s", text)
		}
	}
}

func TestEndpoints(t *testing.T) {
	s := newSite(t)
	s.documents[42] = settings.Document{DLRURL: ptr("https://a.example:8443/dlr?token=s"), ClickURL: ptr("https://b.example/"), InboundURL: ptr("https://c.example/"),
		Paused: [webhook.NumKinds]*string{webhook.Inbound: ptr("true")}}
	since := time.Date(2026, 2, 27, 14, 30, 0, 0, time.UTC)
	s.states[webhook.Click] = endpoints.State{Since: since, Failure: "http 503"}
	s.states[webhook.Inbound] = s.states[webhook.Click]
	b := s.signIn(t, key42)
	want(t, b.get(""), http.StatusOK,
		`<tr id="state-dlr"><th scope="row">Delivery reports</th><td><span class="badge ok">ok</span> <span class="detail">a.example</span></td>`,
		`<tr id="state-click"><th scope="row">Clicks</th><td><span class="badge failed">failing</span> <span class="detail">b.example</span>`+
			` <span class="detail">since <time datetime="2026-02-27T14:30:00.000Z">2026-02-27 14:30:00</time> UTC: http 503</span></td>`,
		`<tr id="state-inbound"><th scope="row">Inbound messages</th><td><span class="badge blocked">paused</span> <span class="detail">c.example</span></td>`,
		`<tr id="state-revoke_click"><th scope="row">Click revocations</th><td><span class="badge none">no URL</span> </td>`)
	s.logAway = true
	want(t, b.get(""), http.StatusOK, "The state of your URLs is temporarily unavailable", `name="dlr_url"`)
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
			w := b.post("", tc.form...)
			if w.Code != http.StatusSeeOther || w.Header().Get("Location") != base+"?done=saved" {
				t.Fatalf("%d %v\n%s", w.Code, w.Header(), w.Body)
			}
			want(t, b.get("?done=saved"), http.StatusOK, "Saved.", `role="status"`)
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

// TestAway checks that input is not lost while Kafka or Redis is unreachable, except the credentials, which no page
// shows.
func TestAway(t *testing.T) {
	entered := []string{"was_dlr_url", "https://was.example/", "dlr_url", "https://now.example/", "auth", "u:typed", "auth_set", "1", "user", "42"}
	for name, away := range map[string]func(*site, *browser){
		"store":          func(s *site, _ *browser) { s.storeAway = true },
		"keys":           func(s *site, _ *browser) { s.keysAway = true },
		"Redis at start": func(s *site, b *browser) { b.page = s.instance(t); s.mini.Close() },
		"too many":       func(s *site, b *browser) { s.exhaust(b) },
	} {
		s := newSite(t)
		b := s.signIn(t, key42)
		away(s, b)
		w := b.post("", entered...)
		status, text := http.StatusServiceUnavailable, "Nothing was changed"
		if name == "too many" {
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
	s.readAway = true
	want(t, b.get(""), http.StatusServiceUnavailable, "Your settings are temporarily unavailable", "!name=\"dlr_url\"", "of the latest 60 attempts")
	s.readAway, s.logAway, s.kafkaAway = false, true, true
	want(t, b.get("?period=1d"), http.StatusOK, "Recent deliveries are temporarily", "Failed events are temporarily", `name="dlr_url"`)
	want(t, b.post("/replay", "ids", "sms-click/1/0"), http.StatusServiceUnavailable, "Nothing was changed")
	s.storeAway = true
	want(t, b.post("/test"), http.StatusServiceUnavailable, "Nothing was changed")
	s.storeAway, s.keysAway = false, true
	for _, path := range []string{"/test", "/replay"} {
		want(t, b.post(path), http.StatusServiceUnavailable)
	}
	want(t, b.get(""), http.StatusServiceUnavailable)
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
		`<tr id="result-dlr"><th scope="row">Delivery reports</th><td><span class="badge ok">ok</span> <span class="text">HTTP 200 in 0.245 s</span>`,
		`<span class="badge failed">failed</span> <span class="text">HTTP 503 in 1.000 s`,
		`<span class="badge error">error</span> <span class="text">connection refused after 0.001 s`,
		`<span class="badge skipped">skipped</span> <span class="text">not configured`, `role="status"`)
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
		"dlr":          {Kind: "dlr", Status: "ok", Text: "HTTP 200 in 0.245 s"},
		"click":        {Kind: "click", Status: "failed", Text: "HTTP 503 in 1.000 s"},
		"inbound":      {Kind: "inbound", Status: "error", Text: "connection refused after 0.001 s"},
		"revoke_click": {Kind: "revoke_click", Status: "skipped", Text: "not configured"},
	} {
		if got[kind] != want {
			t.Errorf("%s: %+v, want %+v", kind, got[kind], want)
		}
	}
	s.storeAway = true
	r = b.form("/test")
	r.Header.Set("Accept", "application/x-ndjson")
	want(t, serve(s.page, r), http.StatusServiceUnavailable, `role="alert"`)
}

func TestDeliveries(t *testing.T) {
	s := newSite(t)
	s.fill()
	b := s.signIn(t, key42)
	w := b.get("")
	want(t, w, http.StatusOK, "hooks.example.com", "sms-dlr/0/9<", "!sms-dlr/0/10<", "!of-43", `class="badge timeout"`, "http 503", ">Older<", "!>Newest<", "<svg", "of the latest 60 attempts succeeded")
	want(t, b.get("?kind=click&status=failed"), http.StatusOK, `<option value="click" selected>`, `<option value="failed" selected>`, "sms-dlr/0/17<", "!sms-dlr/0/1<", "!>Older<")
	want(t, b.get("?kind=click&before="+event.FormatTime(s.attempts[50].Time)), http.StatusOK, "sms-dlr/0/57<", "!sms-dlr/0/49<", ">Newest<")
	want(t, b.get("?before=2000-01-01T00:00:00Z"), http.StatusOK, "No deliveries match this filter")
	want(t, b.get("?kind=nonsense&before=x"), http.StatusOK, "This filter is not valid", `name="dlr_url"`)
}

// TestPages follows the links from page to page.
func TestPages(t *testing.T) {
	s := newSite(t)
	s.fill()
	b := s.signIn(t, key42)
	seen, address := 0, "?kind=&period=7d"
	for range 10 {
		body := b.get(address).Body.String()
		seen += strings.Count(body, `class="event"`)
		_, rest, more := strings.Cut(body, `>Newest</a> <a href="`)
		if !more {
			_, rest, more = strings.Cut(body, `<p class="pages"> <a href="`)
		}
		if !more {
			break
		}
		link, _, _ := strings.Cut(rest, "#deliveries")
		address = strings.ReplaceAll(strings.TrimPrefix(link, base), "&amp;", "&")
		if !strings.Contains(address, "period=7d") {
			t.Errorf("the period is lost: %s", address)
		}
	}
	if seen != 60 {
		t.Errorf("%d attempts on all pages, want 60", seen)
	}
}

func TestDeadLetters(t *testing.T) {
	s := newSite(t)
	s.fill()
	b := s.signIn(t, key42)
	b.get("?kind=dlr")
	if s.scans != 0 {
		t.Error("the topic is read without being asked for")
	}
	want(t, b.get("?period=1d"), http.StatusOK, "sms-click/1/0", "every attempt failed", "3 attempts, http 500", "!sms-click/1/1", "!letter-of-43")
	w := b.get("?period=30d&kind=click")
	want(t, w, http.StatusOK, "too old to be sent", "unreadable", `<button name="only" value="sms-click/1/1"`, `!value="sms-click/1/2"`, "Send selected again")
	s.letters = nil
	want(t, b.get("?period=7d"), http.StatusOK, "No failed events")
	for s.page.costly.Take("42", time.Now()) == 0 {
		continue
	}
	scans := s.scans
	want(t, b.get("?period=7d"), http.StatusOK, "Too many requests")
	if s.scans != scans {
		t.Error("read all the same")
	}
}

func TestReplay(t *testing.T) {
	s := newSite(t)
	s.fill()
	b := s.signIn(t, key42)
	since := event.FormatTime(time.Now().Add(-time.Hour))
	w := b.post("/replay", "ids", "sms-click/1/0", "ids", "sms-click/1/1", "ids", "letter-of-43", "since", since, "period", "30d")
	if got := w.Header().Get("Location"); w.Code != http.StatusSeeOther || got != base+"?done=replayed&n=2&period=30d" {
		t.Fatalf("%d %s", w.Code, got)
	}
	want(t, b.get("?done=replayed&n=2&period=30d"), http.StatusOK, "2 events are being sent again", "sms-click/1/0")
	w = b.post("/replay", "ids", "sms-click/1/0", "only", "sms-click/1/1", "period", "nonsense")
	if got := w.Header().Get("Location"); got != base+"?done=replayed&n=1" {
		t.Errorf("to %s", got)
	}
	if f := s.replayed[0]; f.UserID != 42 || len(f.IDs) != 3 || event.FormatTime(f.Since) != since {
		t.Errorf("%+v", f)
	}
	if f := s.replayed[1]; len(f.IDs) != 1 || f.IDs[0] != "sms-click/1/1" || !f.Since.IsZero() {
		t.Errorf("%+v", f)
	}
	want(t, b.post("/replay", "period", "30d"), http.StatusUnprocessableEntity, "select at least one", "sms-click/1/0")
	want(t, b.get("?done=replayed&n=0"), http.StatusOK, "No event was sent again")
	if len(s.replayed) != 2 {
		t.Errorf("%d replays", len(s.replayed))
	}
	s.exhaust(b)
	want(t, b.post("/replay", "ids", "x"), http.StatusTooManyRequests)
}

func TestReadable(t *testing.T) {
	for value, want := range map[string]string{
		`{"a":1}`: "{\n  \"a\": 1\n}", "no json": "no json", "\xff": "(binary data)", "": "",
		strings.Repeat("ä", valueShown): strings.Repeat("ä", valueShown/2) + "…",
	} {
		if got := readable([]byte(value)); got != want {
			t.Errorf("%.40q: %.40q, want %.40q", value, got, want)
		}
	}
}

func TestChart(t *testing.T) {
	now := time.Date(2026, 2, 27, 12, 0, 0, 0, time.UTC)
	if newChart(nil, now) != nil || newChart([]event.Attempt{{Time: now.Add(-chartSpan - time.Hour)}}, now) != nil {
		t.Error("a chart of nothing")
	}
	for _, span := range []time.Duration{0, time.Second, time.Minute, time.Hour, 24 * time.Hour, chartSpan} {
		var attempts []event.Attempt
		for i := range 100 {
			a := event.Attempt{Time: now.Add(-span * time.Duration(i) / 99)}
			if i%4 == 0 {
				a.Failure = webhook.Timeout
			}
			attempts = append(attempts, a)
		}
		attempts[0].Time = now.Add(time.Minute) // a clock that is ahead
		c := newChart(attempts, now)
		ok, failed := 0, 0
		for _, b := range c.Bars {
			ok, failed = ok+b.OK, failed+b.Failed
			if b.X < 0 || b.X+b.Width > chartWidth || b.OKY < 0 || b.HasFailed && float64(c.Middle)+b.FailedHeight > chartHeight+0.5 {
				t.Errorf("%v: bar outside: %+v middle %d", span, b, c.Middle)
			}
		}
		if ok != 75 || failed != 25 || len(c.Bars) > maxBars || !strings.HasPrefix(c.Summary, "75 of the latest 100 attempts succeeded (75 %)") {
			t.Errorf("%v: %d and %d in %d bars, %s", span, ok, failed, len(c.Bars), c.Summary)
		}
	}
}

var _ http.Handler = (*Page)(nil)
