package web

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/redis/go-redis/v9"

	"github.com/smshooks/smshooks/internal/settings"
)

var portalSecret = []byte("the secret of the platform's own site")

// portalSite is a site with the sign-in from the platform's own site.
func portalSite(t *testing.T) *site {
	t.Helper()
	s := newSite(t)
	s.portal = portalSecret
	s.page = s.instance(t)
	return s
}

// token returns a token of the platform's own site, with pairs of claims changed. nil stands for an absent claim.
func token(t *testing.T, method jwt.SigningMethod, key any, change ...any) string {
	t.Helper()
	claims := jwt.MapClaims{"sub": "42", "jti": "first", "exp": time.Now().Add(time.Minute).Unix()}
	for i := 0; i < len(change); i += 2 {
		name := change[i].(string)
		if claims[name] = change[i+1]; change[i+1] == nil {
			delete(claims, name)
		}
	}
	text, err := jwt.NewWithClaims(method, claims).SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func follow(page http.Handler, method, token string) *httptest.ResponseRecorder {
	return serve(page, httptest.NewRequest(method, base+"?token="+token, nil))
}

func TestToken(t *testing.T) {
	s := portalSite(t)
	s.documents[42] = settings.Document{DLRURL: ptr("https://a.example/")}
	link := token(t, jwt.SigningMethodHS256, portalSecret)
	for range 2 { // a preview of the link does not use it up
		want(t, follow(s.page, http.MethodHead, link), http.StatusOK)
	}
	w := follow(s.page, http.MethodGet, link)
	if w.Code != http.StatusSeeOther || w.Header().Get("Location") != base || len(w.Result().Cookies()) != 1 {
		t.Fatalf("%d %v\n%s", w.Code, w.Header(), w.Body)
	}
	cookie := w.Result().Cookies()[0]
	if !cookie.HttpOnly || cookie.SameSite != http.SameSiteLaxMode || cookie.Path != "/account" || w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("%v %v", cookie, w.Header())
	}
	other := s.instance(t)
	for _, page := range []http.Handler{s.page, other, s.page} {
		want(t, follow(page, http.MethodGet, link), http.StatusUnauthorized, "was used before", `name="key"`)
	}
	s.mini.FlushAll()
	want(t, follow(s.page, http.MethodGet, link), http.StatusUnauthorized, "was used before")

	b := &browser{page: s.page, cookie: cookie}
	shown := b.get("")
	want(t, shown, http.StatusOK, "https://a.example/", "User 42")
	_, rest, _ := strings.Cut(shown.Body.String(), `name="token" value="`)
	b.token, _, _ = strings.Cut(rest, `"`)
	if w := b.post("", "dlr_url", "https://b.example/"); w.Code != http.StatusSeeOther || *s.documents[42].DLRURL != "https://b.example/" {
		t.Errorf("save: %d", w.Code)
	}
	b.page = other
	want(t, b.get(""), http.StatusOK, "https://b.example/")
	s.portal = []byte("another secret of the platform's site")
	b.page = s.instance(t)
	want(t, b.get(""), http.StatusUnauthorized, "Your session has ended")
	s.portal = nil
	b.page = s.instance(t)
	want(t, b.get(""), http.StatusUnauthorized, "Your session has ended")
	b.page = s.page
	if w := b.post("/sign-out"); w.Code != http.StatusSeeOther {
		t.Errorf("sign out: %d", w.Code)
	}
	want(t, b.get(""), http.StatusUnauthorized, "Your session has ended")
}

// slowRedis sends each command twice, as the client does after a timeout, and may lose the answers.
type slowRedis struct{ lost bool }

func (h *slowRedis) DialHook(next redis.DialHook) redis.DialHook { return next }
func (h *slowRedis) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
func (h *slowRedis) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		_ = next(ctx, cmd)
		err := next(ctx, cmd)
		if h.lost {
			err = context.DeadlineExceeded
			cmd.SetErr(err)
		}
		return err
	}
}

// TestTokenWithSlowRedis checks that a token is not refused because of a use that did not start a session.
func TestTokenWithSlowRedis(t *testing.T) {
	s := portalSite(t)
	want(t, follow(s.page, http.MethodGet, token(t, jwt.SigningMethodHS256, portalSecret)), http.StatusSeeOther) // reads the key
	h := &slowRedis{lost: true}
	s.page.portal.rdb.AddHook(h)
	link := token(t, jwt.SigningMethodHS256, portalSecret, "jti", "second")
	want(t, follow(s.page, http.MethodGet, link), http.StatusServiceUnavailable)
	h.lost = false
	s.mini.FastForward(reserved)
	want(t, follow(s.page, http.MethodGet, link), http.StatusSeeOther)
	s.mini.FastForward(reserved)
	want(t, follow(s.page, http.MethodGet, link), http.StatusUnauthorized, "was used before")
	want(t, follow(s.instance(t), http.MethodGet, link), http.StatusUnauthorized, "was used before")
}

// TestTokenOfOtherPaths checks that a token leaves the address bar wherever the site's link leads.
func TestTokenOfOtherPaths(t *testing.T) {
	s := portalSite(t)
	for _, path := range []string{"/", "/deliveries", "/settings/", "/events/evt_1"} {
		link := token(t, jwt.SigningMethodHS256, portalSecret, "jti", path)
		for _, status := range []int{http.StatusSeeOther, http.StatusUnauthorized} { // the second time it was used before
			w := serve(s.page, httptest.NewRequest(http.MethodGet, base+path+"?token="+link, nil))
			if w.Code != status || strings.Contains(w.Body.String(), link) || strings.Contains(w.Header().Get("Location"), link) {
				t.Errorf("%s: %d %v\n%s", path, w.Code, w.Header(), w.Body)
			}
		}
	}
}

func TestTokenRefused(t *testing.T) {
	s := portalSite(t)
	good := func(change ...any) string { return token(t, jwt.SigningMethodHS256, portalSecret, change...) }
	part := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	critical := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": "42", "jti": "c", "exp": time.Now().Add(time.Minute).Unix()})
	critical.Header["crit"] = []string{"b64"}
	withCrit, _ := critical.SignedString(portalSecret)
	valid := good()
	for name, link := range map[string]string{
		"empty": "", "no token": "x", "two parts": valid[:strings.LastIndexByte(valid, '.')], "no signature": valid[:strings.LastIndexByte(valid, '.')+1],
		"another secret":   token(t, jwt.SigningMethodHS256, []byte("another secret, 32 bytes or more")),
		"HS384":            token(t, jwt.SigningMethodHS384, portalSecret),
		"alg none":         token(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType),
		"no alg":           part(`{}`) + valid[strings.IndexByte(valid, '.'):],
		"crit":             withCrit,
		"other claims":     strings.Split(valid, ".")[0] + "." + part(fmt.Sprintf(`{"sub":"43","jti":"x","exp":%d}`, time.Now().Unix()+60)) + "." + strings.Split(valid, ".")[2],
		"expired":          good("exp", time.Now().Add(-time.Second).Unix()),
		"too far ahead":    good("exp", time.Now().Add(10*time.Minute+2*time.Second).Unix()),
		"far, far ahead":   good("exp", 1e17),
		"no exp":           good("exp", nil),
		"exp is a text":    good("exp", "soon"),
		"not valid yet":    good("nbf", time.Now().Add(time.Minute).Unix()),
		"no jti":           good("jti", nil),
		"empty jti":        good("jti", ""),
		"jti is a number":  good("jti", 7),
		"no sub":           good("sub", nil),
		"sub is a number":  good("sub", 42),
		"user 0":           good("sub", "0"),
		"user -1":          good("sub", "-1"),
		"user 042":         good("sub", "042"),
		"user +42":         good("sub", "+42"),
		"user 42 and more": good("sub", "42 "),
		"too large":        good("sub", "9223372036854775808"),
	} {
		w := follow(s.page, http.MethodGet, link)
		if w.Code != http.StatusUnauthorized || len(w.Result().Cookies()) > 0 || !strings.Contains(w.Body.String(), `name="key"`) ||
			!strings.Contains(w.Body.String(), "This sign-in link is not valid") {
			t.Errorf("%s: %d %v", name, w.Code, w.Header())
		}
		if link != "" && len(link) > 1 && strings.Contains(w.Body.String(), link) {
			t.Errorf("%s: the page shows the token", name)
		}
		for _, entry := range s.logs.TakeAll() {
			if text := fmt.Sprint(entry.Message, entry.ContextMap()); len(link) > 1 && (strings.Contains(text, link) || strings.Contains(text, strings.Split(link, ".")[0])) {
				t.Errorf("%s: the log shows the token: %s", name, text)
			}
		}
	}
	for _, link := range []string{good("jti", "latest", "exp", time.Now().Add(10*time.Minute).Unix()), good("jti", "ü", "aud", "anyone"), good("sub", "9223372036854775807", "jti", "l")} {
		if w := follow(s.page, http.MethodGet, link); w.Code != http.StatusSeeOther {
			t.Errorf("%s: %d", link, w.Code)
		}
	}
	off := newSite(t)
	want(t, follow(off.page, http.MethodGet, valid), http.StatusUnauthorized, "This sign-in link is not valid")
	want(t, follow(off.page, http.MethodGet, token(t, jwt.SigningMethodHS256, []byte{})), http.StatusUnauthorized, "This sign-in link is not valid")

	// A signed-in user who opens a wrong link stays signed in.
	b := s.signIn(t, key42)
	want(t, b.get("?token=x"), http.StatusUnauthorized)
	want(t, b.get(""), http.StatusOK)
}

// TestClaims checks that claims count by their exact names, and that a time is a number.
func TestClaims(t *testing.T) {
	p := newPortal(portalSecret, &marks{}, "")
	read := func(change ...any) (int64, error) {
		user, _, err := p.read(token(t, jwt.SigningMethodHS256, portalSecret, change...), time.Now())
		return user, err
	}
	soon, past := time.Now().Unix()+60, time.Now().Unix()-60
	if user, err := read("Sub", "43", "ſub", "43", "SUB", "43", "Exp", past, "JTI", 7, "aud", 7, "iat", "x"); user != 42 || err != nil {
		t.Errorf("with claims of other names: user %d, %v, want 42", user, err)
	}
	for name, change := range map[string][]any{
		"SUB instead of sub":   {"sub", nil, "SUB", "42"},
		"Jti instead of jti":   {"jti", nil, "Jti", "x"},
		"EXP instead of exp":   {"exp", nil, "EXP", soon},
		"expired, a later Exp": {"exp", past, "exP", soon, "ſexp", soon},
		"exp as a text":        {"exp", fmt.Sprint(soon)},
		"nbf as a text":        {"nbf", fmt.Sprint(past)},
		"exp is null":          {"exp", json.RawMessage("null")},
	} {
		if user, err := read(change...); err == nil {
			t.Errorf("%s: accepted for user %d", name, user)
		}
	}
}

// TestTokenWithoutRedis checks that a token is refused, but not used up, while Redis is unreachable.
func TestTokenWithoutRedis(t *testing.T) {
	s := portalSite(t)
	link := token(t, jwt.SigningMethodHS256, portalSecret)
	for range 2 {
		s.mini.SetError("LOADING")
		w := follow(s.page, http.MethodGet, link)
		want(t, w, http.StatusServiceUnavailable, "try again in a moment", `name="key"`)
		if len(w.Result().Cookies()) > 0 || w.Header().Get("Retry-After") == "" {
			t.Errorf("%v", w.Header())
		}
		s.mini.SetError("")
		s.signIn(t, key42) // the key that seals sessions is known from now on
	}
	if w := follow(s.page, http.MethodGet, link); w.Code != http.StatusSeeOther {
		t.Errorf("once Redis is back: %d", w.Code)
	}
	for _, key := range s.mini.Keys() {
		if ttl := s.mini.TTL(key); strings.Contains(key, "web:token:") && (ttl < time.Minute || ttl > 3*time.Minute) {
			t.Errorf("a used token is remembered for %s", ttl)
		}
	}
}
