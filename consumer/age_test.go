package consumer

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
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
	now := began.Add(-time.Hour)
	ts.add(polled(100, 50), now)
	at(99, 0, false)
	at(100, 100, true)
	at(115, 115, true)
	untimed := polled(150, 2)
	untimed[0].Timestamp = time.UnixMilli(-1)
	ts.add(untimed, now)
	at(149, 149, true)
	at(150, -3600, true)
	at(151, 151, true)
	ts.add(polled(120, 5), now) // rewound
	at(122, 122, true)
	ts.add(polled(1000, 2*fewTimes), now) // too many for the time of each
	at(1000, 1000, true)
	at(1000+timesInterval-1, 1000, true)
	at(1000+timesInterval, 1000+timesInterval, true)
	for i := range 200 {
		ts.add(polled(10_000+i*512, 512), now)
	}
	if len(ts.seen) > maxTimes {
		t.Errorf("%d times are remembered", len(ts.seen))
	}
	if got, ok := ts.at(10_000); !ok || got.After(began.Add(10_000*time.Second)) {
		t.Errorf("of an earlier record remains %v, %v", got, ok)
	}
}

// TestTimeOf checks that the time of a record is found by looking up offsets by time.
func TestTimeOf(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "t"))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	began := time.Now().Add(-time.Hour).Truncate(time.Millisecond)
	for i := range 60 {
		r := &kgo.Record{Topic: "t", Value: []byte("x"), Timestamp: began.Add(time.Duration(i) * time.Minute)}
		if err := client.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	a := &assignment{topicPartition: topicPartition{"t", 0}}
	for _, offset := range []int64{0, 1, 40, 59} {
		want := began.Add(time.Duration(offset) * time.Minute)
		got := timeOf(t.Context(), kadm.NewClient(client), a, offset)
		if off := got.Sub(want); off < -headPrecision || off > headPrecision {
			t.Errorf("offset %d: %v off", offset, off)
		}
	}
	if got := timeOf(t.Context(), kadm.NewClient(client), &assignment{topicPartition: topicPartition{"none", 0}}, 0); !got.IsZero() {
		t.Errorf("an unknown partition: %v", got)
	}
}
