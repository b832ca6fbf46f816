package real_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/smshooks/smshooks/test/real/harness"
)

// passwordEnv returns an env on a Redis of its own with a password, and an operator's connection to it that stays logged in.
func passwordEnv(t *testing.T, flags ...string) (*env, *redis.Conn) {
	t.Helper()
	e := &env{kafka: harness.Kafka(t), redis: harness.RedisArgs(t, "--requirepass", "sesame"), topics: harness.TopicsFor(t)}
	e.begin(t, append([]string{"--redis.password=sesame"}, flags...))
	cl := redis.NewClient(&redis.Options{Addr: e.redis.Addr, Password: "sesame"})
	t.Cleanup(func() { _ = cl.Close() })
	conn := cl.Conn()
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	return e, conn
}

// do sends a command as the operator.
func do(t *testing.T, operator *redis.Conn, args ...any) {
	t.Helper()
	if err := operator.Do(t.Context(), args...).Err(); err != nil {
		t.Fatalf("%v: %v", args, err)
	}
}

// changePassword changes Redis' password and ends the connections of all others, as a rotation does.
func changePassword(t *testing.T, operator *redis.Conn, password string) {
	t.Helper()
	do(t, operator, "config", "set", "requirepass", password)
	do(t, operator, "client", "kill", "type", "normal", "skipme", "yes")
}

// TestRedisRefusesConnections checks that the service says that it cannot use a Redis that answers every new connection
// with an error: after a change of the password, and at its limit of clients.
func TestRedisRefusesConnections(t *testing.T) {
	t.Parallel()
	for name, refuse := range map[string]func(*testing.T, *redis.Conn){
		"password": func(t *testing.T, c *redis.Conn) { changePassword(t, c, "other") },
		"clients": func(t *testing.T, c *redis.Conn) {
			do(t, c, "config", "set", "maxclients", "1")
			do(t, c, "client", "kill", "type", "normal", "skipme", "yes")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, operator := passwordEnv(t)
			e.configure(t, map[int64]harness.Webhook{1: e.all(1, "")})
			key := e.newKey(t, 1)
			p := e.serve(t)
			harness.Eventually(t, harness.Patience, func() bool {
				return ask(t, p, http.MethodGet, key, "/v1/user/get-webhook", "", nil) == http.StatusOK
			}, "the API answers")
			before := len(p.Log())
			refuse(t, operator)
			harness.Eventually(t, harness.Patience, func() bool {
				return ask(t, p, http.MethodGet, key, "/v1/user/get-webhook", "", nil) == http.StatusServiceUnavailable
			}, "the API answers 503")
			p.WaitUnready(t, harness.Patience, "redis")
			e.emit(t, e.click(1, 1), e.dlr(1, 1))
			p.WaitMetric(t, harness.Patience, harness.AtLeast(1), "smshooks_delivery_log_dropped_total")
			if n := strings.Count(p.Log()[before:], "Redis has lost writes"); n > 0 {
				t.Errorf("%d lines say that Redis has lost writes", n)
			}
			if n := e.recv.Count(path("click", 1)); n > 0 {
				t.Errorf("%d clicks were sent while it is unknown which is the first", n)
			}
		})
	}
}

// TestLatestOrderRedisRefuses delivers a receipt while Redis cannot be used. When it can be used again, an earlier
// receipt of the message that waits must not be sent: what was delivered is stored then.
func TestLatestOrderRedisRefuses(t *testing.T) {
	t.Parallel()
	for name, outage := range map[string]func(*testing.T, *env, *redis.Conn) (end func()){
		"no answer": func(t *testing.T, e *env, _ *redis.Conn) func() {
			e.redis.Pause(t)
			return func() { e.redis.Unpause(t) }
		},
		"password": func(t *testing.T, _ *env, c *redis.Conn) func() {
			changePassword(t, c, "other")
			return func() { do(t, c, "config", "set", "requirepass", "sesame") }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, operator := passwordEnv(t, "--retry.schedule=20s,1s")
			r := harness.WebhookRecord(t, e.topics.Config, 1, e.all(1, ""))
			r.Value = []byte(strings.TrimSuffix(string(r.Value), "}") + `,"dlr_order":"latest"}`)
			e.emit(t, r)
			e.recv.On(path("dlr", 1), harness.Codes(500, 200))
			p := e.serve(t)
			e.emit(t, e.dlr(1, 7))
			e.recv.WaitCount(t, path("dlr", 1), 1, harness.Patience)
			e.waitStored(t, harness.Retry(e.topics.DLR, "20s"), 1, 1, harness.Patience)
			end := outage(t, e, operator)
			p.WaitUnready(t, harness.Patience, "redis")
			e.emit(t, e.dlr(1, 7))
			e.recv.WaitCount(t, path("dlr", 1), 2, harness.Patience)
			end()
			harness.Eventually(t, harness.Patience, func() bool {
				m := p.Metrics(t)
				return m.Sum("smshooks_settled_total", "fate", "superseded")+m.Sum("smshooks_settled_total", "fate", "delivered") == 2
			}, "both receipts are settled")
			if n := e.recv.Count(path("dlr", 1)); n != 2 {
				t.Errorf("the earlier receipt was sent after the later one was delivered")
			}
		})
	}
}
