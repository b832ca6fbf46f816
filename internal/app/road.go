package app

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/plugin/kprom"

	"github.com/smshooks/smshooks/consumer"
	"github.com/smshooks/smshooks/dispatcher"
	"github.com/smshooks/smshooks/internal/deliverylog"
	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/firstclick"
	"github.com/smshooks/smshooks/internal/kafka"
	"github.com/smshooks/smshooks/internal/replay"
	"github.com/smshooks/smshooks/internal/revocation"
	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/retry"
)

const (
	maxProducing   = 200_000 // records on their way to waiting topics; more than can be buffered
	producerLinger = 5 * time.Millisecond
)

// road is the way of an event: consumer → dispatcher → done, or → waiting topic → consumer.
type road struct {
	consumer   *consumer.Consumer
	dispatcher *dispatcher.Dispatcher
	collector  *revocation.Collector
	log        *deliverylog.Log
	replays    *replay.Memory
	plan       *topics.Plan
	producer   *kgo.Client
	large      *kafka.LargeProducer
	forwarder  *retry.Forwarder
}

func (a *App) newRoad() (*road, error) {
	cfg := a.Config
	r := &road{log: a.log, replays: a.replays, plan: a.plan}
	var err error
	producing := []kgo.Opt{
		kgo.RequiredAcks(kgo.AllISRAcks()), kgo.RecordPartitioner(retry.Partitioner(a.plan.Delayed)), kgo.MaxBufferedRecords(maxProducing),
	}
	if r.producer, err = a.kafka.NewClient(append(producing, kgo.ProducerLinger(producerLinger), a.kafkaMetrics("producer"))...); err != nil {
		return nil, err
	}
	if r.large, err = a.kafka.NewLargeProducer(producing...); err != nil {
		return nil, err
	}
	policy := retry.Policy{Schedule: cfg.Retry.Schedule, Window: cfg.Retry.Window, Tiers: cfg.Overflow.Delays}
	r.forwarder = retry.NewForwarder(retry.Names{Topics: a.plan, DeadLetter: cfg.Topics.DeadLetter}, r.producer, r.large, a.Log.Named("retry"))
	r.collector = revocation.New(revocation.Config{
		Topic: cfg.Topics.Revocation, Interval: cfg.Revocation.Interval, MaxIDs: cfg.Revocation.MaxIDs,
		MaxBytes: cfg.Dispatch.MaxBufferedBytes / 4, Now: a.clock.Now,
	}, a.Log.Named("revocation"))
	r.forwarder.Died = func(e *event.Event) { a.metrics.DeadLetter(e.Kind, e.Reason) }
	r.dispatcher = dispatcher.New(dispatcher.Config{
		Parallel: cfg.Dispatch.Parallel, MaxInFlight: a.share.inFlight, QueuePerEndpoint: cfg.Dispatch.QueuePerEndpoint,
		Timeout: cfg.Dispatch.Timeout, Tiers: cfg.Overflow.Delays,
	}, dispatcher.Parts{
		Sender: a.sender, Attempts: a.log, Policy: policy, Settings: a.store, Revocations: r.collector, Metrics: a.metrics, Log: a.Log.Named("dispatcher"),
		Forwarder:   r.forwarder,
		FirstClicks: firstClicks{firstclick.New(a.redis, cfg.Redis.KeyPrefix, cfg.Click.Remember)},
		Now:         a.clock.Now,
	})
	var tracer consumer.Tracer
	if a.tracing != nil {
		tracer = a.tracing
	}
	r.consumer = consumer.New(consumer.Config{
		Group: cfg.Kafka.Group, InstanceID: cfg.Kafka.InstanceID, SessionTimeout: cfg.Kafka.SessionTimeout,
		MaxBufferedBytes: cfg.Dispatch.MaxBufferedBytes, Topics: a.plan.Consumed(), Epoch: cfg.Topics.Epoch,
	}, consumer.Parts{
		Topics: a.plan, Handler: r.dispatcher, Notes: r.collector, Tracer: tracer, Metrics: a.metrics, Log: a.Log.Named("consumer"), Now: a.clock.Now, Replayed: a.replays.Ended, Retired: a.watcher.Retired,
		NewClient: func(opts ...kgo.Opt) (*kgo.Client, error) {
			paced := a.kafka
			paced.PaceFetches = true
			return paced.NewClient(append(opts, a.kafkaMetrics("consumer"))...)
		},
	})
	return r, nil
}

// adopt makes the road's clients use topics that were deleted and created again.
func (r *road) adopt(ctx context.Context, recreated []string) error {
	r.producer.PurgeTopicsFromProducing(slices.Clone(recreated)...) // what is buffered for them fails, and is produced again
	r.large.PurgeTopicsFromProducing(slices.Clone(recreated)...)
	consumed := slices.DeleteFunc(recreated, func(topic string) bool { return !r.plan.Consumes(topic) })
	if len(consumed) == 0 {
		return nil
	}
	return r.consumer.Adopt(ctx, consumed)
}

func (a *App) kafkaMetrics(subsystem string) kgo.Opt {
	return kgo.WithHooks(kprom.NewMetrics("kafka", kprom.Subsystem(subsystem), kprom.Registerer(a.Registry), kprom.Gatherer(a.Registry)))
}

// run consumes until ctx ends; then what has begun comes to its end, and what is finished is committed, within grace.
func (r *road) run(ctx context.Context, grace time.Duration) error {
	var background sync.WaitGroup
	running, stop := context.WithCancel(context.Background())
	logging, stopLog := context.WithCancel(context.Background())
	logged := make(chan struct{})
	go func() {
		defer close(logged)
		r.log.Run(logging)
	}()
	background.Go(func() { r.dispatcher.Run(running) })
	background.Go(func() { r.collector.Run(running, r.consumer, r.dispatcher.Submit) })
	background.Go(func() { r.replays.Run(running) })
	err := r.consumer.Run(ctx, grace)
	stop()
	background.Wait()
	stopLog()
	<-logged
	r.producer.Close()
	r.large.Close()
	if err != nil {
		return fmt.Errorf("consumer: %w", err)
	}
	return nil
}

// firstClicks asks the memory of first clicks about events.
type firstClicks struct{ memory *firstclick.Memory }

// Claim implements dispatcher.FirstClicks.
func (c firstClicks) Claim(ctx context.Context, events []*event.Event, first []bool) error {
	claims := make([]firstclick.Claim, len(events))
	for i, e := range events {
		claims[i] = firstclick.Claim{UserID: e.UserID, MessageID: e.Message.ID(e.Value), Event: e}
	}
	return c.memory.Claim(ctx, claims, first)
}
