// Package revocation makes one batch per user and minute of the bot clicks that are revoked.
//
// Records are collected, uncommitted, until the next multiple of the interval, then sent as batches; a record is
// settled when its batches are. What a crash leaves is read again. So that a batch read again is the same batch, with
// the same id, the offset at which the collection was cut is stored with the partition's committed offset before
// anything is sent: records below a cut are never mixed with records above it.
package revocation

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/event"
)

const (
	maxHeld = 20_000 // records; more are left in Kafka until the next tick
	// How long a tick waits for the cut to be stored; a cut that is not stored costs a stable id after a crash,
	// no revocation.
	cutWait = 500 * time.Millisecond
	// How long records below a restored cut are waited for: all of them are in Kafka already.
	restoreWait = 5 * time.Second
)

// Config of a Collector.
type Config struct {
	Interval time.Duration    // batches are sent at Unix times that are multiples of it
	MaxIDs   int              // of one batch
	MaxBytes int64            // held until the next tick
	Now      func() time.Time // the time of day, for the ticks; nil = time.Now
}

// Hooks connect a Collector with its surroundings.
type Hooks struct {
	Submit func(batches []*event.Event) // takes batches over
	Commit func(ctx context.Context)    // stores the notes of all partitions
	Pause  func()                       // stops fetching revocations
	Resume func()                       // fetches them again
}

// Collector collects revocation records.
type Collector struct {
	cfg   Config
	hooks Hooks
	log   *zap.Logger

	mu         sync.Mutex
	partitions map[int32]*partition
	records    int
	bytes      int64
	held       bool // Pause was called
}

// New gives a Collector that sends while Run is running.
func New(cfg Config, hooks Hooks, log *zap.Logger) *Collector {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Collector{cfg: cfg, hooks: hooks, log: log, partitions: map[int32]*partition{}}
}

// Add takes over a decoded source record.
func (c *Collector) Add(e *event.Event) {
	if e.Batch.Count() == 0 {
		settleEmpty(e)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.partition(e.Partition).add(e)
	c.records++
	c.bytes += e.Size
	if !c.held && (c.records >= maxHeld || c.bytes >= c.cfg.MaxBytes) {
		c.held = true
		c.hooks.Pause()
		c.log.Info("many revocations: the rest waits in Kafka for the next tick", zap.Int("records", c.records))
	}
}

// Purge abandons the records whose partition is given away.
func (c *Collector) Purge() {
	c.mu.Lock()
	var gone []*event.Event
	for _, p := range c.partitions {
		gone = append(gone, p.purge()...)
	}
	c.count(gone)
	c.mu.Unlock()
	for _, e := range gone {
		e.Abandon()
	}
}

// count takes records that are not held any more off the count.
func (c *Collector) count(gone []*event.Event) {
	for _, e := range gone {
		c.records--
		c.bytes -= e.Size
	}
}

func (c *Collector) partition(number int32) *partition {
	p := c.partitions[number]
	if p == nil {
		p = newPartition()
		c.partitions[number] = p
	}
	return p
}

// Run sends at every tick until ctx ends.
func (c *Collector) Run(ctx context.Context) {
	for {
		if !c.waitTick(ctx) {
			return
		}
		c.tick(ctx)
	}
}

// waitTick waits until the next multiple of the interval, and reports false when ctx ended before. It looks at the wall
// clock at least once per second: one that is set must not make a minute an hour.
func (c *Collector) waitTick(ctx context.Context) bool {
	const look = time.Second
	next := nextTick(c.cfg.Now(), c.cfg.Interval)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
		}
		left := next.Sub(c.cfg.Now())
		if left <= 0 {
			return true
		}
		if left > c.cfg.Interval { // the clock was set back
			next = nextTick(c.cfg.Now(), c.cfg.Interval)
			left = next.Sub(c.cfg.Now())
		}
		timer.Reset(min(max(left, time.Millisecond), look))
	}
}

// nextTick is the first multiple of interval, in Unix time, after now.
func nextTick(now time.Time, interval time.Duration) time.Time {
	n := now.UnixNano()
	return time.Unix(0, n-n%int64(interval)+int64(interval))
}

// tick cuts every partition, stores the cuts, and sends what lies below them.
func (c *Collector) tick(ctx context.Context) {
	c.mu.Lock()
	cut := false
	for _, p := range c.partitions {
		cut = p.cut() || cut
	}
	c.mu.Unlock()
	if cut {
		limited, cancel := context.WithTimeout(ctx, cutWait)
		c.hooks.Commit(limited)
		cancel()
	}
	now := time.Now()
	var batches []*event.Event
	c.mu.Lock()
	for _, p := range c.partitions {
		for _, g := range p.takeCut(now) {
			c.count(g.records)
			batches = append(batches, g.batches(c.cfg.MaxIDs)...)
		}
	}
	if c.held {
		c.held = false
		c.hooks.Resume()
	}
	c.mu.Unlock()
	if len(batches) > 0 {
		c.hooks.Submit(batches)
	}
}

// Note implements consumer.Notes: the cuts above committed.
func (c *Collector) Note(_ string, number int32, committed int64, max int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.partitions[number]
	if p == nil {
		return ""
	}
	return p.note(committed, max)
}

// Restore implements consumer.Notes.
func (c *Collector) Restore(_ string, number int32, note string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.partition(number).restore(note, time.Now())
}

// Forget implements consumer.Notes.
func (c *Collector) Forget(_ string, number int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.partitions, number)
}
