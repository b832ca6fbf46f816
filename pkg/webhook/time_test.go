package webhook

import (
	"testing"
	"time"
)

// TestAppendTime compares with package time's formatting by the layout.
func TestAppendTime(t *testing.T) {
	const layout = "2006-01-02T15:04:05.000Z07:00"
	times := []time.Time{
		{}, time.Unix(0, 0), time.Unix(0, -1), time.Unix(0, 999_999), time.Unix(0, 1_000_000), time.Unix(1<<31, 999_999_999),
		time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.UTC),
		time.Date(2024, 2, 29, 23, 59, 59, 10_000_000, time.FixedZone("", -12*3600)),
	}
	for ms := range 1000 {
		times = append(times, time.UnixMilli(1_800_000_000_000+int64(ms)*86_461_001))
	}
	for _, at := range times {
		if got, want := string(AppendTime([]byte("at "), at)), "at "+at.UTC().Format(layout); got != want {
			t.Errorf("%v: %s, want %s", at, got, want)
		}
	}
	for at, want := range map[time.Time]string{
		time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC): "9999-12-31T23:59:59.999Z",
		time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC):     "0000-01-01T00:00:00.000Z",
	} {
		if got := string(AppendTime(nil, at)); got != want {
			t.Errorf("year %d: %s, want %s", at.Year(), got, want)
		}
	}
}
