package event

import (
	"strconv"
	"time"

	"github.com/smshooks/smshooks/pkg/webhook"
)

// The headers on retry, overflow and dead-letter records (UTF-8 text).
const (
	HeaderID       = "smshooks-id"
	HeaderOrigin   = "smshooks-origin" // position of the source record
	HeaderKind     = "smshooks-kind"
	HeaderTime     = "smshooks-event-time"
	HeaderAttempts = "smshooks-attempts"
	HeaderDue      = "smshooks-due"
	HeaderError    = "smshooks-error"
	HeaderReason   = "smshooks-reason"
	HeaderReplayed = "smshooks-replayed" // when a dead letter was sent again; the memory of first clicks doesn't stop it
)

// HeaderTrace is W3C's trace context: of the span in which a waiting record or a dead letter was written.
const HeaderTrace = "traceparent"

// maxTraceparent is more than any version of it has.
const maxTraceparent = 128

// TimeLayout is RFC 3339 with milliseconds, as all times in headers are written.
const TimeLayout = "2006-01-02T15:04:05.000Z07:00"

// FormatTime writes t in UTC with milliseconds, cut down to the millisecond. RFC 3339 has four digits for the year:
// a timestamp beyond them, which Kafka takes, is written as the nearest time within.
func FormatTime(t time.Time) string {
	t = t.UTC()
	switch year := t.Year(); {
	case year > 9999:
		return "9999-12-31T23:59:59.999Z"
	case year < 0:
		return "0000-01-01T00:00:00.000Z"
	}
	return t.Format(TimeLayout)
}

func parseTime(value []byte) (time.Time, bool) {
	t, err := time.Parse(time.RFC3339, string(value))
	if year := t.UTC().Year(); year > 9999 || year < 0 {
		return t, false // in its own zone it was within
	}
	return t, err == nil
}

// CeilMilli rounds t up to a whole millisecond, so that a due time written with milliseconds is never early.
func CeilMilli(t time.Time) time.Time {
	if r := t.Truncate(time.Millisecond); !r.Equal(t) {
		return r.Add(time.Millisecond)
	}
	return t
}

// SetHeader takes one header of a waiting record over into e. Headers of other programs and values that cannot
// be read are ignored: such a record is due at once and counts from its own beginning.
func (e *Event) SetHeader(key string, value []byte) {
	switch key {
	case HeaderID:
		e.ID = string(value)
	case HeaderOrigin:
		if origin := string(value); isOrigin(origin) {
			e.Origin = origin
		}
	case HeaderTime:
		if t, ok := parseTime(value); ok {
			e.Time = t
		}
	case HeaderAttempts:
		if n, err := strconv.Atoi(string(value)); err == nil && n >= 0 {
			e.Attempts = n
		}
	case HeaderDue:
		if t, ok := parseTime(value); ok {
			e.Due = t
		}
	case HeaderTrace:
		e.SetTraceparent(value)
	case HeaderReplayed:
		e.Claimed, e.Replayed = true, string(value)
	case HeaderError:
		e.Failure = webhook.Failure(value)
	}
}

// SetTraceparent takes the header of any record over.
func (e *Event) SetTraceparent(value []byte) {
	if len(value) <= maxTraceparent {
		e.Traceparent = string(value)
	}
}
