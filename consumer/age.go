package consumer

import (
	"context"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/internal/topics"
)

const (
	fewTimes      = 1024 // up to so many times are remembered of a partition, that of every record is
	timesInterval = 16   // otherwise that of every 16th, and of the first of each poll
	maxTimes      = 4096 // remembered per partition
	// headStale is how long the head of a partition must have been unfetched before its time is looked up.
	headStale = 3 * time.Second
	// headPrecision and headOldest bound the search for the time of a head.
	headPrecision  = 250 * time.Millisecond
	headOldest     = 60 * 24 * time.Hour
	maxHeadQueries = 4 // per measurement, about twenty requests each
)

// times remembers when some of the unsettled records of a source partition were written.
type times struct {
	mu   sync.Mutex
	seen []offsetTime // ascending
}

type offsetTime struct {
	offset int64
	time   time.Time
}

// add stores the times of records that were polled at now. That is the time of those which have none.
func (t *times) add(records []*kgo.Record, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	first := records[0].Offset
	for n := len(t.seen); n > 0 && t.seen[n-1].offset >= first; n-- {
		t.seen = t.seen[:n-1] // the partition was rewound
	}
	step := 1
	if len(t.seen)+len(records) > fewTimes {
		step = timesInterval
	}
	for i := 0; i < len(records); i += step {
		at := records[i].Timestamp
		if at.UnixMilli() < 0 {
			at = now
		}
		t.seen = append(t.seen, offsetTime{records[i].Offset, at})
	}
	if len(t.seen) > maxTimes { // drop every second one
		kept := t.seen[:0]
		for i := 0; i < len(t.seen); i += 2 {
			kept = append(kept, t.seen[i])
		}
		t.seen = kept
	}
}

// at returns the time of the last remembered record up to offset, and forgets earlier ones.
func (t *times) at(offset int64) (time.Time, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for n+1 < len(t.seen) && t.seen[n+1].offset <= offset {
		n++
	}
	t.seen = append(t.seen[:0], t.seen[n:]...)
	if len(t.seen) == 0 || t.seen[0].offset > offset {
		return time.Time{}, false
	}
	return t.seen[0].time, true
}

// head is the first unsettled record of a partition, if it has not been fetched.
type head struct {
	offset int64
	since  time.Time // when it was seen first
	time   time.Time // when the record was written; zero until it was looked up
}

// written returns when the head was written, or, until that is known, the latest time at which it can have been.
func (h head) written() time.Time {
	if h.time.IsZero() {
		return h.since
	}
	return h.time
}

// findHeads finds partitions whose head is not fetched: the buffer is full, fetching fails, or the records are new.
// It looks up the time of heads that stay unfetched.
func (c *Consumer) findHeads(ctx context.Context, admin *kadm.Client, starts, ends kadm.ListedOffsets) {
	now := time.Now()
	heads, asked := map[*assignment]head{}, 0
	for _, a := range c.owned(nil) {
		tracker := a.tracked()
		if tracker == nil {
			continue
		}
		end, ok := ends.Lookup(a.topic, a.partition)
		start, started := starts.Lookup(a.topic, a.partition)
		if !ok || !started || end.Err != nil || start.Err != nil {
			if h, known := c.lag.heads[a]; known {
				heads[a] = h // unknown now: assume that it is still unfetched
			}
			continue
		}
		next := max(tracker.Committable(), start.Offset)
		if tracker.Outstanding() > 0 || next >= end.Offset {
			continue
		}
		h, known := c.lag.heads[a]
		if !known || h.offset != next {
			h = head{offset: next, since: now}
		}
		if h.time.IsZero() && now.Sub(h.since) >= headStale && asked < maxHeadQueries {
			h.time = timeOf(ctx, admin, a, next)
			asked++
		}
		heads[a] = h
	}
	c.lag.heads = heads
}

// timeOf finds the time of the record at offset by bisection: Kafka answers from which offset on records are newer
// than a time. It returns the zero time if Kafka does not answer.
func timeOf(ctx context.Context, admin *kadm.Client, a *assignment, offset int64) time.Time {
	newer := time.Now() // all records from here on are above offset
	older := newer.Add(-headOldest)
	for newer.Sub(older) > headPrecision {
		middle := older.Add(newer.Sub(older) / 2)
		listed, err := admin.ListOffsetsAfterMilli(ctx, middle.UnixMilli(), a.topic)
		at, ok := listed.Lookup(a.topic, a.partition)
		if err != nil || !ok || at.Err != nil {
			return time.Time{}
		}
		if at.Offset <= offset {
			older = middle
		} else {
			newer = middle
		}
	}
	return older
}

// measureAges sets the age of the oldest unsettled record of each source topic, and by how much that of each delay
// topic is overdue, fetched or not.
func (c *Consumer) measureAges() {
	now := c.gates.now()
	age := map[string]time.Duration{}
	late := c.gates.overdue(now)
	for _, a := range c.owned(nil) {
		h, stale := c.lag.heads[a]
		stale = stale && time.Since(h.since) >= headStale
		switch tracker := a.tracked(); {
		case tracker == nil:
		case a.info.Class != topics.Source:
			if stale && tracker.Outstanding() == 0 {
				late[a.topic] = max(late[a.topic], now.Sub(h.written().Add(a.info.Delay)))
			}
		default:
			written, ok := a.times.at(tracker.Committable()) // forgets those of settled records
			if ok && tracker.Outstanding() > 0 {
				age[a.topic] = max(age[a.topic], now.Sub(written))
			} else if stale && tracker.Outstanding() == 0 {
				age[a.topic] = max(age[a.topic], now.Sub(h.written()))
			}
		}
	}
	for _, t := range c.cfg.Topics {
		// Without an answer of Kafka, a record in memory that is late is known, but not that there is none.
		_, known := c.lag.known[topicPartition{t, wholeTopic}]
		switch source := c.Topics.Describe(t).Class == topics.Source; {
		case source && (known || age[t] > 0):
			c.Metrics.SourceLag(t, max(age[t], 0))
		case source:
			c.Metrics.SourceLagUnknown(t)
		case known || late[t] > 0:
			c.Metrics.Overdue(t, max(late[t], 0))
		default:
			c.Metrics.OverdueUnknown(t)
		}
	}
}
