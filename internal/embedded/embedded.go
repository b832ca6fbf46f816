// Package embedded is Kafka and Redis in the process, for a demo or a first look.
//
// Both are simulations that speak the real protocols on loopback ports: kfake with one broker, and
// miniredis. They need no installation and promise little: see [Embedded.Lost].
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
	// redisTick is how coarse the TTLs are. Every tick looks at every key, so it is not finer.
	redisTick = 250 * time.Millisecond

	// offsetsRetentionMinutes keeps a group's offsets for ten years: a first look that is taken up again
	// after the usual seven days must not start over and send everything again.
	offsetsRetentionMinutes = "5256000"
)

// Options say where to listen and what to keep.
type Options struct {
	// Dir keeps Kafka's topics, records and offsets between runs; it is created if absent and belongs
	// to one process at a time. "" keeps nothing.
	Dir string
	// KafkaAddr and RedisAddr are loopback host:port; "" is a free port of 127.0.0.1.
	KafkaAddr, RedisAddr string
	// Log takes warnings and errors of both; nil drops them.
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

// Start brings both up. An error names the address or the directory that cannot be used; nothing is
// left running then.
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
			return nil, fmt.Errorf("embedded data directory: %w", err)
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
		return fmt.Errorf("embedded Kafka on %s: %w", addr, err)
	}
	e.kafka, e.kafkaAddr = cluster, cluster.ListenAddrs()[0]
	return nil
}

func (e *Embedded) startRedis(addr string) error {
	redis := miniredis.NewMiniRedis()
	if err := redis.StartAddr(addr); err != nil {
		return fmt.Errorf("embedded Redis on %s: %w", addr, err)
	}
	e.redis = redis
	e.ticking.Go(e.tick)
	return nil
}

// tick lets time pass in Redis, which does not happen by itself there. (Its own ClockTTL looks at
// every key at every command, which is far too slow with as many keys as clicks.)
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

// Brokers returns the host:port that Kafka listens on, as a client's list of seeds.
func (e *Embedded) Brokers() []string { return []string{e.kafkaAddr} }

// RedisAddr returns the host:port that Redis listens on.
func (e *Embedded) RedisAddr() string { return e.redis.Addr() }

// Lost says in one sentence, for a person, what does not survive a restart.
func (e *Embedded) Lost() string {
	if e.dir == "" {
		return "Nothing is kept: a restart loses all topics, records and offsets, all settings and keys, the memory of first clicks and the list of deliveries."
	}
	return "A restart keeps topics, records, offsets, settings and keys (in " + e.dir + "), and loses what is only in Redis: " +
		"the memory of first clicks (a message's next click counts as its first again) and the list of deliveries; a crash of the machine may also lose the last records."
}

// Close stops both and saves Kafka's data; it may be called more than once. Clients should be closed
// before. An error means that the directory may miss what happened last.
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

// loopback refuses addresses that others can reach: neither server asks who calls.
func loopback(what, addr string) (string, error) {
	if addr == "" {
		return "127.0.0.1:0", nil
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return "", fmt.Errorf("embedded %s address %q: %w", what, addr, err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return "", fmt.Errorf("embedded %s address %q: must be a loopback address, for it lets everybody in", what, addr)
	}
	return addr, nil
}
