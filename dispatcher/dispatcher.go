// Package dispatcher settles events: looks the settings up, sends, decides the fate.
//
// The road of an event: Handle reads it (unreadable: dead letter), waits in prepare if Redis must be asked first (an
// unknown user, a click that may not be its message's first), then in its endpoint's lane, and attempt makes the
// request. Every event ends in one place: settled (delivered, or nothing to be done), or handed to Waiting, which
// settles it once it is stored.
package dispatcher

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/metrics"
	"github.com/smshooks/smshooks/internal/outage"
	"github.com/smshooks/smshooks/internal/sender"
	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/lanes"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// afterTimeout is how long a slot stays taken after its request was cut off.
const afterTimeout = 50 * time.Millisecond

// patience is how long an event waits in memory before it goes to an overflow topic.
const patience = 15 * time.Second

// Requests in their first 2 ms keep a processor busy, those that are older wait for the network. More young ones than
// this do not get done sooner: they push each other's connections out of the caches (docs/adr/0006).
const (
	burstPerCPU = 32
	pace        = 2 * time.Millisecond

	// How many endpoints that work and have an event to begin, and how many events of endpoints that answer at once, are
	// enough at hand. Endpoints that take their time do not count: a backlog of theirs must not hold up the others.
	endpointsEnough = 256
	eventsEnough    = 512
)

// doubtfulMost is how many events of endpoints that are not known to work may wait in memory. It leaves the larger part
// of what may be buffered to the others.
const doubtfulMost = 8_000

// firstCalls is how many of the requests in flight are kept for the first calls of endpoints: an eighth, and a quarter
// where that is little (docs/adr/0002).
func firstCalls(maxInFlight int) int { return max(maxInFlight/8, min(maxInFlight/4, 64)) }

// lookEvery is how often the dispatcher looks for events that have waited too long.
const lookEvery = 250 * time.Millisecond

// Policy is the timing of attempts.
type Policy interface {
	// MayAttempt tells whether an attempt may start now: "" yes, else why the event is dead.
	MayAttempt(e *event.Event, now time.Time) webhook.Reason
}

// Waiting stores events in the topics that wait, and settles them once they are stored.
type Waiting interface {
	Retry(e *event.Event, now time.Time)
	Overflow(e *event.Event, tier int, now time.Time) int
	Dead(e *event.Event, reason webhook.Reason)
	Invalid(e *event.Event, what string)
}

// Settings are the users' webhook settings.
type Settings interface {
	// Lookup answers from memory; false: not known there, ask Load.
	Lookup(userID int64) (*webhook.Settings, bool)
	// Load makes Lookup know the users. An error says nothing about them: try again.
	Load(ctx context.Context, userIDs []int64) error
}

// Clicks is the memory of first clicks.
type Clicks interface {
	// Claim sets first[i] if clicks[i] is its message's first. It may be repeated.
	Claim(ctx context.Context, clicks []*event.Event, first []bool) error
}

// Batches collects revocations until they are sent.
type Batches interface {
	// Add takes the source record e over.
	Add(e *event.Event)
	// Purge abandons the records whose partition is given away.
	Purge()
}

// Attempts is told of every attempt that was made. It must not block.
type Attempts interface{ Add(event.Attempt) }

// Config of a Dispatcher.
type Config struct {
	Parallel         int
	MaxInFlight      int
	Timeout          time.Duration // of one request
	QueuePerEndpoint int
	Tiers            []time.Duration // overflow delays, ascending
}

// Parts are what a Dispatcher works with.
type Parts struct {
	Sender   *sender.Sender
	Policy   Policy
	Waiting  Waiting
	Settings Settings
	Clicks   Clicks
	Batches  Batches
	Attempts Attempts // may be nil
	Metrics  *metrics.Metrics
	Log      *zap.Logger
	Now      func() time.Time // the time of day; nil = time.Now
}

type endpoint struct {
	userID int64
	kind   webhook.Kind
}

// Dispatcher settles events.
type Dispatcher struct {
	Parts
	lanes   *lanes.Lanes[endpoint, *event.Event]
	prepare *prepare
	backlog *backlog

	noClicks, noSettings, exhausted *outage.Outage
}

// New gives a Dispatcher; Run must be running for events to get past what waits.
func New(cfg Config, parts Parts) *Dispatcher {
	if parts.Now == nil {
		parts.Now = time.Now
	}
	d := &Dispatcher{
		Parts: parts, prepare: newPrepare(), backlog: newBacklog(cfg.Tiers),
		noClicks:   outage.New(parts.Log, "cannot ask for first clicks, they wait", "first clicks can be asked for again"),
		noSettings: outage.New(parts.Log, "cannot look settings up, events of unknown users wait", "settings can be looked up again"),
		exhausted: outage.New(parts.Log, "out of descriptors, ports or memory: requests are put off and not counted as attempts",
			"requests can be made again"),
	}
	d.lanes = lanes.New[endpoint](lanes.Config{
		Parallel: cfg.Parallel, MaxRunning: cfg.MaxInFlight, HealthySlots: cfg.MaxInFlight / 4,
		FirstCallSlots: firstCalls(cfg.MaxInFlight), MaxCall: cfg.Timeout + afterTimeout, MaxUnhealthyQueue: doubtfulMost,
		MaxQueue: cfg.QueuePerEndpoint, MaxWait: patience,
		Burst: burstPerCPU * runtime.GOMAXPROCS(0), BurstWindow: pace,
	}, d.attempt)
	parts.Metrics.Read(metrics.InFlight, func() float64 { return float64(d.lanes.Running()) })
	return d
}

// Run looks after what waits, until ctx ends.
func (d *Dispatcher) Run(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.runPrepare(ctx)
	}()
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	rarely := time.NewTicker(time.Minute)
	defer rarely.Stop()
	for {
		select {
		case <-ctx.Done():
			<-done
			d.lanes.Close()
			return
		case now := <-rarely.C:
			d.backlog.forget(now)
		case now := <-ticker.C:
			for _, e := range d.lanes.Overdue(now) {
				d.spill(e)
			}
		}
	}
}

// Handle takes events over and sends each on its road.
func (d *Dispatcher) Handle(events []*event.Event) {
	ready := make([]*event.Event, 0, len(events))
	for _, e := range events {
		if err := decode(e); err != nil {
			d.Waiting.Invalid(e, invalidText(err))
			continue
		}
		if !keyed(e) {
			d.Metrics.Miskeyed.Inc()
			d.Log.Warn("a record's key is not its user_id: the limits hold per process only", zap.String("id", e.Identity()), zap.String("record", e.SourcePosition()))
		}
		switch {
		case e.Kind == webhook.RevokeClick && e.Class == topics.Source:
			d.Batches.Add(e)
		case e.Message.Bot || e.Message.Preview:
			d.settle(e, webhook.Filtered)
		default:
			ready = append(ready, e)
		}
	}
	d.Submit(ready)
}

// Submit sends decoded events to their endpoints' lanes, by way of prepare where Redis must be asked first.
func (d *Dispatcher) Submit(events []*event.Event) {
	now := events[:0:len(events)]
	for _, e := range events {
		if e.Class == topics.Overflow {
			d.backlog.returned(endpoint{e.UserID, e.Kind}, int(e.Tier))
		}
		if d.needsRedis(e) || d.prepare.holds(endpoint{e.UserID, e.Kind}) {
			d.toPrepare(e)
			continue
		}
		now = append(now, e)
	}
	d.toLanes(now)
}

// Purge ends the buffered events whose partition is being revoked.
func (d *Dispatcher) Purge() {
	for _, e := range append(d.lanes.Purge(revoked), d.prepare.purge(revoked)...) {
		d.spill(e)
	}
	d.Batches.Purge()
}

// revoked reports whether e must end because its partition is being revoked.
func revoked(e *event.Event) bool { return e.Lease.State() != event.Held }

// Behind tells whether endpoints that work have so much at hand that more would only lie about, or overflow.
func (d *Dispatcher) Behind() bool {
	endpoints, events := d.lanes.Ready()
	return endpoints > endpointsEnough || events > eventsEnough
}

// needsRedis: the user is not in memory, or the click may not be the first of its message.
func (d *Dispatcher) needsRedis(e *event.Event) bool {
	s, known := d.Settings.Lookup(e.UserID)
	return !known || needsClaim(e) && s.Endpoints[e.Kind] != nil
}

// needsClaim: a click that was attempted before has been found to be the first then.
func needsClaim(e *event.Event) bool {
	return e.Kind == webhook.Click && e.Attempts == 0 && !e.Claimed
}

// attempt makes one HTTP attempt and decides what becomes of the event.
func (d *Dispatcher) attempt(e *event.Event) lanes.Report {
	if !e.Acquire() {
		e.Abandon()
		return lanes.Report{}
	}
	settings, known := d.Settings.Lookup(e.UserID)
	if !known { // pushed out of memory meanwhile; asked for in its slot, which holds back later events of the message
		if d.Settings.Load(e.Context(), []int64{e.UserID}) == nil {
			settings, known = d.Settings.Lookup(e.UserID)
		}
	}
	if !known {
		d.toPrepare(e)
		return lanes.Report{}
	}
	to := settings.Endpoints[e.Kind]
	if to == nil {
		d.settle(e, webhook.NotConfigured)
		return lanes.Report{}
	}
	if needsClaim(e) { // its URL was set while it was on its way
		d.toPrepare(e)
		return lanes.Report{}
	}
	now := d.Now()
	if dead := d.Policy.MayAttempt(e, now); dead != "" {
		d.Waiting.Dead(e, dead)
		return lanes.Report{}
	}
	out := d.Sender.Send(e.Context(), sender.Request{Kind: e.Kind, Endpoint: to, ID: e.Identity(), Attempt: e.Attempts + 1, Time: now, Body: (*body)(e)})
	if out.Aborted {
		e.Abandon()
		return lanes.Report{}
	}
	if out.Local != "" {
		d.putOff(e, out.Local)
		return lanes.Report{}
	}
	d.exhausted.Recover()
	d.conclude(e, to, now, out)
	if out.Failure == webhook.Timeout {
		// The slot is kept until the endpoint has seen the old request end: it must not see more than it is due.
		time.Sleep(afterTimeout)
	}
	return lanes.Report{Took: out.Took, OK: out.Failure == "", Called: true}
}

// putOff stores an event for which this process lacked the means, in the nearest overflow tier. It is not an attempt.
func (d *Dispatcher) putOff(e *event.Event, lack string) {
	d.Metrics.LocalError(lack)
	d.exhausted.Fail(errors.New(lack))
	d.overflow(e, endpointOf(e), 0)
}

// conclude counts an attempt that was made.
func (d *Dispatcher) conclude(e *event.Event, to *webhook.Endpoint, started time.Time, out sender.Outcome) {
	e.Attempts++
	if d.Attempts != nil || e.Trace != nil {
		a := event.Attempt{UserID: e.UserID, Kind: e.Kind, ID: e.Identity(), Number: e.Attempts, Time: started, Status: out.Status, Failure: out.Failure, Host: to.Host, Took: out.Took}
		if d.Attempts != nil {
			d.Attempts.Add(a)
		}
		if e.Trace != nil {
			e.Trace.Attempt(a)
		}
	}
	d.Metrics.Attempt(e.Kind, out.Failure.Result(), out.Took)
	now := d.Now()
	if out.Failure == "" {
		d.Metrics.Delivered(e.Kind, now.Sub(e.Time))
		e.Settle(webhook.Delivered)
		return
	}
	e.Failure = out.Failure
	d.Log.Info("attempt failed", zap.String("id", e.Identity()), zap.String("record", e.SourcePosition()), zap.Int64("user_id", e.UserID),
		zap.Int("attempt", e.Attempts), zap.String("failure", string(out.Failure)), zap.Duration("took", out.Took))
	d.Waiting.Retry(e, now)
}

// settle ends an event for which nothing more is to be done.
func (d *Dispatcher) settle(e *event.Event, fate webhook.Fate) {
	if !e.Acquire() {
		e.Abandon()
		return
	}
	e.Settle(fate)
}

func decode(e *event.Event) error {
	if e.Kind == webhook.RevokeClick {
		if err := webhook.DecodeRevocation(e.Value, &e.Batch); err != nil {
			return err
		}
		e.UserID = e.Batch.UserID
		return nil
	}
	if err := webhook.Decode(e.Kind, e.Value, &e.Message); err != nil {
		return err
	}
	e.UserID = e.Message.UserID
	e.MessageKey = e.Message.Key(e.Value) | 1 // 0 is no key
	return nil
}

// invalidText says what is wrong with a record.
func invalidText(err error) string {
	var invalid *webhook.InvalidError
	if errors.As(err, &invalid) {
		return invalid.Reason
	}
	return err.Error()
}

// keyed: the record's key is its user's id.
func keyed(e *event.Event) bool {
	var text [20]byte
	return bytes.Equal(e.Key, strconv.AppendInt(text[:0], e.UserID, 10))
}

// body is an event as the Body of its request.
type body event.Event

// AppendBody implements Body.
func (e *body) AppendBody(dst []byte) []byte {
	if e.Kind == webhook.RevokeClick {
		return e.Batch.AppendBody(dst)
	}
	return e.Message.AppendBody(dst, e.Value)
}
