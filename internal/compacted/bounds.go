package compacted

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/internal/kafka"
)

// Span is the offsets Start ≤ o < End of a partition.
type Span struct{ Start, End int64 }

// Bounds holds the brokers' state of a topic at one moment.
type Bounds struct {
	// ID changes when the topic is deleted and created again.
	ID    kadm.TopicID
	Spans map[int32]Span // by partition
}

// Describe returns the bounds of a topic for client: an open transaction holds back the end for a client that reads
// only committed records. A missing topic is an error.
func Describe(ctx context.Context, client *kgo.Client, topic string) (Bounds, error) {
	admin := kadm.NewClient(client)
	details, err := admin.ListTopics(ctx, topic)
	if err = errors.Join(err, details.Error()); err != nil {
		return Bounds{}, fmt.Errorf("describe topic %s: %w", topic, err)
	}
	ends, err := kafka.ListEnds(ctx, client, topic)
	if err = errors.Join(err, ends.Error()); err != nil {
		return Bounds{}, fmt.Errorf("read the end of topic %s: %w", topic, err)
	}
	starts, err := admin.ListStartOffsets(ctx, topic)
	if err = errors.Join(err, starts.Error()); err != nil {
		return Bounds{}, fmt.Errorf("read the start of topic %s: %w", topic, err)
	}
	b := Bounds{ID: details[topic].ID, Spans: map[int32]Span{}}
	for partition := range details[topic].Partitions {
		start, ok1 := starts.Lookup(topic, partition)
		end, ok2 := ends.Lookup(topic, partition)
		if !ok1 || !ok2 {
			return Bounds{}, fmt.Errorf("read the offsets of %s/%d: no answer", topic, partition)
		}
		b.Spans[partition] = Span{start.Offset, end.Offset}
	}
	return b, nil
}
