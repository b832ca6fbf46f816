package api

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/smshooks/smshooks/internal/deadletter"
)

// slowLetters replays only when the test allows it.
type slowLetters struct {
	fakeLetters
	began  chan int64 // users
	finish chan struct{}
	limit  error
}

func (s *slowLetters) Replay(_ context.Context, f deadletter.Filter) (int, error) {
	s.began <- f.UserID
	<-s.finish
	return 0, s.limit
}

// TestScansOfUsers checks that each user has one scan at a time, and that users do not wait for each other.
func TestScansOfUsers(t *testing.T) {
	s := newServer(t, Options{})
	slow := &slowLetters{fakeLetters{s.fakes}, make(chan int64, 10), make(chan struct{}), nil}
	s.service.DeadLetters = slow
	done := make(chan error)
	go func() {
		_, err := s.service.Replay(t.Context(), 42, deadletter.Filter{})
		done <- err
	}()
	<-slow.began
	for range 6 {
		w := s.post(t, "replay", "kind=dlr")
		want(t, w, 429, refusal("replay: another request of yours is in progress"))
		if w.Header().Get("Retry-After") == "" {
			t.Error("429 without Retry-After")
		}
	}
	for user := range int64(10) {
		go func() {
			_, err := s.service.Replay(t.Context(), 100+user, deadletter.Filter{})
			done <- err
		}()
	}
	for range 10 {
		select {
		case <-slow.began:
		case <-time.After(2 * time.Second):
			t.Fatal("users wait for each other")
		}
	}
	close(slow.finish)
	for range 11 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	want(t, s.post(t, "replay", "kind=dlr"), 200, `{"success":true,"data":{"replayed":0}}`)
	s.service.ReplayLimit = 10_000
	slow.limit = fmt.Errorf("chunk: %w", &deadletter.LimitError{After: 90 * time.Second})
	w := s.post(t, "replay", "kind=dlr")
	want(t, w, 429, refusal("replay: too many events; the limit is 10000 per hour"))
	if w.Header().Get("Retry-After") != "90" {
		t.Errorf("Retry-After %q", w.Header().Get("Retry-After"))
	}
}
