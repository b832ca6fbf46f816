package release

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/internal/compacted"
	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/kafka"
	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/offsets"
)

// countPatience is how long Kafka may fail to answer while records are counted.
const countPatience = 20 * time.Second

// Count returns how many delayed records a recovery with this marker would copy now. It reads the topics from the
// committed offsets of the group on, and stores nothing. describe returns the Info of a topic.
func (l *Log) Count(ctx context.Context, m Marker, names []string, group, epoch string,
	describe func(topic string) topics.Info) (n int64, err error) {
	client, err := l.client()
	if err != nil {
		return 0, err
	}
	if err := l.setTopics(ctx, client, &m, names); err != nil {
		return 0, err
	}
	commits, err := kafka.ReadCommits(ctx, client, group)
	if err != nil {
		return 0, err
	}
	r := newRecovery(&m)
	for _, topic := range names {
		bounds, err := compacted.Describe(ctx, client, topic)
		if err != nil {
			return n, err
		}
		space := event.NamespaceOf(bounds.ID, topic, epoch)
		trackers, spans := trackersOf(commits, topic, bounds)
		if len(spans) == 0 {
			continue
		}
		reader, err := compacted.OpenSpans(l.newClient, topic, spans, countPatience)
		if err != nil {
			return n, err
		}
		err = reader.ReadAll(ctx, nil, func(record *kgo.Record) error {
			e := eventOf(record, event.Partition{Kind: describe(topic).Kind}, space)
			if t := trackers[record.Partition]; t != nil && t.Finished(record.Offset) || !r.selects(e, userOf(e)) {
				return nil
			}
			if released, _ := l.Decide(e); !released {
				n++
			}
			return nil
		})
		reader.Close()
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// trackersOf returns the trackers of a topic's partitions, and the spans that the group has not finished.
func trackersOf(commits kadm.OffsetResponses, topic string, bounds compacted.Bounds) (
	map[int32]*offsets.Tracker, map[int32]compacted.Span) {
	trackers, spans := map[int32]*offsets.Tracker{}, map[int32]compacted.Span{}
	for partition, span := range bounds.Spans {
		if c, ok := commits.Lookup(topic, partition); ok && c.Err == nil && c.At >= 0 {
			if id, state := kafka.SplitCommit(c.Metadata); id == [16]byte{} || id == [16]byte(bounds.ID) {
				trackers[partition] = offsets.New(c.At, state)
				span.Start = max(span.Start, c.At)
			}
		}
		if span.Start < span.End {
			spans[partition] = span
		}
	}
	return trackers, spans
}

// setTopics fills in the topics that a marker examines.
func (l *Log) setTopics(ctx context.Context, client *kgo.Client, m *Marker, names []string) error {
	details, err := kadm.NewClient(client).ListTopics(ctx, names...)
	if err != nil {
		return fmt.Errorf("read the partitions of delay topics: %w", err)
	}
	m.Topics = make(map[string]int32, len(names))
	for _, topic := range names {
		if err := details[topic].Err; err != nil {
			return fmt.Errorf("read the partitions of topic %s: %w (retry.schedule, retry.window and overflow.delays must be "+
				"those of the service)", topic, err)
		}
		m.Topics[topic] = int32(len(details[topic].Partitions))
	}
	return nil
}

// setEnds fills in the end offsets of a marker's topics. It does not fail: ends that Kafka does not return stay
// unknown.
func setEnds(ctx context.Context, client *kgo.Client, m *Marker, names []string) {
	ctx, cancel := context.WithTimeout(ctx, endsTimeout)
	defer cancel()
	ends, _ := kafka.ListEnds(ctx, client, names...)
	m.Ends = make(map[string][]int64, len(names))
	for topic, partitions := range m.Topics {
		m.Ends[topic] = make([]int64, partitions)
		for n := range m.Ends[topic] {
			m.Ends[topic][n] = -1
			if end, ok := ends.Lookup(topic, int32(n)); ok && end.Err == nil {
				m.Ends[topic][n] = end.Offset
			}
		}
	}
}
