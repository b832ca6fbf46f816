// Package consumer turns partitions into records that finish in any order, and commits only what is finished.
//
// A record is ingested from a poll and tracked by the assignment of its partition. If it is from a delay topic, a
// gate keeps it until it is due. Then it is dispatched to the handler. When its fate is stored, Settle marks it
// finished. Every commitInterval, and before a partition is released, the consumer commits the lowest offset up to
// which all records are finished. The commit's metadata contains the finished records above it.
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
	maxRecords     = 20_000          // buffered, of all partitions
	maxPoll        = 512             // records of one poll
	minPoll        = 64              // records of one poll while the gates are full
	overhead       = 512             // bytes that a record costs besides its key and value
	revokeWait     = 5 * time.Second // for requests in flight, before their partition is released in a rebalance
	cancelWait     = 2 * time.Second // for cancelled requests to return
	fetchWait      = time.Second     // for a broker to hold a fetch while nothing is written
	fetchBytes     = 512 << 10       // of a fetch; unpacked, they take about ten times as much memory
	leaveTimeout   = 2 * time.Second
	maxLeaveTime   = time.Second // of the grace: for the last commit and for leaving the group
	maxGateRecords = 16_384      // in the gates of all partitions
	// While the handler is behind, a poll is delayed by up to maxBehindWaits times behindWait, so that the buffered
	// events stay in the processor's caches. It is never longer: the next poll may have events of other endpoints.
	maxBehindWaits = 100
	behindWait     = time.Millisecond
)

// Config of a Consumer.
type Config struct {
	Group      string
	InstanceID string // for static membership; "" = none
	// ServerAssigned leaves the assignment to the brokers (KIP-848, Kafka 4.0 and later). Their
	// group.consumer.session.timeout.ms then applies, and SessionTimeout should be the same.
	ServerAssigned   bool
	SessionTimeout   time.Duration
	MaxBufferedBytes int64    // of all partitions
	Topics           []string // source and delay topics, all with the partition count of their kind
	Epoch            string   // is part of event ids, with the topic's name, if the broker has no topic ids
}

// Topics describes the consumed topics.
type Topics interface {
	Describe(topic string) topics.Info
}

// Handler receives events. It ends each with one Settle or Abandon, in any order, at any time.
type Handler interface {
	// Handle takes ownership of events. Those of a partition are in order.
	Handle(events []*event.Event)
	// Purge ends the buffered events whose lease is not held any more.
	Purge()
	// Behind reports whether more events would only be buffered.
	Behind() bool
}

// CommitTexts are committed with the offsets of revocation partitions.
type CommitTexts interface {
	// CommitText returns the text to commit with an offset: printable ASCII, at most maxBytes.
	CommitText(topic string, partition int32, committed int64, maxBytes int) string
	// Restore receives the text that was committed last, "" if there is none, when the partition is assigned.
	Restore(topic string, partition int32, text string)
	// Forget is called when the assignment of the partition ends.
	Forget(topic string, partition int32)
}

// Tracer traces events. It may be nil.
type Tracer interface {
	// Follow begins the trace of an event that is about to be dispatched. It returns nil if the event is not traced.
	Follow(e *event.Event) event.Trace
}

// Releases knows which records of delay topics were released: a copy of such a record is sent instead of it.
type Releases interface {
	// Any reports whether Decide must be called.
	Any() bool
	// Decide reports whether e was released, or whether that is undecided, so that e must be kept.
	Decide(e *event.Event) (released, undecided bool)
	// AwaitEnd returns when all releases written by now are known, or when ctx ends.
	AwaitEnd(ctx context.Context) error
}

// Consumer is one member of the consumer group.
type Consumer struct {
	Parts
	cfg Config

	client     *kgo.Client // while Run is running
	buffer     *buffer
	gates      *gates
	workCtx    context.Context // ends when all work must stop at once
	stopWork   context.CancelFunc
	graceCtx   context.Context // ends when the grace period is over
	endGrace   context.CancelFunc
	clientCtx  context.Context // cancelling it interrupts the client's requests
	disconnect context.CancelFunc
	interrupt  context.CancelCauseFunc // ends Run, which returns the cause

	mu           sync.Mutex
	assignments  map[topicPartition]*assignment
	history      map[topicPartition][]past // of partitions that are not assigned now
	outdated     map[topicPartition]bool   // partitions whose committed offset is that of a deleted topic
	committing   chan struct{}             // a semaphore of one: no snapshot may overtake another
	ending       chan struct{}             // a semaphore of one: a rebalance and a shutdown take turns
	joined       atomic.Bool
	delayed      atomic.Int32 // assigned partitions of delay topics
	mean         float64      // bytes per record lately; poll loop only
	events       sync.Pool
	lag          lag
	membership   membership
	started      chan struct{} // closed when client is set
	pulse        *pulse
	fetchOutages fetchOutages
	uncommitted  *outage.Outage
}

// Parts are the collaborators of a Consumer.
type Parts struct {
	Topics      Topics
	Handler     Handler
	CommitTexts CommitTexts
	NewClient   func(...kgo.Opt) (*kgo.Client, error) // builds a Kafka client with the given options
	Tracer      Tracer                                // nil = events are not traced
	Metrics     *metrics.Metrics
	Log         *zap.Logger
	Now         func() time.Time // the time of day; nil = time.Now
	// Replayed, if not nil, is called when a replayed event has its last fate.
	Replayed func(userID int64, id string)
	// Retired reports whether an id belongs to a deleted topic; nil = never.
	Retired func(id [16]byte) bool
	// Releases decides about records of delay topics that are due; nil = none was released.
	Releases Releases
}

// New returns a Consumer. Run joins the group.
func New(cfg Config, parts Parts) *Consumer {
	if parts.Now == nil {
		parts.Now = time.Now
	}
	if parts.Retired == nil {
		parts.Retired = func([16]byte) bool { return false }
	}
	c := &Consumer{
		Parts: parts, cfg: cfg,
		buffer: newBuffer(maxRecords, cfg.MaxBufferedBytes), gates: newGates(parts.Now, parts.Releases), mean: overhead,
		events:      sync.Pool{New: func() any { return new(event.Event) }},
		assignments: map[topicPartition]*assignment{}, history: map[topicPartition][]past{},
		outdated:   map[topicPartition]bool{},
		committing: make(chan struct{}, 1), ending: make(chan struct{}, 1), started: make(chan struct{}),
		pulse:        newPulse(cfg.SessionTimeout),
		fetchOutages: fetchOutages{log: parts.Log, topics: map[string]*topicOutage{}},
		uncommitted:  outage.New(parts.Log, "cannot commit offsets; retrying", "offsets are committed again"),
	}
	c.workCtx, c.stopWork = context.WithCancel(context.Background())
	c.graceCtx, c.endGrace = context.WithCancel(context.Background())
	c.clientCtx, c.disconnect = context.WithCancel(context.Background())
	c.Metrics.Read(metrics.BufferedRecords, func() float64 { return float64(c.buffer.records.Load()) })
	c.Metrics.Read(metrics.BufferedBytes, func() float64 { return float64(c.buffer.bytes.Load()) })
	c.registerLag()
	return c
}

// join builds the client, which joins the group.
func (c *Consumer) join() error {
	cfg := c.cfg
	opts := []kgo.Opt{
		kgo.ConsumerGroup(cfg.Group),
		kgo.ConsumeTopics(cfg.Topics...),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		// Range assigns a member the same partition numbers of all topics of a kind (docs/adr).
		kgo.Balancers(kgo.RangeBalancer()),
		kgo.DisableAutoCommit(),
		kgo.KeepControlRecords(), // the offset must move past them
		kgo.BlockRebalanceOnPoll(),
		kgo.SessionTimeout(cfg.SessionTimeout),
		kgo.HeartbeatInterval(min(3*time.Second, cfg.SessionTimeout/3)),
		kgo.RebalanceTimeout(c.rebalanceTimeout()),
		kgo.RetryBackoffFn(func(tries int) time.Duration {
			return min(time.Duration(tries)*100*time.Millisecond, time.Second)
		}),
		kgo.FetchMaxWait(fetchWait),
		kgo.FetchMaxBytes(int32(min(fetchBytes, cfg.MaxBufferedBytes/4))),
		kgo.OnPartitionsAssigned(c.onAssigned),
		kgo.OnOffsetsFetched(c.onOffsetsFetched),
		kgo.AdjustFetchOffsetsFn(c.skipDeleted),
		kgo.OnPartitionsRevoked(c.onRevoked),
		kgo.OnPartitionsLost(c.onLost),
		kgo.WithContext(c.clientCtx),
		kgo.WithHooks(groupHooks{c}),
	}
	if cfg.InstanceID != "" {
		opts = append(opts, kgo.InstanceID(cfg.InstanceID))
	}
	if cfg.ServerAssigned {
		opts = append(opts, kgo.ServerSideBalancer())
	}
	var err error
	if c.client, err = c.NewClient(opts...); err != nil {
		return fmt.Errorf("consumer group %s: %w", cfg.Group, err)
	}
	c.gates.client = c.client
	close(c.started)
	return nil
}

// Run consumes until ctx ends. Then it lets requests in flight end, commits and leaves the group, all within grace.
// A static member stays in the group. It returns an error if it could not begin or was fenced.
func (c *Consumer) Run(ctx context.Context, grace time.Duration) error {
	last := min(maxLeaveTime, grace/10)
	ctx, c.interrupt = context.WithCancelCause(ctx)
	defer c.interrupt(nil)
	if err := c.join(); err != nil {
		return err
	}
	var background sync.WaitGroup
	running, stopBackground := context.WithCancel(context.Background())
	background.Go(func() { c.gates.run(running, c.dispatch) })
	background.Go(func() { c.commitLoop(running) })
	background.Go(func() { c.lagLoop(running) })
	background.Go(func() { c.joinLoop(running) })
	background.Go(func() { c.refusedLoop(running) })
	background.Go(func() { c.pulseLoop(running) })
	context.AfterFunc(ctx, func() {
		time.AfterFunc(grace-last, c.stopWork)
		time.AfterFunc(grace, c.endGrace)
	})
	c.pollLoop(ctx)
	c.client.AllowRebalance()
	c.endAssignments(nil, grace-last)
	stopBackground()
	background.Wait()
	c.leave()
	if c.graceCtx.Err() != nil {
		c.Log.Warn("shutdown.grace has passed: what was not committed is repeated, and the group may keep this member's " +
			"partitions until kafka.session_timeout has passed")
	}
	c.endGrace()
	c.disconnect()
	c.stopWork()
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
		fetches.EachError(c.fetchFailed)
		c.ingest(fetches)
		c.client.AllowRebalance()
		for i := 0; i < maxBehindWaits && c.Handler.Behind() && ctx.Err() == nil; i++ {
			time.Sleep(behindWait)
		}
	}
}

// pollSize returns how many records the next poll may return. The room in the buffer and in the gates bounds it,
// because a polled record cannot be put back.
func (c *Consumer) pollSize() int {
	records, bytes, paused := c.gates.usage()
	free := min(float64(maxGateRecords-records), float64(c.cfg.MaxBufferedBytes/4-bytes)/c.mean)
	n := max(int(free)/max(int(c.delayed.Load())-paused, 1), minPoll)
	room := float64(c.cfg.MaxBufferedBytes-c.buffer.bytes.Load()) / c.mean
	return max(1, min(n, maxPoll, int(room)))
}

// ingest turns polled records into events. It dispatches those of source topics and passes the others to their gates.
func (c *Consumer) ingest(fetches kgo.Fetches) {
	var ready []*event.Event
	now := c.gates.now()
	for _, fetch := range fetches {
		for _, t := range fetch.Topics {
			for _, p := range t.Partitions {
				ready = append(ready, c.ingestPartition(t, p, now)...)
			}
		}
	}
	c.dispatch(ready)
}

// ingestPartition turns the polled records of a partition into events. It returns those of a source topic and passes
// those of a delay topic to their gate.
func (c *Consumer) ingestPartition(t kgo.FetchTopic, p kgo.FetchPartition, now time.Time) []*event.Event {
	if len(p.Records) == 0 {
		return nil
	}
	a := c.assignment(t.Topic, p.Partition)
	// a.tracker is read without a.mu: restore set it before the first fetch.
	if a == nil || a.tracker == nil || a.State() != event.Held {
		return nil // revoked: the next owner reads them
	}
	a.identify(t.TopicID, c.cfg.Epoch)
	if a.info.Class == topics.Source {
		a.times.add(p.Records, now)
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
		c.gates.admit(a, events)
	}
	return nil
}

// newEvent tracks a record and returns its event, nil if the record is finished already or only ends a transaction.
// It copies the key and the value, so that an event does not keep the whole fetch in memory.
func (c *Consumer) newEvent(a *assignment, r *kgo.Record, now time.Time) *event.Event {
	if a.next >= 0 && r.Offset > a.next && a.info.Delay > 0 { // in other topics aborted transactions leave gaps
		c.Log.Error("records of a delay topic were deleted before they were read: raise its retention",
			zap.String("topic", a.topic), zap.Int32("partition", a.partition),
			zap.Int64("from", a.next), zap.Int64("to", r.Offset))
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
		Record: event.Record{
			Class: a.info.Class, Tier: a.info.Tier, Topic: a.topic, Partition: a.partition, Offset: r.Offset,
			Namespace: a.namespace, Generation: generation, Epoch: r.LeaderEpoch,
			Size: int64(len(data)) + overhead, Memory: data,
			Key:   copyPreservingNil(r.Key, data[:len(r.Key):len(r.Key)]),
			Value: copyPreservingNil(r.Value, data[len(r.Key):]),
		},
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

// sourceHeaders reads the gateway's headers. Revocations need no id: their batch gets one.
func (c *Consumer) sourceHeaders(e *event.Event, headers []kgo.RecordHeader) {
	for _, h := range headers {
		switch {
		case h.Key == event.HeaderGatewayID && e.Kind != webhook.RevokeClick:
			if !e.SetGatewayID(h.Value) {
				c.Metrics.BadIDs.Inc()
			}
		case h.Key == event.HeaderTrace && c.Tracer != nil:
			e.SetTraceparent(h.Value)
		}
	}
}

// copyPreservingNil returns data, the copy of original. A tombstone stays nil: it must be one among the dead
// letters, too.
func copyPreservingNil(original, data []byte) []byte {
	switch {
	case original == nil:
		return nil
	case data == nil:
		return []byte{}
	}
	return data
}

// dispatch passes events to the handler.
func (c *Consumer) dispatch(events []*event.Event) {
	if len(events) == 0 {
		return
	}
	now := time.Now()
	for _, e := range events {
		e.Arrived = now
		if c.Tracer != nil {
			e.Trace = c.Tracer.Follow(e)
		}
		c.buffer.add(e)
	}
	c.Handler.Handle(events)
}
