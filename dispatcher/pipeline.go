package dispatcher

import (
	"bytes"
	"errors"
	"slices"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/sender"
	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/lanes"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// stage examines an event. The zero verdict passes it on to the next stage.
type stage func(*Dispatcher, *event.Event) verdict

// The pipeline. Each list ends with a stage that never returns the zero verdict, except intake, which routing follows.
var (
	// intake is for each record that was polled or came due.
	intake = []stage{
		(*Dispatcher).decode,
		(*Dispatcher).checkKey,
		(*Dispatcher).collectRevocations,
		(*Dispatcher).filterBots,
	}
	// routing is for each decoded event, batches of revocations included.
	routing = slices.Concat([]stage{
		(*Dispatcher).countReturned,
		(*Dispatcher).dropReleased,
		(*Dispatcher).requireLookup,
	}, queueing)
	// queueing is for each event whose settings were looked up.
	queueing = []stage{
		(*Dispatcher).checkPaused,
		(*Dispatcher).enqueue,
	}
	// delivery is for each event that its lane has started.
	delivery = []stage{
		(*Dispatcher).acquireLease,
		(*Dispatcher).resolveEndpoint,
		(*Dispatcher).requireClaim,
		(*Dispatcher).checkPaused,
		(*Dispatcher).filterStatuses,
		(*Dispatcher).checkSuperseded,
		(*Dispatcher).checkWindow,
		(*Dispatcher).send,
	}
)

// verdict is the decision about how to continue with an event.
type verdict struct {
	kind       verdictKind
	fate       webhook.Fate // of settled
	tier       int8         // of overflowed; of retried: the step of the schedule
	unresolved bool         // the lookup failed; of overflowed: so the endpoint's backlog does not count
	why        string       // of dead: the reason; of invalid: what is wrong with the record
	call       lanes.Report // of the attempt, if one was made
}

type verdictKind uint8

const (
	proceed    verdictKind = iota // to the next stage
	taken                         // a queue owns the event now
	toLookup                      // to the lookup queue, and from there back to its lane
	delivered                     // the endpoint accepted it
	settled                       // nothing to do: the fate is the reason
	retried                       // to a retry topic
	overflowed                    // to an overflow topic
	paused                        // to a paused topic
	dead                          // to the dead letter topic
	invalid                       // to the dead letter topic, byte for byte
	abandoned                     // to the next owner of its partition
)

// The verdicts without a value.
var (
	queued  = verdict{kind: taken}
	lookup  = verdict{kind: toLookup}
	abandon = verdict{kind: abandoned}
)

func settle(fate webhook.Fate) verdict { return verdict{kind: settled, fate: fate} }

func deadLetter(reason webhook.Reason) verdict { return verdict{kind: dead, why: string(reason)} }

// becomes returns the fate of the event's record. v must end the event with one.
func (v verdict) becomes() webhook.Fate {
	switch v.kind {
	case delivered:
		return webhook.Delivered
	case settled:
		return v.fate
	case retried:
		return webhook.Retry
	case overflowed:
		return webhook.Overflow
	case paused:
		return webhook.Paused
	case dead, invalid:
		return webhook.Dead
	}
	panic("dispatcher: an event passed all stages without a verdict")
}

// run passes e through stages until one returns a verdict.
func (d *Dispatcher) run(stages []stage, e *event.Event) (v verdict) {
	for _, stage := range stages {
		if v = stage(d, e); v.kind != proceed {
			return v
		}
	}
	return v
}

// finish carries out v. It is the only place where an event leaves the dispatcher. The caller must not touch the
// event afterwards.
func (d *Dispatcher) finish(e *event.Event, v verdict) {
	switch {
	case v.kind == taken:
		return
	case v.kind == toLookup && d.lookups.add(e):
		return
	case v.kind == toLookup:
		v = d.overflowUnresolved(e)
	}
	if v.kind == abandoned || !e.Acquire() {
		e.Abandon()
		return
	}
	d.logOutcome(e, v)
	switch v.kind {
	case delivered:
		e.Settle(webhook.Delivered)
	case settled:
		e.Settle(v.fate)
	case retried:
		d.Forwarder.Retry(e, int(v.tier))
	case overflowed:
		d.backlog.added(backlogOf(e, v.unresolved), int(v.tier))
		d.Forwarder.Overflow(e, int(v.tier))
	case paused:
		d.Forwarder.Pause(e)
	case dead:
		d.Forwarder.Dead(e, webhook.Reason(v.why))
	case invalid:
		d.Forwarder.Invalid(e, v.why)
	}
}

// decode parses the record.
func (d *Dispatcher) decode(e *event.Event) verdict {
	if err := e.Decode(); err != nil {
		return verdict{kind: invalid, why: invalidText(err)}
	}
	if e.Kind != webhook.RevokeClick {
		e.MessageKey = e.Message.Key(e.Value) | 1 // 0 means no key
	}
	return verdict{}
}

// invalidText describes what is wrong with a record.
func invalidText(err error) string {
	if invalid, ok := errors.AsType[*webhook.InvalidError](err); ok {
		return invalid.Reason
	}
	return err.Error()
}

// checkKey reports records whose key is not the id of their user.
func (d *Dispatcher) checkKey(e *event.Event) verdict {
	var text [20]byte
	if !bytes.Equal(e.Key, strconv.AppendInt(text[:0], e.UserID, 10)) {
		d.Metrics.Miskeyed.Inc()
		d.Log.Warn("the key of a record is not its user_id: order and limits hold per process only",
			zap.String("id", e.Identity()), zap.String("record", e.SourcePosition()))
	}
	return verdict{}
}

// collectRevocations passes source records of revocations to the collector. They return as batches.
func (d *Dispatcher) collectRevocations(e *event.Event) verdict {
	if e.Kind != webhook.RevokeClick || e.Class != topics.Source {
		return verdict{}
	}
	if e.Batch.Count() == 0 {
		return settle(webhook.Batched)
	}
	d.Revocations.Add(e)
	return queued
}

// filterBots drops clicks of bots and of link previews.
func (d *Dispatcher) filterBots(e *event.Event) verdict {
	if e.Message.Bot || e.Message.Preview {
		return settle(webhook.Filtered)
	}
	return verdict{}
}

// countReturned subtracts an event that returned from an overflow topic from its endpoint's backlog.
func (d *Dispatcher) countReturned(e *event.Event) verdict {
	if e.Class == topics.Overflow && e.Tier != topics.NoTier {
		d.backlog.returned(endpointOf(e), int(e.Tier))
	}
	return verdict{}
}

// dropReleased ends a record that was left behind when its event was released.
func (d *Dispatcher) dropReleased(e *event.Event) verdict {
	if e.Released {
		return settle(webhook.Released)
	}
	return verdict{}
}

// requireLookup sends an event to the lookup queue if Redis must be asked about it, or if an earlier event of its
// endpoint is in that queue.
func (d *Dispatcher) requireLookup(e *event.Event) verdict {
	s, known := d.Settings.Lookup(e.UserID)
	if !known || needsClaim(e) && s.Endpoints[e.Kind] != nil || d.lookups.holds(endpointOf(e)) {
		return lookup
	}
	e.Endpoint = s.Endpoints[e.Kind]
	return verdict{}
}

// needsClaim reports whether e may be a later click of its message. A click that was attempted was the first, and so
// was one that comes from a paused topic: it was claimed before it was stored there.
func needsClaim(e *event.Event) bool {
	return e.Kind == webhook.Click && e.Attempts == 0 && !e.Claimed && e.Class != topics.Paused
}

// checkPaused stores an event whose endpoint is paused, so that it fills no lane. An event that returns while the
// endpoint is still paused is given up. Revocations, which have no window, are stored again.
func (d *Dispatcher) checkPaused(e *event.Event) verdict {
	if e.Endpoint == nil || !e.Endpoint.Paused {
		return verdict{}
	}
	if e.Class == topics.Paused && e.Kind.HasWindow() {
		return deadLetter(webhook.WindowExpired)
	}
	e.Due = d.Policy.PausedUntil(d.Now())
	return verdict{kind: paused}
}

// enqueue puts an event into the lane of its endpoint. It overflows at once if the lane is full, so that nothing
// waits for one endpoint.
func (d *Dispatcher) enqueue(e *event.Event) verdict {
	submit := d.lanes.Submit
	if e.Class != topics.Source {
		submit = d.lanes.SubmitDeferred
	}
	if !submit(endpointOf(e), e.MessageKey, e) {
		return d.overflow(e)
	}
	return queued
}

// attempt runs the delivery stages. A lane calls it when it starts e, and frees the slot when it returns.
func (d *Dispatcher) attempt(e *event.Event) lanes.Report {
	v := d.run(delivery, e)
	timedOut := v.call.Called && !v.call.OK && e.Failure == webhook.Timeout
	from := endpointOf(e)
	d.finish(e, v)
	if v.kind == toLookup && v.unresolved { // those behind it must not overtake it
		for _, behind := range d.lanes.Purge(func(e *event.Event) bool { return endpointOf(e) == from }) {
			d.finish(behind, lookup)
		}
	}
	if timedOut {
		// The slot stays taken until the endpoint has seen the request end, so that it never sees more than its limit.
		time.Sleep(afterTimeout)
	}
	return v.call
}

func (d *Dispatcher) acquireLease(e *event.Event) verdict {
	if !e.Acquire() {
		return abandon
	}
	return verdict{}
}

// resolveEndpoint looks up the current URL. A user that was evicted from memory since routing is loaded while
// the event keeps its slot, which holds back later events of the message.
func (d *Dispatcher) resolveEndpoint(e *event.Event) verdict {
	settings, known := d.Settings.Lookup(e.UserID)
	if !known && d.Settings.Load(e.Context(), []int64{e.UserID}) == nil {
		settings, known = d.Settings.Lookup(e.UserID)
	}
	if !known {
		return verdict{kind: toLookup, unresolved: true}
	}
	if e.Endpoint = settings.Endpoints[e.Kind]; e.Endpoint == nil {
		return settle(webhook.NotConfigured)
	}
	return verdict{}
}

// filterStatuses drops receipts with a status that the user did not select.
func (d *Dispatcher) filterStatuses(e *event.Event) verdict {
	if e.Kind == webhook.DLR && !e.Message.HasStatus(e.Value, e.Endpoint.Statuses) {
		return settle(webhook.Filtered)
	}
	return verdict{}
}

// requireClaim sends a click back to the lookup queue if its URL was set after routing, so that it is not claimed yet.
func (d *Dispatcher) requireClaim(e *event.Event) verdict {
	if needsClaim(e) {
		return lookup
	}
	return verdict{}
}

// checkSuperseded ends a receipt if a later one of its message was delivered while it was delayed. A replayed event is
// still sent: somebody asked for it.
func (d *Dispatcher) checkSuperseded(e *event.Event) verdict {
	if e.Endpoint.Latest && e.Class != topics.Source && !e.IsReplay() && d.Receipts.Superseded(e) {
		return settle(webhook.Superseded)
	}
	return verdict{}
}

// checkWindow gives up an event whose window has closed.
func (d *Dispatcher) checkWindow(e *event.Event) verdict {
	e.Started = d.Now()
	if reason := d.Policy.MayAttempt(e, e.Started); reason != "" {
		return deadLetter(reason)
	}
	return verdict{}
}

// request is one request of an attempt.
type request struct {
	to      *webhook.Endpoint
	started time.Time
	after   webhook.Failure // of the first request, if this one is to the failover URL; else ""
	sender.Outcome
}

// send makes the attempt: a request to the URL, and if it fails, one to the failover URL.
func (d *Dispatcher) send(e *event.Event) verdict {
	first := request{to: e.Endpoint, started: e.Started}
	d.call(e, &first)
	switch {
	case first.Aborted:
		return abandon
	case first.Local != "": // this process lacked a resource: not an attempt
		return d.overflowTo(e, 0, false)
	case first.Failure == "" || e.Endpoint.Failover == nil:
		return d.conclude(e, first)
	}
	if first.Failure == webhook.Timeout {
		time.Sleep(afterTimeout) // both requests have one slot, and may be to the same server
	}
	second := request{to: e.Endpoint.Failover, started: d.Now(), after: first.Failure}
	d.call(e, &second)
	switch {
	case second.Aborted: // the next owner makes both requests again, under the same number
		return abandon
	case second.Local != "": // the first request was made, so the attempt was
		return d.conclude(e, first)
	}
	d.Metrics.Failover(e.Kind, second.Failure.Result())
	return d.conclude(e, first, second)
}

// call makes a request.
func (d *Dispatcher) call(e *event.Event, r *request) {
	r.Outcome = d.Sender.Send(e.Context(), sender.Request{
		Kind: e.Kind, Endpoint: r.to, ID: e.Identity(), Attempt: e.Attempts + 1, Time: r.started, EventTime: e.Time,
		Failover: r.after, Body: (*body)(e),
	})
	switch {
	case r.Aborted:
	case r.Local != "":
		d.Metrics.LocalError(r.Local)
		d.exhausted.Fail(errors.New(r.Local))
	default:
		d.exhausted.Recover()
	}
}

// conclude counts a finished attempt and returns what follows from it. Its last request decides.
func (d *Dispatcher) conclude(e *event.Event, requests ...request) verdict {
	if e.Attempts == 0 && e.Class == topics.Source { // earlier delays are those of a slow or paused endpoint
		d.Metrics.FirstAttempt(e.Kind, requests[0].started.Sub(e.Time))
	}
	e.Attempts++
	out := requests[len(requests)-1].Outcome
	call := lanes.Report{OK: out.Failure == "", Called: true}
	for i := range requests {
		call.Took += requests[i].Took
	}
	d.Metrics.Attempt(e.Kind, out.Failure.Result(), call.Took)
	v := d.judge(e, out.Failure, call.Took)
	v.call = call
	d.logAttempt(e, requests, v)
	if d.Endpoints != nil {
		d.Endpoints.Attempted(e, out.Failure)
	}
	return v
}

// judge returns the verdict after an attempt with this failure, or a success.
func (d *Dispatcher) judge(e *event.Event, failure webhook.Failure, took time.Duration) verdict {
	now := d.Now()
	if failure == "" {
		d.Metrics.Delivered(e.Kind, now.Sub(e.WindowStart()))
		if e.Endpoint.Latest { // before the slot is free for an earlier receipt of the message
			d.Receipts.Delivered(e)
		}
		return verdict{kind: delivered}
	}
	e.Failure = failure
	if line := d.Log.Check(zap.InfoLevel, "attempt failed"); line != nil {
		line.Write(zap.String("id", e.Identity()), zap.String("record", e.SourcePosition()),
			zap.Int64("user_id", e.UserID), zap.Int("attempt", e.Attempts), zap.String("failure", string(failure)),
			zap.Duration("took", took))
	}
	reason, step, due := d.Policy.AfterFailure(e, now)
	if reason != "" {
		return deadLetter(reason)
	}
	e.Due = due
	return verdict{kind: retried, tier: int8(step)}
}

// logAttempt writes the requests of a finished attempt to the delivery log and to the event's trace.
func (d *Dispatcher) logAttempt(e *event.Event, requests []request, v verdict) {
	if d.DeliveryLog == nil && e.Trace == nil {
		return
	}
	for i := range requests {
		r := &requests[i]
		a := e.NewLogEntry(v.becomes())
		a.Number, a.Time, a.Host, a.Failover = e.Attempts, r.started, r.to.Host, r.after != ""
		a.Status, a.Failure, a.Took, a.Reply = r.Status, r.Failure, r.Took, r.Reply
		if d.DeliveryLog != nil {
			d.DeliveryLog.Add(a)
		}
		if e.Trace != nil {
			e.Trace.Attempt(a)
		}
	}
}

// logOutcome writes to the delivery log what became of an event without another attempt: that it is delayed, or how it
// has ended. It leaves out events that are settled at their source, and records that were left behind by a release.
func (d *Dispatcher) logOutcome(e *event.Event, v verdict) {
	fate := v.becomes()
	switch {
	case d.DeliveryLog == nil, v.call.Called, v.kind == invalid, fate == webhook.Released,
		v.kind == settled && e.Class == topics.Source:
		return
	}
	a := e.NewLogEntry(fate)
	a.Time = d.Now()
	if e.Attempts == 0 || fate.Stored() {
		d.DeliveryLog.Note(a)
	} else {
		d.DeliveryLog.Add(a)
	}
}

// overflow returns the verdict for an event that its lane has no room or no time for.
func (d *Dispatcher) overflow(e *event.Event) verdict {
	rate := d.lanes.Rate(endpointOf(e))
	if rate == 0 {
		rate = guessedRate
	}
	return d.overflowTo(e, d.backlog.choose(backlogOf(e, false), rate), false)
}

// overflowUnresolved returns the verdict for an event that could not be looked up.
func (d *Dispatcher) overflowUnresolved(e *event.Event) verdict {
	return d.overflowTo(e, d.backlog.choose(backlogOf(e, true), lookupRate), true)
}

// overflowTo returns the verdict for an event that goes to tier, or to a shorter one if its window ends before.
func (d *Dispatcher) overflowTo(e *event.Event, tier int, unresolved bool) verdict {
	reason, tier, due := d.Policy.Overflow(e, tier, d.Now())
	if reason != "" {
		return deadLetter(reason)
	}
	e.Due = due
	return verdict{kind: overflowed, tier: int8(tier), unresolved: unresolved}
}

// onRevoke returns the verdict for a buffered event whose partition is being revoked: the next owner gets it. Only a
// batch whose siblings are in progress can still be acquired. It is stored, because they would be repeated with it.
func (d *Dispatcher) onRevoke(e *event.Event) verdict {
	batch := e.Kind == webhook.RevokeClick && e.Class == topics.Source
	if !batch || e.Lease.State() == event.Revoked {
		return abandon
	}
	return d.overflow(e)
}

// body is an event as the body of its request.
type body event.Event

// AppendBody implements sender.Body.
func (e *body) AppendBody(dst []byte) []byte {
	if e.Kind == webhook.RevokeClick {
		return e.Batch.AppendBody(dst)
	}
	return e.Message.AppendBody(dst, e.Value)
}
