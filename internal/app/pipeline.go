package app

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/plugin/kprom"

	"github.com/smshooks/smshooks/consumer"
	"github.com/smshooks/smshooks/dispatcher"
	"github.com/smshooks/smshooks/internal/endpoints"
	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/firstclick"
	"github.com/smshooks/smshooks/internal/kafka"
	"github.com/smshooks/smshooks/internal/latest"
	"github.com/smshooks/smshooks/internal/release"
	"github.com/smshooks/smshooks/internal/replay"
	"github.com/smshooks/smshooks/internal/revocation"
	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/webhook"
	"github.com/smshooks/smshooks/retry"
)

const (
	maxProducing   = 200_000 // records on their way to other topics; more than can be buffered
	producerLinger = 5 * time.Millisecond
)

// pipeline holds the parts that an event passes through: consumer → dispatcher, and delay topic → consumer if it is
// delayed.
type pipeline struct {
	consumer   *consumer.Consumer
	dispatcher *dispatcher.Dispatcher
	collector  *revocation.Collector
	replays    *replay.Memory
	endpoints  *endpoints.Tracker
	receipts   *latest.Memory
	plan       *topics.Plan
	producer   *kafka.Producer
	large      *kafka.LargeProducer
	forwarder  *retry.Forwarder
	recoveries *release.Worker
}

func (a *App) newPipeline() (*pipeline, error) {
	cfg := a.Config
	p := &pipeline{replays: a.replays, plan: a.plan}
	var err error
	producing := []kgo.Opt{
		kgo.RequiredAcks(kgo.AllISRAcks()), kgo.RecordPartitioner(kafka.Partitioner(a.plan.Delayed)),
		kgo.MaxBufferedRecords(maxProducing),
	}
	metrics := a.producerMetrics()
	if p.producer, err = kafka.NewProducer(func() (*kgo.Client, error) {
		return a.kafka.NewClient(append(slices.Clone(producing), kgo.ProducerLinger(producerLinger), metrics())...)
	}); err != nil {
		return nil, err
	}
	if p.large, err = kafka.NewLargeProducer(func() (*kgo.Client, error) {
		return a.kafka.NewClient(append(slices.Clone(producing), kafka.LargeOptions(a.kafka.MaxBatchBytes)...)...)
	}); err != nil {
		return nil, err
	}
	policy := retry.Policy{Schedule: cfg.Retry.Schedule, Window: cfg.Retry.Window, Tiers: cfg.Overflow.Delays}
	p.forwarder = retry.NewForwarder(retry.Names{Topics: a.plan, DeadLetter: cfg.Topics.DeadLetter},
		p.producer, p.large, a.Log.Named("retry"))
	p.collector = revocation.New(revocation.Config{
		Topic: cfg.Topics.Revocation, Interval: cfg.Revocation.Interval, MaxIDs: cfg.Revocation.MaxIDs,
		MaxBytes: cfg.Dispatch.MaxBufferedBytes / 4, Now: a.clock.Now,
	}, a.Log.Named("revocation"))
	p.endpoints = endpoints.New(endpoints.Parts{
		Store: a.endpoints, Producer: p.producer, Topic: cfg.Topics.Events, Metrics: a.metrics,
		Log: a.Log.Named("endpoints"), Now: a.clock.Now, Host: a.hostOf,
	})
	p.receipts = latest.New(a.redis, cfg.Redis.KeyPrefix, a.plan.LongestWait(), a.Log.Named("receipts"))
	p.forwarder.Died = func(e *event.Event) {
		a.metrics.DeadLetter(e.Kind, e.Reason)
		p.endpoints.Died(e)
	}
	p.dispatcher = dispatcher.New(dispatcher.Config{
		Parallel: cfg.Dispatch.Parallel, MaxInFlight: a.share.inFlight, QueuePerEndpoint: cfg.Dispatch.QueuePerEndpoint,
		Timeout: cfg.Dispatch.Timeout, Tiers: cfg.Overflow.Delays,
	}, dispatcher.Parts{
		Sender: a.sender, Policy: policy, Forwarder: p.forwarder, Settings: a.store, Revocations: p.collector,
		DeliveryLog: a.deliveries, Endpoints: p.endpoints, Receipts: p.receipts,
		FirstClicks: firstClicks{firstclick.New(a.redis, cfg.Redis.KeyPrefix, cfg.Click.Remember)},
		Metrics:     a.metrics, Log: a.Log.Named("dispatcher"), Now: a.clock.Now,
	})
	var tracer consumer.Tracer
	if a.tracing != nil {
		tracer = a.tracing
	}
	p.consumer = consumer.New(consumer.Config{
		Group: cfg.Kafka.Group, InstanceID: cfg.Kafka.InstanceID, SessionTimeout: cfg.Kafka.SessionTimeout,
		ServerAssigned:   cfg.Kafka.GroupProtocol == "consumer",
		MaxBufferedBytes: cfg.Dispatch.MaxBufferedBytes, Topics: a.plan.Consumed(), Epoch: cfg.Topics.Epoch,
	}, consumer.Parts{
		Topics: a.plan, Handler: p.dispatcher, CommitTexts: p.collector, Tracer: tracer, Replayed: a.replays.Ended,
		Retired: a.watcher.Retired, Releases: a.releases, Metrics: a.metrics, Log: a.Log.Named("consumer"), Now: a.clock.Now,
		NewClient: func(opts ...kgo.Opt) (*kgo.Client, error) {
			paced := a.kafka
			paced.PaceFetches = true
			return paced.NewClient(append(opts, a.kafkaMetrics("consumer"))...)
		},
	})
	p.recoveries = a.newRecoveries(p)
	return p, nil
}

// renew makes the producers use topics that were deleted and created again.
func (p *pipeline) renew(_ context.Context, recreated []string) error {
	if err := p.producer.Renew(recreated); err != nil {
		return err
	}
	return p.large.Renew(recreated)
}

// adopt makes the consumer use topics that were deleted and created again.
func (p *pipeline) adopt(ctx context.Context, recreated []string) error {
	consumed := slices.DeleteFunc(recreated, func(topic string) bool { return !p.plan.Consumes(topic) })
	if len(consumed) == 0 {
		return nil
	}
	return p.consumer.Adopt(ctx, consumed)
}

func (a *App) kafkaMetrics(subsystem string) kgo.Opt {
	return kgo.WithHooks(a.newKafkaMetrics(subsystem))
}

func (a *App) newKafkaMetrics(subsystem string) *kprom.Metrics {
	return kprom.NewMetrics("kafka", kprom.Subsystem(subsystem), kprom.Registerer(a.Registry), kprom.Gatherer(a.Registry))
}

// producerMetrics returns a function that makes the metrics of each further client of the producer. Those of the client
// before leave the registry: the names can be there once.
func (a *App) producerMetrics() func() kgo.Opt {
	var last *kprom.Metrics
	return func() kgo.Opt {
		if last != nil {
			last.OnClientClosed(nil)
		}
		last = a.newKafkaMetrics("producer")
		return kgo.WithHooks(lastingMetrics{last})
	}
}

// lastingMetrics are not removed when their client is closed: then the registry has those of the next client.
type lastingMetrics struct{ *kprom.Metrics }

// OnClientClosed implements kgo.HookClientClosed.
func (lastingMetrics) OnClientClosed(*kgo.Client) {}

// start adds the parts of the pipeline to g. They begin once started is closed. The consumer stops first: it lets
// events in progress end and commits, within grace. What these events need stops after it.
func (p *pipeline) start(g *group, started <-chan struct{}, grace time.Duration) {
	g.serve("producers", noError(func(ctx context.Context) { <-ctx.Done(); p.producer.Close(); p.large.Close() }))
	g.serve("latest receipts", after(started, noError(p.receipts.Run)))
	g.serve("endpoint events", after(started, noError(p.endpoints.Run)))
	g.serve("replays", after(started, noError(p.replays.Run)))
	g.serve("dispatcher", after(started, noError(p.dispatcher.Run)))
	g.serve("revocations", after(started, noError(func(ctx context.Context) {
		p.collector.Run(ctx, p.consumer, p.dispatcher.Submit)
	})))
	g.work("consumer", after(started, func(ctx context.Context) error {
		if err := p.consumer.Run(ctx, grace); err != nil {
			return fmt.Errorf("consumer: %w", err)
		}
		return nil
	}))
	g.work("recoveries", after(started, noError(p.recoveries.Run)))
}

// hostOf returns the host of a user's URL of a kind, "" if there is none or its settings are not in memory.
func (a *App) hostOf(userID int64, kind webhook.Kind) string {
	s, _ := a.store.Lookup(userID)
	if s == nil || s.Endpoints[kind] == nil {
		return ""
	}
	return s.Endpoints[kind].Hostname()
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
