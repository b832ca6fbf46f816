package app_test

import (
	"net/http"
	"slices"
	"testing"
	"time"
)

// TestEndpointEvents checks the events of an endpoint that fails, also across a restart, and works again.
func TestEndpointEvents(t *testing.T) {
	bubble(t, func(t *testing.T, c *env) {
		at := func() string { return time.Now().UTC().Format("2006-01-02T15:04:05.000Z") }
		var want []string
		event := func(kind, since, failure, count string) {
			want = append(want, kind+` {"user_id":42,"kind":"dlr","host":"dlr.example","since":"`+since+`","failure":`+failure+`,"count":`+count+`}`)
		}
		check := func() {
			t.Helper()
			time.Sleep(10 * time.Second)
			var got []string
			for _, r := range c.records("webhook-events") {
				if r.Key != "42" || r.Header["ce_subject"] != "42/dlr" {
					t.Errorf("%+v", r)
				}
				got = append(got, r.Header["ce_type"]+" "+r.Value)
			}
			if !slices.Equal(got, want) {
				t.Errorf("events\n%q\nwant\n%q", got, want)
			}
		}
		c.write("sms-dlr", 42, message(42, "1"))
		check()
		c.answers(status(http.StatusServiceUnavailable))
		since := at()
		c.write("sms-dlr", 42, message(42, "2"))
		event("smshooks.endpoint.failing", since, `"http 503"`, "1")
		check()
		c.awayUntil(c.now() + 20*time.Minute)
		c.write("sms-dlr", 42, message(42, "3"))
		check()
		c.awayUntil(c.now() + 21*time.Minute)
		c.answers(status(http.StatusOK))
		c.write("sms-dlr", 42, message(42, "4"))
		event("smshooks.endpoint.recovered", since, `"http 503"`, "2")
		check()
		if n := c.metric("smshooks_endpoint_events_total"); n != 1 { // since the restart
			t.Errorf("%v events counted", n)
		}
		if n := c.metric("smshooks_endpoint_events_dropped_total") + c.metric("smshooks_failing_endpoints"); n != 0 {
			t.Errorf("dropped or still failing: %v", n)
		}
	})
}
