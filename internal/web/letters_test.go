package web

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/pkg/webhook"
)

func TestDeadLetters(t *testing.T) {
	s := newSite(t)
	s.fill()
	b := s.signIn(t, key42)
	want(t, b.get(""), http.StatusOK, "None of your latest events was given up")
	for i := range 3 {
		s.attempts[i].Fate, s.attempts[i].Failure, s.attempts[i].Status = webhook.Dead, "http 500", 500
	}
	want(t, b.get(""), http.StatusOK, `href="`+base+`/events/sms-dlr%2F0%2F1">Click</a>`, "1 attempt: HTTP 500", `<button name="only" value="sms-dlr/0/2"`, "!sms-dlr/0/3<")
	if s.scans != 0 {
		t.Error("the topic is read without a request")
	}
	want(t, b.get("?period=1d"), http.StatusOK, "sms-click/1/0", "3 attempts: HTTP 500", "!sms-click/1/1", "!letter-of-43")
	w := b.get("?period=30d")
	want(t, w, http.StatusOK, "too old to be sent after 2 attempts: HTTP 500", `<button name="only" value="sms-click/1/1"`, "!sms-click/1/2", "Resend selected")
	s.letters = nil
	want(t, b.get("?period=7d"), http.StatusOK, "No event was given up in this period")
	for s.page.costly.Take("42", time.Now()) == 0 {
		continue
	}
	scans := s.scans
	want(t, b.get("?period=7d"), http.StatusOK, "Too many requests")
	if s.scans != scans {
		t.Error("still read")
	}
}

func TestReplay(t *testing.T) {
	s := newSite(t)
	s.fill()
	b := s.signIn(t, key42)
	since := event.FormatTime(time.Now().Add(-time.Hour))
	w := b.post("/replay", "ids", "sms-click/1/0", "ids", "sms-click/1/1", "ids", "letter-of-43", "since", since, "period", "30d")
	if got := w.Header().Get("Location"); w.Code != http.StatusSeeOther || got != base+"?done=resent&n=2&period=30d" {
		t.Fatalf("%d %s", w.Code, got)
	}
	want(t, b.get("?done=resent&n=2&period=30d"), http.StatusOK, "2 events resent", "sms-click/1/0")
	w = b.post("/replay", "ids", "sms-click/1/0", "only", "sms-click/1/1", "period", "nonsense")
	if got := w.Header().Get("Location"); got != base+"?done=resent&n=1" {
		t.Errorf("to %s", got)
	}
	if f := s.replayed[0]; f.UserID != 42 || len(f.IDs) != 3 || event.FormatTime(f.Since) != since {
		t.Errorf("%+v", f)
	}
	if f := s.replayed[1]; len(f.IDs) != 1 || f.IDs[0] != "sms-click/1/1" || !f.Since.IsZero() {
		t.Errorf("%+v", f)
	}
	want(t, b.post("/replay", "period", "30d"), http.StatusUnprocessableEntity, "select at least one", "sms-click/1/0")
	want(t, b.get("?done=resent&n=0"), http.StatusOK, "No event was resent")
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
