package deliverylog

import (
	"strconv"
	"strings"
	"time"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/pkg/webhook"
)

const (
	// lineVersion begins each line. Versions of the service that do not know it skip the line.
	lineVersion = "3"
	// lineParts is the number of fields of a line. The id is the last one: it comes from a record and may be any text.
	lineParts = 18
	// maxMessage is the longest message id that is kept, in bytes. A longer one is not kept.
	maxMessage = 256

	withFailover = 1 // flags: the request went to the failover URL
)

// encode writes an attempt as one line, separated by tabs: version, Unix microseconds, kind, number, status,
// microseconds taken, failure, flags, fate, Unix milliseconds of the next attempt and of the event (0 = unknown),
// partition and offset of the source record, offset after a batch's last record, host, message id, recipient or a
// batch's number of ids, id. The user is in the key.
func encode(a *event.LogEntry) []byte {
	b := make([]byte, 0, 128+len(a.Failure)+len(a.Host)+len(a.ID))
	number := func(n int64) { b = append(strconv.AppendInt(b, n, 10), '\t') }
	text := func(s string) { b = append(append(b, s...), '\t') }
	text(lineVersion)
	number(a.Time.UnixMicro())
	text(a.Kind.String())
	number(int64(a.Number))
	number(int64(a.Status))
	number(a.Took.Microseconds())
	text(string(a.Failure))
	flags := int64(0)
	if a.Failover {
		flags |= withFailover
	}
	number(flags)
	text(a.Fate.String())
	number(milli(a.Next))
	number(milli(a.EventTime))
	number(int64(a.Partition))
	number(a.Offset)
	number(a.End)
	text(a.Host)
	b = append(appendField(b, &a.Message), '\t')
	if a.Kind == webhook.RevokeClick {
		number(int64(a.IDs))
	} else {
		b = append(appendField(b, &a.Recipient), '\t')
	}
	return append(b, a.ID...)
}

// appendField appends a text of a record, quoted if a field cannot hold it.
func appendField(b []byte, t *event.Text) []byte {
	start := len(b)
	b = t.Append(b)
	text := b[start:]
	if len(text) > maxMessage {
		return b[:start]
	}
	for i, c := range text {
		if c == '\t' || i == 0 && c == '"' {
			return strconv.AppendQuote(b[:start], string(text))
		}
	}
	return b
}

// field parses the output of appendField.
func field(text string) (t event.Text, err error) {
	if strings.HasPrefix(text, `"`) {
		text, err = strconv.Unquote(text)
	}
	return event.NewText([]byte(text)), err
}

// milli returns t in Unix milliseconds, 0 if it is zero.
func milli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// decode parses a line; ok is false if it is not valid. It does not set UserID and Reply.
func decode(line string) (a event.LogEntry, ok bool) {
	var parts [lineParts]string
	for i := range parts {
		var more bool
		if i == lineParts-1 {
			parts[i] = line
		} else if parts[i], line, more = strings.Cut(line, "\t"); !more {
			return a, false
		}
	}
	kind, err := webhook.ParseKind(parts[2])
	fate, known := fates[parts[8]]
	if err != nil || !known || parts[0] != lineVersion {
		return a, false
	}
	var numbers [10]int64
	for i, at := range [...]int{1, 3, 4, 5, 7, 9, 10, 11, 12, 13} {
		if numbers[i], err = strconv.ParseInt(parts[at], 10, 64); err != nil {
			return a, false
		}
	}
	message, err := field(parts[15])
	if err != nil {
		return a, false
	}
	var (
		recipient event.Text
		ids       int
	)
	if kind != webhook.RevokeClick {
		recipient, err = field(parts[16])
	} else if parts[16] != "" { // an earlier version wrote no number
		ids, err = strconv.Atoi(parts[16])
	}
	if err != nil {
		return a, false
	}
	return event.LogEntry{
		Kind: kind, ID: parts[17], Number: int(numbers[1]), Time: time.UnixMicro(numbers[0]).UTC(), Host: parts[14],
		Status: int(numbers[2]), Took: time.Duration(numbers[3]) * time.Microsecond, Failure: webhook.Failure(parts[6]),
		Failover: numbers[4]&withFailover != 0, Fate: fate, Next: fromMilli(numbers[5]), EventTime: fromMilli(numbers[6]),
		Partition: int32(numbers[7]), Offset: numbers[8], End: numbers[9], IDs: ids, Message: message, Recipient: recipient,
	}, true
}

func fromMilli(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

var fates = func() map[string]webhook.Fate {
	m := map[string]webhook.Fate{}
	for _, f := range webhook.Fates() {
		m[f.String()] = f
	}
	return m
}()
