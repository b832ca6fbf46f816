package kafka

import (
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

// TestLagOfRefusedOffset checks that the lag of a partition is unknown, not the whole log, if the broker refuses its
// committed offset.
func TestLagOfRefusedOffset(t *testing.T) {
	listed := func(offset int64) kadm.ListedOffsets {
		ps := map[int32]kadm.ListedOffset{}
		for p := range int32(3) {
			ps[p] = kadm.ListedOffset{Topic: "t", Partition: p, Offset: offset}
		}
		return kadm.ListedOffsets{"t": ps}
	}
	committed := func(p int32, at int64, err error) kadm.OffsetResponse {
		return kadm.OffsetResponse{Offset: kadm.Offset{Topic: "t", Partition: p, At: at}, Err: err}
	}
	l := GroupLag{Starts: listed(2), Ends: listed(10), committed: kadm.OffsetResponses{"t": {
		0: committed(0, 7, nil), 1: committed(1, -1, kerr.TopicAuthorizationFailed),
	}}}
	got := l.Partitions()
	slices.SortFunc(got, func(a, b PartitionLag) int { return int(a.Partition - b.Partition) })
	want := []PartitionLag{
		{Topic: "t", Partition: 0, Lag: 3, Records: 3},
		{Topic: "t", Partition: 1, Unknown: true},
		{Topic: "t", Partition: 2, Lag: 8, Records: 8}, // nothing committed
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
