// Package consumer turns partitions into records that finish in any order, and commits only what is finished.
//
// The journey of a record: poll takes it over, its partition's assignment tracks it, a gate holds it until it is due
// if its topic waits, the handler gets it. When its fate is stored, Settle marks it finished; every commitInterval,
// and before the partition is given away, the lowest contiguous finished offset is committed, and with it, in the
// commit's metadata, what is finished above.
package consumer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/kafka"
	"github.com/smshooks/smshooks/internal/metrics"
	"github.com/smshooks/smshooks/internal/outage"
	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/webhook"
)

const (
	maxRecords   = 20_000          // taken over and not settled, over the whole process
	maxPoll      = 512             // records of one poll
	minPoll      = 64              // and as many if the gates are full
	overhead     = 512             // bytes a record costs besides its key and value
	revokeWait   = 5 * time.Second // for requests in flight, before their partition is given away
	cancelWait   = 2 * time.Second // for them to notice that they are cancelled
	leaveTimeout = 2 * time.Second
	lastMost     = time.Second // of the grace: for the last commit and for leaving, after requests were cut off
	gateRecords  = 16_384      // held by the gates of all waiting partitions together
	// How long a poll is put off while the handler is behind: what it has at hand stays in the processor's caches then.
	// It is only ever a little, since the next poll may bring events of other endpoints, or some that must overflow.
	behindMost = 100
	behindStep = time.Millisecond
)

// Config of a Consumer.
type Config struct {
	Group            string
	InstanceID       string // static membership, "" = none
	SessionTimeout   time.Duration
	MaxBufferedBytes int64
	Topics           []string // source, retry and overflow topics, all with the partition count of their kind
	Epoch            string   // stands with the topics' names in the ids of events where the broker knows no topic ids
}

// Topics describes the topics consumed.
type Topics interface {
	Describe(topic string) topics.Info
}

// Handler takes events over. It ends each with one Settle or Abandon, in any order, at any time.
type Handler interface {
	// Handle takes events over, in the order of their partitions. It may hold up the caller for a moment.
	Handle(events []*event.Event)
	// Purge abandons the events that wait and whose lease is gone.
	Purge()
	// Behind tells whether so much could be begun at once that more events would only lie about.
	Behind() bool
}

// Notes are texts that travel with a partition's committed offset, besides what is finished above it.
type Notes interface {
	// Note is what to keep of a partition; printable ASCII, at most max bytes.
	Note(topic string, partition int32, committed int64, max int) string
	// Restore is told what a former owner kept of a partition, "" if nothing.
	Restore(topic string, partition int32, note string)
	// Forget is told that a partition was given away.
	Forget(topic string, partition int32)
}

// Tracer follows events. It may be nil, and costs nothing then.
type Tracer interface {
	// Follow is told of an event when it is handed over. It gives nil for one that is not followed.
	Follow(e *event.Event) event.Trace
}

// Consumer is one member of the consumer group.
type Consumer struct {
	cfg      Config
	topics   Topics
	handler  Handler
	notes    Notes
	tracer   Tracer
	replayed func(userID int64, id string)
	retired  func(id [16]byte) bool
	metrics  *metrics.Metrics
	log      *zap.Logger

	newClient  func(...kgo.Opt) (*kgo.Client, error)
	client     *kgo.Client // while Run is running
	buffer     *buffer
	gates      *gates
	work       context.Context // ends when all work must stop at once
	stop       context.CancelFunc
	end        context.Context // ends when the grace is over
	ended      context.CancelFunc
	alive      context.Context // of the client: what it waits for ends with it
	disconnect context.CancelFunc
	interrupt  context.CancelCauseFunc // ends Run, which returns the cause

	mu          sync.Mutex
	assignments map[topicPartition]*assignment
	former      map[topicPartition][]former // of partitions that are not assigned now
	outdated    map[topicPartition]bool     // committed offsets that are of deleted topics, while they are fetched
	committing  chan struct{}               // a semaphore of one: no snapshot may overtake another
	giving      chan struct{}               // a semaphore of one: giving partitions away
	joined      atomic.Bool
	waiting     atomic.Int32 // assigned partitions of waiting topics
	mean        float64      // bytes per record lately; poll loop only
	events      sync.Pool
	lag         lag
	membership  membership
	began       chan struct{} // closed when client is set
	pulse       *pulse
	unfetched   unfetched
	uncommitted *outage.Outage
}

// Parts are what a Consumer works with.
type Parts struct {
	Topics    Topics
	Handler   Handler
	Notes     Notes
	NewClient func(...kgo.Opt) (*kgo.Client, error) // builds a Kafka client with the options given
	Tracer    Tracer                                // nil = events are not followed
	Metrics   *metrics.Metrics
	Log       *zap.Logger
	Now       func() time.Time // the time of day; nil = time.Now
	// Replayed, if not nil, is called when an event that was sent again as a dead letter is settled for good.
	Replayed func(userID int64, id string)
	// Retired tells whether an id is that of a topic that is known to be deleted; nil = none is known.
	Retired func(id [16]byte) bool
}

// New gives a Consumer that joins the group when Run is called.
func New(cfg Config, parts Parts) *Consumer {
	if parts.Now == nil {
		parts.Now = time.Now
	}
	if parts.Retired == nil {
		parts.Retired = func([16]byte) bool { return false }
	}
	c := &Consumer{
		cfg: cfg, topics: parts.Topics, handler: parts.Handler, notes: parts.Notes, newClient: parts.NewClient, tracer: parts.Tracer, replayed: parts.Replayed, retired: parts.Retired,
		metrics: parts.Metrics, log: parts.Log, mean: overhead, events: sync.Pool{New: func() any { return new(event.Event) }},
		buffer: newBuffer(maxRecords, cfg.MaxBufferedBytes), gates: newGates(parts.Now),
		assignments: map[topicPartition]*assignment{}, former: map[topicPartition][]former{}, outdated: map[topicPartition]bool{}, committing: make(chan struct{}, 1), giving: make(chan struct{}, 1),
		began: make(chan struct{}), pulse: newPulse(cfg.SessionTimeout), unfetched: unfetched{log: parts.Log, topics: map[string]*unfetchedTopic{}},
		uncommitted: outage.New(parts.Log, "cannot commit offsets, trying again", "offsets are committed again"),
	}
	c.work, c.stop = context.WithCancel(context.Background())
	c.end, c.ended = context.WithCancel(context.Background())
	c.alive, c.disconnect = context.WithCancel(context.Background())
	c.metrics.Read(metrics.BufferedRecords, func() float64 { return float64(c.buffer.records.Load()) })
	c.metrics.Read(metrics.BufferedBytes, func() float64 { return float64(c.buffer.bytes.Load()) })
	c.registerLag()
	return c
}

// join builds the client, which joins the group by itself.
func (c *Consumer) join() error {
	cfg := c.cfg
	opts := []kgo.Opt{
		kgo.ConsumerGroup(cfg.Group),
		kgo.ConsumeTopics(cfg.Topics...),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		// Range gives a member the same partition numbers of all topics of a kind; see docs/adr.
		kgo.Balancers(kgo.RangeBalancer()),
		kgo.DisableAutoCommit(),
		kgo.KeepControlRecords(), // the position moves over them, too
		kgo.BlockRebalanceOnPoll(),
		kgo.SessionTimeout(cfg.SessionTimeout),
		kgo.HeartbeatInterval(min(3*time.Second, cfg.SessionTimeout/3)),
		kgo.RebalanceTimeout(c.rebalanceTimeout()),
		kgo.RetryBackoffFn(func(tries int) time.Duration { return min(time.Duration(tries)*100*time.Millisecond, time.Second) }),
		kgo.FetchMaxBytes(int32(min(1<<20, cfg.MaxBufferedBytes/4))),
		kgo.OnPartitionsAssigned(c.assigned),
		kgo.OnOffsetsFetched(c.fetched),
		kgo.AdjustFetchOffsetsFn(c.passOver),
		kgo.OnPartitionsRevoked(c.revoked),
		kgo.OnPartitionsLost(c.lost),
		kgo.WithContext(c.alive),
		kgo.WithHooks(groupHooks{c}),
	}
	if cfg.InstanceID != "" {
		opts = append(opts, kgo.InstanceID(cfg.InstanceID))
	}
	var err error
	if c.client, err = c.newClient(opts...); err != nil {
		return fmt.Errorf("consumer group %s: %w", cfg.Group, err)
	}
	close(c.began)
	return nil
}

// Run consumes until ctx ends, then lets what has begun come to its end, commits and leaves the group (a static member
// stays in it), all within grace. An error means that it could not begin, or that it was fenced.
func (c *Consumer) Run(ctx context.Context, grace time.Duration) error {
	last := min(lastMost, grace/10)
	ctx, c.interrupt = context.WithCancelCause(ctx)
	defer c.interrupt(nil)
	if err := c.join(); err != nil {
		return err
	}
	var background sync.WaitGroup
	running, stopBackground := context.WithCancel(context.Background())
	background.Go(func() { c.gates.run(running, c.client, c.handOver) })
	background.Go(func() { c.commitLoop(running) })
	background.Go(func() { c.lagLoop(running) })
	background.Go(func() { c.joinLoop(running) })
	background.Go(func() { c.pulseLoop(running) })
	context.AfterFunc(ctx, func() {
		time.AfterFunc(grace-last, c.stop)
		time.AfterFunc(grace, c.ended)
	})
	c.pollLoop(ctx)
	c.client.AllowRebalance()
	c.giveAway(nil, grace-last)
	stopBackground()
	background.Wait()
	c.leave()
	c.ended()
	c.disconnect()
	c.stop()
	var (
		fenced  *FencedError
		refused *SessionTimeoutError
	)
	switch cause := context.Cause(ctx); {
	case errors.As(cause, &fenced):
		return fenced
	case errors.As(cause, &refused):
		return refused
	}
	return nil
}

// PauseTopic stops fetching a topic, also for partitions of it that are assigned later.
func (c *Consumer) PauseTopic(topic string) { c.client.PauseFetchTopics(topic) }

// ResumeTopic fetches a paused topic again.
func (c *Consumer) ResumeTopic(topic string) { c.client.ResumeFetchTopics(topic) }

func (c *Consumer) pollLoop(ctx context.Context) {
	for ctx.Err() == nil {
		if c.buffer.wait(ctx); ctx.Err() != nil {
			return
		}
		fetches := kafka.Poll(ctx, c.client, 0, c.pollSize(), c.next)
		if fetches.IsClientClosed() {
			return
		}
		fetches.EachError(c.unread)
		c.takeOver(fetches)
		c.client.AllowRebalance()
		for i := 0; i < behindMost && c.handler.Behind() && ctx.Err() == nil; i++ {
			time.Sleep(behindStep)
		}
	}
}

// pollSize bounds what one poll may bring: by the room in the buffer, and by what the gates may hold, since a record
// that is polled cannot be put back.
func (c *Consumer) pollSize() int {
	records, bytes, paused := c.gates.load()
	free := min(float64(gateRecords-records), float64(c.cfg.MaxBufferedBytes/4-bytes)/c.mean)
	n := max(int(free)/max(int(c.waiting.Load())-paused, 1), minPoll)
	room := float64(c.cfg.MaxBufferedBytes-c.buffer.bytes.Load()) / c.mean
	return max(1, min(n, maxPoll, int(room)))
}

// takeOver turns what was polled into events, and hands over those that need not wait.
func (c *Consumer) takeOver(fetches kgo.Fetches) {
	var ready []*event.Event
	now := c.gates.now()
	for _, fetch := range fetches {
		for _, t := range fetch.Topics {
			for _, p := range t.Partitions {
				ready = append(ready, c.takePartition(t, p, now)...)
			}
		}
	}
	c.handOver(ready)
}

// takePartition turns what was polled of a partition into events. It returns those of a source and gives those of a
// waiting topic to its gate.
func (c *Consumer) takePartition(t kgo.FetchTopic, p kgo.FetchPartition, now time.Time) []*event.Event {
	if len(p.Records) == 0 {
		return nil
	}
	a := c.assignment(t.Topic, p.Partition)
	if a == nil || a.tracker == nil || a.State() != event.Held {
		return nil // revoked: its next owner reads it
	}
	a.identify(t.TopicID, c.cfg.Epoch)
	if a.info.Class == topics.Source {
		a.times.note(p.Records)
	}
	events := make([]*event.Event, 0, len(p.Records))
	for _, r := range p.Records {
		if e := c.newEvent(a, r, now); e != nil {
			events = append(events, e)
		}
	}
	if a.info.Class == topics.Source {
		return events
	}
	if len(events) > 0 {
		c.gates.admit(c.client, a, events)
	}
	return nil
}

// newEvent tracks a record and copies what is kept of it, so that it does not hold the whole fetch in memory. Nil if
// a former owner finished it, or if it only ends a transaction.
func (c *Consumer) newEvent(a *assignment, r *kgo.Record, now time.Time) *event.Event {
	if a.next >= 0 && r.Offset > a.next && a.info.Class != topics.Source {
		c.log.Error("records of a waiting topic are gone: its retention is too short", zap.String("topic", a.topic),
			zap.Int32("partition", a.partition), zap.Int64("from", a.next), zap.Int64("to", r.Offset))
	}
	a.sawEpoch(r.LeaderEpoch, r.Offset)
	if r.Attrs.IsControl() {
		a.finishNow(r.Offset)
		return nil
	}
	a.next = r.Offset + 1
	generation, fresh := a.tracker.Track(r.Offset)
	if !fresh {
		return nil
	}
	if a.finishedBefore(r.Offset, r.LeaderEpoch) {
		a.tracker.Finish(generation, r.Offset)
		return nil
	}
	e := c.events.Get().(*event.Event)
	data := append(append(e.Memory[:0], r.Key...), r.Value...)
	*e = event.Event{
		Record:   event.Record{Class: a.info.Class, Tier: a.info.Tier, Topic: a.topic, Partition: a.partition, Offset: r.Offset, Namespace: a.namespace, Generation: generation, Memory: data, Key: like(r.Key, data[:len(r.Key):len(r.Key)]), Value: like(r.Value, data[len(r.Key):]), Size: int64(len(data)) + overhead},
		Delivery: event.Delivery{Kind: a.info.Kind, Time: r.Timestamp},
		Lease:    a,
	}
	if r.Timestamp.UnixMilli() < 0 {
		e.Time = now // the record has no timestamp
	}
	if a.info.Class != topics.Source {
		for _, h := range r.Headers {
			e.SetHeader(h.Key, h.Value)
			e.Size += int64(len(h.Value))
		}
		e.Due = plausible(e.Due, appendedAt(r), now, a.info.Delay)
	} else {
		c.sourceHeaders(e, r.Headers)
	}
	c.mean += (float64(e.Size) - c.mean) / 64
	return e
}

// sourceHeaders takes the gateway's headers. A batch of revocations has an id of its own, so their records need none.
func (c *Consumer) sourceHeaders(e *event.Event, headers []kgo.RecordHeader) {
	for _, h := range headers {
		switch {
		case h.Key == event.HeaderGatewayID && e.Kind != webhook.RevokeClick:
			if !e.SetGatewayID(h.Value) {
				c.metrics.BadIDs.Inc()
			}
		case h.Key == event.HeaderTrace && c.tracer != nil:
			e.SetTraceparent(h.Value)
		}
	}
}

// like gives data, nil only if what it was copied from is: a tombstone is a tombstone in the dead letters too.
func like(original, data []byte) []byte {
	switch {
	case original == nil:
		return nil
	case data == nil:
		return []byte{}
	}
	return data
}

func (c *Consumer) handOver(events []*event.Event) {
	if len(events) == 0 {
		return
	}
	now := time.Now()
	for _, e := range events {
		e.Arrived = now
		if c.tracer != nil {
			e.Trace = c.tracer.Follow(e)
		}
		c.buffer.take(e)
	}
	c.handler.Handle(events)
}
