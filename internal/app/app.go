// Package app wires the parts and owns their life: starts them in order, stops them in reverse, within the grace.
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
	"github.com/smshooks/smshooks/internal/clock"
	"github.com/smshooks/smshooks/internal/deliverylog"
	"github.com/smshooks/smshooks/internal/http1"
	"github.com/smshooks/smshooks/internal/kafka"
	"github.com/smshooks/smshooks/internal/metrics"
	"github.com/smshooks/smshooks/internal/replay"
	"github.com/smshooks/smshooks/internal/sender"
	"github.com/smshooks/smshooks/internal/settings"
	"github.com/smshooks/smshooks/internal/tlsfiles"
	"github.com/smshooks/smshooks/internal/tracing"
)

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
