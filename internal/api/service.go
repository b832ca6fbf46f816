// Package api serves the customers' HTTP API.
//
// Service is what can be asked and changed, without HTTP: the JSON API and the account page stand on it. Handler puts
// the JSON API on top. A key is looked up for every request, and every method acts for one user, the key's.
package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/api/limit"
	"github.com/smshooks/smshooks/internal/apikey"
	"github.com/smshooks/smshooks/internal/compacted"
	"github.com/smshooks/smshooks/internal/deadletter"
	"github.com/smshooks/smshooks/internal/deliverylog"
	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/outage"
	"github.com/smshooks/smshooks/internal/sender"
	"github.com/smshooks/smshooks/internal/settings"
	"github.com/smshooks/smshooks/pkg/webhook"
)

const (
	// answerTime bounds what needs the store: the contract gives 503 five seconds.
	answerTime = 4500 * time.Millisecond
	// scanTime bounds one reading of the dead-letter topic, and scans how many run at a time: each user has one turn.
	scanTime = 30 * time.Second
	scans    = 64
	// unknownKeys is how many requests with unknown keys a client may make a second, and at once.
	unknownKeys = 20
)

// ErrUnavailable says that the service cannot answer now and nothing was changed: the same request may be made again.
var ErrUnavailable = errors.New("not available now")

// TooManyError says that a limit was reached and nothing was changed: the same request may be made again After a while.
type TooManyError struct {
	What  string // the limit, in the customer's words
	After time.Duration
}

func (e *TooManyError) Error() string { return e.What }

// Keys finds whose an API key is, given its lower-case hex SHA-256.
type Keys interface {
	KeyUser(ctx context.Context, hexSHA256 string) (userID int64, found bool, err error)
}

// Documents are the users' settings.
type Documents interface {
	Document(ctx context.Context, userID int64) (settings.Document, compacted.Version, error)
	Update(ctx context.Context, userID int64, change func(settings.Document) settings.Document) (settings.Document, error)
}

// Sender makes one HTTP attempt.
type Sender interface {
	Send(ctx context.Context, r sender.Request) sender.Outcome
}

// Deliveries is the log of attempts.
type Deliveries interface {
	List(ctx context.Context, userID int64, f deliverylog.Filter) ([]event.Attempt, error)
}

// DeadLetters are the events given up.
type DeadLetters interface {
	List(ctx context.Context, f deadletter.Filter, each func(*deadletter.Letter) error) error
	Replay(ctx context.Context, f deadletter.Filter) (int, error)
}

// Turns gives each user one scan at a time, over all instances.
type Turns interface {
	// Begin takes a user's turn until end is called; ok is false if it is taken.
	Begin(ctx context.Context, userID int64) (end func(), ok bool, err error)
}

// Parts are what a Service works with.
type Parts struct {
	Keys        Keys
	Documents   Documents
	Sender      Sender
	Deliveries  Deliveries
	DeadLetters DeadLetters
	Log         *zap.Logger
	// TrustedProxies are the peers whose X-Forwarded-For is believed.
	TrustedProxies []netip.Prefix
	// MaxTests is how many tests of all users may be under way, 0 = 200.
	MaxTests    int
	Turns       Turns // nil: only this instance's scans count
	ReplayLimit int   // what DeadLetters grants a user per hour, to be told
}

// Service is what users can ask and change. It is safe for concurrent use. Errors other than *InvalidError wrap
// ErrUnavailable or are a *TooManyError.
type Service struct {
	Parts
	demo     [webhook.NumKinds][]byte
	scanning chan struct{}
	turns    turns
	testing  tests
	unknown  *limit.Limiter            // of requests with unknown keys, by client
	failing  map[string]*outage.Outage // by what is asked; not changed any more
}

// What is asked of a Service, as the log names it.
const (
	askKey        = "key"
	askSettings   = "settings"
	askChange     = "set-webhook"
	askDeliveries = "deliveries"
	askLetters    = "dead letters"
	askReplay     = "replay"
)

// New returns a service.
func New(parts Parts) *Service {
	p := patient{parts.Keys, parts.Documents}
	parts.Keys, parts.Documents = p, p
	if parts.MaxTests == 0 {
		parts.MaxTests = testsOfAll
	}
	failing := map[string]*outage.Outage{}
	for _, what := range []string{askKey, askSettings, askChange, askDeliveries, askLetters, askReplay} {
		failing[what] = outage.New(parts.Log.With(zap.String("request", what)), "cannot answer", "answered again")
	}
	return &Service{
		Parts: parts, demo: demoBodies(), scanning: make(chan struct{}, scans), unknown: limit.New(unknownKeys, unknownKeys), failing: failing,
	}
}

// FieldError says what is wrong with one field. The message starts with "must" and doesn't repeat the value.
type FieldError struct{ Field, Message string }

func (e FieldError) String() string { return e.Field + ": " + e.Message }

// InvalidError lists the fields that cannot be taken, in the order of fields.
type InvalidError struct{ Fields []FieldError }

func (e *InvalidError) Error() string {
	texts := make([]string, len(e.Fields))
	for i, f := range e.Fields {
		texts[i] = f.String()
	}
	return strings.Join(texts, "; ")
}

// Authenticate returns the user of a key; ok is false for an unknown or revoked key. A client that sends too many of
// those gets a *TooManyError in its place. A right key is never refused, whatever others behind the same address send.
func (s *Service) Authenticate(ctx context.Context, r *http.Request, key string) (userID int64, ok bool, err error) {
	if key == "" {
		return 0, false, nil
	}
	userID, ok, err = s.AuthenticateHash(ctx, apikey.Hash(key))
	if err != nil || ok {
		return userID, ok, err
	}
	if wait := s.unknown.Take(limit.Client(r, s.TrustedProxies), time.Now()); wait > 0 {
		return 0, false, &TooManyError{fmt.Sprintf(keyName+": too many requests with unknown keys, at most %d per second", unknownKeys), wait}
	}
	return 0, false, nil
}

// AuthenticateHash is Authenticate for who holds the key's lower-case hex SHA-256 only.
func (s *Service) AuthenticateHash(ctx context.Context, hash string) (userID int64, ok bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	userID, ok, err = s.Keys.KeyUser(ctx, hash)
	if err != nil {
		return 0, false, s.unavailable(askKey, 0, err)
	}
	s.failing[askKey].Recover()
	return userID, ok, nil
}

// unavailable logs an error, if it is the first of its kind since an answer was given, and wraps it. The cause is for the log alone, the caller's answer is always the same.
func (s *Service) unavailable(what string, userID int64, err error) error {
	s.failing[what].Fail(err, zap.Int64("user_id", userID))
	return fmt.Errorf("%s: %w: %w", what, ErrUnavailable, err)
}

// Webhooks are a user's settings as they may be shown: nil is a URL that is not set, auth is never given away.
type Webhooks struct {
	URLs [webhook.NumKinds]*string
	Auth bool
}

func webhooksOf(d *settings.Document) Webhooks {
	w := Webhooks{Auth: d.Auth != nil && *d.Auth != ""}
	for kind, url := range urlsOf(d) {
		if *url != nil && **url != "" {
			w.URLs[kind] = *url
		}
	}
	return w
}

func urlsOf(d *settings.Document) [webhook.NumKinds]**string {
	return [webhook.NumKinds]**string{
		webhook.DLR: &d.DLRURL, webhook.Click: &d.ClickURL, webhook.Inbound: &d.InboundURL, webhook.RevokeClick: &d.RevokeClickURL,
	}
}

// Settings returns a user's settings, not older than any answer of SetWebhook.
func (s *Service) Settings(ctx context.Context, userID int64) (Webhooks, error) {
	d, err := s.document(ctx, userID)
	if err != nil {
		return Webhooks{}, err
	}
	return webhooksOf(&d), nil
}

func (s *Service) document(ctx context.Context, userID int64) (settings.Document, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	d, _, err := s.Documents.Document(ctx, userID)
	if err != nil {
		return d, s.unavailable(askSettings, userID, err)
	}
	s.failing[askSettings].Recover()
	return d, nil
}

// Change is what SetWebhook changes: nil leaves a field as it is, "" clears it.
type Change struct {
	URLs [webhook.NumKinds]*string
	Auth *string
}

// settingsFields are the fields of set-webhook in their order.
var settingsFields = [...]string{"dlr_url", "click_url", "inbound_url", "revoke_click_url", "auth"}

func (c *Change) field(i int) **string {
	if i < webhook.NumKinds {
		return &c.URLs[i]
	}
	return &c.Auth
}

// problem says what is wrong with field i, "" if nothing is.
func (c *Change) problem(i int) string {
	text := *c.field(i)
	if text == nil || *text == "" {
		return ""
	}
	validate := webhook.ValidateURL
	if settingsFields[i] == "auth" {
		validate = webhook.ValidateAuth
	}
	if err := validate(*text); err != nil {
		return err.Error()
	}
	return ""
}

func (c *Change) apply(d settings.Document) settings.Document {
	set := func(field **string, to *string) {
		if to == nil {
			return
		}
		if *field = to; *to == "" {
			*field = nil
		}
	}
	for kind, url := range urlsOf(&d) {
		set(url, c.URLs[kind])
	}
	set(&d.Auth, c.Auth)
	return d
}

// SetWebhook changes a user's settings, all of c or nothing, and returns what they are then. An *InvalidError says
// what cannot be taken.
func (s *Service) SetWebhook(ctx context.Context, userID int64, c Change) (Webhooks, error) {
	var invalid InvalidError
	for i, name := range settingsFields {
		if problem := c.problem(i); problem != "" {
			invalid.Fields = append(invalid.Fields, FieldError{name, problem})
		}
	}
	if len(invalid.Fields) > 0 {
		return Webhooks{}, &invalid
	}
	if c == (Change{}) {
		return s.Settings(ctx, userID)
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	d, err := s.Documents.Update(ctx, userID, c.apply)
	if err != nil {
		return Webhooks{}, s.unavailable(askChange, userID, err)
	}
	s.failing[askChange].Recover()
	return webhooksOf(&d), nil
}

// Attempts returns a user's latest attempts, newest first.
func (s *Service) Attempts(ctx context.Context, userID int64, f deliverylog.Filter) ([]event.Attempt, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	attempts, err := s.Deliveries.List(ctx, userID, f)
	if err != nil {
		return nil, s.unavailable(askDeliveries, userID, err)
	}
	s.failing[askDeliveries].Recover()
	return attempts, nil
}

// valueKept is how much GivenUp gives of a dead letter's value, in bytes: enough to be shown.
const valueKept = 8 << 10

// GivenUp returns the latest limit of a user's dead letters that f wants, newest first, their values cut at 8 KiB. It reads the whole topic from
// f.Since on.
func (s *Service) GivenUp(ctx context.Context, userID int64, f deadletter.Filter, limit int) ([]deadletter.Letter, error) {
	ctx, done, err := s.scan(ctx, userID)
	if err != nil {
		return nil, s.cannotScan(askLetters, userID, err)
	}
	defer done()
	var letters []deadletter.Letter
	newestFirst := func(a, b deadletter.Letter) int { return b.Time.Compare(a.Time) }
	f.UserID = userID
	err = s.DeadLetters.List(ctx, f, func(l *deadletter.Letter) error {
		own := *l
		own.Value = slices.Clone(cut(l.Value))
		if letters = append(letters, own); len(letters) >= 2*limit {
			slices.SortStableFunc(letters, newestFirst)
			letters = letters[:limit]
		}
		return nil
	})
	if err != nil {
		return nil, s.unavailable(askLetters, userID, err)
	}
	s.failing[askLetters].Recover()
	slices.SortStableFunc(letters, newestFirst)
	return letters[:min(len(letters), limit)], nil
}

// cut gives what is kept of a value, no part of a character at its end.
func cut(value []byte) []byte {
	if len(value) <= valueKept {
		return value
	}
	n := valueKept
	for n > valueKept-utf8.UTFMax && !utf8.RuneStart(value[n]) {
		n--
	}
	return value[:n]
}

// Replay sends the user's dead letters that f wants again, and returns how many. Those whose replay is under way are
// not sent.
func (s *Service) Replay(ctx context.Context, userID int64, f deadletter.Filter) (int, error) {
	ctx, done, err := s.scan(ctx, userID)
	if err != nil {
		return 0, s.cannotScan(askReplay, userID, err)
	}
	defer done()
	// A replay needs Kafka alone, but an API that is half away would be a riddle: it answers 503 then.
	if _, _, err := s.Documents.Document(ctx, userID); err != nil {
		return 0, s.unavailable(askReplay, userID, err)
	}
	f.UserID = userID
	n, err := s.DeadLetters.Replay(ctx, f)
	if limited, is := errors.AsType[*deadletter.LimitError](err); is {
		if n == 0 {
			return 0, &TooManyError{fmt.Sprintf("replay: too many events, at most %d per hour", s.ReplayLimit), limited.After}
		}
		err = nil // those were sent; the next request receives the error
	}
	if err != nil {
		return n, s.unavailable(askReplay, userID, err)
	}
	s.failing[askReplay].Recover()
	s.Log.Info("dead letters sent again", zap.Int64("user_id", userID), zap.Int("events", n))
	return n, nil
}

// turns are the users of this instance that scan.
type turns struct {
	mu    sync.Mutex
	users map[int64]bool
}

func (t *turns) begin(userID int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.users[userID] {
		return false
	}
	if t.users == nil {
		t.users = map[int64]bool{}
	}
	t.users[userID] = true
	return true
}

func (t *turns) end(userID int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.users, userID)
}

var errTaken = &TooManyError{"replay: another request of yours reads the events that were given up", 5 * time.Second}

// scan takes the user's turn to read the dead-letter topic.
func (s *Service) scan(ctx context.Context, userID int64) (_ context.Context, done func(), err error) {
	if !s.turns.begin(userID) {
		return nil, nil, errTaken
	}
	give := func() { s.turns.end(userID) }
	if s.Turns != nil {
		end, ok, err := s.Turns.Begin(ctx, userID)
		if err != nil || !ok {
			give()
			return nil, nil, cmp.Or(err, error(errTaken))
		}
		give = func() { end(); s.turns.end(userID) }
	}
	select {
	case s.scanning <- struct{}{}:
	case <-ctx.Done():
		give()
		return nil, nil, ctx.Err()
	case <-time.After(answerTime):
		give()
		return nil, nil, errors.New("the topic is being read for too many others")
	}
	ctx, cancel := context.WithTimeout(ctx, scanTime)
	return ctx, func() { cancel(); <-s.scanning; give() }, nil
}

func (s *Service) cannotScan(what string, userID int64, err error) error {
	if _, is := errors.AsType[*TooManyError](err); is {
		return err
	}
	return s.unavailable(what, userID, err)
}
