// Package app wires the parts of the service, starts them in order and stops them in reverse, within shutdown.grace.
package app

import (
	"context"
	"errors"
	"net"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/config"
	"github.com/smshooks/smshooks/internal/apikey"
	"github.com/smshooks/smshooks/internal/clock"
	"github.com/smshooks/smshooks/internal/compacted"
	"github.com/smshooks/smshooks/internal/deliverylog"
	"github.com/smshooks/smshooks/internal/endpoints"
	"github.com/smshooks/smshooks/internal/http1"
	"github.com/smshooks/smshooks/internal/kafka"
	"github.com/smshooks/smshooks/internal/metrics"
	"github.com/smshooks/smshooks/internal/release"
	"github.com/smshooks/smshooks/internal/replay"
	"github.com/smshooks/smshooks/internal/sender"
	"github.com/smshooks/smshooks/internal/settings"
	"github.com/smshooks/smshooks/internal/tlsfiles"
	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/internal/tracing"
)

// Role is one of the jobs that an instance can do.
type Role string

// The roles.
const (
	Consume     Role = "consume"     // read the topics and send webhooks
	Materialise Role = "materialise" // write settings from their topics to Redis
	API         Role = "api"         // serve the customers' API and account page
)

// Roles lists all roles.
func Roles() []Role { return []Role{Consume, Materialise, API} }

// Dial opens a connection.
type Dial = func(ctx context.Context, network, address string) (net.Conn, error)

// Options configure an App. Config, Version, Log and Registry are required; the other fields may be zero.
type Options struct {
	Config   *config.Config
	Version  string
	Log      *zap.Logger
	Registry *prometheus.Registry
	Embedded bool             // Kafka is simulated in the process: its durability is not checked
	Roles    []Role           // empty = all
	LogLevel *zap.AtomicLevel // level of Log, served at /loglevel; nil = not served

	KafkaDial, RedisDial, HTTPDial Dial // replace the network in tests
	OpsListener, APIListener       net.Listener

	// Listening is called once the listeners are open, with the API's address: nil without the role api.
	// nil = not called.
	Listening func(api net.Addr)
}

// App is one instance of the service.
type App struct {
	Options
	kafka       kafka.Config
	plan        *topics.Plan
	admin       *kgo.Client
	watcher     *kafka.Watcher
	cutOffKafka context.CancelFunc // cancels whatever Kafka clients wait for
	redis       redis.UniversalClient
	redisTLS    *tlsfiles.Files // nil = off
	redisHealth *redisHealth
	store       *settings.Store
	keys        *apikey.Store
	metrics     *metrics.Metrics
	sender      *sender.Sender // nil without the roles consume and api
	deliveries  *deliverylog.Log
	replays     *replay.Memory
	endpoints   *endpoints.Store
	releases    *release.Log // nil without the roles consume and api
	pipeline    *pipeline
	api         *customers
	tracing     *tracing.Tracer // nil = off
	clock       *clock.Clock
	share       allotment // file descriptors
}

// New builds an App. It reads certificate files, and connects to nothing yet.
func New(opts Options) (*App, error) {
	if len(opts.Roles) == 0 {
		opts.Roles = Roles()
	}
	a := &App{Options: opts, clock: clock.New(opts.Log.Named("clock")), plan: opts.Config.TopicPlan()}
	a.metrics = a.newMetrics()
	a.share = a.limits()
	for _, wire := range []func() error{
		a.wireKafka, a.wireRedis, a.wireSettings, a.wireHistory, a.wireSender, a.wireReleases,
		a.wireCustomers, a.wireTracing, a.wirePipeline,
	} {
		if err := wire(); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func (a *App) newMetrics() *metrics.Metrics {
	m := metrics.New(a.Registry, metrics.Topics{
		Consumed:    a.plan.Consumed(),
		Delayed:     slices.DeleteFunc(a.plan.Consumed(), func(t string) bool { return !a.plan.Delayed(t) }),
		Settings:    []string{a.plan.Config, a.plan.Keys},
		Dead:        []string{a.plan.DeadLetter},
		Exhaustions: http1.Exhaustions(),
		Events:      endpoints.Types(),
	})
	m.Build(a.Version)
	return m
}

func (a *App) wireKafka() (err error) {
	if a.kafka, err = KafkaConfig(a.Config, a.KafkaDial, a.Log); err != nil {
		return err
	}
	a.kafka.Context, a.cutOffKafka = context.WithCancel(context.Background())
	a.kafka.Skips = kafka.NewSkips(a.Log.Named("kafka"), a.metrics.BatchSkipped)
	if a.admin, err = a.kafka.NewClient(); err != nil {
		return err
	}
	a.watcher = kafka.NewWatcher(a.admin, kafka.NeededRights(a.plan, a.plays(Consume), a.plays(API)),
		a.Log.Named("topics"))
	return nil
}

func (a *App) wireRedis() (err error) {
	useRedisLog(a.Log)
	cfg, log := a.Config.Redis, a.Log.Named("redis")
	if a.redisTLS, err = openTLS("redis.tls", cfg.TLS, a.Log); err != nil {
		return withOrigin(a.Config, err)
	}
	a.redis = newRedis(cfg, a.RedisDial, a.redisTLS)
	a.redis.AddHook(newRedisOutage(log))
	a.redisHealth = &redisHealth{rdb: a.redis, prefix: cfg.KeyPrefix, log: log, evicts: a.metrics.RedisEvicts}
	return nil
}

func (a *App) wireSettings() error {
	sealer, err := newSealer(a.Config.Secrets)
	if err != nil {
		return err
	}
	a.store = settings.New(settings.Config{
		Topic: a.Config.Topics.Config, KeyPrefix: a.Config.Redis.KeyPrefix,
		Secrets: sealer, Materialise: a.plays(Materialise), Resumed: a.resumed,
	}, a.kafka.NewClient, a.redis, a.Log.Named("settings"), a.metrics)
	a.keys = apikey.New(a.Config.Topics.Keys, a.kafka.NewClient, a.Log.Named("keys"), a.metrics)
	a.watchReader(a.Config.Topics.Config, a.store.Follower())
	a.watchReader(a.Config.Topics.Keys, a.keys.Follower())
	return nil
}

// watchReader registers a follower: a topic that was created again is in use once its follower reads it.
func (a *App) watchReader(topic string, reader *compacted.Follower) {
	a.watcher.Reads(topic, reader.ID)
	a.watcher.OnRecreated(reader.Adopt)
}

// wireHistory makes the delivery log, the memory of replays and the states of endpoints, which are in Redis.
func (a *App) wireHistory() error {
	a.deliveries = deliverylog.New(a.redis, a.Config.Redis.KeyPrefix, a.metrics.DeliveryLogDropped,
		a.Log.Named("deliveries"))
	a.endpoints = endpoints.NewStore(a.redis, a.Config.Redis.KeyPrefix)
	a.replays = replay.New(replayConfig(a.Config), a.redis, a.Log.Named("replays"))
	return nil
}

func (a *App) wireSender() error {
	if a.plays(Consume) || a.plays(API) {
		a.sender = a.newSender()
	}
	return nil
}

func (a *App) wireCustomers() (err error) {
	if !a.plays(API) {
		return nil
	}
	if a.api, err = a.newCustomers(); err == nil {
		a.watcher.OnRecreated(a.api.letters.Adopt)
	}
	return err
}

func (a *App) wireTracing() (err error) {
	cfg := a.Config.Tracing
	if cfg.Endpoint != "" && a.plays(Consume) {
		c := tracing.Config{Endpoint: cfg.Endpoint, Sample: cfg.Sample, Version: a.Version}
		a.tracing, err = tracing.New(context.Background(), c, a.Log.Named("tracing"))
	}
	return err
}

func (a *App) wirePipeline() (err error) {
	if !a.plays(Consume) {
		return nil
	}
	if a.pipeline, err = a.newPipeline(); err == nil {
		a.watcher.OnRecreated(a.pipeline.renew)
		a.watcher.OnRecreated(a.pipeline.adopt)
	}
	return err
}

// ReloadTLS reloads the certificate files of the Kafka and Redis connections. The error names the files that cannot be
// used; the previous ones stay in use. Open connections are not affected.
func (a *App) ReloadTLS() error { return errors.Join(a.kafka.TLS.Reload(), a.redisTLS.Reload()) }

func (a *App) plays(r Role) bool { return slices.Contains(a.Roles, r) }
