package app_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// After an outage that ends within the window, overdue events are attempted at once. If the next attempt is due after
// the window, the event becomes a dead letter at once, and not when that attempt would be due.
func TestOutageOf20Hours(t *testing.T) {
	bubble(t, func(t *testing.T, c *env) {
		c.answers(status(http.StatusServiceUnavailable))
		at := c.now()
		c.write("sms-dlr", 42, message(42, "1"))
		time.Sleep(time.Minute)
		c.awayUntil(at + 20*time.Hour)
		time.Sleep(10 * time.Second)
		calls := c.seen()
		if len(calls) != 2 || calls[1].Attempt != "2" || calls[1].ID != calls[0].ID {
			t.Fatalf("%v, want a second attempt after the outage", calls)
		}
		c.wantDeadLetters(stored{"42", message(42, "1"), map[string]string{
			"smshooks-id": calls[0].ID, "smshooks-kind": "dlr", "smshooks-attempts": "2", "smshooks-error": "http 503", "smshooks-reason": "window_expired",
		}})
		c.wantBalance()
	})
}

// TestOutageUpToTheWindowsEnd checks the end of the window to the second: younger events are attempted, older ones are
// not, whether they are in a retry topic or were never attempted.
func TestOutageUpToTheWindowsEnd(t *testing.T) {
	redis := newRedis(t)
	synctest.Test(t, func(t *testing.T) {
		c := newEnv(t, redis)
		defer c.tearDown()
		c.start()
		c.configure(42)
		c.answers(status(http.StatusBadGateway))
		c.write("sms-dlr", 42, message(42, "1")) // attempted once
		old := c.now()
		time.Sleep(time.Minute)
		c.write("sms-dlr", 42, message(42, "2")) // the same, a minute younger
		time.Sleep(time.Minute)
		if _, err := c.halt(); err != nil {
			t.Fatal(err)
		}
		c.write("sms-inbound", 42, message(42, "3")) // never attempted, two minutes younger
		c.answers(status(http.StatusOK))
		time.Sleep(old + 24*time.Hour + 20*time.Second - c.now())
		c.start()
		time.Sleep(10 * time.Second)
		calls := c.seen()
		if len(calls) != 4 {
			t.Fatalf("%v, want the two first attempts, and after the outage the younger two events", calls)
		}
		again, fresh := calls[2], calls[3]
		if again.ID != c.idOf("sms-dlr", message(42, "2")) {
			again, fresh = fresh, again
		}
		if again.ID != c.idOf("sms-dlr", message(42, "2")) || again.Attempt != "2" || fresh.ID != c.idOf("sms-inbound", message(42, "3")) || fresh.Attempt != "1" {
			t.Errorf("after the outage %v", calls[2:])
		}
		c.wantDeadLetters(stored{"42", message(42, "1"), map[string]string{
			"smshooks-id": c.idOf("sms-dlr", message(42, "1")), "smshooks-kind": "dlr", "smshooks-attempts": "1", "smshooks-error": "http 502", "smshooks-reason": "window_expired",
		}})
		c.wantBalance()
	})
}
