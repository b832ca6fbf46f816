package consumer

import (
	"context"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/event"
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
		}
	}
	c.joined.Store(true)
	c.log.Info("partitions assigned", zap.Int("partitions", n))
}

// fetched is called after assigned and before anything is fetched, with what was committed of each partition.
func (c *Consumer) fetched(_ context.Context, _ *kgo.Client, resp *kmsg.OffsetFetchResponse) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	restore := func(topic string, partition int32, offset int64, metadata *string) {
		a := c.assignments[topicPartition{topic, partition}]
		if a == nil {
			return
		}
		text := ""
		if metadata != nil && offset >= 0 {
			text = *metadata
		}
		finished, note, _ := strings.Cut(text, ";")
		a.tracker = offsets.New(offset, finished)
		a.next = offset
		a.committed, a.committedState = offset, text
		if a.info.Class == event.Source {
			c.notes.Restore(topic, partition, note)
		}
	}
	for _, g := range resp.Groups {
		for _, t := range g.Topics {
			for _, p := range t.Partitions {
				restore(t.Topic, p.Partition, p.Offset, p.Metadata)
			}
		}
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			restore(t.Topic, p.Partition, p.Offset, p.Metadata)
		}
	}
	return nil
}

func (c *Consumer) revoked(_ context.Context, _ *kgo.Client, partitions map[string][]int32) {
	c.giveAway(c.take(partitions), revokeWait, true)
}

// lost is called when the group has already given the partitions to others: nothing may be committed.
func (c *Consumer) lost(_ context.Context, _ *kgo.Client, partitions map[string][]int32) {
	c.joined.Store(false)
	if taken := c.take(partitions); len(taken) > 0 {
		c.log.Warn("partitions lost: the group did not hear from this member in time", zap.Int("partitions", len(taken)))
		c.giveAway(taken, 0, false)
	}
}

// take removes the assignments of partitions, or all for nil.
func (c *Consumer) take(partitions map[string][]int32) []*assignment {
	c.mu.Lock()
	defer c.mu.Unlock()
	var taken []*assignment
	if partitions == nil {
		for tp, a := range c.assignments {
			taken = append(taken, a)
			delete(c.assignments, tp)
		}
		return taken
	}
	for topic, ps := range partitions {
		for _, p := range ps {
			tp := topicPartition{topic, p}
			if a := c.assignments[tp]; a != nil {
				taken = append(taken, a)
				delete(c.assignments, tp)
			}
		}
	}
	return taken
}

// giveAway ends assignments: no work begins any more, what waits is abandoned, what has begun gets wait to come to
// its end and is cancelled then, and what is finished is committed. An attempt that was cancelled is made again by
// the next owner under the same number.
func (c *Consumer) giveAway(taken []*assignment, wait time.Duration, commit bool) {
	if len(taken) == 0 {
		return
	}
	for _, a := range taken {
		a.close()
		c.gates.drop(c.client, a.topicPartition)
	}
	c.handler.Purge()
	deadline := time.Now().Add(wait)
	idle := waitIdle(taken, min(wait, commitInterval))
	for !idle && time.Now().Before(deadline) {
		if commit {
			// What ends meanwhile is stored as often as ever: the process may be killed while it waits.
			ctx, cancel := context.WithDeadline(context.Background(), deadline)
			c.commit(ctx, taken)
			cancel()
		}
		idle = waitIdle(taken, min(time.Until(deadline), commitInterval))
	}
	for _, a := range taken {
		a.cancel()
	}
	if !idle && !waitIdle(taken, cancelWait) {
		c.log.Warn("work on partitions given away has not stopped in time")
	}
	if commit {
		// Committing is what keeps the next owner from sending again: it has its own time.
		ctx, cancel := context.WithDeadline(context.Background(), deadline.Add(cancelWait+5*time.Second))
		defer cancel()
		c.commit(ctx, taken)
	}
	for _, a := range taken {
		if a.info.Class == event.Source {
			c.notes.Forget(a.topic, a.partition)
		}
	}
	c.log.Info("partitions given away", zap.Int("partitions", len(taken)), zap.Bool("in_time", idle))
}

func waitIdle(as []*assignment, wait time.Duration) bool {
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
		}
	}
	return true
}
