package consumer

import (
	"context"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/offsets"
)

func (c *Consumer) assigned(_ context.Context, _ *kgo.Client, partitions map[string][]int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for topic, ps := range partitions {
		for _, p := range ps {
			tp := topicPartition{topic, p}
			c.assignments[tp] = c.newAssignment(tp)
			n++
			if c.assignments[tp].info.Class != topics.Source {
				c.waiting.Add(1)
			}
		}
	}
	c.joined.Store(true)
	c.membership.failed.Store(nil)
	c.log.Info("partitions assigned", zap.Int("partitions", n))
}

// fetched is called after assigned and before anything is fetched, with what was committed of each partition.
func (c *Consumer) fetched(_ context.Context, _ *kgo.Client, resp *kmsg.OffsetFetchResponse) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	restore := func(topic string, partition int32, offset int64, epoch int32, metadata *string) {
		a := c.assignments[topicPartition{topic, partition}]
		if a == nil {
			return
		}
		text := ""
		if metadata != nil && offset >= 0 {
			text = *metadata
		}
		id, text := unmark(text)
		if c.retired(id) {
			c.outdated[a.topicPartition] = true
			c.log.Warn("an offset was committed for a topic that is deleted: the new topic is read from its start",
				zap.String("topic", topic), zap.Int32("partition", partition), zap.Int64("offset", offset))
			offset, epoch, text = -1, -1, ""
		}
		finished, note, _ := strings.Cut(text, ";")
		a.begin(offsets.New(offset, finished), offset, epoch, text)
		if a.hasNotes() {
			c.notes.Restore(topic, partition, note)
		}
	}
	for _, g := range resp.Groups {
		for _, t := range g.Topics {
			for _, p := range t.Partitions {
				restore(t.Topic, p.Partition, p.Offset, p.LeaderEpoch, p.Metadata)
			}
		}
	}
	if len(resp.Groups) > 0 {
		return nil // the client repeats them below, in the shape of older protocols
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			restore(t.Topic, p.Partition, p.Offset, p.LeaderEpoch, p.Metadata)
		}
	}
	return nil
}

func (c *Consumer) revoked(_ context.Context, _ *kgo.Client, partitions map[string][]int32) {
	c.giveAway(partitions, revokeWait)
}

// lost is called when the group has already given the partitions to others: nothing may be committed.
func (c *Consumer) lost(_ context.Context, _ *kgo.Client, partitions map[string][]int32) {
	c.joined.Store(false)
	as := c.held(partitions)
	if len(as) == 0 {
		return
	}
	for _, a := range as {
		a.lose()
	}
	c.log.Warn("partitions lost: the group did not hear from this member in time", zap.Int("partitions", len(as)))
	c.giveAway(partitions, revokeWait) // what ends by then need not be sent again if they come back
}

// held gives the assignments of partitions, or all for nil.
func (c *Consumer) held(partitions map[string][]int32) []*assignment {
	c.mu.Lock()
	defer c.mu.Unlock()
	var as []*assignment
	if partitions == nil {
		for _, a := range c.assignments {
			as = append(as, a)
		}
		return as
	}
	for topic, ps := range partitions {
		for _, p := range ps {
			if a := c.assignments[topicPartition{topic, p}]; a != nil {
				as = append(as, a)
			}
		}
	}
	return as
}

// giveAway ends the assignments of partitions (nil: all): no work begins any more, what waits is abandoned, what has
// begun gets wait to come to its end and is cancelled then, and what is finished is committed. An attempt that was
// cancelled is made again by the next owner under the same number. Until it is over the group is not left or joined
// again: a shutdown and a rebalance take turns. The commit loop goes on meanwhile.
func (c *Consumer) giveAway(partitions map[string][]int32, wait time.Duration) {
	c.giving <- struct{}{}
	defer func() { <-c.giving }()
	as := c.held(partitions)
	if len(as) == 0 {
		return
	}
	for _, a := range as {
		a.close()
		c.gates.drop(c.client, a.topicPartition)
	}
	c.handler.Purge()
	idle := waitIdle(c.end, as, wait)
	for _, a := range as {
		a.cancel()
	}
	if !idle && !waitIdle(c.end, as, cancelWait) {
		c.log.Warn("work on partitions given away has not stopped in time")
	}
	ctx, cancel := context.WithTimeout(c.end, commitTimeout)
	defer cancel()
	c.commitLast(ctx, as)
	c.remove(as)
	c.log.Info("partitions given away", zap.Int("partitions", len(as)), zap.Bool("in_time", idle))
}

func (c *Consumer) remove(as []*assignment) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range as {
		if c.assignments[a.topicPartition] == a {
			delete(c.assignments, a.topicPartition)
			if !a.isReplaced() {
				c.former[a.topicPartition] = a.legacy(time.Now())
			}
			if a.info.Class != topics.Source {
				c.waiting.Add(-1)
			}
		}
		if a.hasNotes() {
			c.notes.Forget(a.topic, a.partition)
		}
	}
}

func waitIdle(ctx context.Context, as []*assignment, wait time.Duration) bool {
	timer := time.NewTimer(max(wait, 0))
	defer timer.Stop()
	for _, a := range as {
		select {
		case <-a.idle:
			continue
		default:
		}
		select {
		case <-a.idle:
		case <-timer.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
	return true
}
