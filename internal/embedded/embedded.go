// Package embedded runs Kafka and Redis in the process, for demos and evaluation.
//
// Both are simulations that speak the real protocols on loopback ports: kfake with one broker, and
// miniredis. [Embedded.Lost] describes what they do not keep.
package embedded

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/zap"
)

const (
	// redisTick is the resolution of TTLs. Every tick visits every key, so it is coarse.
	redisTick = 250 * time.Millisecond

	// offsetsRetentionMinutes keeps a group's offsets for ten years. With the usual seven days, an
	// evaluation that is resumed later would send everything again.
	offsetsRetentionMinutes = "5256000"
)

// Options configure where to listen and what to keep.
type Options struct {
	// Dir stores Kafka's topics, records and offsets between runs. It is created if absent. One process
	// can use it at a time. "" stores nothing.
	Dir string
	// KafkaAddr and RedisAddr are loopback host:port; "" is a free port of 127.0.0.1.
	KafkaAddr, RedisAddr string
	// Log receives warnings and errors of both; nil drops them.
	Log *zap.Logger
}

// Embedded is a running pair of Kafka and Redis.
type Embedded struct {
	dir       string
	lock      *os.File
	kafka     *kfake.Cluster
	kafkaAddr string
	kafkaLog  *kafkaLog
	redis     *miniredis.Miniredis
	stop      chan struct{}
	ticking   sync.WaitGroup
	closeOnce sync.Once
	closeErr  error
}

// Start starts both. An error names the address or directory that cannot be used, and nothing is left
// running.
func Start(opts Options) (_ *Embedded, err error) {
	kafkaAddr, err := loopback("Kafka", opts.KafkaAddr)
	if err != nil {
		return nil, err
	}
	redisAddr, err := loopback("Redis", opts.RedisAddr)
	if err != nil {
		return nil, err
	}
	log := opts.Log
	if log == nil {
		log = zap.NewNop()
	}
	e := &Embedded{dir: opts.Dir, kafkaLog: &kafkaLog{log: log.Named("kfake")}, stop: make(chan struct{})}
	defer func() {
		if err != nil {
			e.Close()
		}
	}()
	if opts.Dir != "" {
		if err := os.MkdirAll(opts.Dir, 0o700); err != nil {
			return nil, fmt.Errorf("create embedded.dir: %w", err)
		}
		if e.lock, err = lockDir(opts.Dir); err != nil {
			return nil, err
		}
	}
	if err := e.startKafka(kafkaAddr); err != nil {
		return nil, err
	}
	if err := e.startRedis(redisAddr); err != nil {
		return nil, err
	}
	return e, nil
}

func (e *Embedded) startKafka(addr string) error {
	opts := []kfake.Opt{
		kfake.NumBrokers(1),
		kfake.WithLogger(e.kafkaLog),
		kfake.BrokerConfigs(map[string]string{"offsets.retention.minutes": offsetsRetentionMinutes}),
		kfake.ListenFn(func(network, _ string) (net.Listener, error) { return net.Listen(network, addr) }),
	}
	if e.dir != "" {
		opts = append(opts, kfake.DataDir(filepath.Join(e.dir, "kafka")))
	}
	cluster, err := kfake.NewCluster(opts...)
	if err != nil {
		return fmt.Errorf("embedded.kafka_addr: start embedded Kafka on %s: %w", addr, err)
	}
	e.kafka, e.kafkaAddr = cluster, cluster.ListenAddrs()[0]
	return nil
}

func (e *Embedded) startRedis(addr string) error {
	redis := miniredis.NewMiniRedis()
	if err := redis.StartAddr(addr); err != nil {
		return fmt.Errorf("embedded.redis_addr: start embedded Redis on %s: %w", addr, err)
	}
	e.redis = redis
	e.ticking.Go(e.tick)
	return nil
}

// tick advances the clock of Redis, which does not run by itself. (The ClockTTL of miniredis visits every key at
// every command, which is too slow with one key per click.)
func (e *Embedded) tick() {
	ticker := time.NewTicker(redisTick)
	defer ticker.Stop()
	last := time.Now()
	for {
		select {
		case <-e.stop:
			return
		case <-ticker.C:
			now := time.Now()
			e.redis.FastForward(now.Sub(last))
			last = now
		}
	}
}

// Brokers returns the host:port that Kafka listens on, as seed brokers for a client.
func (e *Embedded) Brokers() []string { return []string{e.kafkaAddr} }

// RedisAddr returns the host:port that Redis listens on.
func (e *Embedded) RedisAddr() string { return e.redis.Addr() }

// Lost describes what does not survive a restart.
func (e *Embedded) Lost() string {
	if e.dir == "" {
		return "all data: topics, records, offsets, settings, API keys, first clicks and the delivery log"
	}
	return "first clicks (a message's next click counts as its first again) and the delivery log. " +
		"Topics, records, offsets, " +
		"settings and API keys are stored in " + e.dir + "; a crash of the machine may lose the latest records"
}

// Close stops both and saves Kafka's data. It may be called more than once. Close clients first. After an
// error the latest data may be missing in the directory.
func (e *Embedded) Close() error {
	e.closeOnce.Do(func() {
		close(e.stop)
		e.ticking.Wait()
		if e.redis != nil {
			e.redis.Close()
		}
		if e.kafka != nil {
			e.kafkaLog.watch()
			e.kafka.Close()
			if err := e.kafkaLog.failure(); err != nil && e.dir != "" {
				e.closeErr = fmt.Errorf("save embedded Kafka in %s: %w", e.dir, err)
			}
		}
		if e.lock != nil {
			e.closeErr = errors.Join(e.closeErr, e.lock.Close())
		}
	})
	return e.closeErr
}

// loopback refuses addresses that other machines can reach: neither server has authentication.
func loopback(what, addr string) (string, error) {
	if addr == "" {
		return "127.0.0.1:0", nil
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return "", fmt.Errorf("embedded %s address %q: %w", what, addr, err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return "", fmt.Errorf("embedded %s address %q: must be a loopback address, since it has no authentication", what,
			addr)
	}
	return addr, nil
}
