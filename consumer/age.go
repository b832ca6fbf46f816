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
	timesEvery = 16   // a record's time is remembered of every so many, and of the first of each poll
	timesMost  = 4096 // remembered per partition
	// headStands is how long the head of a partition must not have been fetched before its time is asked for.
	headStands = 3 * time.Second
	// headPrecision and headOldest bound the search for the time of a head.
	headPrecision = 250 * time.Millisecond
	headOldest    = 60 * 24 * time.Hour
	headsAsked    = 4 // at a time, each with some twenty requests
)

// times remembers of a source partition when some of the records that are not settled were written.
type times struct {
	mu   sync.Mutex
	seen []offsetTime // ascending
}

type offsetTime struct {
	offset int64
	time   time.Time
}

// note remembers the times of records that were just polled.
func (t *times) note(records []*kgo.Record) {
	t.mu.Lock()
	defer t.mu.Unlock()
	first := records[0].Offset
	for n := len(t.seen); n > 0 && t.seen[n-1].offset >= first; n-- {
		t.seen = t.seen[:n-1] // the partition was rewound
	}
	for i := 0; i < len(records); i += timesEvery {
		t.seen = append(t.seen, offsetTime{records[i].Offset, records[i].Timestamp})
	}
	if len(t.seen) > timesMost { // every second goes
		kept := t.seen[:0]
		for i := 0; i < len(t.seen); i += 2 {
			kept = append(kept, t.seen[i])
		}
		t.seen = kept
	}
}

// at returns the time of the last record remembered that is not behind offset, and forgets those before it.
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

// head is the first record of a partition that is not settled, if it has not been fetched.
type head struct {
	offset int64
	since  time.Time // when it was first seen to stand there
	time   time.Time // when the record was written; zero until it was asked for
}

// written is when the head was written, as far as it is known: since then at the latest.
func (h head) written() time.Time {
	if h.time.IsZero() {
		return h.since
	}
	return h.time
}

// findHeads looks for partitions whose head is not fetched: the buffer is full, fetching fails, or the records have only
// just come. Of those that stand for a while it asks when they were written.
func (c *Consumer) findHeads(ctx context.Context, admin *kadm.Client, starts, ends kadm.ListedOffsets) {
	now := time.Now()
	heads, asked := map[*assignment]head{}, 0
	for _, a := range c.held(nil) {
		tracker := a.tracked()
		if tracker == nil {
			continue
		}
		end, ok := ends.Lookup(a.topic, a.partition)
		start, started := starts.Lookup(a.topic, a.partition)
		if !ok || !started || end.Err != nil || start.Err != nil {
			if h, known := c.lag.heads[a]; known {
				heads[a] = h // nobody can be asked: it still stands there
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
		if h.time.IsZero() && now.Sub(h.since) >= headStands && asked < headsAsked {
			h.time = timeOf(ctx, admin, a, next)
			asked++
		}
		heads[a] = h
	}
	c.lag.heads = heads
}

// timeOf searches for the time of the record at offset, by asking from which offset on records are newer. It returns the
// zero time if Kafka does not tell.
func timeOf(ctx context.Context, admin *kadm.Client, a *assignment, offset int64) time.Time {
	newer := time.Now() // all records from here on are behind offset
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

// measureAges sets how old the oldest unsettled record of each source is, and by how much the oldest waiting one of
// each delay topic is overdue, whether it was fetched or not.
func (c *Consumer) measureAges() {
	now := c.gates.now()
	age := map[string]time.Duration{}
	late := c.gates.overdue(now)
	for _, a := range c.held(nil) {
		h, stands := c.lag.heads[a]
		stands = stands && time.Since(h.since) >= headStands
		switch tracker := a.tracked(); {
		case tracker == nil:
		case a.info.Class != topics.Source:
			if stands && tracker.Outstanding() == 0 {
				late[a.topic] = max(late[a.topic], now.Sub(h.written().Add(a.info.Delay)))
			}
		case tracker.Outstanding() > 0:
			if written, ok := a.times.at(tracker.Committable()); ok {
				age[a.topic] = max(age[a.topic], now.Sub(written))
			}
		case stands:
			age[a.topic] = max(age[a.topic], now.Sub(h.written()))
		}
	}
	for _, t := range c.cfg.Topics {
		if c.topics.Describe(t).Class == topics.Source {
			c.metrics.SourceLag(t, max(age[t], 0))
		} else {
			c.metrics.Overdue(t, max(late[t], 0))
		}
	}
}
