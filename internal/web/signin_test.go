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
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/apikey"
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
		if err != nil || strings.Contains(string(plain), key42) || strings.Contains(c.Value, apikey.Hash(key42)) {
			t.Errorf("%s: the cookie contains the key, or is not base64: %v", name, err)
		}
	}
}

func TestWrongKey(t *testing.T) {
	s := newSite(t)
	w := serve(s.page, formRequest("/sign-in", url.Values{"key": {"smsh_wrong"}}))
	want(t, w, http.StatusUnauthorized, `aria-invalid="true"`, `aria-describedby="key-hint key-error"`, `id="key-error"`, "unknown or revoked", "!smsh_wrong")
	want(t, serve(s.page, formRequest("/sign-in", url.Values{})), http.StatusUnauthorized, "Please enter an API key")
	s.keysDown = true
	w = serve(s.page, formRequest("/sign-in", url.Values{"key": {key42}}))
	want(t, w, http.StatusServiceUnavailable, "try again in a moment", "!"+key42)
	if w.Header().Get("Retry-After") == "" {
		t.Error("503 without Retry-After")
	}
	s.keysDown = false
	s.mini.Close() // no key to seal with
	want(t, serve(s.page, formRequest("/sign-in", url.Values{"key": {key42}})), http.StatusServiceUnavailable, "try again in a moment")
	for _, entry := range s.logs.All() {
		if text := fmt.Sprint(entry.Message, entry.ContextMap()); strings.Contains(text, key42) || strings.Contains(text, apikey.Hash(key42)) {
			t.Errorf("the log contains the key: %s", text)
		}
	}
}

// TestOneLinePerOutage checks that requests while Redis is away are logged once, and so is its return.
func TestOneLinePerOutage(t *testing.T) {
	s := newSite(t)
	b := s.signIn(t, key42)
	for range 2 {
		s.mini.SetError("LOADING")
		for range 3 {
			want(t, b.get("/settings"), http.StatusServiceUnavailable)
		}
		s.mini.SetError("")
		for range 3 {
			want(t, b.get("/settings"), http.StatusOK)
		}
	}
	var lines []string
	for _, entry := range s.logs.FilterLevelExact(zap.WarnLevel).All() {
		lines = append(lines, entry.Message)
	}
	if len(lines) != 2 || s.logs.FilterMessageSnippet("are checked again").Len() != 2 {
		t.Errorf("two outages are logged as %q", lines)
	}
}

func TestSignInLimit(t *testing.T) {
	s := newSite(t)
	try := func(remote, key string) *httptest.ResponseRecorder {
		r := formRequest("/sign-in", url.Values{"key": {key}})
		r.RemoteAddr = remote
		return serve(s.page, r)
	}
	synctest.Test(t, func(t *testing.T) { // no time passes in which more would be granted
		refused := 0
		for i := range 400 { // many addresses of one /48, in ten networks of /64
			w := try(fmt.Sprintf("[2001:db8:7:%x::%x]:1", i%10, i), "wrong")
			if w.Code == http.StatusTooManyRequests {
				refused++
				if w.Header().Get("Retry-After") == "" {
					t.Error("429 without Retry-After")
				}
				want(t, w, http.StatusTooManyRequests, "too many attempts with unknown keys")
			}
		}
		if refused != 200 {
			t.Errorf("%d of 400 wrong keys were refused with 429, want all but 20 of each network", refused)
		}
	})
	for i := range 50 { // from the same networks
		if w := try(fmt.Sprintf("[2001:db8:7:%x::1]:1", i%10), key42); w.Code != http.StatusSeeOther {
			t.Fatalf("right key %d: %d", i, w.Code)
		}
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
	delete(s.keys, apikey.Hash(key42))
	ended("revoked", b.get(""))
	ended("revoked, save", b.post("", "dlr_url", "https://a.example/"))
	s.keys[apikey.Hash(key42)] = 43
	ended("another user's now", b.get(""))
	if s.changes != 0 {
		t.Error("a request without a session changed something")
	}
}

func TestSignOut(t *testing.T) {
	s := newSite(t)
	b, other := s.signIn(t, key42), s.signIn(t, key42)
	w := b.post("/sign-out")
	if c := w.Result().Cookies(); w.Code != http.StatusSeeOther || len(c) != 1 || c[0].MaxAge >= 0 || c[0].Path != "/account" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	want(t, serve(s.page, httptest.NewRequest("GET", w.Header().Get("Location"), nil)), 200, "You are signed out")
	b.page = s.instance(t)
	for range 2 { // whoever has the cookie, at every instance
		want(t, b.get(""), http.StatusUnauthorized, "Your session has ended")
		want(t, b.post("", "dlr_url", "https://a.example/"), http.StatusUnauthorized)
		b.page = s.page
	}
	if s.changes != 0 {
		t.Error("a session that was signed out changed something")
	}
	want(t, other.get(""), http.StatusOK, "User 42")
}

// TestSignOutWithoutRedis checks that a user who cannot be signed out everywhere sees an error and stays signed in.
func TestSignOutWithoutRedis(t *testing.T) {
	s := newSite(t)
	b := s.signIn(t, key42)
	s.mini.Close()
	w := b.post("/sign-out")
	want(t, w, http.StatusServiceUnavailable, "Signing out failed")
	if len(w.Result().Cookies()) != 0 {
		t.Error("the cookie was deleted")
	}
}

func TestInstances(t *testing.T) {
	s := newSite(t)
	b := s.signIn(t, key42)
	b.page = s.instance(t)
	want(t, b.get(""), http.StatusOK, "User 42")
	s.mini.FlushAll() // the instance that remembers the key stores it again
	old, late := s.instance(t), s.instance(t)
	s.page.sessions.readAt = time.Time{}
	b.page = s.page
	want(t, b.get(""), http.StatusOK, "User 42")
	b.page = old
	want(t, b.get(""), http.StatusOK, "User 42")
	s.mini.Close() // whether the session was signed out elsewhere is not known
	want(t, b.get(""), http.StatusServiceUnavailable, "try again in a moment")
	b.page = late
	want(t, b.get(""), http.StatusServiceUnavailable, "try again in a moment")
}

// TestNewerKey covers a Redis that lost the key and received another one from a new instance.
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
	cookie, err := s.page.sessions.seal(context.Background(), in.append(nil), associated)
	if err != nil || len(cookie) > maxCookie {
		t.Fatal(err, len(cookie))
	}
	out, err := s.page.sessions.openSession(context.Background(), cookie, now)
	if err != nil || out != in {
		t.Errorf("%+v, %v; want %+v", out, err, in)
	}
	if _, err := s.page.sessions.openSession(context.Background(), cookie, now.Add(sessionLasts)); !errors.Is(err, errNoSession) {
		t.Errorf("after its time: %v", err)
	}
}

// TestNext checks that a user who follows a link to an event sees the event after signing in.
func TestNext(t *testing.T) {
	s := newSite(t)
	link := base + "/events/order%2F7?done=resent"
	w := serve(s.page, httptest.NewRequest(http.MethodGet, link, nil))
	want(t, w, http.StatusOK, `name="next" value="`+link+`"`)
	want(t, serve(s.page, formRequest("/sign-in", url.Values{"key": {"wrong"}, "next": {link}})), http.StatusUnauthorized, `name="next" value="`+link+`"`)
	for next, to := range map[string]string{link: link, "": base, base: base, "https://evil.example/": base, "//evil.example/account/webhooks/": base, base + "evil": base,
		base + `/../../\evil.example/`: base, base + `/\evil.example/`: base, base + "/../../evil": base, base + "/%2e%2E/x": base, base + "/..": base,
		base + "/settings/../deliveries": base + "/deliveries", base + `/deliveries?message_id=..\..`: base + `/deliveries?message_id=..\..`,
	} {
		w := serve(s.page, formRequest("/sign-in", url.Values{"key": {key42}, "next": {next}}))
		if got := w.Header().Get("Location"); w.Code != http.StatusSeeOther || got != to {
			t.Errorf("next %q: %d %q, want %q", next, w.Code, got, to)
		}
	}
}
