// Package revocation collects revoked bot clicks into one batch per user and interval.
//
// Records are collected, uncommitted, until the next multiple of the interval. Then they are cut into batches, and a
// record is settled when all batches of its user are. After a crash, records that were not settled are read again.
// So that the same batch has the same id then, the offset of the cut is stored with the partition's committed offset
// before a batch is sent: records below a cut are never mixed with records above it (docs/adr/0004).
package revocation

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/event"
)

const (
	// maxRecords bounds the collected records. More stay in Kafka until the next tick.
	maxRecords = 20_000
	// commitTimeout bounds how long a tick waits until its cuts are stored. A cut that is not stored can cost a stable id
	// after a crash, but no revocation.
	commitTimeout = 500 * time.Millisecond
	// restoreTimeout bounds the wait for the records below a restored cut. All of them are in Kafka already.
	restoreTimeout = 5 * time.Second
)

// Config of a Collector. There are no defaults, except for Now.
type Config struct {
	Topic    string           // that the records are from
	Interval time.Duration    // batches are sent at Unix times that are multiples of it
	MaxIDs   int              // of one batch
	MaxBytes int64            // of the collected records
	Now      func() time.Time // the time of day; nil = time.Now
}

// Source is where the records come from; the consumer is one.
type Source interface {
	// CommitNow stores the offsets and the cuts of all partitions.
	CommitNow(ctx context.Context)
	// PauseTopic stops fetching a topic.
	PauseTopic(topic string)
	// ResumeTopic fetches a paused topic again.
	ResumeTopic(topic string)
}

// Collector collects revocation records. Its methods may be called from any goroutine.
type Collector struct {
	cfg  Config
	log  *zap.Logger
	full chan struct{} // signals Run that a bound is reached

	mu         sync.Mutex
	partitions map[int32]*partition
	records    int
	bytes      int64
	paused     bool // the source's topic
}

// New returns a Collector.
func New(cfg Config, log *zap.Logger) *Collector {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Collector{cfg: cfg, log: log, full: make(chan struct{}, 1), partitions: map[int32]*partition{}}
}

// Add takes ownership of a decoded source record that revokes at least one click.
func (c *Collector) Add(e *event.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.partition(e.Partition).add(e)
	c.records++
	c.bytes += e.Size
	if c.isFull() {
		select {
		case c.full <- struct{}{}:
		default:
		}
	}
}

func (c *Collector) isFull() bool { return c.records >= maxRecords || c.bytes >= c.cfg.MaxBytes }

// Purge abandons the records whose partition is being revoked.
func (c *Collector) Purge() {
	c.mu.Lock()
	var revoked []*event.Event
	for _, p := range c.partitions {
		revoked = append(revoked, p.purge()...)
	}
	c.discount(revoked)
	c.mu.Unlock()
	for _, e := range revoked {
		e.Abandon()
	}
}

// discount subtracts records that are not collected any more.
func (c *Collector) discount(records []*event.Event) {
	for _, e := range records {
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

// Run passes the batches of every tick to submit until ctx ends. It pauses source while the collector is full.
func (c *Collector) Run(ctx context.Context, source Source, submit func(batches []*event.Event)) {
	for c.waitTick(ctx, source) {
		if batches := c.tick(ctx, source); len(batches) > 0 {
			submit(batches)
		}
	}
}

// waitTick waits until the next multiple of the interval. It returns false if ctx ends before. It reads the time of day
// once a second, so that a change of the clock cannot turn a minute into an hour.
func (c *Collector) waitTick(ctx context.Context, source Source) bool {
	next := nextTick(c.cfg.Now(), c.cfg.Interval)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-c.full:
			c.pause(source)
			continue
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
		timer.Reset(min(max(left, time.Millisecond), time.Second))
	}
}

// pause pauses source if the collector is still full.
func (c *Collector) pause(source Source) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.paused || !c.isFull() {
		return
	}
	c.paused = true
	source.PauseTopic(c.cfg.Topic)
	c.log.Info("the collector is full; more revocations stay in Kafka until the next tick", zap.Int("records", c.records))
}

// nextTick returns the first multiple of interval, in Unix time, after now.
func nextTick(now time.Time, interval time.Duration) time.Time {
	n := now.UnixNano()
	return time.Unix(0, n-n%int64(interval)+int64(interval))
}

// tick cuts every partition, stores the cuts, and returns the batches of the records below them.
func (c *Collector) tick(ctx context.Context, source Source) (batches []*event.Event) {
	c.mu.Lock()
	cut := false
	for _, p := range c.partitions {
		cut = p.cut() || cut
	}
	c.mu.Unlock()
	if cut { // without the lock: the commit reads the cuts
		limited, cancel := context.WithTimeout(ctx, commitTimeout)
		source.CommitNow(limited)
		cancel()
	}
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.partitions {
		for _, u := range p.takeCut(now) {
			c.discount(u.records)
			batches = append(batches, u.batches(c.cfg.MaxIDs)...)
		}
	}
	if c.paused {
		c.paused = false
		source.ResumeTopic(c.cfg.Topic)
	}
	return batches
}

// CommitText implements consumer.CommitTexts. It returns the cuts above committed.
func (c *Collector) CommitText(_ string, number int32, committed int64, maxBytes int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.partitions[number]
	if p == nil {
		return ""
	}
	return p.commitText(committed, maxBytes)
}

// Restore implements consumer.CommitTexts.
func (c *Collector) Restore(_ string, number int32, text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.partition(number).restore(text, time.Now())
}

// Forget implements consumer.CommitTexts.
func (c *Collector) Forget(_ string, number int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.partitions, number)
}
