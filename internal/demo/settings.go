package demo

import (
	"net/netip"
	"time"

	"github.com/smshooks/smshooks/config"
	"github.com/smshooks/smshooks/internal/embedded"
)

// Shorten changes the defaults so that all attempts of an event fit into a demo of this length. Settings from the file,
// the environment and flags stay, except the addresses of Kafka and Redis.
func Shorten(cfg *config.Config, length time.Duration) {
	unset := func(name string) bool { return cfg.Origin(name) == "default" }
	pause, timeout, interval := 500*time.Millisecond, 500*time.Millisecond, time.Second
	switch {
	case length >= 24*time.Second:
		pause, timeout, interval = 2*time.Second, 2*time.Second, 5*time.Second
	case length >= 12*time.Second:
		pause, timeout, interval = time.Second, time.Second, 2*time.Second
	}
	if unset("retry.schedule") {
		cfg.Retry.Schedule = []time.Duration{pause, pause}
	}
	if unset("overflow.delays") {
		cfg.Overflow.Delays = []time.Duration{time.Second, 3 * time.Second}
	}
	if unset("dispatch.timeout") {
		cfg.Dispatch.Timeout = timeout
	}
	if unset("revocation.interval") {
		cfg.Revocation.Interval = interval
	}
	if unset("topics.partitions") {
		cfg.Topics.Partitions = 3
	}
	if unset("api.addr") {
		cfg.API.Addr = "127.0.0.1:0"
	}
	if unset("ops.addr") {
		cfg.Ops.Addr = "127.0.0.1:0"
	}
	if unset("log.level") {
		cfg.Log.Level = "error" // warnings would break the table
	}
	// The receivers listen on loopback.
	cfg.Dispatch.AllowNetworks = append(cfg.Dispatch.AllowNetworks, netip.MustParsePrefix("127.0.0.0/8"))
}

// point changes the settings to use e.
func point(cfg *config.Config, e *embedded.Embedded) {
	cfg.Kafka.Brokers, cfg.Kafka.TLS, cfg.Kafka.SASL = e.Brokers(), config.TLS{}, config.KafkaSASL{}
	cfg.Redis = config.Redis{Addrs: []string{e.RedisAddr()}, KeyPrefix: cfg.Redis.KeyPrefix}
	cfg.Topics.Ensure, cfg.Topics.Replication = true, -1
}
