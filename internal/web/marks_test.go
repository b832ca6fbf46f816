package web

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// TestMarksAfterFlush checks that a Redis that was emptied knows again within seconds, without a request, which tokens
// were used and which sessions were signed out.
func TestMarksAfterFlush(t *testing.T) {
	s := portalSite(t)
	synctest.Test(t, func(t *testing.T) {
		s.page = s.instance(t)
		other := s.instance(t)
		go s.page.Run(t.Context())
		link := token(t, jwt.SigningMethodHS256, portalSecret, "exp", time.Now().Add(5*time.Minute).Unix())
		want(t, follow(s.page, http.MethodGet, link), http.StatusSeeOther)
		b := s.signIn(t, key42)
		if w := b.post("/sign-out"); w.Code != http.StatusSeeOther {
			t.Fatalf("sign out: %d %s", w.Code, w.Body)
		}
		key, err := s.mini.Get("smshooks:web:session-key")
		if err != nil {
			t.Fatal(err)
		}
		lasts := map[string]time.Duration{}
		for _, name := range s.mini.Keys() {
			lasts[name] = s.mini.TTL(name)
		}
		s.mini.FlushAll()
		if err := s.mini.Set("smshooks:web:session-key", key); err != nil { // or no session would be open at the other one
			t.Fatal(err)
		}
		time.Sleep(storeEvery + time.Second)
		b.page = other
		want(t, follow(other, http.MethodGet, link), http.StatusUnauthorized, "was used before")
		want(t, b.get(""), http.StatusUnauthorized, "Your session has ended")

		// What is stored again and again ends when it would have ended.
		for name, before := range lasts {
			now := s.mini.TTL(name)
			if passed := before - now; before > 0 && (passed < 0 || passed > storeEvery+2*time.Second) {
				t.Errorf("%s lasts %v, after %v at first", name, now, before)
			}
		}
		time.Sleep(sessionLasts)
		if left := s.page.marks.remembered(time.Now()); len(left) > 0 {
			t.Errorf("remembered for longer than a session: %v", left)
		}
	})
}

// TestMarksWithoutRedis checks that a sign-out that could not be stored is stored when Redis is reachable again, and
// that the outage is logged once.
func TestMarksWithoutRedis(t *testing.T) {
	s := newSite(t)
	synctest.Test(t, func(t *testing.T) {
		s.page = s.instance(t)
		b := s.signIn(t, key42)
		go s.page.Run(t.Context())
		in, err := s.page.sessions.openSession(t.Context(), b.cookie.Value, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		s.mini.SetError("LOADING")
		if err := s.page.sessions.end(t.Context(), &in); err == nil {
			t.Error("a sign-out was stored without Redis")
		}
		time.Sleep(3 * storeEvery)
		s.mini.SetError("")
		time.Sleep(storeEvery)
		synctest.Wait()
		b.page = s.instance(t)
		want(t, b.get(""), http.StatusUnauthorized, "Your session has ended")
		var lines []string
		for _, entry := range s.logs.FilterMessageSnippet("sign-outs").All() {
			lines = append(lines, fmt.Sprint(entry.Level, " ", entry.Message))
		}
		if text := strings.Join(lines, "\n"); strings.Count(text, "warn") != 1 || strings.Count(text, "info") != 1 {
			t.Errorf("one outage is logged as\n%s", text)
		}
	})
}

func TestMarksAreLimited(t *testing.T) {
	s := newSite(t)
	now := time.Now()
	for i := range maxMarks + 10 {
		s.page.marks.remember(fmt.Sprint(i), now.Add(time.Hour))
	}
	if n := len(s.page.marks.remembered(now)); n != maxMarks {
		t.Errorf("%d marks are remembered, want %d", n, maxMarks)
	}
}
