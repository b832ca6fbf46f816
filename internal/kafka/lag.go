package kafka

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// GroupLag is the progress of a consumer group in topics, as the brokers report it.
type GroupLag struct {
	Starts, Ends kadm.ListedOffsets
	committed    kadm.OffsetResponses
}

// PartitionLag is the progress of a consumer group in one partition.
type PartitionLag struct {
	Topic     string
	Partition int32
	Lag       int64 // end offset minus the committed offset, as Kafka's own tools show it
	Records   int64 // of these, the offsets that retention has not removed
	Unknown   bool  // an offset cannot be read now; Lag and Records are 0
}

// ReadGroupLag reads a group's committed offsets, and the start and end offsets of topics as cl sees them. It reads the
// committed offsets first: if read last, they could be ahead of the ends.
func ReadGroupLag(ctx context.Context, cl *kgo.Client, group string, names ...string) (l GroupLag, err error) {
	admin := kadm.NewClient(cl)
	l.committed, err = admin.FetchOffsets(ctx, group)
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) { // before the first member has joined
		return l, fmt.Errorf("read offsets of group %s: %w", group, err)
	}
	if l.Starts, err = admin.ListStartOffsets(ctx, names...); err != nil {
		return l, fmt.Errorf("read starts of topics: %w", err)
	}
	l.Ends, err = ListEnds(ctx, cl, names...)
	return l, err
}

// Partitions returns the lag of each partition.
func (l GroupLag) Partitions() (lags []PartitionLag) {
	l.Ends.Each(func(end kadm.ListedOffset) {
		lag := PartitionLag{Topic: end.Topic, Partition: end.Partition}
		start, ok := l.Starts.Lookup(end.Topic, end.Partition)
		o, committed := l.committed.Lookup(end.Topic, end.Partition)
		// A refused offset is not "none committed": all records of the topic would count as lag.
		if lag.Unknown = !ok || start.Err != nil || end.Err != nil || o.Err != nil; !lag.Unknown {
			next := start.Offset
			if committed && o.At >= 0 {
				next = o.At
			}
			lag.Lag, lag.Records = max(end.Offset-next, 0), max(end.Offset-max(next, start.Offset), 0)
		}
		lags = append(lags, lag)
	})
	return lags
}
