package api

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/smshooks/smshooks/internal/release"
	"github.com/smshooks/smshooks/internal/settings"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// begun is a recovery that the fake has begun.
type begun struct {
	release.Marker
	kinds  []webhook.Kind
	paused [webhook.NumKinds]bool
	ended  time.Time
	moved  int64
}

func (f *fakes) Recover(_ context.Context, m release.Marker, kinds []webhook.Kind, paused [webhook.NumKinds]bool) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.kafkaDown {
		return "", errUnreachable
	}
	m.ID, m.Created = "rcv_"+strconv.Itoa(len(f.recoveries)+1), time.Date(2026, 2, 27, 14, 30, 0, 1e6, time.UTC)
	f.recoveries = append(f.recoveries, begun{Marker: m, kinds: slices.Clone(kinds), paused: paused})
	return m.ID, nil
}

func (f *fakes) CatchUp(context.Context) error { return f.Err() }

func (f *fakes) Err() error {
	if f.kafkaDown {
		return errUnreachable
	}
	return nil
}

func (f *fakes) Latest(userID int64) (latest release.Status, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.recoveries {
		if r.User == userID {
			latest, ok = release.Status{ID: r.ID, Started: r.Created, Ended: r.ended, Released: r.moved}, true
		}
	}
	return latest, ok
}

func TestRecover(t *testing.T) {
	s := newServer(t, Options{})
	yes := "true"
	s.documents[42] = settings.Document{UserID: 42, Paused: [webhook.NumKinds]*string{webhook.Click: &yes}}
	want(t, s.get(t, "recover"), 200, `{"success":true,"data":null}`)
	want(t, s.post(t, "recover", ""), 200, `{"success":true,"data":{"id":"rcv_1"}}`)
	if r := s.recoveries[0]; r.User != 42 || r.Cause != release.Customer || len(r.kinds) != 4 || !r.paused[webhook.Click] || r.paused[webhook.DLR] || r.IDs != nil {
		t.Errorf("began %+v", r)
	}
	want(t, s.get(t, "recover"), 200, `{"success":true,"data":{"id":"rcv_1","state":"running","released":0,"started":"2026-02-27T14:30:00.001Z","ended":null}}`)
	w := s.post(t, "recover", "kind=dlr")
	want(t, w, 429, refusal("recover: another recovery of yours is running"))
	if w.Header().Get("Retry-After") != "5" {
		t.Errorf("Retry-After %q", w.Header().Get("Retry-After"))
	}
	s.recoveries[0].ended, s.recoveries[0].moved = time.Date(2026, 2, 27, 14, 30, 2, 5e8, time.UTC), 7
	want(t, s.get(t, "recover"), 200, `{"success":true,"data":{"id":"rcv_1","state":"done","released":7,"started":"2026-02-27T14:30:00.001Z","ended":"2026-02-27T14:30:02.500Z"}}`)
	want(t, s.do(t, "POST", "/v1/user/recover", key42, "application/json", `{"kind":"inbound","ids":["evt_1","evt_2"],"since":"2026-02-27T00:00:00Z","until":null}`),
		200, `{"success":true,"data":{"id":"rcv_2"}}`)
	r := s.recoveries[1]
	if !slices.Equal(r.kinds, []webhook.Kind{webhook.Inbound}) || !slices.Equal(r.IDs, []string{"evt_1", "evt_2"}) || r.Since.Day() != 27 || !r.Until.IsZero() {
		t.Errorf("began %+v", r)
	}
	s.kafkaDown = true
	want(t, s.post(t, "recover", ""), 503, refusal("service: temporarily unavailable; try again"))
	want(t, s.get(t, "recover"), 503, refusal("service: temporarily unavailable; try again"))
}

func TestRecoverRefuses(t *testing.T) {
	s := newServer(t, Options{})
	for _, c := range []struct{ contentType, body, want string }{
		{"", "kind=dlrs", refusal("kind: must be dlr, click, inbound or revoke_click")},
		{"", "ids=a&since=yesterday&kind=x&until=5", refusal("kind: must be dlr, click, inbound or revoke_click",
			"since: must be an RFC 3339 time such as 2026-02-27T14:30:00.000Z", "until: must be an RFC 3339 time such as 2026-02-27T14:30:00.000Z")},
		{"application/json", `{"ids":[]}`, refusal("ids: must have at least one id")},
		{"application/json", `{"ids":""}`, refusal("ids: must have at least one id")},
		{"", "ids=", refusal("ids: must have at least one id")},
		{"", "ids=,", refusal("ids: must have at least one id")},
		{"application/json", `{"ids":[1]}`, refusal("ids: must be a list of strings")},
		{"application/json", `{"kind":["dlr"]}`, refusal("kind: must be a string or null")},
		{"application/json", `[]`, refusal("body: must be a JSON object")},
	} {
		want(t, s.do(t, "POST", "/v1/user/recover", key42, c.contentType, c.body), 422, c.want)
	}
	if len(s.recoveries) != 0 {
		t.Errorf("began %v", s.recoveries)
	}
}

// TestFirstInstant checks that the zero time of Go programs is a bound like any other time, not no bound.
func TestFirstInstant(t *testing.T) {
	s := newServer(t, Options{})
	const first = "0001-01-01T00:00:00Z"
	want(t, s.post(t, "recover", "until="+first), 200, "")
	want(t, s.post(t, "replay", "until="+first), 200, "")
	want(t, s.do(t, "GET", "/v1/user/deliveries?before="+first, key42, "", ""), 200, "")
	if s.recoveries[0].Until.IsZero() || s.replayed[0].Until.IsZero() || s.listed.Before.IsZero() {
		t.Errorf("no bound: %+v, %+v, %+v", s.recoveries[0], s.replayed[0], s.listed)
	}
}

// TestRecoverOnce checks that one of many concurrent requests begins a recovery.
func TestRecoverOnce(t *testing.T) {
	s := newServer(t, Options{})
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		codes = map[int]int{}
	)
	for range 20 {
		wg.Go(func() {
			w := s.post(t, "recover", "")
			mu.Lock()
			defer mu.Unlock()
			codes[w.Code]++
		})
	}
	wg.Wait()
	if fmt.Sprint(codes) != "map[200:1 429:19]" || len(s.recoveries) != 1 {
		t.Errorf("statuses %v, %d begun", codes, len(s.recoveries))
	}
}

// otherInstance simulates turns taken by requests at other instances.
type otherInstance struct {
	taken map[string]bool
	ended int
}

func (o *otherInstance) Begin(_ context.Context, what string, _ int64) (func(), bool, error) {
	return func() { o.ended++ }, !o.taken[what], nil
}

// TestTurnsOfOtherInstances checks that a turn at another instance counts, and that a turn ends.
func TestTurnsOfOtherInstances(t *testing.T) {
	s := newServer(t, Options{})
	other := &otherInstance{taken: map[string]bool{}}
	s.service.Turns = other
	want(t, s.post(t, "recover", ""), 200, "")
	want(t, s.post(t, "replay", "kind=dlr"), 200, "")
	if other.ended != 2 {
		t.Errorf("%d turns ended, want 2", other.ended)
	}
	s.recoveries[0].ended = time.Now()
	other.taken["recover"], other.taken["scan"] = true, true
	want(t, s.post(t, "recover", ""), 429, refusal("recover: another recovery of yours is running"))
	want(t, s.post(t, "replay", "kind=dlr"), 429, refusal("replay: another request of yours is in progress"))
}
