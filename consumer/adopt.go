package consumer

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/kafka"
)

// adoptTimeout is how long Adopt waits for a partition of a new topic before it assumes that other members own all of
// them.
const adoptTimeout = 10 * time.Second

// Adopt consumes topics that were deleted and created again. It returns when this member owns partitions of them, or
// when others own all of them.
func (c *Consumer) Adopt(ctx context.Context, topics []string) error {
	select {
	case <-c.started:
	default:
		return nil // the client, when it is built, finds the new ones
	}
	if c.readsNew(topics) {
		return nil // an earlier call has timed out, and the group has assigned them since
	}
	c.replace(topics)
	c.Log.Info("joining the group again because topics were recreated", zap.Strings("topics", topics))
	c.client.PurgeTopicsFromConsuming(topics...)
	c.client.AddConsumeTopics(topics...)
	check := time.NewTicker(100 * time.Millisecond)
	defer check.Stop()
	for deadline := time.Now().Add(adoptTimeout); !c.reassigned(topics); {
		select {
		case <-check.C:
		case <-ctx.Done():
			return fmt.Errorf("consume recreated topics: %w", ctx.Err())
		}
		if time.Now().After(deadline) && c.joined.Load() && c.membership.joining.Load() == 0 {
			return nil // not while the group still waits for others
		}
	}
	return nil
}

// readsNew reports whether this member has read records of each topic, and of none that was deleted.
func (c *Consumer) readsNew(topics []string) bool {
	read := map[string]bool{}
	for _, a := range c.owned(nil) {
		mark := a.mark.Load()
		if mark == nil {
			continue
		}
		if id, _ := kafka.SplitCommit(*mark); c.Retired(id) {
			read[a.topic] = false
		} else if _, known := read[a.topic]; !known {
			read[a.topic] = true
		}
	}
	return !slices.ContainsFunc(topics, func(topic string) bool { return !read[topic] })
}

// replace marks the assignments of deleted topics: nothing of them is committed, and their history does not apply to
// the records of the new topics.
func (c *Consumer) replace(topics []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, topic := range topics {
		for tp := range c.history {
			if tp.topic == topic {
				delete(c.history, tp)
			}
		}
		for tp, a := range c.assignments {
			if tp.topic == topic {
				a.replace()
			}
		}
	}
}

// reassigned reports whether this member owns partitions of all topics that were assigned since the topics were
// recreated.
func (c *Consumer) reassigned(topics []string) bool {
	fresh := map[string]bool{}
	for _, a := range c.owned(nil) {
		if !a.isReplaced() {
			fresh[a.topic] = true
		}
	}
	for _, topic := range topics {
		if !fresh[topic] {
			return false
		}
	}
	return true
}

// replace implements [Consumer.replace] for one partition.
func (a *assignment) replace() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lost, a.replaced = true, true
}

func (a *assignment) isReplaced() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.replaced
}
