package dispatcher

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/metrics"
	"github.com/smshooks/smshooks/internal/sender"
	"github.com/smshooks/smshooks/pkg/webhook"
	"github.com/smshooks/smshooks/test/peer"
)

var errRedisDown = errors.New("redis is down")

// env is a dispatcher in a synctest bubble, with fakes for all its collaborators.
type env struct {
	*Dispatcher
	t        *testing.T
	began    time.Time
	registry *prometheus.Registry
	stop     context.CancelFunc

	mu       sync.Mutex
	lease    *lease
	requests []string            // "user/attempt id" in the order in which they arrived
	running  map[string]int      // by host
	most     map[string]int      // of running
	ends     map[string][]string // by the event's identity
	away     bool                // Redis
	memory   map[int64]*webhook.Settings
	stored   map[int64]*webhook.Settings
	owners   map[string]string // of clicks
	loads    int
	loading  time.Duration             // time that a Load takes
	dead     map[string]webhook.Reason // results of the policy, by identity
	batches  []*event.Event
	newer    bool     // a later receipt of every message was delivered
	receipts []string // identities that were delivered, of users who want the latest
	purged   int
	attempts []event.LogEntry
	notes    []event.LogEntry
	answer   func(w http.ResponseWriter, r *http.Request)
	noDial   error            // of every dial
	noDialTo map[string]error // by address
}

// lease is the lease shared by all events of an env.
type lease struct {
	s      *env
	ctx    context.Context
	cancel context.CancelFunc
	closed bool
}

func (l *lease) Acquire() bool { return l.State() == event.Held }
func (l *lease) State() event.State {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	if l.closed {
		return event.Draining
	}
	return event.Held
}
func (l *lease) Settle(e *event.Event, fate webhook.Fate) { l.s.end(e, fate.String()) }
func (l *lease) Abandon(e *event.Event)                   { l.s.end(e, "abandoned") }
func (l *lease) Context() context.Context                 { return l.ctx }

func (s *env) end(e *event.Event, how string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ends[e.Identity()] = append(s.ends[e.Identity()], how)
}

type forwarder struct{ s *env }

func (f forwarder) Retry(e *event.Event, _ int) {
	f.s.end(e, fmt.Sprintf("retry after %d: %s", e.Attempts, e.Failure))
}
func (f forwarder) Overflow(e *event.Event, tier int)          { f.s.end(e, fmt.Sprint("overflow ", tier)) }
func (f forwarder) Pause(e *event.Event)                       { f.s.end(e, "paused") }
func (f forwarder) Dead(e *event.Event, reason webhook.Reason) { f.s.end(e, "dead: "+string(reason)) }
func (f forwarder) Invalid(e *event.Event, what string)        { f.s.end(e, "invalid: "+what) }

// Lookup implements Settings, as do Load.
func (s *env) Lookup(userID int64) (*webhook.Settings, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found, known := s.memory[userID]
	return found, known
}

// locked is the first user whose settings cannot be opened.
const locked = 1_000_000

func (s *env) Load(_ context.Context, userIDs []int64) error {
	time.Sleep(s.loading)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loads++
	if s.away {
		return errRedisDown
	}
	var err error
	for _, id := range userIDs {
		if id >= locked {
			err = errRedisDown
			continue
		}
		s.memory[id] = &webhook.Settings{UserID: id}
		if found := s.stored[id]; found != nil {
			s.memory[id] = found
		}
	}
	return err
}

// Claim implements FirstClicks.
func (s *env) Claim(_ context.Context, clicks []*event.Event, first []bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		return errRedisDown
	}
	for i, e := range clicks {
		key := fmt.Sprint(e.UserID, "/", e.MessageKey)
		if s.owners[key] == "" {
			s.owners[key] = e.Identity()
		}
		first[i] = s.owners[key] == e.Identity()
	}
	return nil
}

// policy gives up the events in env.dead before their next attempt, and no others.
type policy struct{ s *env }

func (p policy) MayAttempt(e *event.Event, _ time.Time) webhook.Reason {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	return p.s.dead[e.Identity()]
}

func (policy) AfterFailure(e *event.Event, now time.Time) (webhook.Reason, int, time.Time) {
	return "", e.Attempts - 1, now.Add(6 * time.Hour)
}

func (policy) Overflow(_ *event.Event, want int, now time.Time) (webhook.Reason, int, time.Time) {
	return "", want, now.Add(tiers[want])
}

func (policy) PausedUntil(now time.Time) time.Time { return now.Add(24 * time.Hour) }

type revocations struct{ s *env }

func (b revocations) Add(e *event.Event) {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	b.s.batches = append(b.s.batches, e)
}

func (b revocations) Purge() {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	b.s.purged++
}

type attempts struct{ s *env }

func (a attempts) Add(one event.LogEntry) {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	a.s.attempts = append(a.s.attempts, one)
}

func (a attempts) Note(one event.LogEntry) {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	a.s.notes = append(a.s.notes, one)
}

type receipts struct{ s *env }

func (r receipts) Delivered(e *event.Event) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	if len(r.s.ends[e.Identity()]) > 0 {
		r.s.t.Errorf("%s has ended before it was stored as delivered", e.Identity())
	}
	r.s.receipts = append(r.s.receipts, e.Identity())
}

func (r receipts) Superseded(*event.Event) bool { return r.s.newer }

func (s *env) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	s.mu.Lock()
	s.requests = append(s.requests, r.Header.Get("Webhook-Id"))
	s.running[r.Host]++
	s.most[r.Host] = max(s.most[r.Host], s.running[r.Host])
	answer := s.answer
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.running[r.Host]--
	}()
	answer(w, r)
}

var tiers = []time.Duration{10 * time.Second, time.Minute, 5 * time.Minute, 30 * time.Minute}

// withEnv runs a test in a bubble. Users 1 to 9 are in memory, with all URLs; user 8 has none.
func withEnv(t *testing.T, test func(t *testing.T, s *env)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &env{t: t, began: time.Now(), registry: prometheus.NewRegistry(), running: map[string]int{}, most: map[string]int{},
			ends: map[string][]string{}, memory: map[int64]*webhook.Settings{}, stored: map[int64]*webhook.Settings{},
			owners: map[string]string{}, noDialTo: map[string]error{}, dead: map[string]webhook.Reason{}, answer: func(http.ResponseWriter, *http.Request) {}}
		s.lease = &lease{s: s}
		s.lease.ctx, s.lease.cancel = context.WithCancel(context.Background())
		for id := range int64(10) {
			s.memory[id] = settings(id)
		}
		s.memory[8] = &webhook.Settings{UserID: 8}
		pipes := make(peer.Pipes)
		go func() { _ = (&http.Server{Handler: s, ReadHeaderTimeout: time.Minute}).Serve(pipes) }()
		sending := sender.New(sender.Config{Timeout: 10 * time.Second, MaxInFlight: 40, Version: "test",
			Dial: func(ctx context.Context, _, address string) (net.Conn, error) {
				s.mu.Lock()
				err := cmp.Or(s.noDial, s.noDialTo[address])
				s.mu.Unlock()
				if err != nil {
					return nil, err
				}
				return pipes.Dial(ctx)
			}})
		s.Dispatcher = New(Config{Parallel: 3, MaxInFlight: 40, Timeout: 10 * time.Second, QueuePerEndpoint: 1024, Tiers: tiers}, Parts{
			Sender: sending, Policy: policy{s}, Forwarder: forwarder{s}, Settings: s, FirstClicks: s, Receipts: receipts{s}, Revocations: revocations{s}, DeliveryLog: attempts{s},
			Metrics: metrics.New(s.registry, metrics.Topics{}), Log: zap.NewNop(),
		})
		var ctx context.Context
		ctx, s.stop = context.WithCancel(context.Background())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			s.Run(ctx)
		}()
		defer func() {
			s.stop()
			<-ended
			s.lease.cancel()
			time.Sleep(time.Hour)
			sending.Close()
			close(pipes)
		}()
		test(t, s)
	})
}

// settings returns settings with all URLs, on a host that only this user has.
func settings(userID int64) *webhook.Settings {
	at := fmt.Sprintf("http://user%d/", userID)
	return webhook.NewSettings(userID, [4]string{at, at, at, at}, "user:pass")
}

// newEvent returns the event of a source record; its identity is kind/0/offset.
func (s *env) newEvent(kind webhook.Kind, offset, userID int64, sms string) *event.Event {
	value := fmt.Sprintf(`{"user_id":%d,"sms":{"id":%s}}`, userID, sms)
	if kind == webhook.RevokeClick {
		value = fmt.Sprintf(`{"user_id":%d,"api_sms_ids":[%s]}`, userID, sms)
	}
	return &event.Event{
		Record:   event.Record{Topic: kind.String(), Offset: offset, Key: strconv.AppendInt(nil, userID, 10), Value: []byte(value)},
		Delivery: event.Delivery{Kind: kind, ID: fmt.Sprint(kind, "/0/", offset), Time: time.Now(), Arrived: time.Now()},
		Lease:    s.lease,
	}
}

// dlrs returns events of different messages.
func (s *env) dlrs(from, n, userID int64) (events []*event.Event) {
	for i := range n {
		events = append(events, s.newEvent(webhook.DLR, from+i, userID, fmt.Sprint(from+i)))
	}
	return events
}

func (s *env) answers(answer func(http.ResponseWriter, *http.Request)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

func (s *env) redis(away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = away
}

func (s *env) rest(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// endOf returns how the event ended, or "" if it has not.
func (s *env) endOf(identity string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.ends[identity], ", ")
}

func (s *env) want(identity, end string) {
	s.t.Helper()
	if got := s.endOf(identity); got != end {
		s.t.Errorf("%s ended %q, want %q", identity, got, end)
	}
}

// counts returns the number of events by how they ended.
func (s *env) counts() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := map[string]int{}
	for _, ends := range s.ends {
		n[strings.Join(ends, ", ")]++
	}
	return n
}

func (s *env) seen() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}
