// Package api serves the customers' HTTP API.
//
// Service has the operations without HTTP. The JSON API (Handler) and the account page (internal/web) are built on
// it. The key is looked up for every request, and every method acts for one user, the owner of the key.
package api

import (
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
	"github.com/smshooks/smshooks/internal/endpoints"
	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/outage"
	"github.com/smshooks/smshooks/internal/sender"
	"github.com/smshooks/smshooks/internal/settings"
	"github.com/smshooks/smshooks/pkg/webhook"
)

const (
	// answerTime limits every use of the store: a 503 must be sent within five seconds.
	answerTime = 4500 * time.Millisecond
	// scanTime limits one read of the dead letter topic. At most scans of them run at the same time, one per user.
	scanTime = 30 * time.Second
	scans    = 64
	// unknownKeys is the number of requests with unknown keys that a client may make per second, and at once.
	unknownKeys = 20
)

// ErrUnavailable means that the service cannot answer now. The same request may be made again.
var ErrUnavailable = errors.New("not available now")

// TooManyError means that a limit was reached and nothing was changed. The same request may be made again later.
type TooManyError struct {
	What  string        // the limit, in words that customers understand
	After time.Duration // until the request may be made again
}

func (e *TooManyError) Error() string { return e.What }

// Keys finds the owner of an API key by its lower-case hex SHA-256.
type Keys interface {
	KeyUser(ctx context.Context, hexSHA256 string) (userID int64, found bool, err error)
}

// Documents stores the users' settings.
type Documents interface {
	Document(ctx context.Context, userID int64) (settings.Document, compacted.Version, error)
	Update(ctx context.Context, userID int64, change func(settings.Document) settings.Document) (settings.Document, error)
}

// Sender makes one HTTP attempt.
type Sender interface {
	Send(ctx context.Context, r sender.Request) sender.Outcome
	// Blocks reports whether the address policy is known to refuse an endpoint.
	Blocks(e *webhook.Endpoint) bool
}

// Deliveries is the delivery log.
type Deliveries interface {
	List(ctx context.Context, userID int64, f deliverylog.Filter) ([]event.LogEntry, error)
	Events(ctx context.Context, userID int64, wanted func(*event.LogEntry) bool) ([]deliverylog.Event, error)
}

// EndpointStates reports which endpoints fail.
type EndpointStates interface {
	States(ctx context.Context, userID int64) ([webhook.NumKinds]endpoints.State, error)
}

// DeadLetters lists and replays the events that were given up.
type DeadLetters interface {
	List(ctx context.Context, f deadletter.Filter, each func(*deadletter.Letter) error) error
	Replay(ctx context.Context, f deadletter.Filter) (int, error)
}

// Turns limits each user to one scan and one start of a recovery at a time, across all instances.
type Turns interface {
	// Begin takes the user's turn at something until end is called. ok is false if another request of the user has it.
	Begin(ctx context.Context, what string, userID int64) (end func(), ok bool, err error)
}

// Parts are the dependencies of a Service.
type Parts struct {
	Keys        Keys
	Documents   Documents
	Sender      Sender
	Deliveries  Deliveries
	States      EndpointStates
	DeadLetters DeadLetters
	Recoveries  Recoveries
	Sources     Sources
	Log         *zap.Logger
	// TrustedProxies are the peers whose X-Forwarded-For is trusted.
	TrustedProxies []netip.Prefix
	// MaxTests is how many tests of all users may be under way; 0 = 200.
	MaxTests    int
	Turns       Turns // nil: only this instance's scans count
	ReplayLimit int   // events that DeadLetters replays per user and hour, for messages
}

// Service has the operations of users. It is safe for concurrent use. Errors other than *InvalidError wrap
// ErrUnavailable or are a *TooManyError.
type Service struct {
	Parts
	demo       [webhook.NumKinds][]byte
	scanning   chan struct{}
	turns      turns
	recovering turns
	testing    tests
	unanswered unanswered
	unknown    *limit.Limiter            // of requests with unknown keys, by client
	failing    map[string]*outage.Outage // by operation; not changed after New
}

// Operations of a Service, as logged.
const (
	askKey        = "key"
	askSettings   = "settings"
	askChange     = "change of settings"
	askDeliveries = "deliveries"
	askEndpoints  = "endpoints"
	askLetters    = "dead letters"
	askReplay     = "replay"
	askRecover    = "recover"
	askSource     = "body of an event"
)

// New returns a service.
func New(parts Parts) *Service {
	p := retryingStore{parts.Keys, parts.Documents}
	parts.Keys, parts.Documents = p, p
	if parts.MaxTests == 0 {
		parts.MaxTests = testsOfAll
	}
	failing := map[string]*outage.Outage{}
	for _, what := range []string{askKey, askSettings, askChange, askDeliveries, askEndpoints, askLetters, askReplay,
		askRecover, askSource} {
		failing[what] = outage.New(parts.Log.With(zap.String("request", what)), "request failed; API answers 503",
			"request succeeded again")
	}
	return &Service{
		Parts: parts, demo: demoBodies(), scanning: make(chan struct{}, scans), unknown: limit.New(unknownKeys, unknownKeys),
		failing: failing,
	}
}

// FieldError reports what is wrong with one field. The message starts with "must" and does not repeat the value.
type FieldError struct{ Field, Message string }

func (e FieldError) String() string { return e.Field + ": " + e.Message }

// InvalidError lists the invalid fields, in the order of fields.
type InvalidError struct{ Fields []FieldError }

func (e *InvalidError) Error() string {
	texts := make([]string, len(e.Fields))
	for i, f := range e.Fields {
		texts[i] = f.String()
	}
	return strings.Join(texts, "; ")
}

// Authenticate returns the user of a key. ok is false for an unknown or revoked key. A client that sends too many of
// those receives a *TooManyError. A valid key is never refused, whatever other clients of the same address send.
func (s *Service) Authenticate(ctx context.Context, r *http.Request, key string) (userID int64, ok bool, err error) {
	if key == "" {
		return 0, false, nil
	}
	userID, ok, err = s.AuthenticateHash(ctx, apikey.Hash(key))
	if err != nil || ok {
		return userID, ok, err
	}
	if wait := s.unknown.Take(limit.Client(r, s.TrustedProxies), time.Now()); wait > 0 {
		return 0, false, &TooManyError{
			fmt.Sprintf(keyName+": too many requests with unknown keys; the limit is %d per second", unknownKeys), wait}
	}
	return 0, false, nil
}

// AuthenticateHash is like Authenticate for the lower-case hex SHA-256 of a key.
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

// unavailable wraps err, and logs it if it is the first of its operation since a success. Customers never see the
// cause.
func (s *Service) unavailable(what string, userID int64, err error) error {
	s.failing[what].Fail(err, zap.Int64("user_id", userID))
	return fmt.Errorf("%s: %w: %w", what, ErrUnavailable, err)
}

// Webhooks are a user's settings without the credentials. A URL that is not set is nil.
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
		webhook.DLR: &d.DLRURL, webhook.Click: &d.ClickURL, webhook.Inbound: &d.InboundURL,
		webhook.RevokeClick: &d.RevokeClickURL,
	}
}

// Settings returns a user's settings. They include every change that SetWebhook has confirmed.
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

// Blocks reports whether requests to a URL are known to be refused by the address policy: its host is an address or
// localhost, or its port is not allowed.
func (s *Service) Blocks(url string) bool { return s.Sender.Blocks(webhook.NewEndpoint(url)) }

// Change describes what SetWebhook changes: nil leaves a field unchanged, "" clears it.
type Change struct {
	URLs [webhook.NumKinds]*string
	Auth *string
}

// settingsFields are the fields of set-webhook, in order.
var settingsFields = [...]string{"dlr_url", "click_url", "inbound_url", "revoke_click_url", "auth"}

func (c *Change) field(i int) **string {
	if i < webhook.NumKinds {
		return &c.URLs[i]
	}
	return &c.Auth
}

// problem returns what is wrong with field i, or "".
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

// SetWebhook applies all of c to a user's settings or nothing, and returns the new settings. An *InvalidError lists the
// invalid fields.
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
	d, err := s.update(ctx, userID, c.apply)
	if err != nil {
		return Webhooks{}, err
	}
	return webhooksOf(&d), nil
}

// update changes a user's document and returns the result.
func (s *Service) update(ctx context.Context, userID int64,
	change func(settings.Document) settings.Document) (settings.Document, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	d, err := s.Documents.Update(ctx, userID, change)
	if err != nil {
		return d, s.unavailable(askChange, userID, err)
	}
	s.failing[askChange].Recover()
	return d, nil
}

// Attempts returns a user's latest attempts, newest first.
func (s *Service) Attempts(ctx context.Context, userID int64, f deliverylog.Filter) ([]event.LogEntry, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	attempts, err := s.Deliveries.List(ctx, userID, f)
	if err != nil {
		return nil, s.unavailable(askDeliveries, userID, err)
	}
	s.failing[askDeliveries].Recover()
	return attempts, nil
}

// maxValue is how many bytes of a dead letter's value ListDeadLetters returns: enough to show.
const maxValue = 8 << 10

// ListDeadLetters returns the user's latest dead letters that match f, newest first, at most limit, with values cut at
// 8 KiB. It reads the whole topic from f.Since on.
func (s *Service) ListDeadLetters(ctx context.Context, userID int64, f deadletter.Filter,
	limit int) ([]deadletter.Letter, error) {
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

// cut shortens a value to maxValue without splitting a character.
func cut(value []byte) []byte {
	if len(value) <= maxValue {
		return value
	}
	n := maxValue
	for n > maxValue-utf8.UTFMax && !utf8.RuneStart(value[n]) {
		n--
	}
	return value[:n]
}

// turns holds the users whose scans run in this instance.
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

var errTaken = &TooManyError{"replay: another request of yours is in progress", 5 * time.Second}

// scan waits for the user's turn to read the dead letter topic. done ends it.
func (s *Service) scan(ctx context.Context, userID int64) (_ context.Context, done func(), err error) {
	release, err := s.turn(ctx, &s.turns, "scan", userID, errTaken)
	if err != nil {
		return nil, nil, err
	}
	select {
	case s.scanning <- struct{}{}:
	case <-ctx.Done():
		release()
		return nil, nil, ctx.Err()
	case <-time.After(answerTime):
		release()
		return nil, nil, errors.New("too many other users read dead letters")
	}
	ctx, cancel := context.WithTimeout(ctx, scanTime)
	return ctx, func() { cancel(); <-s.scanning; release() }, nil
}

func (s *Service) cannotScan(what string, userID int64, err error) error {
	if _, is := errors.AsType[*TooManyError](err); is {
		return err
	}
	return s.unavailable(what, userID, err)
}
