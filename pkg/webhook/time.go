package webhook

import "time"

// AppendTime appends t in UTC with milliseconds (RFC 3339), truncated to the millisecond. RFC 3339 has four digits for
// the year. Kafka accepts timestamps outside that range: they are written as the nearest time inside.
func AppendTime(dst []byte, t time.Time) []byte {
	t = t.UTC()
	switch year := t.Year(); {
	case year > 9999:
		return append(dst, "9999-12-31T23:59:59.999Z"...)
	case year < 0:
		return append(dst, "0000-01-01T00:00:00.000Z"...)
	}
	// Package time formats RFC 3339 without milliseconds several times as fast as any other layout.
	dst = t.AppendFormat(dst, time.RFC3339)
	ms := t.Nanosecond() / int(time.Millisecond)
	return append(dst[:len(dst)-len("Z")], '.', '0'+byte(ms/100), '0'+byte(ms/10%10), '0'+byte(ms%10), 'Z')
}
