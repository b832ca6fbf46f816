package deliverylog

import (
	"strconv"
	"strings"
	"time"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// lineParts is the number of fields of a line. The id is the last one: it comes from a record and may be any text.
const lineParts = 8

// failoverMark follows the number of a request to the failover URL.
const failoverMark = "f"

// encode writes an attempt as one line, separated by tabs: Unix microseconds, kind, number, status, microseconds taken,
// failure, host, id. The user is in the key.
func encode(a *event.Attempt) []byte {
	b := make([]byte, 0, 64+len(a.Failure)+len(a.Host)+len(a.ID))
	b = append(strconv.AppendInt(b, a.Time.UnixMicro(), 10), '\t')
	b = append(append(b, a.Kind.String()...), '\t')
	b = strconv.AppendInt(b, int64(a.Number), 10)
	if a.Failover {
		b = append(b, failoverMark...)
	}
	b = append(b, '\t')
	b = append(strconv.AppendInt(b, int64(a.Status), 10), '\t')
	b = append(strconv.AppendInt(b, a.Took.Microseconds(), 10), '\t')
	b = append(append(b, a.Failure...), '\t')
	b = append(append(b, a.Host...), '\t')
	return append(b, a.ID...)
}

// decode parses a line; ok is false if it is not valid. It does not set UserID.
func decode(line string) (a event.Attempt, ok bool) {
	parts := strings.SplitN(line, "\t", lineParts)
	if len(parts) != lineParts {
		return a, false
	}
	kind, err := webhook.ParseKind(parts[1])
	if err != nil {
		return a, false
	}
	number, failover := strings.CutSuffix(parts[2], failoverMark)
	parts[2] = number
	var numbers [4]int64
	for i, at := range [...]int{0, 2, 3, 4} {
		if numbers[i], err = strconv.ParseInt(parts[at], 10, 64); err != nil {
			return a, false
		}
	}
	return event.Attempt{
		Kind: kind, ID: parts[7], Number: int(numbers[1]), Time: time.UnixMicro(numbers[0]).UTC(), Host: parts[6],
		Status: int(numbers[2]), Failure: webhook.Failure(parts[5]), Took: time.Duration(numbers[3]) * time.Microsecond,
		Failover: failover,
	}, true
}
