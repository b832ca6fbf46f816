package app

import (
	"context"
	"crypto/tls"
	"net"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/config"
	"github.com/smshooks/smshooks/internal/kafka"
)

// redisTimeout bounds one call; what Redis does not answer by then waits and is asked again.
const redisTimeout = 500 * time.Millisecond

// KafkaConfig says how to reach Kafka by the settings. dial may be nil.
func KafkaConfig(cfg *config.Config, dial func(context.Context, string, string) (net.Conn, error), log *zap.Logger) kafka.Config {
	return kafka.Config{
		Brokers: cfg.Kafka.Brokers,
		TLS: kafka.TLSConfig{
			Enabled: cfg.Kafka.TLS.Enabled, CAFile: cfg.Kafka.TLS.CAFile, CertFile: cfg.Kafka.TLS.CertFile, KeyFile: cfg.Kafka.TLS.KeyFile,
			ServerName: cfg.Kafka.TLS.ServerName, InsecureSkipVerify: cfg.Kafka.TLS.InsecureSkipVerify,
		},
		SASL: kafka.SASLConfig{Mechanism: cfg.Kafka.SASL.Mechanism, Username: cfg.Kafka.SASL.Username, Password: cfg.Kafka.SASL.Password},
		Dial: dial,
		Log:  log.Named("kafka"),
	}
}

// TopicPlan is the set of topics that follows from the settings.
func TopicPlan(cfg *config.Config) *kafka.Plan {
	t := cfg.Topics
	return kafka.NewPlan(kafka.Names{
		DLR: t.DLR, Click: t.Click, Inbound: t.Inbound, Revocation: t.Revocation,
		Config: t.Config, Keys: t.Keys, DeadLetter: t.DeadLetter,
	}, cfg.Retry.Schedule, cfg.Overflow.Delays, cfg.Retry.Window, int32(t.Partitions), int16(t.Replication)).Draining(cfg.Retry.Drain, cfg.Overflow.Drain)
}

func newRedis(cfg config.Redis, dial func(context.Context, string, string) (net.Conn, error)) redis.UniversalClient {
	opts := &redis.UniversalOptions{
		Addrs: cfg.Addrs, MasterName: cfg.MasterName, IsClusterMode: cfg.Cluster, DB: cfg.DB, Username: cfg.Username, Password: cfg.Password,
		Dialer: dial, ContextTimeoutEnabled: true, DialTimeout: redisTimeout, ReadTimeout: redisTimeout, WriteTimeout: redisTimeout,
		MaxRetries: 1, DisableIdentity: true,
	}
	if cfg.TLS {
		opts.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	return redis.NewUniversalClient(opts)
}
