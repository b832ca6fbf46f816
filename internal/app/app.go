// Package app wires the parts and owns their life: starts them in order, stops them in reverse, within the grace.
package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/config"
	"github.com/smshooks/smshooks/internal/clock"
	"github.com/smshooks/smshooks/internal/deliverylog"
	"github.com/smshooks/smshooks/internal/http1"
	"github.com/smshooks/smshooks/internal/kafka"
	"github.com/smshooks/smshooks/internal/metrics"
	"github.com/smshooks/smshooks/internal/outage"
	"github.com/smshooks/smshooks/internal/replay"
	"github.com/smshooks/smshooks/internal/sender"
	"github.com/smshooks/smshooks/internal/settings"
	"github.com/smshooks/smshooks/internal/tlsfiles"
	"github.com/smshooks/smshooks/internal/tracing"
)

// lastWords is what the last commit may take after the grace, when requests had to be cut off.
const lastWords = 5 * time.Second

// closingTakes is what closing connections may take at the end of the grace.
const closingTakes = 100 * time.Millisecond

// lastSpans is what sending the last spans may take then; nothing else depends on it.
const lastSpans = time.Second

// tryAgain is the pause between attempts to reach Kafka at the start.
const tryAgain = time.Second

// Role is a part of the service that an instance may play.
type Role string

// The roles.
const (
	Consume     Role = "consume"     // read the topics and send
	Materialise Role = "materialise" // write settings from their topics to Redis
	API         Role = "api"         // serve the customers' API and page
)

// Roles lists all roles.
func Roles() []Role { return []Role{Consume, Materialise, API} }

// Dial opens a connection.
type Dial = func(ctx context.Context, network, address string) (net.Conn, error)

// Options of an App. Config, Version, Log and Registry are needed, the rest may be zero.
type Options struct {
	Config   *config.Config
	Version  string
	Log      *zap.Logger
	Registry *prometheus.Registry
	Embedded bool             // Kafka is in the process, and promises nothing
	Roles    []Role           // none = all
	LogLevel *zap.AtomicLevel // of Log, to be changed at /loglevel; nil = it stays

	KafkaDial, RedisDial, HTTPDial Dial // replace the network in tests
	OpsListener, APIListener       net.Listener
}

// App is one instance of the service.
type App struct {
	Options
	kafka       kafka.Config
	plan        *kafka.Plan
	admin       *kgo.Client
	watcher     *kafka.Watcher
	end         context.CancelFunc // of what Kafka\'s clients wait for
	redis       redis.UniversalClient
	redisTLS    *tlsfiles.Files // nil = off
	redisHealth *redisHealth
	store       *settings.Store
	metrics     *metrics.Metrics
	sender      *sender.Sender // with the roles consume and api
	log         *deliverylog.Log
	replays     *replay.Memory
	road        *road
	api         *customers
	tracing     *tracing.Tracer // nil = off
	clock       *clock.Clock
	share       allotment // of descriptors
}

// TopicError says that topics are not as they must be; the service does not start.
type TopicError struct{ Problems []string }

func (e *TopicError) Error() string { return strings.Join(e.Problems, "\n") }

// New builds an App and touches nothing outside the process yet.
func New(opts Options) (*App, error) {
	if len(opts.Roles) == 0 {
		opts.Roles = Roles()
	}
	cfg := opts.Config
	a := &App{Options: opts, clock: clock.New(opts.Log.Named("clock")), plan: TopicPlan(cfg)}
	sources := a.plan.Sources()
	waiting := slices.DeleteFunc(a.plan.Consumed(), func(t string) bool { return slices.Contains(sources[:], t) })
	a.metrics = metrics.New(opts.Registry, metrics.Topics{
		Consumed: a.plan.Consumed(), Waiting: waiting, Settings: []string{cfg.Topics.Config, cfg.Topics.Keys},
		Dead: []string{cfg.Topics.DeadLetter}, Exhaustions: http1.Exhaustions(),
	})
	a.metrics.Build(opts.Version)
	var err error
	if a.kafka, err = KafkaConfig(cfg, opts.KafkaDial, opts.Log); err != nil {
		return nil, err
	}
	a.kafka.Context, a.end = context.WithCancel(context.Background())
	a.kafka.Skips = kafka.NewSkips(opts.Log.Named("kafka"), a.metrics.BatchSkipped)
	if a.admin, err = a.kafka.NewClient(); err != nil {
		return nil, err
	}
	a.watcher = kafka.NewWatcher(a.admin, a.plan.Rights(a.plays(Consume), a.plays(API)), opts.Log.Named("topics"))
	useRedisLog(opts.Log)
	if a.redisTLS, err = openTLS("redis.tls", cfg.Redis.TLS, opts.Log); err != nil {
		return nil, withOrigin(cfg, err)
	}
	a.redis = newRedis(cfg.Redis, opts.RedisDial, a.redisTLS)
	a.redisHealth = &redisHealth{rdb: a.redis, prefix: cfg.Redis.KeyPrefix, log: opts.Log.Named("redis"), evicts: a.metrics.RedisEvicts}
	a.redis.AddHook(newRedisOutage(opts.Log.Named("redis")))
	sealer, err := newSealer(cfg.Secrets)
	if err != nil {
		return nil, err
	}
	a.store = settings.New(settings.Config{
		ConfigTopic: cfg.Topics.Config, KeysTopic: cfg.Topics.Keys, KeyPrefix: cfg.Redis.KeyPrefix, Secrets: sealer,
		Materialise: a.plays(Materialise),
	}, a.kafka.NewClient, a.redis, opts.Log.Named("settings"), a.metrics)
	a.log = deliverylog.New(a.redis, cfg.Redis.KeyPrefix, a.metrics.DeliveryLogDropped, opts.Log.Named("deliveries"))
	a.share = a.limits()
	a.replays = replay.New(replayConfig(cfg), a.redis, opts.Log.Named("replays"))
	if a.plays(Consume) || a.plays(API) {
		a.sender = a.newSender()
	}
	if a.plays(API) {
		if a.api, err = a.newCustomers(); err != nil {
			return nil, err
		}
		a.watcher.OnRecreated(a.api.letters.Adopt)
	}
	if a.plays(Consume) && cfg.Tracing.Endpoint != "" {
		a.tracing, err = tracing.New(context.Background(), tracing.Config{
			Endpoint: cfg.Tracing.Endpoint, Sample: cfg.Tracing.Sample, Version: opts.Version,
		}, opts.Log.Named("tracing"))
		if err != nil {
			return nil, err
		}
	}
	if a.plays(Consume) {
		if a.road, err = a.newRoad(); err != nil {
			return nil, err
		}
		a.watcher.OnRecreated(a.road.adopt)
	} else {
		for _, name := range []string{"smshooks_in_flight_requests", "smshooks_buffered_records", "smshooks_buffered_bytes", "smshooks_lag_age_seconds", "smshooks_commit_stalled_seconds", "smshooks_ledger_gap_records"} {
			a.metrics.Gauge(name, "Nothing: this instance does not play the role consume.", func() float64 { return 0 })
		}
	}
	return a, nil
}

// ReloadTLS reads the certificate files of Kafka's and Redis's connections anew. Those that cannot be used stay as they
// were, and the error names them. Connections that are open go on.
func (a *App) ReloadTLS() error { return errors.Join(a.kafka.TLS.Reload(), a.redisTLS.Reload()) }

func (a *App) plays(r Role) bool { return slices.Contains(a.Roles, r) }

// Run runs the service until ctx ends, then stops it within shutdown.grace. A nil error means that it stopped as it
// was told to, in time.
func (a *App) Run(ctx context.Context) error {
	stopOps, err := a.serveOps()
	if err != nil {
		return err
	}
	defer stopOps()
	defer a.admin.Close()
	defer a.redis.Close()
	if a.sender != nil {
		defer a.sender.Close()
	}
	stopAPI, err := a.serveAPI(ctx)
	if err != nil {
		return err
	}
	defer stopAPI()
	var watching sync.WaitGroup
	defer watching.Wait()
	watched, stopWatching := context.WithCancel(context.Background())
	defer stopWatching()
	watching.Go(func() {
		a.clock.Run(watched, func(ctx context.Context) (time.Time, error) { return a.redis.Time(ctx).Result() })
	})
	watching.Go(func() { watchReadiness(watched, a.checks(), a.Log) })
	watching.Go(func() { a.redisHealth.watch(watched) })
	ended := make(chan error, 1)
	go func() { ended <- a.run(ctx, stopAPI) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	// A Kafka that does not answer must not hold up the end.
	grace := a.Config.Shutdown.Grace
	defer time.AfterFunc(grace-min(closingTakes, grace/20), a.end).Stop()
	select {
	case err := <-ended:
		return err
	case <-time.After(grace + lastWords):
		return fmt.Errorf("work did not end within shutdown.grace (%v)", a.Config.Shutdown.Grace)
	}
}

func (a *App) run(ctx context.Context, stopAPI func()) error {
	if err := a.topics(ctx); err != nil {
		return stopped(ctx, err)
	}
	if !a.Embedded {
		a.warnOfRisks(ctx)
	}
	background, stop := context.WithCancel(context.Background())
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		a.watcher.Run(background)
	}()
	defer func() {
		stop()
		<-watched
	}()
	var storeErr error
	storeEnded := make(chan struct{})
	go func() {
		defer close(storeEnded)
		storeErr = a.store.Run(background)
	}()
	defer func() {
		stop()
		<-storeEnded
	}()
	defer stopAPI() // its requests need the store
	select {
	case <-ctx.Done():
		return nil
	case <-storeEnded:
		return fmt.Errorf("settings: %w", storeErr)
	case <-a.store.Loaded():
	}
	a.Log.Info("settings loaded")
	if a.road == nil {
		<-ctx.Done()
		return nil
	}
	looked := make(chan struct{})
	looking, stopLooking := context.WithCancel(ctx)
	go func() {
		defer close(looked)
		a.watchUnread(looking)
	}()
	defer func() {
		stopLooking()
		<-looked
	}()
	err := a.road.run(ctx, a.Config.Shutdown.Grace)
	a.closeTracing()
	return err
}

// closeTracing sends the last spans, which nobody waits for long.
func (a *App) closeTracing() {
	if a.tracing == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), lastSpans)
	defer cancel()
	if err := a.tracing.Close(ctx); err != nil {
		a.Log.Warn("spans are lost", zap.Error(err))
	}
}

// topics checks the topics, or creates them, and keeps trying while Kafka is away.
func (a *App) topics(ctx context.Context) error {
	unchecked := outage.New(a.Log, "cannot check the topics, trying again", "the topics are checked")
	for {
		err := a.kafka.Probe(ctx) // which logs the brokers that do not answer
		if err == nil {
			if err = a.checkTopics(ctx); err == nil {
				unchecked.Recover()
				return nil
			}
			var wrong *TopicError
			if errors.As(err, &wrong) || ctx.Err() != nil {
				return err
			}
			err = kafka.Explain(err)
			unchecked.Fail(err)
		}
		if ctx.Err() != nil || !kafka.IsUnavailable(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(tryAgain):
		}
	}
}

func (a *App) checkTopics(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	if a.Config.Topics.Ensure {
		lines, err := a.plan.Ensure(ctx, a.admin)
		for _, l := range lines {
			a.Log.Info("topic", zap.String("topic", l.Topic), zap.String("state", l.What))
		}
		return err
	}
	problems, err := a.plan.Check(ctx, a.admin)
	if err != nil || len(problems) == 0 {
		return err
	}
	wrong, connection := &TopicError{}, kafka.Connection{Brokers: a.Config.Kafka.Brokers, Flags: a.Config.Flags()}
	for _, p := range problems {
		wrong.Problems = append(wrong.Problems, p.Line(connection))
	}
	return wrong
}

// warnOfRisks logs with which topics a broker that fails may lose records.
func (a *App) warnOfRisks(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	risks, err := a.plan.Risks(ctx, a.admin)
	if err != nil && ctx.Err() == nil {
		a.Log.Warn("cannot read how durable the topics are", zap.Error(err))
	}
	for _, r := range risks {
		a.Log.Warn("topics may lose records when a broker fails", zap.String("setting", r.What), zap.Strings("topics", r.Topics), zap.String("advice", r.Why))
	}
}

// stopped turns the error of something that was told to stop into none.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (a *App) serveOps() (stop func(), err error) {
	l := a.OpsListener
	if l == nil {
		if l, err = net.Listen("tcp", a.Config.Ops.Addr); err != nil {
			return nil, fmt.Errorf("ops.addr: %w", err)
		}
	}
	var level http.Handler
	if a.LogLevel != nil {
		level = levelHandler(a.LogLevel, a.Log)
	}
	a.Log.Info("operations listener", zap.String("addr", l.Addr().String()))
	return serveHTTP(l, opsHandler(a.Registry, a.checks(), level), opsConnections, probeTimeout, 2*time.Second), nil
}

// checks are the conditions of readiness.
func (a *App) checks() []check {
	checks := []check{
		{"kafka", func(ctx context.Context) error { return a.admin.Ping(ctx) }},
		{"topics", func(context.Context) error { return a.watcher.Problem() }},
		{"redis", a.redisHealth.ready},
		{"config", func(context.Context) error { return a.store.Err() }},
	}
	if a.road != nil {
		checks = append(checks, check{"group", func(context.Context) error { return a.road.consumer.Joined() }},
			check{"storing", func(context.Context) error { return a.road.waiting.Problem() }})
	}
	return checks
}
