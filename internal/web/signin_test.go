package web

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/smshooks/smshooks/internal/tenant"
)

func TestCookie(t *testing.T) {
	for name, tc := range map[string]struct {
		prepare func(*http.Request)
		secure  bool
	}{
		"plain": {func(*http.Request) {}, false},
		"TLS": {func(r *http.Request) {
			*r = *httptest.NewRequest("POST", "https://x"+base+"/sign-in", r.Body)
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}, true},
		"proxy with TLS":   {func(r *http.Request) { r.Header.Set("X-Forwarded-Proto", "HTTPS") }, true},
		"two proxies":      {func(r *http.Request) { r.Header.Set("X-Forwarded-Proto", "https, http") }, true},
		"proxy without it": {func(r *http.Request) { r.Header.Set("X-Forwarded-Proto", "http") }, false},
	} {
		s := newSite(t)
		r := formRequest("/sign-in", url.Values{"key": {" " + key42 + "\n"}}) // pasted
		tc.prepare(r)
		w := serve(s.page, r)
		if w.Code != http.StatusSeeOther || w.Header().Get("Location") != base || len(w.Result().Cookies()) != 1 {
			t.Fatalf("%s: %d %v", name, w.Code, w.Header())
		}
		c := w.Result().Cookies()[0]
		if !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/account" || c.Secure != tc.secure || c.MaxAge != 0 || c.Domain != "" {
			t.Errorf("%s: %v", name, c)
		}
		plain, err := base64.RawURLEncoding.DecodeString(c.Value)
		if err != nil || strings.Contains(string(plain), key42) || strings.Contains(c.Value, tenant.HashKey(key42)) {
			t.Errorf("%s: the cookie tells the key, or is no base64: %v", name, err)
		}
	}
}

func TestWrongKey(t *testing.T) {
	s := newSite(t)
	w := serve(s.page, formRequest("/sign-in", url.Values{"key": {"smsh_wrong"}}))
	want(t, w, http.StatusUnauthorized, `aria-invalid="true"`, `aria-describedby="key-hint key-error"`, `id="key-error"`, "unknown or was revoked", "!smsh_wrong")
	want(t, serve(s.page, formRequest("/sign-in", url.Values{})), http.StatusUnauthorized, "Please enter an API key")
	s.keysAway = true
	w = serve(s.page, formRequest("/sign-in", url.Values{"key": {key42}}))
	want(t, w, http.StatusServiceUnavailable, "cannot be reached", "!"+key42)
	if w.Header().Get("Retry-After") == "" {
		t.Error("503 without Retry-After")
	}
	s.keysAway = false
	s.mini.Close() // no key to seal with
	want(t, serve(s.page, formRequest("/sign-in", url.Values{"key": {key42}})), http.StatusServiceUnavailable, "cannot be reached")
	for _, entry := range s.logs.All() {
		if text := fmt.Sprint(entry.Message, entry.ContextMap()); strings.Contains(text, key42) || strings.Contains(text, tenant.HashKey(key42)) {
			t.Errorf("the log tells the key: %s", text)
		}
	}
}

func TestSignInLimit(t *testing.T) {
	s := newSite(t)
	try := func(remote, key string) *httptest.ResponseRecorder {
		r := formRequest("/sign-in", url.Values{"key": {key}})
		r.RemoteAddr = remote
		return serve(s.page, r)
	}
	for i := range 3 * addressBurst { // right keys don't count
		if w := try("203.0.113.1:5000", key42); w.Code != http.StatusSeeOther {
			t.Fatalf("right key %d: %d", i, w.Code)
		}
	}
	for i := range addressBurst {
		if w := try("203.0.113.1:5000", "wrong"); w.Code != http.StatusUnauthorized {
			t.Fatalf("wrong key %d: %d", i, w.Code)
		}
	}
	w := try("203.0.113.1:6000", key42)
	want(t, w, http.StatusTooManyRequests, "Too many wrong keys")
	if w.Header().Get("Retry-After") == "" {
		t.Error("429 without Retry-After")
	}
	if w := try("203.0.113.2:5000", key42); w.Code != http.StatusSeeOther {
		t.Errorf("another address: %d", w.Code)
	}
	refused := 0
	for i := range 2 * globalBurst {
		if try(fmt.Sprintf("198.51.%d.%d:1", i/256, i%256), "wrong").Code == http.StatusTooManyRequests {
			refused++
		}
	}
	if refused == 0 {
		t.Error("many addresses together are not limited")
	}
}

func TestRemote(t *testing.T) {
	for _, tc := range []struct{ remote, forwarded, want string }{
		{"203.0.113.1:5000", "", "203.0.113.1"},
		{"203.0.113.1:5000", "198.51.100.7", "203.0.113.1"}, // only a neighbour is believed
		{"127.0.0.1:5000", "1.2.3.4, 198.51.100.7", "198.51.100.7"},
		{"10.0.0.1:5000", "nonsense", "10.0.0.1"},
		{"[2001:db8:1:2:3:4:5:6]:80", "", "2001:db8:1:2::/64"},
		{"[::ffff:203.0.113.1]:80", "", "203.0.113.1"},
		{"[fe80::1%eth0]:80", "", "fe80::/64"},
		{"@", "", "unknown"},
	} {
		r := httptest.NewRequest("POST", base, nil)
		r.RemoteAddr = tc.remote
		if tc.forwarded != "" {
			r.Header.Set("X-Forwarded-For", tc.forwarded)
		}
		if got := remote(r); got != tc.want {
			t.Errorf("%s, forwarded %q: %s, want %s", tc.remote, tc.forwarded, got, tc.want)
		}
	}
}

func TestLimiterMemory(t *testing.T) {
	l, now := newLimiter(1, 2), time.Now()
	for i := range 5 * maxBuckets {
		l.take(fmt.Sprint(i), now)
	}
	if len(l.buckets) > maxBuckets {
		t.Errorf("%d buckets", len(l.buckets))
	}
	l.take("a", now)
	l.take("a", now)
	if wait := l.take("a", now); wait != time.Second {
		t.Errorf("wait %v, want 1s", wait)
	}
	if wait := l.take("a", now.Add(time.Second)); wait != 0 {
		t.Errorf("wait %v after a second", wait)
	}
}

func TestSessionEnds(t *testing.T) {
	s := newSite(t)
	b := s.signIn(t, key42)
	ended := func(name string, w *httptest.ResponseRecorder) {
		t.Helper()
		want(t, w, http.StatusUnauthorized, "Your session has ended", `name="key"`)
		if c := w.Result().Cookies(); len(c) != 1 || c[0].MaxAge >= 0 {
			t.Errorf("%s: the cookie stays: %v", name, c)
		}
	}
	good := b.cookie.Value
	for name, value := range map[string]string{
		"cut": good[:len(good)-4], "changed": "A" + good[1:], "no base64": "!!", "long": strings.Repeat("A", 4000), "empty": "", "short": "AAAA",
	} {
		b.cookie.Value = value
		if value == good {
			continue
		}
		ended(name, b.get(""))
	}
	b.cookie.Value = good
	delete(s.keys, tenant.HashKey(key42))
	ended("revoked", b.get(""))
	ended("revoked, save", b.post("", "dlr_url", "https://a.example/"))
	s.keys[tenant.HashKey(key42)] = 43
	ended("another user's now", b.get(""))
	if s.changes != 0 {
		t.Error("somebody without a session changed something")
	}
}

func TestSignOut(t *testing.T) {
	s := newSite(t)
	b := s.signIn(t, key42)
	w := b.post("/sign-out")
	if c := w.Result().Cookies(); w.Code != http.StatusSeeOther || len(c) != 1 || c[0].MaxAge >= 0 || c[0].Path != "/account" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	want(t, serve(s.page, httptest.NewRequest("GET", w.Header().Get("Location"), nil)), 200, "You are signed out")
}

func TestInstances(t *testing.T) {
	s := newSite(t)
	b := s.signIn(t, key42)
	b.page = s.instance(t)
	want(t, b.get(""), http.StatusOK, "User 42")
	s.mini.FlushAll() // who remembers the key puts it back
	old, late := s.instance(t), s.instance(t)
	s.page.sessions.readAt = time.Time{}
	b.page = s.page
	want(t, b.get(""), http.StatusOK, "User 42")
	b.page = old
	want(t, b.get(""), http.StatusOK, "User 42")
	s.mini.Close()
	want(t, b.get(""), http.StatusOK, "User 42")
	b.page = late
	want(t, b.get(""), http.StatusServiceUnavailable, "cannot be reached")
}

// TestNewerKey: a Redis that lost the key and was given another one by a new instance.
func TestNewerKey(t *testing.T) {
	s := newSite(t)
	old := s.instance(t)
	if _, err := old.sessions.current(context.Background(), 0); err != nil {
		t.Fatal(err)
	}
	s.mini.FlushAll()
	b := s.signIn(t, key42)
	old.sessions.readAt = time.Now().Add(-2 * rereadIfWrong)
	b.page = old
	want(t, b.get(""), http.StatusOK, "User 42")
	if err := s.mini.Set("smshooks:web:session-key", "short"); err != nil {
		t.Fatal(err)
	}
	b.page = s.instance(t)
	want(t, b.get(""), http.StatusServiceUnavailable)
}

func TestSessionExpires(t *testing.T) {
	s := newSite(t)
	now := time.Now()
	in := session{userID: 1<<63 - 1, expires: now.Add(sessionLasts).Truncate(time.Second), keyHash: [hashBytes]byte{1}, token: [tokenBytes]byte{2}}
	cookie, err := s.page.sessions.seal(context.Background(), &in)
	if err != nil || len(cookie) > maxCookie {
		t.Fatal(err, len(cookie))
	}
	out, err := s.page.sessions.open(context.Background(), cookie, now)
	if err != nil || out != in {
		t.Errorf("%+v, %v; want %+v", out, err, in)
	}
	if _, err := s.page.sessions.open(context.Background(), cookie, now.Add(sessionLasts)); !errors.Is(err, errNoSession) {
		t.Errorf("after its time: %v", err)
	}
}
