package consumer

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// TestPlausible checks that a due time is lowered if the topic's delay and the broker's clock do not allow it.
func TestPlausible(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, c := range map[string]struct {
		due   time.Duration // after the record was appended
		delay time.Duration
		own   bool // the timestamp is the producer's
		want  time.Duration
	}{
		"right":                {6 * time.Hour, 6 * time.Hour, false, 6 * time.Hour},
		"clocks differ":        {6*time.Hour + 30*time.Second, 6 * time.Hour, false, 6*time.Hour + 30*time.Second},
		"an hour ahead":        {7 * time.Hour, 6 * time.Hour, false, 6*time.Hour + clockSlack},
		"an hour behind":       {5 * time.Hour, 6 * time.Hour, false, 5 * time.Hour},
		"the producer's clock": {7 * time.Hour, 6 * time.Hour, true, 7 * time.Hour}, // read an hour later
		"far, by the producer": {70 * time.Hour, 6 * time.Hour, true, 7*time.Hour + clockSlack},
		"no delay known":       {7 * time.Hour, 0, false, 7 * time.Hour},
	} {
		r := &kgo.Record{Timestamp: at, Attrs: kgo.NewRecordAttrs(kgo.RecordAttrsOpts{TimestampType: 1})}
		if c.own {
			r.Attrs = kgo.RecordAttrs{}
		}
		if got := plausible(at.Add(c.due), appendedAt(r), at.Add(time.Hour), c.delay).Sub(at); got != c.want {
			t.Errorf("%s: due %v after it was appended, want %v", name, got, c.want)
		}
	}
}
