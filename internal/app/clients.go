package app

import (
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/config"
	"github.com/smshooks/smshooks/internal/kafka"
	"github.com/smshooks/smshooks/internal/outage"
	"github.com/smshooks/smshooks/internal/settings"
	"github.com/smshooks/smshooks/internal/tlsfiles"
)

// KafkaConfig returns the configuration of Kafka clients. dial may be nil. An error concerns TLS files or the login.
func KafkaConfig(cfg *config.Config, dial Dial, log *zap.Logger) (kafka.Config, error) {
	files, err := openTLS("kafka.tls", cfg.Kafka.TLS, log)
	if err != nil {
		return kafka.Config{}, withOrigin(cfg, err)
	}
	login := cfg.Kafka.SASL
	mechanism, err := kafka.NewSASL(kafka.SASLConfig{
		Mechanism: login.Mechanism, Username: login.Username, Password: login.Password, OAuth: kafka.OAuthConfig(login.OAuth),
	})
	if err != nil {
		return kafka.Config{}, err
	}
	return kafka.Config{
		Brokers: cfg.Kafka.Brokers,
		TLS:     files,
		SASL:    mechanism,
		Rack:    cfg.Kafka.Rack,
		Dial:    dial,
		Log:     log.Named("kafka"),

		ReadUncommitted: cfg.Kafka.Isolation == "read_uncommitted",
		MaxBatchBytes:   cfg.Kafka.MaxBatchBytes,
		Outages:         kafka.NewOutages(log.Named("kafka")),
	}, nil
}

// openTLS reads the files that a section of TLS settings names. It logs when renewed files cannot be used later.
func openTLS(section string, cfg config.TLS, log *zap.Logger) (*tlsfiles.Files, error) {
	stale := outage.New(log, section+": renewed files cannot be used; the previous ones stay in use",
		section+": renewed files are in use")
	return tlsfiles.Open(section, tlsfiles.Settings(cfg), func(err error) {
		if err != nil {
			stale.Fail(err)
		} else {
			stale.Recover()
		}
	})
}

// newSealer returns nil if credentials are stored in clear.
func newSealer(cfg config.Secrets) (*settings.Sealer, error) {
	if len(cfg.Key) == 0 {
		return nil, nil
	}
	return settings.NewSealer(cfg.Key, cfg.PreviousKeys...)
}
