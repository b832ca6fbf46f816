package app

import (
	"context"
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/smshooks/smshooks/config"
)

// TestNewRedis checks that the settings choose the kind of client, and that a cluster's slot map is refreshed often.
// Only the client's options show the latter: on a real cluster other calls refresh the map too.
func TestNewRedis(t *testing.T) {
	for _, c := range []struct {
		name    string
		cfg     config.Redis
		cluster bool
	}{
		{"one server", config.Redis{Addrs: []string{"a:1"}}, false},
		{"Sentinels", config.Redis{Addrs: []string{"a:1", "b:1"}, MasterName: "m"}, false},
		{"several nodes", config.Redis{Addrs: []string{"a:1", "b:1"}}, true},
		{"one node of a cluster", config.Redis{Addrs: []string{"a:1"}, Cluster: true}, true},
	} {
		client := newRedis(c.cfg, nil, nil)
		defer client.Close()
		cluster, ok := client.(*redis.ClusterClient)
		if ok != c.cluster {
			t.Errorf("%s: %T", c.name, client)
		}
		if ok && cluster.Options().ClusterStateReloadInterval > time.Second {
			t.Errorf("%s: the map of slots is kept for %v", c.name, cluster.Options().ClusterStateReloadInterval)
		}
	}
}

func TestMissingRight(t *testing.T) {
	for text, want := range map[string]string{
		"NOPERM this user has no permissions to run the 'script|load' command":            "+script|load",
		"NOPERM this user has no permissions to access one of the keys used as arguments": "~x:*",
	} {
		if got := missingRight(errors.New(text), "x:"); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// TestRightToScan checks that a Redis user without the right to SCAN is enough.
func TestRightToScan(t *testing.T) {
	mini := miniredis.RunT(t)
	rdb := newRedis(config.Redis{Addrs: []string{mini.Addr()}}, nil, nil)
	t.Cleanup(func() { _ = rdb.Close() })
	health := &redisHealth{rdb: rdb, prefix: "x:", log: zap.NewNop(), evicts: func(bool) {}}
	for denied, want := range map[string]string{"SCAN": "", "SCRIPT": "NOPERM: redis.username lacks +script|load"} {
		mini.Server().SetPreHook(func(c *server.Peer, cmd string, _ ...string) bool {
			if !strings.EqualFold(cmd, denied) {
				return false
			}
			c.WriteError("NOPERM User u has no permissions to run the '" + strings.ToLower(denied) + "|load' command")
			return true
		})
		if err := health.writable(t.Context()); (err == nil) != (want == "") || err != nil && err.Error() != want {
			t.Errorf("without %s: %v, want %q", denied, err, want)
		}
	}
}

// TestDisabledCommand checks that readiness names a command that Redis has disabled.
func TestDisabledCommand(t *testing.T) {
	mini := miniredis.RunT(t)
	rdb := newRedis(config.Redis{Addrs: []string{mini.Addr()}}, nil, nil)
	t.Cleanup(func() { _ = rdb.Close() })
	health := &redisHealth{rdb: rdb, prefix: "x:", log: zap.NewNop(), evicts: func(bool) {}}
	for _, disabled := range []string{"", "SCRIPT", "SCAN", "EVALSHA"} {
		mini.Server().SetPreHook(func(c *server.Peer, cmd string, _ ...string) bool {
			if !strings.EqualFold(cmd, disabled) {
				return false
			}
			c.WriteError("ERR unknown command '" + disabled + "'")
			return true
		})
		err := health.writable(t.Context())
		if disabled == "" && err != nil || disabled != "" && (err == nil || !strings.Contains(err.Error(), disabled)) {
			t.Errorf("without %q: %v", disabled, err)
		}
	}
}

// TestUnreachableRedis checks that readiness names the setting to check if Redis does not answer, and how.
func TestUnreachableRedis(t *testing.T) {
	dial := func(refuse bool) Dial {
		return func(ctx context.Context, _, _ string) (net.Conn, error) {
			if refuse {
				return nil, syscall.ECONNREFUSED
			}
			client, _ := net.Pipe() // nobody answers
			return client, nil
		}
	}
	for _, c := range []struct {
		name    string
		cluster bool
		refuse  bool
		want    string
	}{
		{"no server", false, true, "redis.addrs: connection refused"},
		{"a silent server", false, false, "redis.addrs: context deadline exceeded (no answer in time"},
		{"a cluster without a server", true, true, "redis.addrs: "},
	} {
		synctest.Test(t, func(t *testing.T) {
			rdb := newRedis(config.Redis{Addrs: []string{"a:1"}, Cluster: c.cluster}, dial(c.refuse), nil)
			defer rdb.Close()
			ctx, cancel := context.WithTimeout(t.Context(), probeTimeout)
			defer cancel()
			err := (&redisHealth{rdb: rdb, prefix: "x:", log: zap.NewNop(), evicts: func(bool) {}}).ready(ctx)
			if err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("%s: %v, want %s", c.name, err, c.want)
			}
		})
	}
}

// TestRefusedCommandIsOneOutage refuses one command whenever readiness is checked while other commands succeed. One
// line must say that the outage began, and one that it ended.
func TestRefusedCommandIsOneOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.InfoLevel)
		o := newRedisOutage(zap.New(core))
		second := func(err error) {
			o.answered(err)
			time.Sleep(time.Second)
			o.answered(nil)
		}
		for range 60 {
			second(refused("NOPERM this user has no permissions to run the 'lpush' command"))
			for time.Now().Unix()%int64(readinessPause/time.Second) != 0 {
				second(nil)
			}
		}
		for range 2 * redisQuiet / time.Second {
			second(nil)
		}
		if n := logs.Len(); n != 2 {
			t.Errorf("%d lines, want 2: %v", n, logs.All())
		}
	})
}

// refused is an error reply of Redis.
type refused string

func (r refused) Error() string { return string(r) }

func (refused) RedisError() {}
