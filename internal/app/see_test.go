package app_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/deliverylog"
	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/release"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// logged returns the logged events of a message of user 42, one line each.
func (c *env) logged(message string) (lines string) {
	c.t.Helper()
	rdb := goredis.NewClient(&goredis.Options{
		Dialer: func(context.Context, string, string) (net.Conn, error) { return c.redis.Dial() },
	})
	defer rdb.Close()
	log := deliverylog.New(rdb, c.cfg.Redis.KeyPrefix, nil, zap.NewNop())
	events, err := log.Events(context.Background(), 42, func(a *event.LogEntry) bool { return a.Message.String() == message })
	if err != nil {
		c.t.Fatal(err)
	}
	for _, e := range events {
		lines += e.Fate.State()
		if !e.Next.IsZero() {
			lines += fmt.Sprintf(", again in %v", time.Until(e.Next).Round(time.Minute))
		}
		for _, a := range e.Attempts {
			lines += fmt.Sprintf("; %d %s %q", a.Number, a.Failure, a.Reply)
		}
	}
	return lines
}

// TestStatesAreLogged checks that the log has the state of an event at every step, over hours and a restart.
func TestStatesAreLogged(t *testing.T) {
	bubble(t, func(t *testing.T, c *env) {
		want := func(message, want string) {
			t.Helper()
			time.Sleep(time.Second) // the log is written every 100 ms
			if got := c.logged(message); got != want {
				t.Errorf("message %s: %s, want %s", message, got, want)
			}
		}
		c.answers(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write([]byte("busy"))
		})
		c.write("sms-dlr", 42, message(42, "7"), message(42, `"a\tb"`))
		at := c.now()
		const first = `; 1 http 503 "busy"`
		want("7", "waiting, again in 6h0m0s"+first)
		want("a\tb", "waiting, again in 6h0m0s"+first)
		c.awayUntil(at + 6*time.Hour - time.Minute)
		want("7", "waiting, again in 1m0s"+first)
		time.Sleep(2 * time.Minute)
		const second = first + `; 2 http 503 "busy"`
		want("7", "waiting, again in 5h59m0s"+second)
		c.answers(status(http.StatusOK))
		c.write("webhook-config", 42, `{"user_id":42,"dlr_url":"http://dlr.example/"}`)
		c.awayUntil(at + 12*time.Hour + 10*time.Second)
		want("7", "delivered"+second+`; 3  ""`)

		// An event that is released while its attempt is in flight.
		c.answers(status(http.StatusServiceUnavailable))
		c.write("sms-dlr", 42, message(42, "10"))
		want("10", `waiting, again in 6h0m0s; 1 http 503 ""`)
		c.answers(func(http.ResponseWriter, *http.Request) { time.Sleep(9 * time.Second) })
		c.recover(release.Marker{Cause: release.Customer, User: 42})
		time.Sleep(4 * time.Second)
		want("10", `waiting, again in 0s; 1 http 503 ""`)
		time.Sleep(10 * time.Second)
		want("10", `delivered; 1 http 503 ""; 2  ""`)

		// An event that waits before its first attempt.
		c.pause(42, webhook.DLR)
		c.write("sms-dlr", 42, message(42, "9"))
		want("9", "paused")
		c.pause(42)
		c.answers(status(http.StatusOK))
		time.Sleep(10 * time.Second)
		want("9", `delivered; 1  ""`)

		// An event that ends without an attempt: its URL was removed.
		c.answers(status(http.StatusNotFound))
		c.write("sms-dlr", 42, message(42, "8"))
		want("8", `waiting, again in 6h0m0s; 1 http 404 ""`)
		c.write("webhook-config", 42, `{"user_id":42}`)
		c.awayUntil(c.now() + 6*time.Hour + time.Minute)
		want("8", `not_configured; 1 http 404 ""`)
	})
}
