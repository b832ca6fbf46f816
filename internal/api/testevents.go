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

// demo holds the documented example records, one for each kind.
//
//go:embed demo
var demo embed.FS

// ExampleRecord returns the documented example of a record of a kind.
func ExampleRecord(kind webhook.Kind) []byte {
	record, err := demo.ReadFile("demo/" + kind.String() + ".record.json")
	if err != nil {
		panic(fmt.Sprintf("example record: %v", err)) // it is part of the program
	}
	return record
}

// demoBodies encodes the examples as the dispatcher does.
func demoBodies() (bodies [webhook.NumKinds][]byte) {
	for _, kind := range webhook.Kinds() {
		var err error
		if bodies[kind], err = bodyOf(kind, ExampleRecord(kind)); err != nil {
			panic(fmt.Sprintf("example record of kind %s: %v", kind, err))
		}
	}
	return bodies
}

// bodyOf encodes a record as the dispatcher does.
func bodyOf(kind webhook.Kind, record []byte) ([]byte, error) {
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

// Statuses of a TestResult.
const (
	TestOK      = "ok"
	TestFailed  = "failed"  // the status is not a success
	TestSkipped = "skipped" // no URL is configured
	TestError   = "error"   // no complete response
)

// TestResult is the outcome of one test event.
type TestResult struct {
	Status   string
	HTTPCode int    // if ok or failed
	Reason   string // if skipped or error
	Took     time.Duration
}

// Limits of the tests under way in this process. Each may use a connection per kind for dispatch.timeout.
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

// begin adds a test. It returns false if there are too many, of the user or of all users.
func (t *tests) begin(userID int64, most int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all >= most || t.of[userID] >= max(1, min(testsOfUser, most/4)) { // most is small if descriptors are few
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

// Test sends an example of a kind, or of each kind if only is nil, to the user's URLs, all at the same time, and
// returns the results. If each is not nil, it is called for each result as soon as it arrives, never concurrently.
// Nothing is retried or logged as a delivery. With a *TooManyError nothing was sent. ErrUnavailable means that this
// instance cannot send now.
func (s *Service) Test(ctx context.Context, userID int64, only *webhook.Kind,
	each func(webhook.Kind, TestResult)) ([webhook.NumKinds]TestResult, error) {
	var results [webhook.NumKinds]TestResult
	if !s.testing.begin(userID, s.MaxTests) {
		return results, &TooManyError{"test-webhook: too many tests at once", 10 * time.Second}
	}
	defer s.testing.end(userID)
	d, err := s.document(ctx, userID)
	if err != nil {
		return results, err
	}
	settings := d.Settings()
	stamp := strconv.FormatInt(time.Now().UnixMilli(), 10)
	var (
		mu    sync.Mutex
		wg    sync.WaitGroup
		short bool
	)
	for _, kind := range webhook.Kinds() {
		if only != nil && kind != *only {
			continue
		}
		wg.Go(func() {
			t, made := s.try(ctx, settings.Endpoints[kind], kind, stamp)
			mu.Lock()
			defer mu.Unlock()
			if !made {
				short = true
				return
			}
			results[kind] = t
			if each != nil {
				each(kind, t)
			}
		})
	}
	wg.Wait()
	if short {
		return results, fmt.Errorf("%w: this process is out of descriptors, ports or memory", ErrUnavailable)
	}
	return results, nil
}

// try makes one test request. made is false if this process lacked the resources.
func (s *Service) try(ctx context.Context, to *webhook.Endpoint, kind webhook.Kind,
	stamp string) (t TestResult, made bool) {
	if to == nil {
		return TestResult{Status: TestSkipped, Reason: "not configured"}, true
	}
	now := time.Now()
	out := s.Sender.Send(ctx, sender.Request{
		Kind: kind, Endpoint: to, ID: "test_" + kind.String() + "_" + stamp, Attempt: 1, Time: now, EventTime: now,
		Body: sender.Bytes(s.demo[kind]),
	})
	t = TestResult{HTTPCode: out.Status, Took: out.Took}
	switch out.Failure.Result() {
	case webhook.OK:
		t.Status = TestOK
	case webhook.Failed:
		t.Status = TestFailed
	default:
		t.Status, t.HTTPCode, t.Reason = TestError, 0, string(out.Failure)
	}
	return t, out.Local == ""
}
