package deadletter

import (
	"bytes"
	"encoding/json"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// Letter is one dead letter. Texts are those of the record's headers, "" if one is absent.
type Letter struct {
	ID        string
	UserID    int64 // 0 if neither the value nor the key has it
	Kind      string
	Reason    string
	Attempts  int
	Error     string
	EventTime time.Time // zero if absent
	Time      time.Time // when the event was given up
	Value     []byte    // the record's, unchanged

	origin      string // <topic>/<partition>/<offset> of the source record
	partition   int32  // where the record is
	offset      int64
	traceparent string
}

// CanReplay reports whether the event can be replayed: not if its record is unreadable.
func (l *Letter) CanReplay() bool {
	_, err := webhook.ParseKind(l.Kind)
	return err == nil && l.ID != "" && l.UserID > 0 && l.Reason != "" && l.Reason != string(webhook.InvalidRecord)
}

// MarshalJSON writes id, user_id, kind, reason, attempts, error, event_time and value, null for what is unknown. value
// is the record's value as a string; if it is not UTF-8, value_base64 has the exact bytes.
func (l *Letter) MarshalJSON() ([]byte, error) {
	out := struct {
		ID        *string `json:"id"`
		UserID    *int64  `json:"user_id"`
		Kind      *string `json:"kind"`
		Reason    *string `json:"reason"`
		Attempts  int     `json:"attempts"`
		Error     *string `json:"error"`
		EventTime *string `json:"event_time"`
		Value     string  `json:"value"`
		Base64    []byte  `json:"value_base64,omitempty"`
	}{ID: orNull(l.ID), Kind: orNull(l.Kind), Reason: orNull(l.Reason), Attempts: l.Attempts, Error: orNull(l.Error),
		Value: string(l.Value)}
	if l.UserID > 0 {
		out.UserID = &l.UserID
	}
	if !l.EventTime.IsZero() {
		out.EventTime = orNull(event.FormatTime(l.EventTime))
	}
	if !utf8.Valid(l.Value) {
		out.Base64 = l.Value
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(out); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// matcher converts records into letters and selects them.
type matcher struct {
	Filter
	ids     map[string]bool
	message webhook.Message
	batch   webhook.Revocation
}

func newMatcher(f Filter) *matcher {
	m := &matcher{Filter: f}
	if len(f.IDs) > 0 {
		m.ids = make(map[string]bool, len(f.IDs))
		for _, id := range f.IDs {
			m.ids[id] = true
		}
	}
	return m
}

// match returns the letter of a selected record, else nil. The most expensive check comes last.
func (m *matcher) match(r *kgo.Record) *Letter {
	if !m.Since.IsZero() && r.Timestamp.Before(m.Since) || !m.Until.IsZero() && !r.Timestamp.Before(m.Until) {
		return nil
	}
	l := &Letter{Time: r.Timestamp, Value: r.Value, partition: r.Partition, offset: r.Offset}
	for _, h := range r.Headers {
		l.setHeader(h)
	}
	if m.ids != nil && !m.ids[l.ID] || m.Kind != "" && m.Kind != l.Kind || m.Reason != "" && m.Reason != l.Reason {
		return nil
	}
	l.UserID = m.userOf(r, l.Kind)
	if m.UserID != 0 && m.UserID != l.UserID {
		return nil
	}
	return l
}

func (l *Letter) setHeader(h kgo.RecordHeader) {
	switch h.Key {
	case event.HeaderID:
		l.ID = string(h.Value)
	case event.HeaderOrigin:
		l.origin = string(h.Value)
	case event.HeaderKind:
		l.Kind = string(h.Value)
	case event.HeaderReason:
		l.Reason = string(h.Value)
	case event.HeaderError:
		l.Error = string(h.Value)
	case event.HeaderTrace:
		l.traceparent = string(h.Value)
	case event.HeaderAttempts:
		if n, err := strconv.Atoi(string(h.Value)); err == nil && n >= 0 {
			l.Attempts = n
		}
	case event.HeaderTime:
		if t, err := time.Parse(time.RFC3339, string(h.Value)); err == nil {
			l.EventTime = t
		}
	}
}

// userOf returns the user in the record's value, or in its key if the value is unreadable.
func (m *matcher) userOf(r *kgo.Record, kind string) int64 {
	var user int64
	switch k, err := webhook.ParseKind(kind); {
	case err != nil:
	case k == webhook.RevokeClick:
		_ = webhook.DecodeRevocation(r.Value, &m.batch) // many invalid records still name a user
		user = m.batch.UserID
	default:
		_ = webhook.Decode(k, r.Value, &m.message)
		user = m.message.UserID
	}
	if user == 0 {
		if id, err := strconv.ParseInt(string(r.Key), 10, 64); err == nil && id > 0 {
			user = id
		}
	}
	return user
}
