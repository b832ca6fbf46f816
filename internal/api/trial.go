package api

import (
	"context"
	"embed"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/smshooks/smshooks/internal/sender"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// demo holds the documented example records, one of each kind.
//
//go:embed demo
var demo embed.FS

// demoBodies encodes the examples as the dispatcher would.
func demoBodies() (bodies [webhook.NumKinds][]byte) {
	for _, kind := range webhook.Kinds() {
		record, err := demo.ReadFile("demo/" + kind.String() + ".record.json")
		if err == nil {
			bodies[kind], err = demoBody(kind, record)
		}
		if err != nil {
			panic(fmt.Sprintf("example record of kind %s: %v", kind, err)) // part of the program
		}
	}
	return bodies
}

func demoBody(kind webhook.Kind, record []byte) ([]byte, error) {
	if kind == webhook.RevokeClick {
		var batch webhook.Revocation
		if err := webhook.DecodeRevocation(record, &batch); err != nil {
			return nil, err
		}
		return batch.AppendBody(nil), nil
	}
	var m webhook.Message
	if err := webhook.Decode(kind, record, &m); err != nil {
		return nil, err
	}
	return m.AppendBody(nil, record), nil
}

// The statuses of a Trial.
const (
	TrialOK      = "ok"
	TrialFailed  = "failed"  // another status than success
	TrialSkipped = "skipped" // nothing was sent
	TrialError   = "error"   // no complete reply
)

// Trial is how sending one test event went.
type Trial struct {
	Status   string
	HTTPCode int    // ok, failed
	Reason   string // skipped, error
	Took     time.Duration
}

// Bounds of the tests under way in this process, each of which may hold a connection per kind for dispatch.timeout.
const (
	testsOfUser = 10
	testsOfAll  = 200
)

// tests counts the tests under way.
type tests struct {
	mu  sync.Mutex
	of  map[int64]int
	all int
}

// begin counts a test in, and reports false if there are too many: most of all users.
func (t *tests) begin(userID int64, most int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all >= most || t.of[userID] >= testsOfUser {
		return false
	}
	if t.of == nil {
		t.of = map[int64]int{}
	}
	t.all++
	t.of[userID]++
	return true
}

func (t *tests) end(userID int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all--
	if t.of[userID]--; t.of[userID] == 0 {
		delete(t.of, userID)
	}
}

// Test sends an example of each kind to the user's URLs, all at once, and returns how each went. each may be nil; it
// is called, one at a time, as soon as a kind's result is there. Nothing is tried again or counted as a delivery. With a
// *TooManyError nothing was sent; ErrUnavailable: this instance cannot send now.
func (s *Service) Test(ctx context.Context, userID int64, each func(webhook.Kind, Trial)) ([webhook.NumKinds]Trial, error) {
	var trials [webhook.NumKinds]Trial
	if !s.testing.begin(userID, s.MaxTests) {
		return trials, &TooManyError{"test-webhook: too many tests at once", 10 * time.Second}
	}
	defer s.testing.end(userID)
	d, err := s.document(ctx, userID)
	if err != nil {
		return trials, err
	}
	settings := d.Settings()
	stamp := strconv.FormatInt(time.Now().UnixMilli(), 10)
	var (
		mu    sync.Mutex
		wg    sync.WaitGroup
		short bool
	)
	for _, kind := range webhook.Kinds() {
		wg.Go(func() {
			t, made := s.try(ctx, settings.Endpoints[kind], kind, stamp)
			mu.Lock()
			defer mu.Unlock()
			if !made {
				short = true
				return
			}
			trials[kind] = t
			if each != nil {
				each(kind, t)
			}
		})
	}
	wg.Wait()
	if short {
		return trials, fmt.Errorf("%w: the process has run out of descriptors, ports or memory", ErrUnavailable)
	}
	return trials, nil
}

// try makes one test request; false: this process lacked the means.
func (s *Service) try(ctx context.Context, to *webhook.Endpoint, kind webhook.Kind, stamp string) (t Trial, made bool) {
	if to == nil {
		return Trial{Status: TrialSkipped, Reason: "not configured"}, true
	}
	out := s.Sender.Send(ctx, sender.Request{
		Kind: kind, Endpoint: to, ID: "test_" + kind.String() + "_" + stamp, Attempt: 1, Time: time.Now(), Body: sender.Bytes(s.demo[kind]),
	})
	t = Trial{HTTPCode: out.Status, Took: out.Took}
	switch out.Failure.Result() {
	case webhook.OK:
		t.Status = TrialOK
	case webhook.Failed:
		t.Status = TrialFailed
	default:
		t.Status, t.HTTPCode, t.Reason = TrialError, 0, string(out.Failure)
	}
	return t, out.Local == ""
}
