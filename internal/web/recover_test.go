package web

import (
	"net/http"
	"testing"
	"time"

	"github.com/smshooks/smshooks/internal/endpoints"
	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/settings"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// TestRecoverNow checks that the button is shown while events may be waiting, and that the page shows the progress.
func TestRecoverNow(t *testing.T) {
	s := newSite(t)
	s.documents[42] = settings.Document{DLRURL: ptr("https://a.example/")}
	attempt := func(id string, fate webhook.Fate, next time.Duration) event.LogEntry {
		a := event.LogEntry{UserID: 42, ID: id, Number: 1, Time: time.Now(), Host: "a.example", Fate: fate}
		if next != 0 {
			a.Next = time.Now().Add(next)
		}
		return a
	}
	b := s.signIn(t, key42)
	s.attempts = []event.LogEntry{attempt("b", webhook.Dead, 0), attempt("a", webhook.Delivered, 0), attempt("a", webhook.Retry, time.Hour),
		attempt("c", webhook.Paused, time.Hour), attempt("d", webhook.Retry, -time.Hour)}
	want(t, b.get(""), http.StatusOK, "!Recover now")
	s.attempts = s.attempts[2:]
	want(t, b.get(""), http.StatusOK, "Recover now")
	s.attempts = nil
	s.states[webhook.DLR] = endpoints.State{Since: time.Now(), Failure: "timeout"}
	want(t, b.get(""), http.StatusOK, "Recover now", `!id="recovery"`)

	w := b.post("/recover")
	if w.Code != http.StatusSeeOther || w.Header().Get("Location") != base+"?done=recovering" {
		t.Fatalf("%d %v", w.Code, w.Header())
	}
	s.recovery.Released = 1
	want(t, b.get("?done=recovering"), http.StatusOK, "are sent now", "data-live", "14:30:00 UTC</time>: 1 event released so far.")
	w = b.post("/recover")
	want(t, w, http.StatusTooManyRequests, "being sent already")
	if w.Header().Get("Retry-After") == "" {
		t.Error("429 without Retry-After")
	}
	s.recovery.Released, s.recovery.Ended = 12, s.recovery.Started.Add(time.Minute)
	s.states[webhook.DLR] = endpoints.State{}
	want(t, b.get("?done=recovering"), http.StatusOK, ">Last recovery: 12 events released, ended <time", "14:31:00 UTC<", "!data-live", "!Recover now")
	want(t, b.get(""), http.StatusOK, "!Last recovery")
	s.recovery.Ended = time.Now() // the view may have been opened before it ended
	want(t, b.get(""), http.StatusOK, ">Last recovery: 12 events released, ended <time", "!Recover now")

	s.recovery = nil
	w = b.post("/recover", "event", "a/1")
	if w.Code != http.StatusSeeOther || w.Header().Get("Location") != base+"/events/a%2F1?done=recovering" || len(s.recovered) != 1 || s.recovered[0] != "a/1" {
		t.Errorf("%d %v, recovered %v", w.Code, w.Header(), s.recovered)
	}

	s.kafkaDown = true
	want(t, b.get("?done=recovering"), http.StatusOK, `!id="recovery"`, "https://a.example/")
	want(t, b.post("/recover"), http.StatusServiceUnavailable, "may have been sent", "!Nothing was changed")
	b.token = "0123456789abcdef0123456789abcdef"
	want(t, b.post("/recover"), http.StatusForbidden)
	if s.recoveries != 2 {
		t.Errorf("%d recoveries", s.recoveries)
	}
}
