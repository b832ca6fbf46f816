// Package release makes delayed events due now (docs/adr/0016-recover.md).
//
// A recovery begins with a durable [Marker] in the topic of releases. A [Log] follows that topic and keeps the
// [State]: all markers and the progress of each. [State.Decide] reports whether a delayed record that is due was
// released. The [Worker] of the member that owns a partition copies the selected records in transactions.
//
// The worker changes nothing in memory: its work takes effect once the log has read it.
package release

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// Cause is the origin of a recovery.
type Cause string

// The causes.
const (
	Customer Cause = "customer" // the user, through the API
	Operator Cause = "operator" // the command line
	Resume   Cause = "resume"   // the end of a pause
)

// Marker begins a recovery and selects its records. It contains everything that the selection depends on, so that every
// instance selects the same records at any time.
type Marker struct {
	ID      string    `json:"id"`
	Created time.Time `json:"created"`
	Cause   Cause     `json:"cause"`
	// User is the user whose events are selected. If it is 0, Users has the kinds of events by user; if both are empty,
	// the events of all users are selected.
	User  int64              `json:"user,omitempty"`
	Users map[int64][]string `json:"users,omitempty"`
	// Topics are the delay topics that are examined, with their partition counts.
	Topics map[string]int32 `json:"topics"`
	// Ends are the offsets at which their partitions ended when the recovery began; -1 is unknown. Records from there on
	// are not selected: an event that a recovery released and that fails again waits for its full delay. Nil: no end.
	Ends map[string][]int64 `json:"ends,omitempty"`
	// IDs of the events; empty: all.
	IDs []string `json:"ids,omitempty"`
	// Error is part of the last failure; "": any.
	Error string `json:"error,omitempty"`
	// Since and Until bound the time of the event: since ≤ t < until. Zero: no bound.
	Since time.Time `json:"since,omitzero"`
	Until time.Time `json:"until,omitzero"`
}

// prefix of the ids of recoveries.
const prefix = "rcv_"

var encoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// newID returns a random id.
func newID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // it never fails
	return prefix + encoding.EncodeToString(id[:])
}

// resumeID returns the id of the recovery that follows the end of a pause. It is derived from the document that ended
// it, so that all instances write the same marker.
func resumeID(userID int64, kind webhook.Kind, document string) string {
	b := append([]byte("resume/"), kind.String()...)
	b = binary.BigEndian.AppendUint64(b, uint64(userID))
	b = append(b, document...)
	sum := sha256.Sum256(b)
	return prefix + encoding.EncodeToString(sum[:16])
}

// examines reports whether the marker's topics have that partition.
func (m *Marker) examines(u unit) bool { return u.partition < m.Topics[u.topic] }

// storedBefore reports whether the record was stored before the recovery began.
func (m *Marker) storedBefore(e *event.Event) bool {
	ends := m.Ends[e.Topic]
	return int(e.Partition) >= len(ends) || ends[e.Partition] < 0 || e.Offset < ends[e.Partition]
}

// selects reports whether the marker selects a delayed record, as far as the ids do not decide. The result depends
// only on the record's position, key and headers.
func (m *Marker) selects(e *event.Event, userID int64) bool {
	switch {
	case !m.examines(unitOf(e)), !m.storedBefore(e):
		return false
	case m.User != 0 && m.User != userID:
		return false
	case m.User == 0 && m.Users != nil && !slices.Contains(m.Users[userID], e.Kind.String()):
		return false
	case !m.Since.IsZero() && e.Time.Before(m.Since), !m.Until.IsZero() && !e.Time.Before(m.Until):
		return false
	}
	return strings.Contains(string(e.Failure), m.Error)
}

// userOf returns the user in the key of a delayed record, 0 if there is none.
func userOf(e *event.Event) int64 {
	id, err := strconv.ParseInt(string(e.Key), 10, 64)
	if err != nil {
		return 0
	}
	return id
}

// unit is a partition of a delay topic.
type unit struct {
	topic     string
	partition int32
}

func unitOf(e *event.Event) unit { return unit{e.Topic, e.Partition} }

// Span is a range of offsets of a partition that a recovery examines.
type Span struct {
	Space []byte `json:"space"` // the topic's namespace: a topic that was created again has another
	// Offsets Start ≤ o < Next were examined; the selected ones among them were copied. End is where it ends.
	Start int64 `json:"start"`
	Next  int64 `json:"next"`
	End   int64 `json:"end"`
	// Epoch is the newest leader epoch of the records that were examined. At the same offset, a newer one has another
	// record.
	Epoch int32 `json:"epoch"`
}

// covers reports whether the span has the record.
func (s *Span) covers(e *event.Event) bool {
	return s.Start <= e.Offset && e.Offset < s.Next && e.Epoch <= s.Epoch && string(s.Space) == string(e.Namespace)
}

// awaits reports whether the record may still be copied.
func (s *Span) awaits(e *event.Event) bool { return s.Next <= e.Offset && e.Offset < s.End }

// entry is a record of the topic of releases: one of its fields is set.
type entry struct {
	Marker   *Marker   `json:"marker,omitempty"`
	Progress *progress `json:"progress,omitempty"`
	Empty    *empty    `json:"empty,omitempty"`
}

// progress is the progress of recoveries in a unit.
type progress struct {
	Topic     string           `json:"topic"`
	Partition int32            `json:"partition"`
	Span      Span             `json:"span"`
	Released  map[string]int64 `json:"released"` // records copied from the unit, by recovery
	Done      bool             `json:"done"`
	Time      time.Time        `json:"time"`
}

// empty lists units without records that a recovery selects.
type empty struct {
	ID    string             `json:"id"`
	Units map[string][]int32 `json:"units"` // partitions by topic
	Time  time.Time          `json:"time"`
}
