package consumer

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

func TestTimes(t *testing.T) {
	began := time.Unix(1_800_000_000, 0)
	polled := func(from, n int) (records []*kgo.Record) {
		for i := range n {
			records = append(records, &kgo.Record{Offset: int64(from + i), Timestamp: began.Add(time.Duration(from+i) * time.Second)})
		}
		return records
	}
	var ts times
	at := func(offset int64, want int, known bool) {
		t.Helper()
		got, ok := ts.at(offset)
		if ok != known || known && !got.Equal(began.Add(time.Duration(want)*time.Second)) {
			t.Errorf("at %d: %v, %v; want %d s after the beginning, %v", offset, got.Sub(began), ok, want, known)
		}
	}
	at(0, 0, false)
	ts.note(polled(100, 50))
	at(99, 0, false)
	at(100, 100, true)
	at(115, 100, true)
	at(116, 116, true)
	ts.note(polled(150, 1))
	at(149, 148, true)
	at(150, 150, true)
	ts.note(polled(120, 5)) // rewound
	at(122, 120, true)
	for i := range 200 {
		ts.note(polled(1000+i*512, 512))
	}
	if len(ts.seen) > timesMost {
		t.Errorf("%d times are remembered", len(ts.seen))
	}
	at(1000, 120, true) // the nearest before it that is left
}
