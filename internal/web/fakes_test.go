package web

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/smshooks/smshooks/internal/api"
	"github.com/smshooks/smshooks/internal/apikey"
	"github.com/smshooks/smshooks/internal/compacted"
	"github.com/smshooks/smshooks/internal/deadletter"
	"github.com/smshooks/smshooks/internal/deliverylog"
	"github.com/smshooks/smshooks/internal/endpoints"
	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/release"
	"github.com/smshooks/smshooks/internal/sender"
	"github.com/smshooks/smshooks/internal/settings"
	"github.com/smshooks/smshooks/pkg/webhook"
)

const (
	key42 = "smsh_key_of_42"
	key43 = "smsh_key_of_43"
)

var errGone = errors.New("dial tcp 127.0.0.1:6379: connection refused")

// fakes replaces everything below the service.
type fakes struct {
	mu        sync.Mutex
	keys      map[string]int64 // by hash
	documents map[int64]settings.Document
	attempts  []event.LogEntry  // newest first
	bodies    map[string][]byte // source records by event
	resent    []deadletter.Origin
	letters   []deadletter.Letter
	outcomes  map[webhook.Kind]sender.Outcome
	states    [webhook.NumKinds]endpoints.State // of user 42

	keysDown, storeDown, readDown, logDown, kafkaDown bool

	recovery   *release.Status // of user 42
	recoveries int
	recovered  []string // the ids of the latest; empty: all

	changes  int
	sent     []webhook.Kind
	scans    int
	replayed []deadletter.Filter
}

func (f *fakes) KeyUser(_ context.Context, hash string) (int64, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.keysDown {
		return 0, false, errGone
	}
	user, ok := f.keys[hash]
	return user, ok, nil
}

func (f *fakes) Document(_ context.Context, user int64) (settings.Document, compacted.Version, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.storeDown || f.readDown {
		return settings.Document{}, compacted.Version{}, errGone
	}
	d := f.documents[user]
	d.UserID = user
	return d, compacted.Version{}, nil
}

func (f *fakes) Update(_ context.Context, user int64, change func(settings.Document) settings.Document) (settings.Document, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.storeDown {
		return settings.Document{}, errGone
	}
	d := f.documents[user]
	d.UserID = user
	f.documents[user] = change(d)
	f.changes++
	return f.documents[user], nil
}

func (f *fakes) Blocks(e *webhook.Endpoint) bool { return strings.HasPrefix(e.Address, "10.") }

func (f *fakes) Send(_ context.Context, r sender.Request) sender.Outcome {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sent = append(f.sent, r.Kind)
	return f.outcomes[r.Kind]
}

func (f *fakes) States(_ context.Context, user int64) (all [webhook.NumKinds]endpoints.State, err error) {
	if f.logDown {
		return all, errGone
	}
	if user == 42 {
		all = f.states
	}
	return all, nil
}

// Recover, CatchUp, Latest and Err stand for the recoveries.
func (f *fakes) Recover(_ context.Context, m release.Marker, kinds []webhook.Kind, _ [webhook.NumKinds]bool) (string, error) {
	f.recovered = m.IDs
	if m.User != 42 || len(kinds) != webhook.NumKinds {
		return "", errors.New("not all events of the user are recovered")
	}
	f.recovery = &release.Status{ID: "rcv_1", Started: time.Date(2026, 2, 27, 14, 30, 0, 0, time.UTC)}
	f.recoveries++
	return f.recovery.ID, nil
}

func (f *fakes) CatchUp(context.Context) error { return f.Err() }

func (f *fakes) Latest(int64) (latest release.Status, ok bool) {
	if f.recovery == nil {
		return latest, false
	}
	return *f.recovery, true
}

func (f *fakes) Err() error {
	if f.kafkaDown {
		return errGone
	}
	return nil
}

type fakeLog struct{ *fakes }

func (f fakeLog) List(context.Context, int64, deliverylog.Filter) ([]event.LogEntry, error) {
	return nil, errGone // the page reads events only
}

// Events puts the attempts of each event together.
func (f fakeLog) Events(_ context.Context, user int64, wanted func(*event.LogEntry) bool) ([]deliverylog.Event, error) {
	if f.logDown {
		return nil, errGone
	}
	var events []deliverylog.Event
	for _, a := range slices.Backward(f.attempts) {
		if a.UserID != user || !wanted(&a) {
			continue
		}
		at := slices.IndexFunc(events, func(e deliverylog.Event) bool { return e.ID == a.ID })
		if at < 0 {
			at = len(events)
			events = append(events, deliverylog.Event{ID: a.ID, Kind: a.Kind, Message: a.Message.String(), Recipient: a.Recipient.String(), Time: a.EventTime})
		}
		e := &events[at]
		e.Fate, e.Changed, e.Next = a.Fate, a.Time, a.Next
		if a.Number > 0 {
			e.Attempts = append(e.Attempts, deliverylog.Attempt{LogEntry: a, HasReply: a.Reply != ""})
		}
	}
	return events, nil
}

// Source and Resend stand for the records of the sources.
func (f *fakes) Source(_ context.Context, o deadletter.Origin) ([]byte, error) {
	if f.kafkaDown {
		return nil, errGone
	}
	return f.bodies[o.ID], nil
}

func (f *fakes) Resend(_ context.Context, _ int64, origins []deadletter.Origin) (int, error) {
	if f.kafkaDown {
		return 0, errGone
	}
	f.resent = append(f.resent, origins...)
	return len(origins), nil
}

type fakeLetters struct{ *fakes }

func (f fakeLetters) List(_ context.Context, filter deadletter.Filter, each func(*deadletter.Letter) error) error {
	f.scans++
	if f.kafkaDown {
		return errGone
	}
	for i := range f.letters {
		if l := &f.letters[i]; l.UserID == filter.UserID && !l.Time.Before(filter.Since) {
			if err := each(l); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f fakeLetters) Replay(_ context.Context, filter deadletter.Filter) (int, error) {
	if f.kafkaDown {
		return 0, errGone
	}
	f.replayed = append(f.replayed, filter)
	n := 0
	for _, l := range f.letters {
		if l.UserID == filter.UserID && slices.Contains(filter.IDs, l.ID) {
			n++
		}
	}
	return n, nil
}

// site is a page with its fakes.
type site struct {
	*fakes
	page  *Page
	mini  *miniredis.Miniredis
	logs  *observer.ObservedLogs
	parts api.Parts

	portal []byte // portal.secret of the next instance
}

func newSite(t *testing.T) *site {
	t.Helper()
	f := &fakes{
		keys:      map[string]int64{apikey.Hash(key42): 42, apikey.Hash(key43): 43},
		documents: map[int64]settings.Document{}, outcomes: map[webhook.Kind]sender.Outcome{},
	}
	core, logs := observer.New(zap.DebugLevel)
	s := &site{fakes: f, mini: miniredis.RunT(t), logs: logs}
	s.parts = api.Parts{Keys: f, Documents: f, Sender: f, Deliveries: fakeLog{f}, States: f, Sources: f, Recoveries: f, DeadLetters: fakeLetters{f}, Log: zap.New(core)}
	s.page = s.instance(t)
	return s
}

// instance returns another instance of the page on the same Redis.
func (s *site) instance(t *testing.T) *Page {
	t.Helper()
	rdb := redis.NewClient(&redis.Options{
		Addr: s.mini.Addr(), ContextTimeoutEnabled: true, MaxRetries: -1,
		DialTimeout: 200 * time.Millisecond, ReadTimeout: 200 * time.Millisecond, WriteTimeout: 200 * time.Millisecond,
	})
	t.Cleanup(func() { _ = rdb.Close() })
	return New(Options{Service: api.New(s.parts), Redis: rdb, KeyPrefix: "smshooks:", PortalSecret: s.portal, Log: s.parts.Log})
}

func serve(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// formRequest returns a form like that of a browser on the page.
func formRequest(path string, values url.Values) *http.Request {
	r := httptest.NewRequest(http.MethodPost, base+path, strings.NewReader(values.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	return r
}

// browser is a signed-in session.
type browser struct {
	page   http.Handler
	cookie *http.Cookie
	token  string
}

func (s *site) signIn(t *testing.T, key string) *browser {
	t.Helper()
	w := serve(s.page, formRequest("/sign-in", url.Values{"key": {key}}))
	if w.Code != http.StatusSeeOther || len(w.Result().Cookies()) != 1 {
		t.Fatalf("sign in: %d %v", w.Code, w.Header())
	}
	b := &browser{page: s.page, cookie: w.Result().Cookies()[0]}
	found := regexp.MustCompile(`name="token" value="([0-9a-f]{32})"`).FindStringSubmatch(b.get("").Body.String())
	if found == nil {
		t.Fatal("the page's forms have no token")
	}
	b.token = found[1]
	return b
}

func (b *browser) get(rest string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, base+rest, nil)
	r.AddCookie(b.cookie)
	return serve(b.page, r)
}

// post sends a form of the session: pairs of names and values.
func (b *browser) post(path string, pairs ...string) *httptest.ResponseRecorder {
	return serve(b.page, b.form(path, pairs...))
}

func (b *browser) form(path string, pairs ...string) *http.Request {
	values := url.Values{"token": {b.token}}
	for i := 0; i < len(pairs); i += 2 {
		values.Add(pairs[i], pairs[i+1])
	}
	r := formRequest(path, values)
	r.AddCookie(b.cookie)
	return r
}

// want compares the status and searches the response for texts. A text that begins with "!" must be absent.
func want(t *testing.T, w *httptest.ResponseRecorder, status int, texts ...string) {
	t.Helper()
	body := w.Body.String()
	if w.Code != status {
		t.Errorf("status %d, want %d\n%s", w.Code, status, body)
	}
	for _, text := range texts {
		unwanted, not := strings.CutPrefix(text, "!")
		if not && strings.Contains(body, unwanted) {
			t.Errorf("the response contains %q\n%s", unwanted, body)
		}
		if !not && !strings.Contains(body, text) {
			t.Errorf("the response lacks %q\n%s", text, body)
		}
	}
}

func ptr(s string) *string { return &s }
