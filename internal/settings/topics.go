package settings

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/smshooks/smshooks/internal/kafka"
)

// slot is one partition of one topic.
type slot struct {
	topic     string
	partition int32
}

// span is what a partition held when it was asked: offsets start ≤ o < end.
type span struct{ start, end int64 }

// layout is what the brokers say of the topics at one moment.
type layout struct {
	id     string // changes when one of the topics was deleted and made anew
	spans  map[slot]span
	topics []string
}

// describe asks for the topics' ids and the bounds of their partitions as the
// client sees them: an open transaction holds back the end of one that reads
// committed records only. A topic that is missing is an error.
func describe(ctx context.Context, client *kgo.Client, topics ...string) (*layout, error) {
	found, err := kafka.TopicMetadata(ctx, client, topics...)
	if err != nil {
		return nil, err
	}
	l := &layout{spans: map[slot]span{}, topics: topics}
	for _, topic := range topics {
		t, ok := found[topic]
		if !ok {
			return nil, fmt.Errorf("topic %s: no answer about it", topic)
		}
		if err := kerr.ErrorForCode(t.ErrorCode); err != nil {
			return nil, fmt.Errorf("topic %s: %w", topic, err)
		}
		// Half of the id is as unique as is needed here and keeps Redis keys short.
		l.id += fmt.Sprintf("%x", t.TopicID[:4])
		for _, p := range t.Partitions {
			l.spans[slot{topic, p.Partition}] = span{}
		}
	}
	const latest, earliest = -1, -2
	if err := l.list(ctx, client, latest, func(s *span, o int64) { s.end = o }); err != nil {
		return nil, err
	}
	return l, l.list(ctx, client, earliest, func(s *span, o int64) { s.start = o })
}

// list asks for one offset of every partition: -1 the end, -2 the start.
func (l *layout) list(ctx context.Context, client *kgo.Client, which int64, set func(*span, int64)) error {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID, req.IsolationLevel = -1, kafka.IsolationLevel(client)
	for _, topic := range l.topics {
		t := kmsg.NewListOffsetsRequestTopic()
		t.Topic = topic
		for at := range l.spans {
			if at.topic == topic {
				p := kmsg.NewListOffsetsRequestTopicPartition()
				p.Partition, p.Timestamp, p.CurrentLeaderEpoch = at.partition, which, -1
				t.Partitions = append(t.Partitions, p)
			}
		}
		req.Topics = append(req.Topics, t)
	}
	resp, err := req.RequestWith(ctx, client)
	if err != nil {
		return fmt.Errorf("asking Kafka for offsets: %w", err)
	}
	answered := 0
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return fmt.Errorf("offsets of %s/%d: %w", t.Topic, p.Partition, err)
			}
			at := slot{t.Topic, p.Partition}
			s := l.spans[at]
			set(&s, p.Offset)
			l.spans[at] = s
			answered++
		}
	}
	if answered != len(l.spans) {
		return fmt.Errorf("offsets: %d of %d partitions answered", answered, len(l.spans))
	}
	return nil
}

// highWatermark returns the offset after the last record of a partition, those
// of open transactions included.
func highWatermark(ctx context.Context, client *kgo.Client, at slot) (int64, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	t := kmsg.NewListOffsetsRequestTopic()
	t.Topic = at.topic
	p := kmsg.NewListOffsetsRequestTopicPartition()
	p.Partition, p.Timestamp, p.CurrentLeaderEpoch = at.partition, -1, -1
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, client)
	if err != nil {
		return 0, fmt.Errorf("asking Kafka for the end of %s/%d: %w", at.topic, at.partition, err)
	}
	if len(resp.Topics) == 0 || len(resp.Topics[0].Partitions) == 0 {
		return 0, fmt.Errorf("the end of %s/%d: no answer", at.topic, at.partition)
	}
	end := resp.Topics[0].Partitions[0]
	if err := kerr.ErrorForCode(end.ErrorCode); err != nil {
		return 0, fmt.Errorf("the end of %s/%d: %w", at.topic, at.partition, err)
	}
	return end.Offset, nil
}
