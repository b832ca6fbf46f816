package tenant

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
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
	id      string // changes when one of the topics was deleted and made anew
	spans   map[slot]span
	leaders map[slot]int32
	ids     map[string][16]byte
}

// describe asks for the topics' ids and the bounds of their partitions, as a
// reader sees them that doesn't wait for transactions. A topic that is missing
// is an error.
func describe(ctx context.Context, client *kgo.Client, topics ...string) (*layout, error) {
	req := kmsg.NewPtrMetadataRequest()
	for _, topic := range topics {
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = kmsg.StringPtr(topic)
		req.Topics = append(req.Topics, t)
	}
	resp, err := req.RequestWith(ctx, client)
	if err != nil {
		return nil, fmt.Errorf("asking Kafka for topics %q: %w", topics, err)
	}
	l := &layout{spans: map[slot]span{}, leaders: map[slot]int32{}, ids: map[string][16]byte{}}
	for _, topic := range topics {
		i := slices.IndexFunc(resp.Topics, func(t kmsg.MetadataResponseTopic) bool {
			return t.Topic != nil && *t.Topic == topic
		})
		if i < 0 {
			return nil, fmt.Errorf("topic %s: no answer about it", topic)
		}
		t := &resp.Topics[i]
		if err := kerr.ErrorForCode(t.ErrorCode); err != nil {
			return nil, fmt.Errorf("topic %s: %w", topic, err)
		}
		// Half of the id is as unique as is needed here and keeps Redis keys short.
		l.id += fmt.Sprintf("%x", t.TopicID[:4])
		l.ids[topic] = t.TopicID
		for _, p := range t.Partitions {
			l.spans[slot{topic, p.Partition}] = span{}
			l.leaders[slot{topic, p.Partition}] = p.Leader
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
	req.ReplicaID = -1
	for topic := range l.ids {
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

// probe asks the partition's leader what it has from offset on and returns the
// next offset worth reading: offset itself if there is a record or nothing at
// all, with more telling which, else the offset after batches that compaction
// emptied. Clients don't say how far they skipped such batches, and without
// knowing it a reader would wait for a last record that no longer exists.
func (l *layout) probe(ctx context.Context, client *kgo.Client, at slot, offset int64) (next int64, more bool, err error) {
	req := kmsg.NewPtrFetchRequest()
	req.ReplicaID, req.MaxBytes, req.SessionEpoch = -1, 1<<20, -1
	t := kmsg.NewFetchRequestTopic()
	t.Topic, t.TopicID = at.topic, l.ids[at.topic]
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.FetchOffset, p.PartitionMaxBytes = at.partition, offset, 1<<20
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	kresp, err := client.Broker(int(l.leaders[at])).Request(ctx, req)
	if err != nil {
		return offset, true, fmt.Errorf("looking for the end of %s/%d: %w", at.topic, at.partition, err)
	}
	resp := kresp.(*kmsg.FetchResponse)
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return offset, true, fmt.Errorf("looking for the end of %s/%d: %w", at.topic, at.partition, err)
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return offset, false, nil
	}
	answer := resp.Topics[0].Partitions[0]
	if err := kerr.ErrorForCode(answer.ErrorCode); err != nil {
		return offset, true, fmt.Errorf("looking for the end of %s/%d: %w", at.topic, at.partition, err)
	}
	next, more = skipEmpty(answer.RecordBatches, offset)
	return next, more, nil
}

// skipEmpty walks record batches in their wire form from offset on. It returns
// the offset after the leading batches without records, and whether a batch
// with records at or after offset follows.
func skipEmpty(batches []byte, offset int64) (next int64, more bool) {
	const lengthAt, magicAt, lastDeltaAt, countAt, header = 8, 16, 23, 57, 61
	next = offset
	for len(batches) >= header {
		if batches[magicAt] < 2 {
			return next, true // the old format knows no empty batches
		}
		length := int(binary.BigEndian.Uint32(batches[lengthAt:])) + lengthAt + 4
		last := int64(binary.BigEndian.Uint64(batches)) + int64(binary.BigEndian.Uint32(batches[lastDeltaAt:]))
		if last >= next {
			if binary.BigEndian.Uint32(batches[countAt:]) > 0 {
				return next, true
			}
			next = last + 1
		}
		if length > len(batches) {
			break
		}
		batches = batches[length:]
	}
	return next, next == offset && len(batches) > 0
}
