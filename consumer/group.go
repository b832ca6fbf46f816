package consumer

import (
	"context"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/offsets"

	"github.com/smshooks/smshooks/internal/kafka"
)

func (c *Consumer) onAssigned(_ context.Context, _ *kgo.Client, partitions map[string][]int32) {
	// With the consumer protocol, partitions of a topic that was created again are assigned again without being revoked.
	if len(c.owned(partitions)) > 0 {
		c.endAssignments(partitions, revokeWait)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	var delayed []*assignment
	for topic, ps := range partitions {
		for _, p := range ps {
			tp := topicPartition{topic, p}
			c.assignments[tp] = c.newAssignment(tp)
			n++
			if c.assignments[tp].info.Class != topics.Source {
				c.delayed.Add(1)
				delayed = append(delayed, c.assignments[tp])
			}
		}
	}
	if n > 0 {
		c.Metrics.Rebalances.Inc()
	}
	c.joined.Store(true)
	c.membership.failed.Store(nil)
	c.membership.refused.Store(0)
	c.awaitReleases(delayed)
	c.Log.Info("partitions assigned", zap.Int("partitions", n))
}

// onOffsetsFetched restores the committed state of partitions. It is called after onAssigned, before any record is
// fetched. A partition whose offset the broker refused is not restored: "nothing committed" would be a guess, and the
// next commit would rewind it.
func (c *Consumer) onOffsetsFetched(_ context.Context, _ *kgo.Client, resp *kmsg.OffsetFetchResponse) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	restore := func(topic string, partition int32, code int16, offset int64, epoch int32, metadata *string) {
		a := c.assignments[topicPartition{topic, partition}]
		if a == nil {
			return
		}
		if err := kerr.ErrorForCode(code); err != nil {
			c.refuse(a, err)
			return
		}
		text := ""
		if metadata != nil && offset >= 0 {
			text = *metadata
		}
		id, text := kafka.SplitCommit(text)
		if c.Retired(id) {
			c.outdated[a.topicPartition] = true
			c.Log.Warn("the committed offset is that of a deleted topic; the new topic is read from its start",
				zap.String("topic", topic), zap.Int32("partition", partition), zap.Int64("offset", offset))
			offset, epoch, text = -1, -1, ""
		}
		finished, commitText, _ := strings.Cut(text, ";")
		a.restore(offsets.New(offset, finished), offset, epoch, text)
		if a.hasCommitText() {
			c.CommitTexts.Restore(topic, partition, commitText)
		}
	}
	defer c.refuseOmitted()
	for _, g := range resp.Groups {
		for _, t := range g.Topics {
			for _, p := range t.Partitions {
				restore(t.Topic, p.Partition, p.ErrorCode, p.Offset, p.LeaderEpoch, p.Metadata)
			}
		}
	}
	if len(resp.Groups) > 0 {
		return nil // the client repeats them below, in the format of older protocols
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			restore(t.Topic, p.Partition, p.ErrorCode, p.Offset, p.LeaderEpoch, p.Metadata)
		}
	}
	return nil
}

func (c *Consumer) onRevoked(_ context.Context, _ *kgo.Client, partitions map[string][]int32) {
	c.endAssignments(partitions, revokeWait)
}

// onLost ends the assignments of partitions that the group has already assigned to others. Nothing may be committed.
func (c *Consumer) onLost(_ context.Context, _ *kgo.Client, partitions map[string][]int32) {
	c.joined.Store(false)
	as := c.owned(partitions)
	if len(as) == 0 {
		return
	}
	for _, a := range as {
		a.lose()
	}
	c.Log.Warn("partitions lost: this member did not send heartbeats in time", zap.Int("partitions", len(as)))
	c.endAssignments(partitions, revokeWait) // what ends by then is not sent again if the partitions come back
}

// owned returns the assignments of partitions; nil means all.
func (c *Consumer) owned(partitions map[string][]int32) []*assignment {
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

// endAssignments ends the assignments of partitions; nil means all. No more events are acquired and buffered ones are
// purged. Events in progress may end within wait and are cancelled then. Finished records are committed. The next
// owner repeats a cancelled attempt under the same number. A rebalance and a shutdown exclude each other. The
// commit loop keeps running.
func (c *Consumer) endAssignments(partitions map[string][]int32, wait time.Duration) {
	c.ending <- struct{}{}
	defer func() { <-c.ending }()
	as := c.owned(partitions)
	if len(as) == 0 {
		return
	}
	c.Metrics.Rebalances.Inc()
	for _, a := range as {
		a.drain()
		c.gates.drop(a.topicPartition)
	}
	c.Handler.Purge()
	idle := waitIdle(c.graceCtx, as, wait)
	for _, a := range as {
		a.cancel()
	}
	if !idle && !waitIdle(c.graceCtx, as, cancelWait) && c.graceCtx.Err() == nil {
		c.Log.Warn("work on revoked partitions did not stop in time")
	}
	ctx, cancel := context.WithTimeout(c.graceCtx, commitTimeout)
	defer cancel()
	c.commitLast(ctx, as)
	c.remove(as)
	c.Log.Info("partitions released", zap.Int("partitions", len(as)), zap.Bool("in_time", idle))
}

// remove forgets assignments, except for what later ones must know.
func (c *Consumer) remove(as []*assignment) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range as {
		if c.assignments[a.topicPartition] == a {
			delete(c.assignments, a.topicPartition)
			if !a.isReplaced() {
				c.history[a.topicPartition] = a.appendHistory(time.Now())
			}
			if a.info.Class != topics.Source {
				c.delayed.Add(-1)
			}
		}
		if a.hasCommitText() {
			c.CommitTexts.Forget(a.topic, a.partition)
		}
	}
}

// waitIdle reports whether no event of as is in progress within wait.
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
