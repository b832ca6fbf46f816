package event

import (
	"time"

	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// LogEntry is an entry of the delivery log: a finished attempt, or a state of an event without one. If the first
// request of an attempt failed, the request to the failover URL is another entry with the same number.
type LogEntry struct {
	UserID    int64
	Kind      webhook.Kind
	ID        string    // the event's identity
	Message   Text      // sms.id; "" for revocations
	Recipient Text      // sms.to, which is personal data; "" for revocations, and if it is longer than any number
	EventTime time.Time // timestamp of the source record
	Partition int32     // of the source record
	Offset    int64     // of the source record; -1 = unknown
	IDs       int       // of a batch of revocations: how many it has; 0 = unknown
	End       int64     // of a batch of revocations: the offset after its last source record; 0 = unknown
	// Number counts attempts from 1. 0 stands for no attempt: the entry reports that the event is delayed or how it ended,
	// and has no Host, Status, Failure, Took and Reply.
	Number   int
	Time     time.Time
	Host     string // of the URL
	Status   int    // HTTP status, 0 if no reply came
	Failure  webhook.Failure
	Took     time.Duration
	Reply    string       // the beginning of a failed reply's body; "" if there is none
	Failover bool         // it is the request to the failover URL
	Fate     webhook.Fate // what became of the event's record
	Next     time.Time    // earliest time of the next attempt, if Fate.Stored(); else zero
	Waited   bool         // the event came from a delay topic
}

// NewLogEntry returns an entry with the fields of its event. The caller adds those of the attempt, if there was one.
func (e *Event) NewLogEntry(fate webhook.Fate) LogEntry {
	a := LogEntry{UserID: e.UserID, Kind: e.Kind, ID: e.Identity(), EventTime: e.Time, Fate: fate, End: e.End,
		Waited: e.Class != topics.Source}
	if e.Kind == webhook.RevokeClick {
		a.IDs = len(e.Batch.APISMSIDs) + len(e.Batch.CampaignSMSIDs)
	} else {
		var room [textSize]byte
		a.Message = NewText(e.Message.AppendID(room[:0], e.Value))
		if to := e.Message.AppendRecipient(room[:0], e.Value); len(to) <= textSize {
			a.Recipient = NewText(to)
		}
	}
	if fate == webhook.Retry || fate == webhook.Overflow {
		a.Next = e.Due
	}
	a.Partition, a.Offset = e.sourceOffset()
	return a
}

// NewNote returns an entry without an attempt for an event whose record was stored in an overflow topic and is due at
// the time at. ok is false if the record is invalid.
func (e *Event) NewNote(at time.Time) (a LogEntry, ok bool) {
	if e.Decode() != nil {
		return a, false
	}
	e.Due = at
	a = e.NewLogEntry(webhook.Overflow)
	a.Time = at
	return a, true
}

// sourceOffset returns the position of the source record in the topic of its kind; the offset is -1 if it is unknown.
func (e *Event) sourceOffset() (partition int32, offset int64) {
	if e.Class == topics.Source {
		return e.Partition, e.Offset
	}
	topic, partition, offset, ok := ParsePosition(e.SourcePosition())
	if !ok || topic == e.Topic { // it names the delayed record: the source record's position was lost
		return 0, -1
	}
	return partition, offset
}

// textSize is how many bytes a Text holds without an allocation: decimal numbers and UUIDs fit.
const textSize = 36

// Text is a text that is kept without an allocation if it is short. The zero value is "".
type Text struct {
	n     uint8
	short [textSize]byte
	long  string
}

// NewText copies a text.
func NewText(text []byte) (t Text) {
	if len(text) > textSize {
		t.long = string(text)
		return t
	}
	t.n = uint8(copy(t.short[:], text))
	return t
}

// String returns the text.
func (t *Text) String() string {
	if t.long != "" {
		return t.long
	}
	return string(t.short[:t.n])
}

// Append appends the text to b.
func (t *Text) Append(b []byte) []byte {
	if t.long != "" {
		return append(b, t.long...)
	}
	return append(b, t.short[:t.n]...)
}
