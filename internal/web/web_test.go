package web

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/settings"
	"github.com/smshooks/smshooks/pkg/webhook"
)

func TestHeaders(t *testing.T) {
	s := newSite(t)
	b := s.signIn(t, key42)
	answers := map[string]*httptest.ResponseRecorder{
		"sign-in":   serve(s.page, httptest.NewRequest("GET", base, nil)),
		"account":   b.get(""),
		"save":      b.post(""),
		"not found": b.get("/nothing"),
		"forbidden": serve(s.page, httptest.NewRequest("PUT", base, nil)),
		"css":       b.get("/page.css"),
	}
	for name, w := range answers {
		for header, want := range map[string]string{
			"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; form-action 'self'; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'",
			"X-Content-Type-Options":  "nosniff",
			"Referrer-Policy":         "same-origin",
			"Cache-Control":           "no-store",
		} {
			if got := w.Header().Get(header); got != want {
				t.Errorf("%s: %s is %q, want %q", name, header, got, want)
			}
		}
	}
}

// TestNoInline checks that there are no inline scripts and styles, which the policy blocks.
func TestNoInline(t *testing.T) {
	s := newSite(t)
	s.fill()
	b := s.signIn(t, key42)
	inline := regexp.MustCompile(`(?i)<style|\sstyle=|<script>|\son[a-z]+=|javascript:|https?://[^<"]*\.(js|css)`)
	for name, w := range map[string]*httptest.ResponseRecorder{
		"sign-in": serve(s.page, httptest.NewRequest("GET", base, nil)), "overview": b.get("?period=30d"), "message": b.get("/nothing"),
		"deliveries": b.get("/deliveries"), "event": b.get("/events/sms-dlr%2F0%2F3"), "settings": b.get("/settings"),
	} {
		if found := inline.FindString(w.Body.String()); found != "" {
			t.Errorf("%s has %q", name, found)
		}
	}
}

func TestMethodsAndPaths(t *testing.T) {
	s := newSite(t)
	for _, tc := range []struct {
		method, path string
		status       int
		header, want string
	}{
		{"GET", "", 200, "", ""},
		{"HEAD", "", 200, "", ""},
		{"GET", "/", 200, "", ""},
		{"DELETE", "", 405, "Allow", "GET, HEAD, POST"},
		{"PUT", "/test", 405, "Allow", "GET, HEAD, POST"},
		{"GET", "/deliveries", 200, "", ""},
		{"POST", "/deliveries", 405, "Allow", "GET, HEAD"},
		{"GET", "/events", 404, "", ""},
		{"GET", "/events/", 404, "", ""},
		{"GET", "/events/x", 200, "", ""}, // the sign-in form
		{"GET", "/settings", 200, "", ""},
		{"GET", "/options", 303, "Location", settingsPath},
		{"GET", "/recover", 303, "Location", base},
		{"GET", "/test", 303, "Location", settingsPath},
		{"GET", "/replay", 303, "Location", base},
		{"GET", "/sign-in", 303, "Location", base},
		{"GET", "/nothing", 404, "", ""},
		{"GET", "/account.html", 404, "", ""},
		{"POST", "/page.css", 405, "Allow", "GET, HEAD"},
	} {
		r := httptest.NewRequest(tc.method, base+tc.path, nil)
		w := serve(s.page, r)
		if w.Code != tc.status || tc.header != "" && w.Header().Get(tc.header) != tc.want {
			t.Errorf("%s %s: %d, %s %q; want %d, %q", tc.method, tc.path, w.Code, tc.header, w.Header().Get(tc.header), tc.status, tc.want)
		}
	}
}

func TestFiles(t *testing.T) {
	s := newSite(t)
	page := serve(s.page, httptest.NewRequest("GET", base, nil)).Body.String()
	for file, kind := range map[string]string{"page.css": "text/css; charset=utf-8", "page.js": "text/javascript; charset=utf-8", "icon.svg": "image/svg+xml"} {
		address := regexp.MustCompile(`"(` + base + "/" + file + `\?v=[0-9a-f]{12})"`).FindStringSubmatch(page)
		if address == nil {
			t.Errorf("the page does not name %s", file)
			continue
		}
		w := serve(s.page, httptest.NewRequest("GET", address[1], nil))
		if w.Code != 200 || w.Header().Get("Content-Type") != kind || !strings.Contains(w.Header().Get("Cache-Control"), "immutable") {
			t.Errorf("%s: %d %v", file, w.Code, w.Header())
		}
		if w = serve(s.page, httptest.NewRequest("GET", base+"/"+file+"?v=other", nil)); w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%s of another version may be kept: %v", file, w.Header())
		}
	}
}

// TestSamples follows the links to the samples.
func TestSamples(t *testing.T) {
	s := newSite(t)
	page := s.signIn(t, key42).get("/settings").Body.String()
	for file, text := range map[string]string{"receiver.php": "<?php", "receiver.mjs": "import ", "receiver.py": "import ", "Receiver.java": "import ", "receiver.go": "package main"} {
		link := regexp.MustCompile(`href="(` + base + "/" + file + `\?v=[0-9a-f]{12})"`).FindStringSubmatch(page)
		if link == nil {
			t.Errorf("no link to %s", file)
			continue
		}
		w := serve(s.page, httptest.NewRequest("GET", link[1], nil))
		want(t, w, http.StatusOK, text)
		if got := w.Header().Get("Content-Type"); got != "text/plain; charset=utf-8" {
			t.Errorf("%s is %s", file, got)
		}
	}
}

// TestForeignForms checks that a form of another site or another session changes nothing.
func TestForeignForms(t *testing.T) {
	s := newSite(t)
	b, other := s.signIn(t, key42), s.signIn(t, key42)
	for name, spoil := range map[string]func(*http.Request){
		"cross-site":        func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") },
		"same-site":         func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "same-site") },
		"old browser":       func(r *http.Request) { r.Header.Del("Sec-Fetch-Site"); r.Header.Set("Origin", "https://evil.example") },
		"null origin":       func(r *http.Request) { r.Header.Del("Sec-Fetch-Site"); r.Header.Set("Origin", "null") },
		"another's session": func(r *http.Request) { r.Header.Del("Cookie"); r.AddCookie(other.cookie) },
	} {
		for _, path := range []string{"", "/settings", "/options", "/recover", "/test", "/replay", "/sign-out"} {
			r := b.form(path, "dlr_url", "https://evil.example/", "ids", "x")
			spoil(r)
			w := serve(s.page, r)
			want(t, w, http.StatusForbidden, "Nothing was changed")
			if len(w.Result().Cookies()) != 0 {
				t.Errorf("%s %s: sets a cookie", name, path)
			}
		}
	}
	for name, token := range map[string]string{"none": "", "wrong": strings.Repeat("0", 32), "other's": other.token} {
		r := formRequest("", url.Values{"token": {token}, "dlr_url": {"https://evil.example/"}})
		r.AddCookie(b.cookie)
		if w := serve(s.page, r); w.Code != http.StatusForbidden {
			t.Errorf("token %s: %d", name, w.Code)
		}
	}
	foreign := formRequest("/sign-in", url.Values{"key": {key43}})
	foreign.Header.Set("Sec-Fetch-Site", "cross-site")
	want(t, serve(s.page, foreign), http.StatusForbidden)
	if s.changes != 0 || len(s.sent) != 0 || len(s.replayed) != 0 {
		t.Errorf("%d changes, %v sent, %v replayed", s.changes, s.sent, s.replayed)
	}
}

func TestBadForms(t *testing.T) {
	s := newSite(t)
	b := s.signIn(t, key42)
	r := b.form("", "dlr_url", "https://a.example/"+strings.Repeat("x", maxBody))
	want(t, serve(s.page, r), http.StatusRequestEntityTooLarge)
	r = b.form("", "dlr_url", "https://a.example/"+strings.Repeat("x", maxBody))
	r.ContentLength = -1
	want(t, serve(s.page, r), http.StatusBadRequest)
	r = b.form("", "dlr_url", "https://a.example/")
	r.Header.Set("Content-Type", "multipart/form-data; boundary=x")
	want(t, serve(s.page, r), http.StatusUnsupportedMediaType)
	r = httptest.NewRequest("POST", base, strings.NewReader("token="+b.token+"&dlr_url=%zz"))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.AddCookie(b.cookie)
	want(t, serve(s.page, r), http.StatusBadRequest)
	if s.changes != 0 {
		t.Errorf("%d changes", s.changes)
	}
}

// TestHostileTexts checks that the page shows input of users and gateways as plain text.
func TestHostileTexts(t *testing.T) {
	s := newSite(t)
	s.fill()
	hostile := `"><script>alert(1)</script>`
	s.documents[42] = settings.Document{UserID: 42, ClickURL: ptr("https://a.example/?" + hostile)}
	for i := range s.attempts {
		a := &s.attempts[i]
		a.ID, a.Host, a.Failure, a.Reply, a.Message = hostile, hostile, webhook.Failure(hostile), hostile, event.NewText([]byte(hostile))
	}
	s.bodies = map[string][]byte{hostile: []byte(`{"user_id":42,"sms":{"id":1,"to":"</pre><script>alert(1)</script>"}}`)}
	for i := range s.letters {
		l := &s.letters[i]
		l.ID, l.Kind, l.Reason, l.Error, l.Value = hostile, hostile, hostile, hostile, []byte(`{"a":"</pre><script>alert(1)</script>"}`)
	}
	b := s.signIn(t, key42)
	for _, w := range []*httptest.ResponseRecorder{
		b.get("?period=30d"),
		b.get("/deliveries"), b.get("/settings"), b.get("/events/" + url.PathEscape(hostile)), b.get("/events/nothing" + url.PathEscape(hostile)),
		b.get("/deliveries?kind=" + url.QueryEscape(hostile) + "&state=" + url.QueryEscape(hostile) + "&http_code=" + url.QueryEscape(hostile) +
			"&message_id=" + url.QueryEscape(hostile) + "&page=" + url.QueryEscape(hostile) + "&done=" + url.QueryEscape(hostile)),
		b.get("?done=resent&n=" + url.QueryEscape(hostile)),
		b.post("", "dlr_url", hostile, "auth", hostile+hostile, "was_dlr_url", hostile, "user", hostile),
	} {
		want(t, w, w.Code, "!<script>alert")
	}
}
