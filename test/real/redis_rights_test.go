package real_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/smshooks/smshooks/test/real/harness"
)

// leastRights are the rights of a Redis user according to docs/operations.md, besides its password and keys. +info and
// +time are for the eviction warning and for the time of day; /readyz does not require them.
const leastRights = "resetchannels -@all +ping +info +time +exists +type +get +set +del +expire +pexpire +persist " +
	"+hget +hmget +hset +hdel +hscan +lpush +ltrim +lrange +scan +eval +evalsha +script|load"

// TestRedisNotWritable checks that /readyz reports a Redis that answers but cannot be written, with Redis's own error.
// The service runs as a user with the least rights: it needs each of them and no others.
func TestRedisNotWritable(t *testing.T) {
	t.Parallel()
	e := &env{kafka: harness.Kafka(t), redis: harness.RedisArgs(t, "--enable-protected-configs", "yes", "--save", "3600 1000000"), topics: harness.TopicsFor(t)}
	admin := e.redis.Client(t)
	ask := func(args ...any) {
		t.Helper()
		if err := admin.Do(t.Context(), args...).Err(); err != nil {
			t.Fatalf("%v: %v", args, err)
		}
	}
	prefix := e.topics.KeyPrefix
	ask(words("ACL SETUSER smshooks on >hush-redis resetkeys ~" + prefix + "* " + leastRights)...)
	harness.Secret("hush-redis")
	e.begin(t, []string{"--redis.username=smshooks", "--redis.password=hush-redis"})
	e.configure(t, map[int64]harness.Webhook{1: e.all(1, "u:p")})
	p := e.serve(t)
	e.emit(t, e.dlr(1, 1), e.click(1, 1), e.click(1, 1), e.revocation(1, numbers(1, 2), nil))
	e.recv.WaitCount(t, "", 3, harness.Patience)
	key := e.newKey(t, 1)
	harness.Eventually(t, harness.Patience, func() bool {
		return post(t, p.Addr, key, "/v1/user/set-webhook", "inbound_url="+e.recv.URL("/in")) == http.StatusOK
	}, "set-webhook works")
	harness.Eventually(t, harness.Patience, func() bool { return strings.Contains(deliveries(t, p.Addr, key), `"dlr"`) }, "the delivery is in the log")
	// A second instance reads what the first one wrote.
	q := e.serve(t)
	if got := webhooks(t, q.Addr, key); !strings.Contains(got, "/in") {
		t.Errorf("get-webhook answers %s", got)
	}
	q.Kill()
	denied, err := admin.Do(t.Context(), "ACL", "LOG").Slice()
	if err != nil || len(denied) > 0 {
		t.Errorf("commands that the documented rights do not cover: %v, %v", denied, err)
	}

	for _, c := range []struct{ name, spoil, repair, want string }{
		// first, since what makes it unready is logged only if it was ready when the condition was last checked
		{"a missing command", "ACL SETUSER smshooks -lpush -eval", "ACL SETUSER smshooks +lpush +eval", "NOPERM: redis.username lacks +eval +lpush"},
		{"READONLY", "REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE", "READONLY"},
		{"OOM", "CONFIG SET maxmemory 100kb", "CONFIG SET maxmemory 0", "OOM"},
		{"no command that writes", "ACL SETUSER smshooks -set", "ACL SETUSER smshooks +set", "lacks +set"},
		{"no script", "ACL SETUSER smshooks -script|load", "ACL SETUSER smshooks +script|load", "lacks +script|load"},
		{"other keys", "ACL SETUSER smshooks resetkeys ~other:*", "ACL SETUSER smshooks resetkeys ~" + prefix + "*", "lacks ~" + prefix + "*"},
		{"MISCONF", "CONFIG SET dir /proc", "CONFIG SET dir /tmp", "MISCONF"},
	} {
		ask(words(c.spoil)...)
		if c.name == "MISCONF" { // it only matters that a snapshot failed
			ask("BGSAVE")
		}
		p.WaitUnready(t, harness.Patience, "redis: ")
		if _, text := p.Readyz(); !strings.Contains(text, c.want) {
			t.Errorf("%s: /readyz returns %q, want %q", c.name, text, c.want)
		}
		if c.name == "a missing command" {
			p.WaitLog(t, harness.Patience, c.want)
		}
		ask(words(c.repair)...)
		if c.name == "MISCONF" {
			harness.Eventually(t, harness.Patience, func() bool {
				err := admin.Do(t.Context(), "BGSAVE").Err()
				return err == nil
			}, "a snapshot begins")
		}
		p.WaitReady(t, harness.Patience)
	}
}

// TestRedisEvicts checks that an evicting policy is reported while the service stays ready.
func TestRedisEvicts(t *testing.T) {
	t.Parallel()
	e := &env{kafka: harness.Kafka(t), redis: harness.RedisArgs(t, "--maxmemory-policy", "allkeys-lru"), topics: harness.TopicsFor(t)}
	e.begin(t, nil)
	p := e.serve(t)
	p.WaitMetric(t, harness.Patience, func(v float64) bool { return v == 1 }, "smshooks_redis_evicts")
	if status, text := p.Readyz(); status != http.StatusOK || !strings.HasPrefix(text, "ready\n") || !strings.Contains(text, "maxmemory-policy is allkeys-lru") {
		t.Errorf("/readyz returns %d %q", status, text)
	}
	p.WaitLog(t, harness.Patience, "Redis may evict keys")
	if err := e.redis.Client(t).(*redis.Client).ConfigSet(t.Context(), "maxmemory-policy", "noeviction").Err(); err != nil {
		t.Fatal(err)
	}
	p.WaitMetric(t, harness.Patience, func(v float64) bool { return v == 0 }, "smshooks_redis_evicts")
	if _, text := p.Readyz(); text != "ready\n" {
		t.Errorf("/readyz returns %q", text)
	}
}

// words splits a command into its arguments.
func words(text string) []any {
	var args []any
	for _, word := range strings.Fields(text) {
		args = append(args, word)
	}
	return args
}

// post sends a form to the API and returns the status, 0 if there is no answer.
func post(t testing.TB, addr, key, path, form string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+addr+path, strings.NewReader(form))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("X-API-KEY", key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

// deliveries returns the delivery log from the API, "" if there is no answer.
func deliveries(t testing.TB, addr, key string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/v1/user/deliveries", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-API-KEY", key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return ""
	}
	return string(text)
}
