package app_test

import (
	"fmt"
	"net/http"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/smshooks/smshooks/pkg/webhook"
)

// window is the retry.window of these tests: a short one, since a bubble simulates every second.
const window = 10 * time.Minute

// pause writes a user's document as another program does, with kinds paused, and waits until it takes effect.
func (c *env) pause(userID int64, kinds ...webhook.Kind) {
	c.t.Helper()
	flags := ""
	for _, kind := range kinds {
		flags += fmt.Sprintf(`,"%s_paused":true`, kind)
	}
	c.write("webhook-config", userID, fmt.Sprintf(`{"user_id":%d,"dlr_url":"http://dlr.example/","click_url":"http://click.example/",`+
		`"inbound_url":"http://inbound.example/","revoke_click_url":"http://revoke.example/"%s}`, userID, flags))
	time.Sleep(time.Second)
}

// wantParked checks the records of a paused topic: each was stored within a second after at and is due a window later.
func (c *env) wantParked(topic string, at time.Duration, want ...map[string]string) {
	c.t.Helper()
	got := c.records(topic)
	if len(got) != len(want) {
		c.t.Fatalf("%s has %v, want %v", topic, got, want)
	}
	for i, one := range got {
		due, err := time.Parse("2006-01-02T15:04:05.000Z", one.Header["smshooks-due"])
		if stored := due.Sub(c.began) - window; err != nil || stored < at || stored > at+time.Second {
			c.t.Errorf("%s/%d is due at %v, %v, want a window after %v", topic, i, due, err, at)
		}
		for name, value := range want[i] {
			if one.Header["smshooks-"+name] != value {
				c.t.Errorf("%s/%d has smshooks-%s %q, want %q", topic, i, name, one.Header["smshooks-"+name], value)
			}
		}
	}
}

// The events of a paused endpoint are stored, new ones and those that come due, without an attempt. They are given up
// when the window ends, except revocations.
func TestPauseUntilTheWindowEnds(t *testing.T) {
	redis := newRedis(t)
	synctest.Test(t, func(t *testing.T) {
		c := newEnv(t, redis)
		c.cfg.Retry.Window, c.cfg.Retry.Schedule = window, []time.Duration{3 * time.Minute}
		defer c.tearDown()
		c.start()
		c.configure(42)
		c.answers(status(http.StatusServiceUnavailable))
		c.write("sms-dlr", 42, message(42, "1"))
		time.Sleep(time.Second)
		c.pause(42, webhook.DLR, webhook.Click, webhook.RevokeClick)
		calls := len(c.seen())
		at := c.now()
		c.write("sms-dlr", 42, message(42, "2"))
		c.write("sms-click", 42, message(42, "3"), message(42, "3"))
		c.wantParked("sms-dlr-paused-10m", at, map[string]string{"attempts": "0", "error": "", "kind": "dlr", "id": c.idOf("sms-dlr", message(42, "2"))})
		c.wantParked("sms-click-paused-10m", at, map[string]string{"attempts": "0", "kind": "click"})
		c.write("click-revocation", 42, `{"user_id":42,"api_sms_ids":[1,2]}`)
		minute := c.now().Truncate(time.Minute) + time.Minute
		time.Sleep(70 * time.Second)
		c.wantParked("click-revocation-paused-10m", minute, map[string]string{"attempts": "0", "kind": "revoke_click"})
		time.Sleep(3 * time.Minute)
		parked := c.records("sms-dlr-paused-10m")
		if len(parked) != 2 || parked[1].Header["smshooks-attempts"] != "1" || parked[1].Header["smshooks-error"] != "http 503" {
			t.Errorf("stored %v, want the retry that came due too, with its attempt", parked)
		}
		if n := len(c.seen()); n != calls {
			t.Errorf("%d requests during the pause", n-calls)
		}
		time.Sleep(11 * time.Minute)
		dead := map[string]int{}
		for _, one := range c.records("webhook-dead-letter") {
			dead[one.Header["smshooks-kind"]+" "+one.Header["smshooks-reason"]+" "+one.Header["smshooks-attempts"]+one.Header["smshooks-error"]]++
		}
		if len(dead) != 3 || dead["dlr window_expired 0"] != 1 || dead["dlr window_expired 1http 503"] != 1 || dead["click window_expired 0"] != 1 {
			t.Errorf("dead letters %v, want one of each event except the revocation", dead)
		}
		batches := c.records("click-revocation-paused-10m")
		if len(batches) != 2 || batches[0].Header["smshooks-id"] != batches[1].Header["smshooks-id"] || batches[0].Value != batches[1].Value {
			t.Errorf("batches %v, want the same one twice", batches)
		}
		if n := len(c.seen()); n != calls {
			t.Errorf("%d requests during the pause", n-calls)
		}
		for fate, want := range map[string]float64{"paused": 4, "dead": 3, "duplicate": 1, "retry": 1, "batched": 1, "delivered": 0} {
			if got := c.metric("smshooks_settled_total", "fate="+fate); got != want {
				t.Errorf("%v records settled as %s, want %v", got, fate, want)
			}
		}
		c.answers(status(http.StatusOK))
		c.pause(42)
		time.Sleep(11 * time.Minute)
		if after := c.seen()[calls:]; len(after) != 1 || after[0].Attempt != strconv.Itoa(1) || after[0].ID != batches[0].Header["smshooks-id"] {
			t.Errorf("requests %v after the pause, want the batch's first attempt", after)
		}
		c.wantBalance()
	})
}
