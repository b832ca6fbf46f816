package harness

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// RedisServer is a Redis in a container, with the image's own persistence: a stop in order saves, a kill loses.
type RedisServer struct {
	Addr string // 127.0.0.1:port, the same over stop and start
	srv  *server
}

// Redis gives the server all tests of the process share. It can't be stopped or flushed.
func Redis(t testing.TB) *RedisServer {
	t.Helper()
	srv := sharedRedis.get(t, redisSpec())
	return &RedisServer{Addr: srv.addr, srv: srv}
}

// OwnRedis gives the test a server of its own, which it may stop, kill, pause and flush.
func OwnRedis(t testing.TB) *RedisServer {
	t.Helper()
	srv := runOwn(t, redisSpec())
	return &RedisServer{Addr: srv.addr, srv: srv}
}

// Stop shuts the server down in order; its data stay.
func (r *RedisServer) Stop(t testing.TB) { t.Helper(); r.srv.stop(t) }

// Start starts a stopped or killed server at the same address and returns when it answers.
func (r *RedisServer) Start(t testing.TB) { t.Helper(); r.srv.start(t) }

// Kill ends the server with SIGKILL; what it has not saved is lost.
func (r *RedisServer) Kill(t testing.TB) { t.Helper(); r.srv.kill(t) }

// Pause freezes the server: connections stay open and nothing answers.
func (r *RedisServer) Pause(t testing.TB) { t.Helper(); r.srv.pause(t) }

// Unpause lets a paused server go on.
func (r *RedisServer) Unpause(t testing.TB) { t.Helper(); r.srv.unpause(t) }

// FlushAll empties the server.
func (r *RedisServer) FlushAll(t testing.TB) {
	t.Helper()
	r.srv.own(t, "flush")
	cl := r.Client(t)
	if err := cl.FlushAll(within(t, 10*time.Second)).Err(); err != nil {
		t.Fatalf("FLUSHALL: %v", err)
	}
}

// Client gives a client of the server, closed with the test.
func (r *RedisServer) Client(t testing.TB) *redis.Client {
	cl := redis.NewClient(redisOptions(r.Addr))
	t.Cleanup(func() { _ = cl.Close() })
	return cl
}

func redisOptions(addr string) *redis.Options {
	return &redis.Options{Addr: addr, DialTimeout: time.Second, ReadTimeout: 2 * time.Second, MaxRetries: -1, ContextTimeoutEnabled: true}
}

func redisSpec() spec {
	return spec{
		name: "redis", image: env("SMSHOOKS_TEST_REDIS_IMAGE", "redis:7"), ports: []string{"6379"},
		env:   func([]string) map[string]string { return nil },
		ready: askRedis,
	}
}

func askRedis(ctx context.Context, addr string) error {
	cl := redis.NewClient(redisOptions(addr))
	defer cl.Close()
	return cl.Ping(ctx).Err()
}
