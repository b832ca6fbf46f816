package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/Jeffail/checkpoint"
	"github.com/redpanda-data/benthos/v4/public/service"
	"github.com/twmb/franz-go/pkg/kgo"
)

// register adds the input "franz" to an environment. A message that the output refuses is sent again, as with
// kafka_franz.
func register(env *service.Environment) error {
	spec := service.NewConfigSpec().Fields(
		service.NewStringListField("seed_brokers"), service.NewStringListField("topics"),
		service.NewStringField("consumer_group"), service.NewIntField("checkpoint_limit"),
		service.NewDurationField("commit_period"))
	return env.RegisterBatchInput("franz", spec,
		func(conf *service.ParsedConfig, _ *service.Resources) (service.BatchInput, error) {
			in, err := newInput(conf)
			if err != nil {
				return nil, err
			}
			return service.AutoRetryNacksBatched(in), nil
		})
}

// input consumes a group's partitions. Each record is a batch of its own, which is the default of kafka_franz. An
// offset is committed when all records before it were delivered.
type input struct {
	brokers, topics []string
	group           string
	limit           int // records of a partition that are not delivered; more pause it
	every           time.Duration

	client *kgo.Client
	polled []*kgo.Record // not yet returned

	mu    sync.Mutex // guards what follows
	parts map[partition]*checkpoint.Uncapped[*kgo.Record]
}

type partition struct {
	topic  string
	number int32
}

func newInput(conf *service.ParsedConfig) (in *input, err error) {
	in = &input{parts: make(map[partition]*checkpoint.Uncapped[*kgo.Record])}
	if in.brokers, err = conf.FieldStringList("seed_brokers"); err != nil {
		return nil, err
	}
	if in.topics, err = conf.FieldStringList("topics"); err != nil {
		return nil, err
	}
	if in.group, err = conf.FieldString("consumer_group"); err != nil {
		return nil, err
	}
	if in.limit, err = conf.FieldInt("checkpoint_limit"); err != nil {
		return nil, err
	}
	in.every, err = conf.FieldDuration("commit_period")
	return in, err
}

// Connect creates the client. Fetch sizes and waits are the client's defaults, which are those of kafka_franz.
func (in *input) Connect(context.Context) (err error) {
	in.client, err = kgo.NewClient(
		kgo.SeedBrokers(in.brokers...), kgo.ConsumerGroup(in.group), kgo.ConsumeTopics(in.topics...),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.AutoCommitMarks(), kgo.AutoCommitInterval(in.every),
		kgo.OnPartitionsRevoked(in.revoked), kgo.OnPartitionsLost(in.lost))
	if err != nil {
		return fmt.Errorf("kafka client: %w", err)
	}
	return nil
}

func (in *input) revoked(ctx context.Context, client *kgo.Client, from map[string][]int32) {
	_ = client.CommitMarkedOffsets(ctx) // without it, the next owner delivers again
	in.lost(ctx, client, from)
}

func (in *input) lost(_ context.Context, _ *kgo.Client, from map[string][]int32) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for topic, numbers := range from {
		for _, n := range numbers {
			delete(in.parts, partition{topic, n})
		}
	}
}

// ReadBatch returns the next record and how to acknowledge it.
func (in *input) ReadBatch(ctx context.Context) (service.MessageBatch, service.AckFunc, error) {
	for len(in.polled) == 0 {
		if err := in.poll(ctx); err != nil {
			return nil, nil, err
		}
	}
	r := in.polled[0]
	in.polled = in.polled[1:]
	m := service.NewMessage(r.Value)
	m.MetaSetMut("kafka_key", string(r.Key))
	m.MetaSetMut("kafka_topic", r.Topic)
	m.MetaSetMut("kafka_partition", int(r.Partition))
	m.MetaSetMut("kafka_offset", int(r.Offset))
	m.MetaSetMut("kafka_timestamp_unix", r.Timestamp.Unix())
	m.MetaSetMut("kafka_tombstone_message", r.Value == nil)
	for _, h := range r.Headers {
		m.MetaSetMut(h.Key, string(h.Value))
	}
	r.Key, r.Value = nil, nil // only the offset is needed later
	return service.MessageBatch{m}, in.track(r), nil
}

// poll waits for records for at most a second: partitions that were paused must be resumed though nothing comes.
func (in *input) poll(ctx context.Context) error {
	once, done := context.WithTimeout(ctx, time.Second)
	fetches := in.client.PollFetches(once)
	done()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := fetches.Err0(); err != nil && once.Err() == nil {
		return fmt.Errorf("poll: %w", err)
	}
	in.polled = fetches.Records()
	in.pause()
	return nil
}

// pause pauses the partitions that have too many records under way, and resumes the others.
func (in *input) pause() {
	in.mu.Lock()
	defer in.mu.Unlock()
	var full, free []partition
	for p, c := range in.parts {
		if c.Pending() >= int64(in.limit) {
			full = append(full, p)
		} else {
			free = append(free, p)
		}
	}
	in.client.PauseFetchPartitions(byTopic(full))
	in.client.ResumeFetchPartitions(byTopic(free))
}

func byTopic(ps []partition) map[string][]int32 {
	topics := make(map[string][]int32)
	for _, p := range ps {
		topics[p.topic] = append(topics[p.topic], p.number)
	}
	return topics
}

// track returns the function that acknowledges a record: it marks the last record up to which all are acknowledged.
func (in *input) track(r *kgo.Record) service.AckFunc {
	p := partition{r.Topic, r.Partition}
	in.mu.Lock()
	defer in.mu.Unlock()
	c := in.parts[p]
	if c == nil {
		c = checkpoint.NewUncapped[*kgo.Record]()
		in.parts[p] = c
	}
	release := c.Track(r, 1)
	return func(context.Context, error) error {
		in.mu.Lock()
		defer in.mu.Unlock()
		if last := release(); last != nil && *last != nil && in.parts[p] == c {
			in.client.MarkCommitRecords(*last)
		}
		return nil
	}
}

// Close leaves the group, after a commit.
func (in *input) Close(ctx context.Context) error {
	if in.client == nil {
		return nil
	}
	err := in.client.CommitMarkedOffsets(ctx)
	in.client.Close()
	return err
}
