package event

import (
	"encoding/base64"
	"strconv"
	"time"

	"github.com/smshooks/smshooks/pkg/webhook"
)

// The headers on records of delay topics and dead letters (UTF-8 text).
const (
	HeaderID       = "smshooks-id"
	HeaderOrigin   = "smshooks-origin"   // position of the source record
	HeaderTopicID  = "smshooks-topic-id" // of the source topic, in base64 as Kafka prints it
	HeaderKind     = "smshooks-kind"
	HeaderTime     = "smshooks-event-time"
	HeaderAttempts = "smshooks-attempts"
	HeaderDue      = "smshooks-due"
	HeaderError    = "smshooks-error"
	HeaderReason   = "smshooks-reason"
	HeaderReplayed = "smshooks-replayed" // when the event was replayed
)

// HeaderTrace is W3C's trace context: of the span in which a waiting record or a dead letter was written.
const HeaderTrace = "traceparent"

// maxTraceparent is longer than any version of the header.
const maxTraceparent = 128

// FormatTime returns t in UTC with milliseconds, as all times in headers are written.
func FormatTime(t time.Time) string { return string(webhook.AppendTime(nil, t)) }

func parseTime(value []byte) (time.Time, bool) {
	t, err := time.Parse(time.RFC3339, string(value))
	if year := t.UTC().Year(); year > 9999 || year < 0 {
		return t, false // the year is out of range in UTC, but not in its own zone
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

// SetHeader copies one header of a delayed record into e. It ignores headers of other programs and invalid values: such
// a record is due at once and starts from the beginning.
func (e *Event) SetHeader(key string, value []byte) {
	switch key {
	case HeaderID:
		e.ID = string(value)
	case HeaderOrigin:
		if origin := string(value); isOrigin(origin) {
			e.Origin = origin
		}
	case HeaderTopicID:
		if id, err := base64.RawURLEncoding.DecodeString(string(value)); err == nil {
			e.SourceTopic = Namespace(id)
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
		if t, ok := parseTime(value); ok {
			e.Claimed, e.Replayed = true, t
		}
	case HeaderError:
		e.Failure = webhook.Failure(value)
	}
}

// SetTraceparent copies the header of any record into e.
func (e *Event) SetTraceparent(value []byte) {
	if len(value) <= maxTraceparent {
		e.Traceparent = string(value)
	}
}
