package web

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/smshooks/smshooks/internal/api"
	"github.com/smshooks/smshooks/internal/deadletter"
)

type limitedLetters struct{ fakeLetters }

func (limitedLetters) Replay(context.Context, deadletter.Filter) (int, error) {
	return 0, fmt.Errorf("chunk: %w", &deadletter.LimitError{After: time.Minute})
}

// TestReplayLimit checks that the page shows a message to a user who has reached the limit of replays.
func TestReplayLimit(t *testing.T) {
	s := newSite(t)
	s.parts.DeadLetters = limitedLetters{fakeLetters{s.fakes}}
	b := s.signIn(t, key42)
	b.page = New(Options{Service: api.New(s.parts), Redis: s.page.sessions.rdb, KeyPrefix: "smshooks:", Log: s.parts.Log})
	w := b.post("/replay", "ids", "sms-click/1/0")
	want(t, w, http.StatusTooManyRequests, "Nothing was sent")
	if w.Header().Get("Retry-After") != "60" {
		t.Errorf("Retry-After %q", w.Header().Get("Retry-After"))
	}
}
