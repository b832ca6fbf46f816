package webhook

import (
	"strconv"
	"strings"
)

// Fate is how a record ended. Every consumed record gets exactly one.
type Fate uint8

// The fates.
const (
	Delivered     Fate = iota // the endpoint accepted it
	Retry                     // stored in a retry topic after a failed attempt
	Overflow                  // stored in an overflow topic without an attempt
	Dead                      // stored in the dead letter topic
	NotConfigured             // the user has no URL for the kind
	Filtered                  // a click by a bot or a preview
	Duplicate                 // not the first click on the message
	Batched                   // a revocation record whose batch is settled
	Paused                    // stored in a paused topic, because its user has paused the endpoint
	Released                  // left behind in a delay topic: a copy of the record is sent instead
	Superseded                // a receipt that waited while a later one of its message was delivered
)

// NumFates is the number of fates, for arrays that are indexed by fate.
const NumFates = 11

// String returns the name of the fate in metrics.
func (f Fate) String() string {
	switch f {
	case Delivered:
		return "delivered"
	case Retry:
		return "retry"
	case Overflow:
		return "overflow"
	case Dead:
		return "dead"
	case NotConfigured:
		return "not_configured"
	case Filtered:
		return "filtered"
	case Duplicate:
		return "duplicate"
	case Batched:
		return "batched"
	case Paused:
		return "paused"
	case Released:
		return "released"
	case Superseded:
		return "superseded"
	}
	return "unknown"
}

// Fates returns all fates in their order.
func Fates() [NumFates]Fate {
	return [NumFates]Fate{Delivered, Retry, Overflow, Dead, NotConfigured, Filtered, Duplicate, Batched, Paused, Released,
		Superseded}
}

// Stored reports whether another record of the event is in a delay topic: its event continues.
func (f Fate) Stored() bool { return f == Retry || f == Overflow || f == Paused || f == Released }

// State returns the state of an event whose latest record has this fate, in the words that customers read.
func (f Fate) State() string {
	switch f {
	case Retry, Overflow:
		return "waiting"
	default:
		return f.String()
	}
}

// Failure is why an attempt failed: one of the constants below or the result of [HTTPFailure]. "" means success.
type Failure string

// The failures that are not an HTTP status.
const (
	Timeout           Failure = "timeout"
	ConnectionRefused Failure = "connection refused"
	ConnectionReset   Failure = "connection reset"
	DNS               Failure = "dns"
	TLS               Failure = "tls"
	BlockedAddress    Failure = "blocked address"
	Network           Failure = "network"
)

const httpPrefix = "http "

// HTTPFailure returns the failure for a reply with a status that is not a success, such as "http 503".
func HTTPFailure(status int) Failure {
	return Failure(httpPrefix + strconv.Itoa(status))
}

// Result returns the class of the failure, as shown in metrics and in the list of deliveries.
func (f Failure) Result() Result {
	switch {
	case f == "":
		return OK
	case strings.HasPrefix(string(f), httpPrefix):
		return Failed
	case f == Timeout:
		return TimedOut
	case f == BlockedAddress:
		return Blocked
	}
	return Errored
}

// Result is the class of an attempt's outcome.
type Result uint8

// The results.
const (
	OK       Result = iota // a success status
	Failed                 // another status
	TimedOut               // no complete reply in time
	Errored                // no reply
	Blocked                // the address policy refused the dial
)

// NumResults is the number of results, for arrays that are indexed by result.
const NumResults = 5

// String returns the name of the result in metrics.
func (r Result) String() string {
	switch r {
	case OK:
		return "ok"
	case Failed:
		return "failed"
	case TimedOut:
		return "timeout"
	case Errored:
		return "error"
	case Blocked:
		return "blocked"
	}
	return "unknown"
}

// Results returns all results in their order.
func Results() [NumResults]Result { return [NumResults]Result{OK, Failed, TimedOut, Errored, Blocked} }

// Reason is why a record became a dead letter.
type Reason string

// The reasons.
const (
	AttemptsExhausted Reason = "attempts_exhausted" // the last attempt failed
	WindowExpired     Reason = "window_expired"     // the next attempt would start too late
	InvalidRecord     Reason = "invalid_record"     // the record could not be decoded
)

// Reasons returns all reasons.
func Reasons() []Reason { return []Reason{AttemptsExhausted, WindowExpired, InvalidRecord} }
