package api

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/smshooks/smshooks/internal/apikey"
	"github.com/smshooks/smshooks/internal/compacted"
	"github.com/smshooks/smshooks/internal/deadletter"
	"github.com/smshooks/smshooks/internal/deliverylog"
	"github.com/smshooks/smshooks/internal/endpoints"
	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/sender"
	"github.com/smshooks/smshooks/internal/settings"
	"github.com/smshooks/smshooks/pkg/webhook"
)

const (
	key42 = "smsh_key_of_42"
	key43 = "smsh_key_of_43"
)

var errUnreachable = errors.New("dial tcp 127.0.0.1:6379: connection refused")

// fakes stand in for everything below the service.
type fakes struct {
	mu        sync.Mutex
	documents map[int64]settings.Document
	attempts  []event.LogEntry
	letters   []deadletter.Letter
	outcomes  map[webhook.Kind]sender.Outcome
	events    map[int64][]deliverylog.Event
	records   map[deadletter.Origin]string // what Kafka still has
	resent    []deadletter.Origin

	states map[int64][webhook.NumKinds]endpoints.State

	statesDown, keysDown, storeDown, logDown, kafkaDown bool

	unanswered bool // updates are stored, but fail

	updates  int
	sent     []sender.Request
	listed   deliverylog.Filter
	replayed []deadletter.Filter

	recoveries []begun
}

func (f *fakes) KeyUser(_ context.Context, hash string) (int64, bool, error) {
	if f.keysDown {
		return 0, false, errUnreachable
	}
	users := map[string]int64{apikey.Hash(key42): 42, apikey.Hash(key43): 43}
	return users[hash], users[hash] != 0, nil
}

func (f *fakes) Document(_ context.Context, user int64) (settings.Document, compacted.Version, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.storeDown {
		return settings.Document{}, compacted.Version{}, errUnreachable
	}
	d := f.documents[user]
	d.UserID = user
	return d, compacted.Version{}, nil
}

func (f *fakes) Update(_ context.Context, user int64, change func(settings.Document) settings.Document) (settings.Document, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.storeDown {
		return settings.Document{}, errUnreachable
	}
	d := f.documents[user]
	d.UserID = user
	d = change(d)
	f.documents[user] = d
	f.updates++
	if f.unanswered {
		return settings.Document{}, errUnreachable
	}
	return d, nil
}

func (f *fakes) Blocks(e *webhook.Endpoint) bool { return strings.HasPrefix(e.Address, "10.") }

func (f *fakes) Send(_ context.Context, r sender.Request) sender.Outcome {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sent = append(f.sent, r)
	return f.outcomes[r.Kind]
}

func (f *fakes) States(_ context.Context, user int64) ([webhook.NumKinds]endpoints.State, error) {
	if f.statesDown {
		return [webhook.NumKinds]endpoints.State{}, errUnreachable
	}
	return f.states[user], nil
}

// fakeLog and fakeLetters are two types because both have a method List.
type fakeLog struct{ *fakes }

func (f fakeLog) List(_ context.Context, user int64, filter deliverylog.Filter) ([]event.LogEntry, error) {
	if f.logDown {
		return nil, errUnreachable
	}
	f.listed = filter
	var own []event.LogEntry
	for _, a := range f.attempts {
		if a.UserID == user {
			own = append(own, a)
		}
	}
	return own, nil
}

func (f fakeLog) Events(_ context.Context, user int64, wanted func(*event.LogEntry) bool) ([]deliverylog.Event, error) {
	if f.logDown {
		return nil, errUnreachable
	}
	var events []deliverylog.Event
	for _, e := range f.events[user] {
		if wanted(&event.LogEntry{ID: e.ID, Kind: e.Kind, Message: event.NewText([]byte(e.Message))}) {
			events = append(events, e)
		}
	}
	return events, nil
}

type fakeLetters struct{ *fakes }

func (f fakeLetters) List(_ context.Context, filter deadletter.Filter, each func(*deadletter.Letter) error) error {
	if f.kafkaDown {
		return errUnreachable
	}
	for i := range f.letters {
		if f.letters[i].UserID == filter.UserID {
			if err := each(&f.letters[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f fakeLetters) Replay(_ context.Context, filter deadletter.Filter) (int, error) {
	if f.kafkaDown {
		return 0, errUnreachable
	}
	f.replayed = append(f.replayed, filter)
	n := 0
	for _, l := range f.letters {
		if l.UserID == filter.UserID && (len(filter.IDs) == 0 || slices.Contains(filter.IDs, l.ID)) {
			n++
		}
	}
	return n, nil
}

func (f fakeLetters) Source(_ context.Context, o deadletter.Origin) ([]byte, error) {
	if f.kafkaDown {
		return nil, errUnreachable
	}
	if value, ok := f.records[o]; ok {
		return []byte(value), nil
	}
	return nil, nil
}

func (f fakeLetters) Resend(_ context.Context, user int64, origins []deadletter.Origin) (n int, err error) {
	if f.kafkaDown {
		return 0, errUnreachable
	}
	for _, o := range origins {
		if _, ok := f.records[o]; ok && o.UserID == user {
			f.resent = append(f.resent, o)
			n++
		}
	}
	return n, nil
}

// server is a handler with its fakes.
type server struct {
	*fakes
	service *Service
	handler http.Handler
	logs    *observer.ObservedLogs
}

func newServer(t *testing.T, options Options) *server {
	t.Helper()
	f := &fakes{documents: map[int64]settings.Document{}, outcomes: map[webhook.Kind]sender.Outcome{}}
	core, logs := observer.New(zap.DebugLevel)
	service := New(Parts{Keys: f, Documents: f, Sender: f, Deliveries: fakeLog{f}, States: f, DeadLetters: fakeLetters{f}, Sources: fakeLetters{f}, Recoveries: f, Log: zap.New(core)})
	return &server{fakes: f, service: service, handler: Handler(service, options), logs: logs}
}

// do makes a request and checks the reply against the specification.
func (s *server) do(t *testing.T, method, target, key, contentType, body string, headers ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	if key != "" {
		r.Header.Set("X-API-KEY", key)
	}
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	checkReply(t, r, w)
	return w
}

func (s *server) get(t *testing.T, path string) *httptest.ResponseRecorder {
	t.Helper()
	return s.do(t, "GET", "/v1/user/"+path, key42, "", "")
}

func (s *server) post(t *testing.T, path, body string) *httptest.ResponseRecorder {
	t.Helper()
	return s.do(t, "POST", "/v1/user/"+path, key42, formType, body)
}

const formType = "application/x-www-form-urlencoded"

func want(t *testing.T, w *httptest.ResponseRecorder, status int, body string) {
	t.Helper()
	if w.Code != status || body != "" && w.Body.String() != body {
		t.Errorf("%d %s\nwant %d %s", w.Code, w.Body, status, body)
	}
}

var noon = time.Date(2026, 2, 27, 12, 0, 0, 123456789, time.UTC)
