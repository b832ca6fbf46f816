package consumer

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"
)

// adoptMost is how long a new topic may stay without partitions of this member until they count as given to others.
const adoptMost = 10 * time.Second

// Adopt reads the new topics of those names: the former ones were deleted. It returns when this member has partitions of
// them, or when the group has given them all to others.
func (c *Consumer) Adopt(ctx context.Context, topics []string) error {
	select {
	case <-c.began:
	default:
		return nil // the client, when it is built, finds the new ones
	}
	c.replace(topics)
	c.log.Info("joining the group again for topics that were created again", zap.Strings("topics", topics))
	c.client.PurgeTopicsFromConsuming(topics...)
	c.client.AddConsumeTopics(topics...)
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	for enough := time.Now().Add(adoptMost); !c.assignedAnew(topics); {
		select {
		case <-look.C:
		case <-ctx.Done():
			return fmt.Errorf("read topics that were created again: %w", ctx.Err())
		}
		if time.Now().After(enough) && c.joined.Load() && c.membership.joining.Load() == 0 {
			return nil // not while the group still waits for others
		}
	}
	return nil
}

// replace marks the assignments of topics whose offsets mean nothing any more: nothing of them is committed, and what
// was finished is not looked up for the records of the new topics.
func (c *Consumer) replace(topics []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, topic := range topics {
		for tp := range c.former {
			if tp.topic == topic {
				delete(c.former, tp)
			}
		}
		for tp, a := range c.assignments {
			if tp.topic == topic {
				a.replace()
			}
		}
	}
}

// assignedAnew reports whether this member has partitions of all topics, assigned since they were replaced.
func (c *Consumer) assignedAnew(topics []string) bool {
	fresh := map[string]bool{}
	for _, a := range c.held(nil) {
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
