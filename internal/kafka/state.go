package kafka

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// state is the broker's state of one topic. A missing topic has no state.
type state struct {
	partitions int32
	replicas   int               // of the partition that has the fewest
	settled    bool              // every partition has a leader
	configs    map[string]string // effective values; a key the broker does not know is absent
}

// readState reads partitions and settings of the existing topics.
func readState(ctx context.Context, cl *kgo.Client, topics []string) (map[string]state, error) {
	states, err := readPartitions(ctx, cl, topics)
	if err != nil {
		return nil, err
	}
	var present []string
	for _, topic := range topics {
		if _, ok := states[topic]; ok {
			present = append(present, topic)
		}
	}
	described, err := kadm.NewClient(cl).DescribeTopicConfigs(ctx, present...)
	if err != nil {
		return nil, fmt.Errorf("read topic settings: %w", err)
	}
	for _, resource := range described {
		if errors.Is(resource.Err, kerr.UnknownTopicOrPartition) {
			delete(states, resource.Name) // deleted since, or not yet known to the broker that answered
			continue
		}
		if resource.Err != nil {
			return nil, fmt.Errorf("read settings of topic %s: %w", resource.Name, resource.Err)
		}
		for _, c := range resource.Configs {
			if c.Value != nil {
				states[resource.Name].configs[c.Key] = *c.Value
			}
		}
	}
	return states, nil
}

// readPartitions reads the existing topics without their settings.
func readPartitions(ctx context.Context, cl *kgo.Client, topics []string) (map[string]state, error) {
	found, err := TopicMetadata(ctx, cl, topics...)
	if err != nil {
		return nil, err
	}
	states := make(map[string]state, len(topics))
	for topic, t := range found {
		if t.ErrorCode == kerr.UnknownTopicOrPartition.Code {
			continue
		}
		// A topic that was just created has partitions, but no leader yet.
		if err := kerr.ErrorForCode(t.ErrorCode); err != nil && !errors.Is(err, kerr.LeaderNotAvailable) {
			return nil, fmt.Errorf("read topic %s: %w", topic, err)
		}
		s := state{partitions: int32(len(t.Partitions)), settled: t.ErrorCode == 0, configs: make(map[string]string)}
		for _, part := range t.Partitions {
			s.settled = s.settled && part.Leader >= 0
			if s.replicas == 0 || len(part.Replicas) < s.replicas {
				s.replicas = len(part.Replicas)
			}
		}
		states[topic] = s
	}
	return states, nil
}

// limit returns a setting for which -1 means none; ok is false if the broker does not know the setting.
func (s state) limit(key string) (value int64, ok bool) {
	value, err := strconv.ParseInt(s.configs[key], 10, 64)
	return value, err == nil
}

// keepsLess reports whether records may be deleted before d has passed.
func (s state) keepsLess(d time.Duration) (retention time.Duration, less bool) {
	ms, ok := s.limit("retention.ms")
	if !ok || ms < 0 {
		return 0, false
	}
	// Compared in milliseconds: the largest retention.ms overflows a Duration.
	return time.Duration(min(ms, int64(1<<63-1)/int64(time.Millisecond))) * time.Millisecond, ms < d.Milliseconds()
}

// policy returns the cleanup policy. Without one, a broker deletes.
func (s state) policy() string {
	if v := strings.ReplaceAll(s.configs["cleanup.policy"], " ", ""); v != "" {
		return v
	}
	return "delete"
}
