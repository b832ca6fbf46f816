package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/config"
	"github.com/smshooks/smshooks/internal/apikey"
	"github.com/smshooks/smshooks/internal/deadletter"
	"github.com/smshooks/smshooks/internal/deliverylog"
	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/kafka"
	"github.com/smshooks/smshooks/internal/replay"
	"github.com/smshooks/smshooks/internal/settings"
	"github.com/smshooks/smshooks/internal/tlsfiles"
	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/delay"
)

// NewRegistry returns a registry with the Go and process collectors.
func NewRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// orphanedTimeout is how long Kafka may take to return the group's offsets.
const orphanedTimeout = 20 * time.Second

// Admin carries out the commands of an operator.
type Admin struct {
	cfg    *config.Config
	kafka  kafka.Config
	client *kgo.Client
	log    *zap.Logger
}

// reachTimeout is how long a command waits for a broker that does not answer yet.
const reachTimeout = 5 * time.Second

// NewAdmin connects to Kafka. It fails within seconds, with an error that names the setting. The caller closes the
// Admin.
func NewAdmin(ctx context.Context, cfg *config.Config, log *zap.Logger) (*Admin, error) {
	k, err := KafkaConfig(cfg, nil, log)
	if err != nil {
		return nil, err
	}
	k.Outages = nil // the command reports the error
	if err := reach(ctx, k); err != nil {
		return nil, fmt.Errorf("reach Kafka: %w", err)
	}
	client, err := k.NewClient()
	if err != nil {
		return nil, err
	}
	return &Admin{cfg, k, client, log}, nil
}

func reach(ctx context.Context, k kafka.Config) error {
	for until := time.Now().Add(reachTimeout); ; {
		err := k.Probe(ctx)
		if err == nil || !kafka.IsUnavailable(err) || time.Now().After(until) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// withOrigin adds the setting's origin to an error about a setting.
func withOrigin(cfg *config.Config, err error) error {
	var wrong *tlsfiles.SettingError
	if !errors.As(err, &wrong) {
		return err
	}
	return &config.Error{Problems: []config.Problem{{Setting: wrong.Setting, Text: wrong.Err.Error(),
		Origin: cfg.Origin(wrong.Setting)}}}
}

// Connection returns the settings with which Kafka was reached.
func (a *Admin) Connection() kafka.Connection {
	return kafka.Connection{Brokers: a.cfg.Kafka.Brokers, Flags: a.cfg.Flags()}
}

// Close closes the connections.
func (a *Admin) Close() { a.client.Close() }

// NameRights adds to the error of a command, such as "topics ensure", the rights that the user lacks for it.
func (a *Admin) NameRights(ctx context.Context, command string, err error) error {
	plan := a.cfg.TopicPlan()
	return kafka.NameRights(ctx, a.client, plan, plan.RightsOf(command, a.cfg.Kafka.Group), err)
}

// mayRead returns an error if the user lacks the right to read a topic: a reader would wait for the right.
func (a *Admin) mayRead(ctx context.Context, topic string) error {
	need := []topics.Right{{Resource: "topic", Name: topic, Operations: []string{kafka.Read.String()}}}
	missing, err := kafka.MissingRights(ctx, a.client, a.cfg.TopicPlan(), need)
	if err == nil && len(missing) > 0 {
		err = errors.New(missing[0])
	}
	return err
}

// EnsureTopics creates the missing topics and returns a line for each topic.
func (a *Admin) EnsureTopics(ctx context.Context) ([]kafka.Line, error) {
	return kafka.EnsureTopics(ctx, a.client, a.cfg.TopicPlan())
}

// CheckTopics returns what is wrong with the topics.
func (a *Admin) CheckTopics(ctx context.Context) ([]kafka.Problem, error) {
	return kafka.CheckTopics(ctx, a.client, a.cfg.TopicPlan())
}

// Warnings returns a line for each combination of settings that has an effect which is easily missed.
func (a *Admin) Warnings() []string { return a.cfg.Warnings() }

// TopicRisks returns which topics may lose records.
func (a *Admin) TopicRisks(ctx context.Context) ([]kafka.Risk, error) {
	return kafka.TopicRisks(ctx, a.client, a.cfg.TopicPlan())
}

// OrphanedTopics returns the orphaned delay topics that hold records, and the flags that make serve read them:
// retry.drain, overflow.drain and paused.drain with the missing delays added.
func (a *Admin) OrphanedTopics(ctx context.Context) (orphaned []kafka.Orphaned, flags []string, err error) {
	if orphaned, err = a.orphaned(ctx); err != nil {
		return nil, nil, fmt.Errorf("check for orphaned delay topics: %w", err)
	}
	for _, setting := range []struct {
		name  string
		drain []time.Duration
	}{{"retry.drain", a.cfg.Retry.Drain}, {"overflow.drain", a.cfg.Overflow.Drain}, {"paused.drain", a.cfg.Paused.Drain}} {
		var delays []string
		for _, o := range orphaned {
			if d, ok := strings.CutPrefix(o.Setting, setting.name+"="); ok && !slices.Contains(delays, d) {
				delays = append(delays, d)
			}
		}
		if len(delays) == 0 {
			continue
		}
		for _, d := range setting.drain {
			delays = append(delays, delay.Name(d))
		}
		flags = append(flags, "--"+setting.name+"="+strings.Join(delays, ","))
	}
	return orphaned, flags, nil
}

// orphaned retries for a while: a cluster creates its coordinators when the first group is looked up.
func (a *Admin) orphaned(ctx context.Context) (orphaned []kafka.Orphaned, err error) {
	ctx, cancel := context.WithTimeout(ctx, orphanedTimeout)
	defer cancel()
	for {
		asked, err := kafka.OrphanedTopics(ctx, a.client, a.cfg.TopicPlan(), a.cfg.Kafka.Group)
		if !errors.Is(err, kerr.CoordinatorNotAvailable) && !errors.Is(err, kerr.CoordinatorLoadInProgress) {
			return asked, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// CreateKey creates an API key for a user and returns it. Only its hash is stored.
func (a *Admin) CreateKey(ctx context.Context, userID int64, name string) (string, error) {
	if err := a.client.Ping(ctx); err != nil { // producing would retry forever
		return "", fmt.Errorf("reach Kafka: %w", err)
	}
	key, err := apikey.Create(ctx, a.client, a.cfg.Topics.Keys, userID, name)
	if err != nil {
		return "", fmt.Errorf("create API key: %w", err)
	}
	return key, nil
}

// ErrNoSuchKey is returned when the key to revoke does not exist.
var ErrNoSuchKey = errors.New("revoke API key: the key does not exist")

// RevokeKey revokes an API key.
func (a *Admin) RevokeKey(ctx context.Context, key string) error {
	found, err := apikey.Revoke(ctx, a.client, a.cfg.Topics.Keys, key)
	if err != nil {
		return fmt.Errorf("revoke API key: %w", err)
	}
	if !found {
		return ErrNoSuchKey
	}
	return nil
}

// DeadLetters calls each for the dead letters that match f. progress may be nil.
func (a *Admin) DeadLetters(ctx context.Context, f deadletter.Filter, progress deadletter.Progress,
	each func(*deadletter.Letter) error) error {
	letters, err := newDeadLetters(a.cfg, a.kafka, nil, nil)
	if err != nil {
		return err
	}
	defer letters.Close()
	return letters.ListWatched(ctx, f, progress, each)
}

// ReplayDeadLetters replays the dead letters that match run and returns how many. Like the API, it notes them in the
// delivery log.
func (a *Admin) ReplayDeadLetters(ctx context.Context, run deadletter.Run) (int, error) {
	var note func(event.LogEntry)
	if run.Try == nil {
		rdb, err := a.openRedis()
		if err != nil {
			return 0, err
		}
		defer rdb.Close()
		if err := explainRedis(rdb.Ping(ctx).Err()); err == nil {
			run.Guard = replayGuard{memory: replay.New(replayConfig(a.cfg), rdb, a.log)}
			log, end := a.openLog(rdb)
			defer end()
			note = log.Note
		} else {
			a.log.Warn("cannot reach Redis; events whose replay is under way may be sent again, and none is noted "+
				"in the delivery log", zap.Error(err))
		}
	}
	letters, err := newDeadLetters(a.cfg, a.kafka, nil, note)
	if err != nil {
		return 0, err
	}
	defer letters.Close()
	return letters.Run(ctx, run)
}

// openLog returns the delivery log, and a function that waits until all of it is written.
func (a *Admin) openLog(rdb redis.UniversalClient) (log *deliverylog.Log, end func()) {
	var dropped atomic.Int64
	log = deliverylog.New(rdb, a.cfg.Redis.KeyPrefix, func(n int) { dropped.Add(int64(n)) }, a.log)
	running, stop := context.WithCancel(context.Background())
	var writing sync.WaitGroup
	writing.Go(func() { log.Run(running) })
	return log, func() {
		stop()
		writing.Wait()
		if n := dropped.Load(); n > 0 {
			a.log.Warn("the delivery log lacks notes about replayed events", zap.Int64("events", n))
		}
	}
}

// openRedis returns a client that the caller closes.
func (a *Admin) openRedis() (redis.UniversalClient, error) {
	files, err := openTLS("redis.tls", a.cfg.Redis.TLS, a.log)
	if err != nil {
		return nil, withOrigin(a.cfg, err)
	}
	useRedisLog(a.log)
	return newRedis(a.cfg.Redis, nil, files), nil
}

// resealTimeout is how long loading all settings may take before anything is written.
const resealTimeout = time.Minute

// Reseal rewrites the documents whose credentials are not sealed with the current secrets.key, and returns the counts.
// If dry is set, it writes nothing.
func (a *Admin) Reseal(ctx context.Context, dry bool) (settings.Resealing, error) {
	cfg := a.cfg
	if len(cfg.Secrets.Key) == 0 {
		return settings.Resealing{}, withOrigin(cfg, &tlsfiles.SettingError{
			Setting: "secrets.key", Err: errors.New("is required: it seals the credentials from now on"),
		})
	}
	sealer, err := newSealer(cfg.Secrets)
	if err != nil {
		return settings.Resealing{}, err
	}
	rdb, err := a.openRedis()
	if err != nil {
		return settings.Resealing{}, err
	}
	defer rdb.Close()
	loading, cancel := context.WithTimeout(ctx, resealTimeout)
	defer cancel()
	if err := a.client.Ping(loading); err != nil {
		return settings.Resealing{}, fmt.Errorf("reach Kafka (kafka.brokers): %w", err)
	}
	if err := rdb.Ping(loading).Err(); err != nil { // its locks serialise the updates of a user across all instances
		return settings.Resealing{}, unavailable("reach Redis", err)
	}
	if err := a.mayRead(loading, cfg.Topics.Config); err != nil {
		return settings.Resealing{}, err
	}
	store := settings.New(settings.Config{
		Topic: cfg.Topics.Config, KeyPrefix: cfg.Redis.KeyPrefix, Secrets: sealer,
	}, a.kafka.NewClient, rdb, a.log.Named("settings"), noMetrics{})
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- store.Run(running) }()
	defer func() {
		stop()
		<-ended //nolint:errcheck // it was handled below, or is the stop
	}()
	select {
	case <-store.Loaded():
		return store.Reseal(ctx, dry)
	case err := <-ended:
		ended <- err
		return settings.Resealing{}, fmt.Errorf("settings: %w", err)
	case <-loading.Done():
		return settings.Resealing{}, fmt.Errorf("read topics.config: %w", loading.Err())
	}
}

// noMetrics discards the store's metrics.
type noMetrics struct{}

func (noMetrics) ConfigLag(string, int64) {}
func (noMetrics) ConfigUsers(int)         {}
func (noMetrics) UnreadableRecord(string) {}
