package consumer

import (
	"context"
	"errors"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/kafka"
)

// next returns the offset after the last polled record of a partition, -1 if there is none.
func (c *Consumer) next(topic string, partition int32) int64 {
	if a := c.assignment(topic, partition); a != nil {
		return a.next
	}
	return -1
}

func (c *Consumer) assignment(topic string, partition int32) *assignment {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.assignments[topicPartition{topic, partition}]
}

// fetchFailed handles the error of a partition that was polled.
func (c *Consumer) fetchFailed(topic string, partition int32, err error) {
	if skipped, ok := errors.AsType[*kafka.Skipped](err); ok {
		if a := c.assignment(topic, partition); a != nil && a.tracker != nil {
			a.sawEpoch(skipped.Epoch, skipped.From)
			a.finishNow(skipped.Next - 1)
		}
		return
	}
	if loss, ok := errors.AsType[*kgo.ErrDataLoss](err); ok {
		c.Log.Error("the broker has lost records: the log of the partition was truncated",
			zap.String("topic", topic), zap.Int32("partition", partition),
			zap.Int64("from", loss.ResetTo), zap.Int64("to", loss.ConsumedTo-1),
			zap.Int32("epoch", loss.ConsumedToEpoch), zap.Int32("new_epoch", loss.ResetToEpoch))
		if a := c.assignment(topic, partition); a != nil {
			a.next = loss.ResetTo
			if a.tracker != nil { // the new epoch with the old offset would skip records written since
				a.tracker.Rewind(loss.ResetTo)
			}
		}
		return
	}
	if !errors.Is(err, context.Canceled) {
		c.fetchOutages.fail(topic, partition, err)
	}
}

// finishNow finishes an offset that needs no work, and unseen offsets below it.
func (a *assignment) finishNow(offset int64) {
	a.next = offset + 1
	if generation, fresh := a.tracker.Track(offset); fresh {
		a.tracker.Finish(generation, offset)
	}
}

// sawEpoch stores the leader epoch of the record at offset. If it is newer than that of the committed metadata, the
// log may have been truncated and written again: records from here on are not those that the metadata calls finished.
func (a *assignment) sawEpoch(epoch int32, offset int64) {
	known := a.epoch.Load()
	if epoch <= known {
		return
	}
	if known >= 0 {
		a.tracker.Forget(offset)
	}
	a.epoch.Store(epoch)
}

// skipEmpty moves partitions without outstanding records past records that a consumer never sees: aborted and
// control records at the end of a partition. They would count as lag until the next record comes.
func (c *Consumer) skipEmpty(ctx context.Context, starts, ends kadm.ListedOffsets) {
	lastCommittable := make(map[*assignment]int64)
	for _, a := range c.owned(nil) {
		tracker := a.tracked()
		end, ok := ends.Lookup(a.topic, a.partition)
		start, known := starts.Lookup(a.topic, a.partition)
		if tracker == nil || !ok || !known || end.Err != nil || start.Err != nil || tracker.Outstanding() > 0 {
			continue
		}
		committable := tracker.Committable()
		next := max(committable, start.Offset)
		if next >= end.Offset {
			continue
		}
		lastCommittable[a] = committable
		if before, ok := c.lag.lastCommittable[a]; !ok || before != committable {
			continue // the poll loop may be about to ingest records
		}
		to, err := kafka.NextRecord(ctx, c.client, a.topic, a.partition, next, end.Offset, false)
		if err == nil && to > next {
			tracker.Pass(committable, to)
		}
	}
	c.lag.lastCommittable = lastCommittable
}
