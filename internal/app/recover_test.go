package app_test

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/app"
	"github.com/smshooks/smshooks/internal/release"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// recover begins a recovery, as the API of another instance does.
func (c *env) recover(m release.Marker, classes ...string) (id string) {
	c.t.Helper()
	plan := c.cfg.TopicPlan()
	kafka, err := app.KafkaConfig(c.cfg, c.network.DialContext, zap.NewNop())
	if err != nil {
		c.t.Fatal(err)
	}
	log := release.NewLog(release.Config{Topic: plan.Releases, Keep: time.Hour, Now: time.Now}, kafka.NewClient, zap.NewNop(), nothing{})
	var topics []string
	for _, kind := range webhook.Kinds() {
		for _, topic := range plan.Delays(kind) {
			if topic != plan.Released(kind) && topic != plan.Paused(kind) {
				topics = append(topics, topic)
			}
		}
	}
	ids, err := log.Begin(context.Background(), m, topics)
	if err != nil || len(ids) != 1 {
		c.t.Fatal(ids, err)
	}
	log.Close()
	return ids[0]
}

type nothing struct{}

func (nothing) ConfigLag(string, int64) {}
func (nothing) UnreadableRecord(string) {}

// TestRecover checks that events that wait for their second attempt are attempted at once, under the same number, and
// not again when their delay ends.
func TestRecover(t *testing.T) {
	redis := newRedis(t)
	synctest.Test(t, func(t *testing.T) {
		c := newEnv(t, redis)
		defer c.tearDown()
		c.start()
		c.configure(42)
		c.configure(43)
		c.answers(status(http.StatusServiceUnavailable))
		c.write("sms-dlr", 42, message(42, "1"), message(42, "2"))
		c.write("sms-dlr", 43, message(43, "3"))
		first := c.now()
		time.Sleep(time.Minute)
		c.answers(status(http.StatusOK))
		at := c.now()
		c.recover(release.Marker{Cause: release.Customer, User: 42})
		time.Sleep(10 * time.Second)
		for _, id := range []string{"%22id%22%3A1%2C", "%22id%22%3A2%2C"} {
			calls := byBody(c.seen(), id)
			if len(calls) != 2 || calls[1].Attempt != "2" || calls[1].At < at || calls[0].ID != calls[1].ID {
				t.Fatalf("10 s after the recovery: %+v", calls)
			}
			t.Logf("second attempt %v after the recovery", calls[1].At-at)
		}
		c.awayUntil(first + 6*time.Hour)
		time.Sleep(10 * time.Second)
		wantTimes(t, byBody(c.seen(), "%22id%22%3A3%2C"), first, first+6*time.Hour)
		if n := len(c.seen()); n != 6 {
			t.Errorf("%d attempts, want 6", n)
		}
		if n := c.metric("smshooks_settled_total", "fate=released"); n != 2 {
			t.Errorf("%v records released, want 2", n)
		}
		if n := c.metric("smshooks_running_recoveries"); n != 0 {
			t.Errorf("%v recoveries are running", n)
		}
		c.wantBalance()
	})
}

// TestResume checks that the end of a pause releases the paused events, also while the service is stopped, and also if
// another program ends it. Another user's pause goes on.
func TestResume(t *testing.T) {
	for _, stopped := range []bool{false, true} {
		redis := newRedis(t)
		synctest.Test(t, func(t *testing.T) {
			c := newEnv(t, redis)
			c.cfg.Retry.Window = window
			defer c.tearDown()
			c.start()
			c.pause(42, webhook.DLR, webhook.Click)
			c.pause(43, webhook.DLR)
			c.write("sms-dlr", 42, message(42, "1"), message(42, "2"))
			c.write("sms-dlr", 43, message(43, "3"))
			c.write("sms-click", 42, message(42, "4"))
			time.Sleep(5 * time.Second)
			if n := c.metric("smshooks_settled_total", "fate=paused"); n != 4 || len(c.seen()) != 0 {
				t.Fatalf("%v records paused, requests %v", n, c.seen())
			}
			if stopped {
				if _, err := c.halt(); err != nil {
					t.Fatal(err)
				}
				c.pause(42, webhook.Click)
				c.start()
			} else {
				c.pause(42, webhook.Click)
			}
			ended := c.now()
			time.Sleep(10 * time.Second)
			calls := c.seen()
			if len(calls) != 2 || calls[0].Attempt != "1" || calls[0].ID == calls[1].ID || calls[0].Host != "dlr.example" {
				t.Fatalf("after the end of the pause: %+v", calls)
			}
			t.Logf("first attempt %v after the end of the pause", calls[0].At-ended)
			if !stopped {
				c.pause(42) // while nothing of dlr is left
				time.Sleep(10 * time.Second)
				if calls = c.seen(); len(calls) != 3 || calls[2].Host != "click.example" {
					t.Errorf("after the end of the other pause: %+v", calls)
				}
			}
			time.Sleep(window)
			if n := len(c.seen()); n != len(calls) {
				t.Errorf("%d requests when the delay ended", n-len(calls))
			}
			if n := c.metric("smshooks_settled_total", "fate=released"); n != float64(len(calls)) {
				t.Errorf("%v records released, want %d", n, len(calls))
			}
			c.wantBalance()
		})
	}
}
