// Package dispatcher processes events: it looks settings up, sends, and chooses the fate.
//
// pipeline.go has the stages of an event in the order in which it passes them, and finish, the one place where it
// ends. Between the stages an event is in the lookup queue while Redis is asked about it, or in the lane of its
// endpoint until it may be sent. A revocation record is in the collector until it is sent with others as a batch.
package dispatcher

import (
	"context"
	"runtime"
	"time"

	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/metrics"
	"github.com/smshooks/smshooks/internal/outage"
	"github.com/smshooks/smshooks/internal/sender"
	"github.com/smshooks/smshooks/pkg/lanes"
	"github.com/smshooks/smshooks/pkg/webhook"
)

const (
	// afterTimeout is how long a slot stays taken, or the call of the failover URL waits, after a request timed out.
	afterTimeout = 50 * time.Millisecond
	// maxWait is how long an event is buffered before it goes to an overflow topic.
	maxWait = 15 * time.Second
	// overdueInterval is the interval of the search for events that were buffered for too long.
	overdueInterval = 250 * time.Millisecond
	// quietInterval is that interval while nothing is queued.
	quietInterval = time.Second
	// maxUnhealthy bounds the buffered events of endpoints that are not healthy. It leaves most of the buffer to
	// others.
	maxUnhealthy = 8_000
	// A request needs a processor in its first 2 ms and waits for the network afterwards. Starting more than
	// burstPerCPU of them within burstWindow finishes none sooner: they evict each other's connections from the
	// processor's caches (docs/adr/0006).
	burstPerCPU = 32
	burstWindow = 2 * time.Millisecond
	// The dispatcher is behind if more healthy endpoints than maxReadyEndpoints have an event that could start, or if
	// more events than maxReadyEvents of endpoints that answer at once could. Endpoints that were never called count as
	// healthy while first calls succeed, and their events count while no first call takes long. Slow endpoints do not
	// count: their backlog must not delay the others. Events that wait for Redis while it does not answer do not count
	// either.
	maxReadyEndpoints = 256
	maxReadyEvents    = 512
)

// firstCalls is the number of slots reserved for first calls of endpoints: an eighth, or a quarter where that is little
// (docs/adr/0002).
func firstCalls(maxInFlight int) int { return max(maxInFlight/8, min(maxInFlight/4, 64)) }

// Policy is the timing of attempts.
type Policy interface {
	// MayAttempt returns "" if an attempt may start at now, else why the event is dead.
	MayAttempt(e *event.Event, now time.Time) webhook.Reason
	// AfterFailure returns what follows a failed attempt that ended at now, which e.Attempts counts already: why the
	// event is dead, or the step of the schedule and when the next attempt is due.
	AfterFailure(e *event.Event, now time.Time) (dead webhook.Reason, step int, due time.Time)
	// Overflow returns the overflow tier for an event and when it is due: the wanted tier, or the longest shorter one that
	// ends within the event's window. If not even the shortest does, it returns why the event is dead.
	Overflow(e *event.Event, want int, now time.Time) (dead webhook.Reason, tier int, due time.Time)
	// PausedUntil returns until when an event of a paused endpoint is held back if it is stored at now.
	PausedUntil(now time.Time) time.Time
}

// Forwarder stores acquired events in other topics. It settles an event once its record is stored.
type Forwarder interface {
	// Retry stores e in the retry topic of a step of the schedule, until e.Due.
	Retry(e *event.Event, step int)
	// Overflow stores e in the overflow topic of a tier, until e.Due.
	Overflow(e *event.Event, tier int)
	// Pause stores e in the paused topic of its kind, until e.Due.
	Pause(e *event.Event)
	// Dead stores e as a dead letter.
	Dead(e *event.Event, reason webhook.Reason)
	// Invalid stores a record that cannot be decoded as a dead letter. what describes what is wrong with it.
	Invalid(e *event.Event, what string)
}

// Settings are the users' webhook settings.
type Settings interface {
	// Lookup returns the settings from memory. It returns false if the user must be loaded.
	Lookup(userID int64) (*webhook.Settings, bool)
	// Load reads users into memory. After an error some of them may still have to be loaded.
	Load(ctx context.Context, userIDs []int64) error
}

// FirstClicks remembers the first click of each message.
type FirstClicks interface {
	// Claim sets first[i] if clicks[i] is the first click of its message. It may be repeated.
	Claim(ctx context.Context, clicks []*event.Event, first []bool) error
}

// Revocations collects revocation records until they are sent as batches.
type Revocations interface {
	// Add takes ownership of a source record.
	Add(e *event.Event)
	// Purge abandons the records whose partition is being revoked.
	Purge()
}

// DeliveryLog receives every finished attempt, and the states of events without one. It must not block.
type DeliveryLog interface {
	// Add receives an attempt, or the end of an event that was attempted.
	Add(event.LogEntry)
	// Note receives that an event is delayed, or the end of one that was never attempted.
	Note(event.LogEntry)
}

// Receipts remembers which receipt of each message was delivered last, for users who want the latest one only.
type Receipts interface {
	// Delivered stores that receipt e was delivered. It waits until that is stored, for a moment at most.
	Delivered(e *event.Event)
	// Superseded reports whether a later receipt of e's message was delivered; false if that is not known.
	Superseded(e *event.Event) bool
}

// Endpoints receives the result of every attempt. It must not block or keep the event.
type Endpoints interface {
	// Attempted receives the failure of an attempt at e, "" if it succeeded.
	Attempted(e *event.Event, failure webhook.Failure)
}

// Config of a Dispatcher. There are no defaults.
type Config struct {
	Parallel         int             // requests to one endpoint at a time
	MaxInFlight      int             // requests at a time
	Timeout          time.Duration   // of one request
	QueuePerEndpoint int             // events
	Tiers            []time.Duration // delays of the overflow topics, ascending
}

// Parts are the collaborators of a Dispatcher.
type Parts struct {
	Sender      *sender.Sender
	Policy      Policy
	Forwarder   Forwarder
	Settings    Settings
	FirstClicks FirstClicks
	Receipts    Receipts
	Revocations Revocations
	DeliveryLog DeliveryLog // nil = attempts are not logged
	Endpoints   Endpoints   // nil = failing endpoints are not tracked
	Metrics     *metrics.Metrics
	Log         *zap.Logger
	Now         func() time.Time // the time of day; nil = time.Now
}

type endpoint struct {
	userID int64
	kind   webhook.Kind
}

func endpointOf(e *event.Event) endpoint { return endpoint{e.UserID, e.Kind} }

// Dispatcher takes events from the consumer and ends each with a fate.
type Dispatcher struct {
	Parts
	lanes   *lanes.Lanes[endpoint, *event.Event]
	lookups *lookupQueue
	backlog *backlog

	noFirstClicks, noSettings, exhausted *outage.Outage
}

// New returns a Dispatcher. Lookups and overflow need Run to be running.
func New(cfg Config, parts Parts) *Dispatcher {
	if parts.Now == nil {
		parts.Now = time.Now
	}
	d := &Dispatcher{
		Parts: parts, lookups: newLookupQueue(), backlog: newBacklog(cfg.Tiers),
		noFirstClicks: outage.New(parts.Log, "first-click lookup failed; clicks are queued",
			"first-click lookup works again"),
		noSettings: outage.New(parts.Log, "settings lookup failed; events of unknown users are queued",
			"settings lookup works again"),
		exhausted: outage.New(parts.Log, "out of descriptors, ports or memory; events overflow without an attempt",
			"requests can be made again"),
	}
	d.lanes = lanes.New[endpoint](lanes.Config{
		Parallel: cfg.Parallel, MaxRunning: cfg.MaxInFlight, HealthySlots: cfg.MaxInFlight / 4,
		FirstCallSlots: firstCalls(cfg.MaxInFlight), MaxUnhealthyQueue: maxUnhealthy,
		MaxQueue: cfg.QueuePerEndpoint, MaxWait: maxWait,
		Burst: burstPerCPU * runtime.GOMAXPROCS(0), BurstWindow: burstWindow,
	}, d.attempt)
	d.lanes.Pace(func(e *event.Event) time.Duration {
		if e.Endpoint != nil && e.Endpoint.Failover != nil {
			return 2 * (cfg.Timeout + afterTimeout)
		}
		return cfg.Timeout + afterTimeout
	})
	parts.Metrics.Read(metrics.InFlight, func() float64 { return float64(d.lanes.Running()) })
	return d
}

// Run works through the lookup queue and finds overdue events until ctx ends.
func (d *Dispatcher) Run(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.runLookups(ctx)
	}()
	overdue := time.NewTicker(overdueInterval)
	defer overdue.Stop()
	forget := time.NewTicker(time.Minute)
	defer forget.Stop()
	for {
		select {
		case <-ctx.Done():
			<-done
			d.lanes.Close()
			return
		case now := <-forget.C:
			d.backlog.forget(now)
		case now := <-overdue.C:
			for _, e := range d.lanes.Overdue(now) {
				d.finish(e, d.overflow(e))
			}
			if d.lanes.Queued() {
				overdue.Reset(overdueInterval)
			} else {
				overdue.Reset(quietInterval)
			}
		}
	}
}

// Handle takes ownership of records that were polled or came due. It never waits for an endpoint.
func (d *Dispatcher) Handle(events []*event.Event) {
	for _, e := range events {
		v := d.run(intake, e)
		if v.kind == proceed {
			v = d.run(routing, e)
		}
		d.finish(e, v)
	}
}

// Submit takes ownership of decoded events: batches of revocations.
func (d *Dispatcher) Submit(events []*event.Event) {
	for _, e := range events {
		d.finish(e, d.run(routing, e))
	}
}

// Purge ends the buffered events whose partition is being revoked.
func (d *Dispatcher) Purge() {
	for _, e := range append(d.lanes.Purge(revoked), d.lookups.purge(revoked)...) {
		d.finish(e, d.onRevoke(e))
	}
	d.Revocations.Purge()
}

// revoked reports whether e must end because its partition is being revoked.
func revoked(e *event.Event) bool { return e.Lease.State() != event.Held }

// Behind reports whether so many events could start at once, or be looked up, that more would only be buffered, or
// overflow.
func (d *Dispatcher) Behind() bool {
	endpoints, events := d.lanes.Ready()
	return d.lookups.behind() || endpoints > maxReadyEndpoints || events > maxReadyEvents
}
