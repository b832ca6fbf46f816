package consumer

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/smshooks/smshooks/internal/kafka"
	"github.com/smshooks/smshooks/internal/metrics"
	"github.com/smshooks/smshooks/internal/outage"
	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/offsets"
)

const (
	lagInterval = 2 * time.Second
	lagTimeout  = 5 * time.Second
	lagKept     = time.Minute // how long a value is shown that cannot be measured again

	wholeTopic = -1 // stands for all partitions of a topic in lag.known
)

// lag holds the metrics of the backlog. Committed and end offsets are read from Kafka for every partition, whoever
// owns it, so that the values are those of Kafka's own tools, the same on every instance, and cover partitions
// without an owner.
type lag struct {
	measured atomic.Int64                 // Unix ms of the last measurement
	stalled  atomic.Int64                 // ms
	known    map[topicPartition]time.Time // last measured; after lagKept it is not known any more
	progress map[*assignment]progress
	heads    map[*assignment]head // heads that are not fetched
	// lastCommittable has the offsets, at the last measurement, of partitions with records but none outstanding.
	lastCommittable map[*assignment]int64
}

// progress is the committable offset of a partition, and since when it has been the same.
type progress struct {
	next  int64
	since time.Time
}

func (c *Consumer) registerLag() {
	c.lag.known = map[topicPartition]time.Time{}
	c.lag.measured.Store(time.Now().UnixMilli())
	c.Metrics.Read(metrics.LagAge, func() float64 { return time.Since(time.UnixMilli(c.lag.measured.Load())).Seconds() })
	c.Metrics.Read(metrics.CommitStalled, func() float64 { return float64(c.lag.stalled.Load()) / 1000 })
	c.Metrics.Read(metrics.LedgerGap, func() float64 { return float64(c.gap()) })
}

func (c *Consumer) lagLoop(ctx context.Context) {
	ticker := time.NewTicker(lagInterval)
	defer ticker.Stop()
	admin := kadm.NewClient(c.client)
	unmeasured := outage.New(c.Log, "cannot measure the lag", "the lag is measured again")
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		c.measureAges()
		c.lag.stalled.Store(c.stalled(time.Now()).Milliseconds())
		switch err := c.measureLag(ctx, admin); {
		case err == nil:
			unmeasured.Recover()
		case ctx.Err() == nil:
			unmeasured.Fail(err)
		}
		c.forgetLag(time.Now())
	}
}

// forgetLag withdraws what has not been measured for lagKept. Old values look like current ones.
func (c *Consumer) forgetLag(now time.Time) {
	for p, at := range c.lag.known {
		if now.Sub(at) < lagKept {
			continue
		}
		delete(c.lag.known, p)
		switch {
		case p.partition != wholeTopic:
			c.Metrics.LagUnknown(p.topic, p.partition)
		case c.Topics.Describe(p.topic).Class != topics.Source:
			c.Metrics.DelayedUnknown(p.topic)
		}
	}
}

// measureLag reads the group's lag from Kafka and sets the gauges.
func (c *Consumer) measureLag(ctx context.Context, admin *kadm.Client) error {
	ctx, cancel := context.WithTimeout(ctx, lagTimeout)
	defer cancel()
	lag, err := kafka.ReadGroupLag(ctx, c.client, c.cfg.Group, c.cfg.Topics...)
	if err != nil {
		c.wakeAll()
		return fmt.Errorf("measure the lag: %w", err)
	}
	c.sleep(lag.Starts, lag.Ends)
	c.skipEmpty(ctx, lag.Starts, lag.Ends)
	c.findHeads(ctx, admin, lag.Starts, lag.Ends)
	now, delayed, broken := time.Now(), map[string]int64{}, map[string]bool{}
	for _, p := range lag.Partitions() {
		if p.Unknown {
			broken[p.Topic] = true // keep the previous value for a while
			continue
		}
		c.Metrics.Lag(p.Topic, p.Partition, p.Lag)
		c.lag.known[topicPartition{p.Topic, p.Partition}] = now
		delayed[p.Topic] += p.Records
	}
	for _, t := range c.cfg.Topics {
		if broken[t] {
			continue
		}
		c.lag.known[topicPartition{t, wholeTopic}] = now
		if c.Topics.Describe(t).Class != topics.Source {
			c.Metrics.Delayed(t, delayed[t])
		}
	}
	if len(broken) == 0 {
		c.lag.measured.Store(time.Now().UnixMilli())
	}
	return nil
}

// stalled returns the longest time for which a source partition has had outstanding records while its committable
// offset did not move. Whatever an endpoint does, a record is settled within a minute or two: a longer time means
// that the process lost a record, or that Kafka stores none.
func (c *Consumer) stalled(now time.Time) time.Duration {
	worst := time.Duration(0)
	seen := make(map[*assignment]progress)
	for _, a := range c.owned(nil) {
		tracker := a.tracked()
		if a.info.Class != topics.Source || tracker == nil || tracker.Outstanding() == 0 {
			continue
		}
		p := c.lag.progress[a]
		if next := tracker.Committable(); p.since.IsZero() || p.next != next {
			p = progress{next, now}
		}
		seen[a] = p
		worst = max(worst, now.Sub(p.since))
	}
	c.lag.progress = seen
	return worst
}

// tracked returns the tracker, nil until the committed offset is known.
func (a *assignment) tracked() *offsets.Tracker {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.tracker
}

// gap returns the difference between two counts of the same records: outstanding in the trackers, and in the gates
// or the buffer. The counts are independent, but not read at the same moment.
func (c *Consumer) gap() int64 {
	open := int64(0)
	for _, a := range c.owned(nil) {
		if tracker := a.tracked(); tracker != nil {
			open += int64(tracker.Outstanding())
		}
	}
	records, _, _ := c.gates.usage()
	return open - int64(records) - c.buffer.records.Load()
}
