package app_test

import (
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// bubble runs a test with an env whose service is ready and whose user 42 is configured.
func bubble(t *testing.T, test func(t *testing.T, c *env)) {
	t.Helper()
	redis := newRedis(t)
	synctest.Test(t, func(t *testing.T) {
		c := newEnv(t, redis)
		defer c.tearDown()
		c.start()
		c.configure(42)
		test(t, c)
	})
}

func TestThreeAttemptsThenDeadLetter(t *testing.T) {
	bubble(t, func(t *testing.T, c *env) {
		c.answers(status(http.StatusServiceUnavailable))
		at := c.now()
		c.write("sms-dlr", 42, message(42, "7"))
		// The service is stopped for most of the time, which uses up no attempt and is cheaper than running.
		for i := range 3 {
			time.Sleep(10 * time.Second)
			if n := len(c.seen()); n != i+1 {
				t.Fatalf("%d attempts, want %d", n, i+1)
			}
			if i < 2 {
				c.awayUntil(c.seen()[i].At + 6*time.Hour - 20*time.Second)
				time.Sleep(c.seen()[i].At + 6*time.Hour - c.now() - time.Millisecond)
				if n := len(c.seen()); n != i+1 {
					t.Fatalf("attempt %d is early", n)
				}
			}
		}
		calls := c.seen()
		wantTimes(t, calls, at, calls[0].At+6*time.Hour, calls[1].At+6*time.Hour)
		c.wantDeadLetters(stored{"42", message(42, "7"), map[string]string{
			"smshooks-id": calls[0].ID, "smshooks-kind": "dlr", "smshooks-attempts": "3",
			"smshooks-error": "http 503", "smshooks-reason": "attempts_exhausted",
		}})
		if n := len(c.records("sms-dlr-retry-6h")); n != 2 {
			t.Errorf("%d records in the retry topic, want 2", n)
		}
		c.wantBalance()
		time.Sleep(time.Minute)
		if n := len(c.seen()); n != 3 {
			t.Errorf("%d attempts, want 3 at most", n)
		}
	})
}

// TestThreeAttemptsInOneGo runs all attempts without a restart, minutes apart.
func TestThreeAttemptsInOneGo(t *testing.T) {
	redis := newRedis(t)
	synctest.Test(t, func(t *testing.T) {
		c := newEnv(t, redis)
		c.cfg.Retry.Schedule = []time.Duration{3 * time.Minute, time.Minute}
		defer c.tearDown()
		c.start()
		c.configure(42)
		c.answers(status(http.StatusNotFound))
		at := c.now()
		c.write("sms-inbound", 42, message(42, `"a"`))
		time.Sleep(time.Minute + 123456789)
		later := c.now()
		c.write("sms-inbound", 42, message(42, `"b"`))
		time.Sleep(5 * time.Minute)
		first, second := byBody(c.seen(), "%22a%22"), byBody(c.seen(), "%22b%22")
		wantTimes(t, first, at, first[0].At+3*time.Minute, first[1].At+time.Minute)
		wantTimes(t, second, later, second[0].At+3*time.Minute, second[1].At+time.Minute)
		for _, of := range []struct {
			calls []call
			at    time.Duration
		}{{first, at}, {second, later}} {
			want := c.began.Add(of.at).UTC().Format("2006-01-02T15:04:05.000Z")
			for _, got := range of.calls {
				if got.Event != want {
					t.Errorf("attempt %s: Webhook-Event-Time %q, want the record's time %s", got.Attempt, got.Event, want)
				}
			}
		}
		c.wantBalance()
		for fate, want := range map[string]float64{"retry": 4, "dead": 2, "delivered": 0} {
			if got := c.metric("smshooks_settled_total", "kind=inbound", "fate="+fate); got != want {
				t.Errorf("%v records settled as %s, want %v", got, fate, want)
			}
		}
		if got := c.metric("smshooks_attempts_total", "kind=inbound", "result=failed"); got != 6 {
			t.Errorf("%v attempts counted, want 6", got)
		}
	})
}

func TestSecondAttemptDelivers(t *testing.T) {
	bubble(t, func(t *testing.T, c *env) {
		c.answers(status(http.StatusInternalServerError))
		at := c.now()
		c.write("sms-click", 42, message(42, "7"))
		time.Sleep(time.Second)
		c.answers(status(http.StatusOK))
		c.awayUntil(at + 6*time.Hour - 20*time.Second)
		time.Sleep(30 * time.Second)
		calls := c.seen()
		wantTimes(t, calls, at, calls[0].At+6*time.Hour)
		c.wantDeadLetters()
		c.wantBalance()
	})
}

// After an outage of 30 h all events are too old, except revocations, which have no window.
func TestOutageOf30Hours(t *testing.T) {
	bubble(t, func(t *testing.T, c *env) {
		c.answers(status(http.StatusServiceUnavailable))
		c.write("sms-dlr", 42, message(42, "1"))
		c.write("click-revocation", 42, `{"user_id":42,"api_sms_ids":[1]}`)
		time.Sleep(2 * time.Minute)
		if n := len(c.seen()); n != 2 {
			t.Fatalf("%d attempts before the outage, want 2", n)
		}
		if _, err := c.halt(); err != nil {
			t.Fatal(err)
		}
		c.write("sms-dlr", 42, message(42, "2"))
		c.write("sms-click", 42, message(42, "3"))
		c.write("sms-inbound", 42, message(42, "4"))
		c.write("click-revocation", 42, `{"user_id":42,"campaign_sms_ids":[2]}`)
		time.Sleep(30 * time.Hour)
		c.write("sms-inbound", 42, message(42, "5"))
		c.answers(status(http.StatusOK))
		c.start()
		time.Sleep(2 * time.Minute)

		calls := c.seen()[2:]
		if len(calls) != 3 {
			t.Errorf("%d attempts after the outage, want a revocation, its second attempt and the new event: %v", len(calls), calls)
		}
		dead := func(kind, topic, id, attempts, failure string) stored {
			s := stored{"42", message(42, id), map[string]string{
				"smshooks-id": c.idOf(topic, message(42, id)), "smshooks-kind": kind, "smshooks-attempts": attempts, "smshooks-reason": "window_expired",
			}}
			if failure != "" {
				s.Header["smshooks-error"] = failure
			}
			return s
		}
		c.wantDeadLetters(dead("dlr", "sms-dlr", "1", "1", "http 503"), dead("dlr", "sms-dlr", "2", "0", ""),
			dead("click", "sms-click", "3", "0", ""), dead("inbound", "sms-inbound", "4", "0", ""))
		c.wantBalance()
	})
}

// A due time past the window is a dead letter at once.
func TestWindowEndsBeforeTheNextAttempt(t *testing.T) {
	redis := newRedis(t)
	synctest.Test(t, func(t *testing.T) {
		c := newEnv(t, redis)
		c.cfg.Retry.Window = 7 * time.Hour
		defer c.tearDown()
		c.start()
		c.configure(42)
		c.answers(status(http.StatusBadGateway))
		at := c.now()
		c.write("sms-dlr", 42, message(42, "1"))
		time.Sleep(time.Minute)
		c.awayUntil(at + 6*time.Hour - 20*time.Second)
		time.Sleep(30 * time.Second)
		calls := c.seen()
		wantTimes(t, calls, at, calls[0].At+6*time.Hour)
		c.wantDeadLetters(stored{"42", message(42, "1"), map[string]string{
			"smshooks-id": calls[0].ID, "smshooks-kind": "dlr", "smshooks-attempts": "2", "smshooks-error": "http 502", "smshooks-reason": "window_expired",
		}})
	})
}

func TestClicks(t *testing.T) {
	bubble(t, func(t *testing.T, c *env) {
		click := func(id, flags string) string { return fmt.Sprintf(`{"user_id":42,"sms":{"id":%s}%s}`, id, flags) }
		c.write("sms-click", 42, click("1", `,"bot":true`), click("1", `,"preview":true`), click("1", ""), click("1", ""), click("2", `,"bot":false`), click("1", ""))
		c.write("sms-click", 43, message(43, "1")) // has no settings, so it is not the first either
		time.Sleep(5 * time.Second)
		calls := c.seen()
		if len(calls) != 2 || len(byBody(calls, "%22id%22%3A1%2C")) != 1 || len(byBody(calls, "%22id%22%3A2%2C")) != 1 {
			t.Errorf("clicks fired: %v, want one of message 1, one of message 2", calls)
		}
		for _, one := range calls {
			if !strings.Contains(one.Body, "%22clicked%22%3Atrue") {
				t.Errorf("body %s", one.Body)
			}
		}
		for fate, want := range map[string]float64{"delivered": 2, "filtered": 2, "duplicate": 2, "not_configured": 1} {
			if got := c.metric("smshooks_settled_total", "kind=click", "fate="+fate); got != want {
				t.Errorf("%v clicks settled as %s, want %v", got, fate, want)
			}
		}
		c.configure(43)
		c.write("sms-click", 43, message(43, "1"))
		time.Sleep(5 * time.Second)
		if n := len(c.seen()); n != 3 {
			t.Errorf("%d clicks fired, want also the first one that found settings", n)
		}
		c.wantBalance()
	})
}

func TestRevocationsOfAMinute(t *testing.T) {
	bubble(t, func(t *testing.T, c *env) {
		time.Sleep(time.Until(time.Now().Truncate(time.Minute).Add(70 * time.Second)))
		minute := c.now().Truncate(time.Minute) + time.Minute
		c.write("click-revocation", 42, `{"user_id":42,"api_sms_ids":[1,2]}`, `{"user_id":42,"api_sms_ids":2,"campaign_sms_ids":[9]}`)
		time.Sleep(20 * time.Second)
		c.write("click-revocation", 42, `{"user_id":42,"api_sms_ids":[3]}`, `{"user_id":42}`)
		c.write("click-revocation", 43, `{"user_id":43,"api_sms_ids":[3]}`) // has no settings
		time.Sleep(minute - c.now() - time.Millisecond)
		if n := len(c.seen()); n != 0 {
			t.Fatalf("%d batches before the minute was over", n)
		}
		time.Sleep(70 * time.Second)
		calls := c.seen()
		wantTimes(t, calls, minute)
		if want := `{"event":"clicks_revoked","count":4,"api_sms_ids":[1,2,3],"campaign_sms_ids":[9]}`; calls[0].Body != want {
			t.Errorf("body %s, want %s", calls[0].Body, want)
		}
		if !strings.HasPrefix(calls[0].ID, "evt_") || len(calls[0].ID) != 26 {
			t.Errorf("Webhook-Id %s", calls[0].ID)
		}
		for fate, want := range map[string]float64{"batched": 4, "not_configured": 1, "delivered": 0} {
			if got := c.metric("smshooks_settled_total", "kind=revoke_click", "fate="+fate); got != want {
				t.Errorf("%v revocations settled as %s, want %v", got, fate, want)
			}
		}
		c.wantBalance()
	})
}

// A stop lets requests in flight end, and a restart neither repeats nor loses an event.
func TestStopDrains(t *testing.T) {
	bubble(t, func(t *testing.T, c *env) {
		c.answers(func(http.ResponseWriter, *http.Request) { time.Sleep(8 * time.Second) })
		for i := range 10 {
			c.write("sms-dlr", 42, message(42, fmt.Sprint(i)))
		}
		time.Sleep(time.Second)
		if n := len(c.seen()); n != 3 {
			t.Fatalf("%d requests in flight, want 3", n)
		}
		took, err := c.halt()
		if err != nil || took > 10*time.Second {
			t.Errorf("stopped after %v: %v", took, err)
		}
		if n := len(c.seen()); n != 3 {
			t.Errorf("%d requests, want none started after the stop", n)
		}
		c.start()
		time.Sleep(time.Minute)
		ids := map[string]int{}
		for _, one := range c.seen() {
			ids[one.ID]++
		}
		for id, n := range ids {
			if n != 1 {
				t.Errorf("%s was sent %d times", id, n)
			}
		}
		if len(ids) != 10 {
			t.Errorf("%d events sent, want 10", len(ids))
		}
		c.wantBalance()
	})
}

// A request that outlasts the grace is cut and repeated under the same number.
func TestStopCutsOffWhatHangs(t *testing.T) {
	redis := newRedis(t)
	synctest.Test(t, func(t *testing.T) {
		c := newEnv(t, redis)
		c.cfg.Dispatch.Timeout = time.Minute
		defer c.tearDown()
		c.start()
		c.configure(42)
		c.answers(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		c.write("sms-dlr", 42, message(42, "1"))
		time.Sleep(time.Second)
		took, err := c.halt()
		if err != nil || took > c.cfg.Shutdown.Grace {
			t.Errorf("stopped after %v: %v, want it within %v", took, err, c.cfg.Shutdown.Grace)
		}
		c.answers(status(http.StatusOK))
		c.start()
		time.Sleep(time.Minute)
		calls := c.seen()
		if len(calls) != 2 || calls[0].Attempt != "1" || calls[1].Attempt != "1" || calls[0].ID != calls[1].ID {
			t.Errorf("calls %v, want the first attempt twice", calls)
		}
		c.wantBalance()
	})
}

// A stop stays within the grace if neither Kafka nor Redis answers and a request outlasts it.
func TestStopWhileNothingAnswers(t *testing.T) {
	redis := newRedis(t)
	synctest.Test(t, func(t *testing.T) {
		c := newEnv(t, redis)
		c.cfg.Dispatch.Timeout = time.Minute
		defer c.tearDown()
		c.start()
		c.configure(42)
		c.answers(func(w http.ResponseWriter, r *http.Request) {
			if r.Host == "dlr.example" {
				<-r.Context().Done()
			}
			time.Sleep(c.cfg.Shutdown.Grace - time.Second)
			w.WriteHeader(http.StatusServiceUnavailable)
		})
		c.write("sms-dlr", 42, message(42, "1"))
		c.write("sms-inbound", 42, message(42, "1"), message(42, "2"))
		time.Sleep(time.Second)
		c.muted.Store(true)
		took, err := c.halt()
		if err != nil || took > c.cfg.Shutdown.Grace {
			t.Errorf("stopped after %v: %v, want it within %v", took, err, c.cfg.Shutdown.Grace)
		}
		c.muted.Store(false)
	})
}

func TestInvalidRecords(t *testing.T) {
	bubble(t, func(t *testing.T, c *env) {
		c.write("sms-dlr", 42, `{"user_id":42`, message(42, "1"), `{"user_id":0,"sms":{"id":1}}`)
		time.Sleep(5 * time.Second)
		if n := len(c.seen()); n != 1 {
			t.Errorf("%d requests, want the good one", n)
		}
		letters := c.records("webhook-dead-letter")
		if len(letters) != 2 {
			t.Fatalf("dead letters: %v", letters)
		}
		for _, l := range letters {
			if l.Header["smshooks-reason"] != "invalid_record" || l.Header["smshooks-attempts"] != "0" || l.Header["smshooks-error"] == "" || l.Key != "42" {
				t.Errorf("dead letter %v", l)
			}
		}
		c.wantBalance()
	})
}

func TestReadiness(t *testing.T) {
	bubble(t, func(t *testing.T, c *env) {
		if code, body := c.ops("/healthz"); code != http.StatusOK || body != "alive\n" {
			t.Errorf("/healthz: %d %q", code, body)
		}
		c.redis.SetError("LOADING Redis is loading the dataset in memory")
		if code, body := c.ops("/readyz"); code != http.StatusServiceUnavailable || !strings.HasPrefix(body, "redis: ") || strings.Count(body, "\n") != 1 {
			t.Errorf("/readyz without Redis: %d %q", code, body)
		}
		c.redis.SetError("")
		if code, body := c.ops("/readyz"); code != http.StatusOK {
			t.Errorf("/readyz: %d %q", code, body)
		}
		time.Sleep(15 * time.Second) // users are counted now and then
		for path, want := range map[string]int{"/debug/pprof/goroutine?debug=1": 200, "/debug/pprof/heap": 200, "/debug/pprof/cmdline": 404} {
			if code, _ := c.ops(path); code != want {
				t.Errorf("%s: %d, want %d", path, code, want)
			}
		}
		code, body := c.ops("/metrics")
		if code != http.StatusOK {
			t.Errorf("/metrics: %d", code)
		}
		for _, name := range []string{"smshooks_records_consumed_total{topic=\"sms-dlr-overflow-30m\"} 0\n", "smshooks_in_flight_requests 0\n",
			"smshooks_buffered_records 0\n", "smshooks_config_users 1\n"} {
			if !strings.Contains(body, name) {
				t.Errorf("/metrics lacks %s", name)
			}
		}
	})
}

// wantDeadLetters compares the dead letters, in any order and without their event times and origins.
func (c *env) wantDeadLetters(want ...stored) {
	c.t.Helper()
	got := map[string]stored{}
	for _, one := range c.records("webhook-dead-letter") {
		if _, err := time.Parse("2006-01-02T15:04:05.000Z", one.Header["smshooks-event-time"]); err != nil {
			c.t.Error(err)
		}
		if origin := one.Header["smshooks-origin"]; !strings.HasPrefix(origin, "sms-"+one.Header["smshooks-kind"]+"/") {
			c.t.Errorf("origin %q of a dead letter", origin)
		}
		delete(one.Header, "smshooks-event-time")
		delete(one.Header, "smshooks-origin")
		got[one.Header["smshooks-id"]] = one
	}
	for _, w := range want {
		id := w.Header["smshooks-id"]
		if !reflect.DeepEqual(got[id], w) {
			c.t.Errorf("dead letter %v, want %v", got[id], w)
		}
		delete(got, id)
	}
	for _, more := range got {
		c.t.Errorf("dead letter %v, want none", more)
	}
}
