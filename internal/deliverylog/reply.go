package deliverylog

import (
	"strconv"
	"strings"

	"github.com/smshooks/smshooks/internal/event"
)

// encodeReply writes the reply of an attempt: Unix microseconds, whether it was a failover, length of the id, id and
// reply.
func encodeReply(a *event.LogEntry) []byte {
	b := make([]byte, 0, 40+len(a.ID)+len(a.Reply))
	b = append(strconv.AppendInt(b, a.Time.UnixMicro(), 10), '\t')
	b = append(strconv.AppendBool(b, a.Failover), '\t')
	b = append(strconv.AppendInt(b, int64(len(a.ID)), 10), '\t')
	return append(append(b, a.ID...), a.Reply...)
}

// replyKey identifies the attempt of a reply.
type replyKey struct {
	micro    int64
	failover bool
	id       string
}

func keyOf(a *event.LogEntry) replyKey { return replyKey{a.Time.UnixMicro(), a.Failover, a.ID} }

// hasReply reports whether an attempt is a failure with a reply.
func hasReply(a *event.LogEntry) bool { return a.Failure != "" && a.Status != 0 }

// decodeReply parses what encodeReply has written.
func decodeReply(text string) (key replyKey, reply string, ok bool) {
	first, rest, _ := strings.Cut(text, "\t")
	second, rest, _ := strings.Cut(rest, "\t")
	third, rest, _ := strings.Cut(rest, "\t")
	micro, err1 := strconv.ParseInt(first, 10, 64)
	failover, err2 := strconv.ParseBool(second)
	n, err3 := strconv.Atoi(third)
	if err1 != nil || err2 != nil || err3 != nil || n < 0 || n > len(rest) {
		return key, "", false
	}
	return replyKey{micro, failover, rest[:n]}, rest[n:], true
}
