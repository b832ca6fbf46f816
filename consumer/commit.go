package consumer

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/kafka"
)

const (
	commitInterval = 800 * time.Millisecond // the contract promises once a second
	commitTimeout  = 5 * time.Second
	maxMetadata    = 4096 // bytes; the default of the broker's offset.metadata.max.bytes
	maxCommitText  = 1024 // of them
)

func (c *Consumer) commitLoop(ctx context.Context) {
	ticker := time.NewTicker(commitInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			c.CommitNow(ctx)
		}
	}
}

// CommitNow commits the offsets and metadata of all partitions that have changed.
func (c *Consumer) CommitNow(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	c.commit(ctx, c.owned(nil))
}

// snapshot is the state to commit for a partition.
type snapshot struct {
	a     *assignment
	next  int64
	epoch int32
	mark  string // of the topic, before the state
	state string
}

// snapshot returns the state of a, and whether it differs from what is committed.
func (c *Consumer) snapshot(a *assignment) (snapshot, bool) {
	a.mu.Lock()
	tracker, lost, room := a.tracker, a.lost, a.maxMetadataBytes
	committed, committedMetadata := a.committed, a.committedMetadata
	a.mu.Unlock()
	if tracker == nil || lost {
		return snapshot{}, false
	}
	mark, text := "", ""
	if m := a.mark.Load(); m != nil && len(*m) <= room {
		mark = *m
		room -= len(mark)
	}
	if a.hasCommitText() && room > 0 {
		text = c.CommitTexts.CommitText(a.topic, a.partition, tracker.Committable(), min(maxCommitText, room))
	}
	if text != "" {
		room -= len(text) + 1
	}
	epoch := a.epoch.Load() // read before the state, which must not contain records of a newer epoch
	next, state := tracker.Snapshot(max(room, 0))
	if text != "" {
		state += ";" + text
	}
	return snapshot{a, next, epoch, mark, state}, next >= 0 && (next != committed || state != committedMetadata)
}

// commit stores the changed state of as. A failure is logged, counted and repaired by the next commit.
func (c *Consumer) commit(ctx context.Context, as []*assignment) {
	if !c.lockCommit(ctx) {
		return
	}
	defer c.unlockCommit()
	c.commitSnapshots(ctx, as, c.snapshots(as))
}

// commitLast stores the changed state of partitions that are being revoked. They are not committed afterwards.
func (c *Consumer) commitLast(ctx context.Context, as []*assignment) {
	defer func() {
		for _, a := range as {
			a.lose()
		}
	}()
	if !c.lockCommit(ctx) {
		return
	}
	defer c.unlockCommit()
	pending := c.snapshots(as)
	c.warnOmitted(pending)
	c.commitSnapshots(ctx, as, pending)
}

// lockCommit waits until no other commit is under way. It returns false if ctx ends before.
func (c *Consumer) lockCommit(ctx context.Context) bool {
	select {
	case c.committing <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (c *Consumer) unlockCommit() { <-c.committing }

// snapshots returns the state of those of as that changed since their last commit.
func (c *Consumer) snapshots(as []*assignment) map[topicPartition]snapshot {
	changed := map[topicPartition]snapshot{}
	for _, a := range as {
		if s, ok := c.snapshot(a); ok {
			changed[a.topicPartition] = s
		}
	}
	return changed
}

// commitSnapshots commits pending, snapshots of some of the assignments as.
func (c *Consumer) commitSnapshots(ctx context.Context, as []*assignment, pending map[topicPartition]snapshot) {
	if len(pending) == 0 {
		return
	}
	upto := map[string]map[int32]kgo.EpochOffset{}
	for tp, s := range pending {
		if upto[tp.topic] == nil {
			upto[tp.topic] = map[int32]kgo.EpochOffset{}
		}
		upto[tp.topic][tp.partition] = kgo.EpochOffset{Epoch: s.epoch, Offset: s.next}
	}
	ctx = kgo.PreCommitFnContext(ctx, func(req *kmsg.OffsetCommitRequest) error {
		for i := range req.Topics {
			for j := range req.Topics[i].Partitions {
				p := &req.Topics[i].Partitions[j]
				s := pending[topicPartition{req.Topics[i].Topic, p.Partition}]
				metadata := s.mark + s.state
				p.Metadata = &metadata
			}
		}
		return nil
	})
	c.client.CommitOffsetsSync(ctx, upto, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse,
		err error,
	) {
		if err != nil {
			c.Metrics.CommitErrors.Inc()
		} else {
			err = c.committed(as, pending, resp)
		}
		if err != nil {
			if c.graceCtx.Err() == nil { // else Run reports that the stop was cut off
				c.uncommitted.Fail(kafka.Explain(err))
			}
			return
		}
		c.uncommitted.Recover()
	})
}

// warnOmitted logs how many finished records do not fit into the metadata of the last commit.
func (c *Consumer) warnOmitted(last map[topicPartition]snapshot) {
	var records int64
	for _, s := range last {
		records += s.a.tracker.Omitted(s.next, s.state)
	}
	if records > 0 {
		c.Log.Warn("finished records do not fit into the metadata of the commit; they are sent again",
			zap.Int64("records", records))
	}
}

// committed stores which of the pending offsets the broker has committed for as. It returns the first refusal.
func (c *Consumer) committed(
	as []*assignment, pending map[topicPartition]snapshot, resp *kmsg.OffsetCommitResponse,
) (refusal error) {
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			s, ok := pending[topicPartition{t.Topic, p.Partition}]
			if !ok {
				continue
			}
			err := kerr.ErrorForCode(p.ErrorCode)
			switch {
			case err == nil:
				s.a.acknowledge(s)
				continue
			case err == kerr.OffsetMetadataTooLarge: //nolint:errorlint // kerr.ErrorForCode returns the value itself
				s.a.halveMetadata() // the broker's offset.metadata.max.bytes is lower
			}
			c.Metrics.CommitErrors.Inc()
			c.commitRefused(err, as)
			if refusal == nil {
				refusal = fmt.Errorf("%s/%d: %w", t.Topic, p.Partition, err)
			}
		}
	}
	return refusal
}
