package app_test

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"
)

// TestLatest checks that a delayed receipt is not sent once a later one of its message was delivered, but only with
// dlr_order latest.
func TestLatest(t *testing.T) {
	for name, c := range map[string]struct {
		settings string
		redis    string   // error of every command while the retry comes due
		statuses []string // as they are accepted, in their order
		ended    float64  // receipts that were superseded
	}{
		"latest":               {`"dlr_order":"latest",`, "", []string{"Delivered"}, 1},
		"all":                  {`"dlr_order":"all",`, "", []string{"Delivered", "Pending"}, 0},
		"default":              {"", "", []string{"Delivered", "Pending"}, 0},
		"latest without Redis": {`"dlr_order":"latest",`, "LOADING", []string{"Delivered", "Pending"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, s *env) {
				s.write("webhook-config", 42, `{"user_id":42,`+c.settings+`"dlr_url":"http://dlr.example/"}`)
				time.Sleep(time.Second)
				receipt := func(status string) string {
					return fmt.Sprintf(`{"user_id":42,"sms":{"id":7,"dlr_status":%q}}`, status)
				}
				s.answers(status(http.StatusServiceUnavailable))
				at := s.now()
				s.write("sms-dlr", 42, receipt("Pending"))
				time.Sleep(10 * time.Second)
				if s.metric("smshooks_attempts_total", "result=failed") != 1 {
					t.Fatal("Pending was not attempted")
				}
				s.answers(status(http.StatusOK))
				s.write("sms-dlr", 42, receipt("Delivered"))
				time.Sleep(10 * time.Second)
				s.awayUntil(at + 6*time.Hour - time.Minute) // what is known survives a restart
				s.redis.SetError(c.redis)
				time.Sleep(2 * time.Minute)
				s.redis.SetError("")
				var accepted []string
				for _, one := range s.seen()[1:] {
					for _, word := range []string{"Delivered", "Pending"} {
						if len(byBody([]call{one}, word)) > 0 {
							accepted = append(accepted, word)
						}
					}
				}
				if n := s.metric("smshooks_settled_total", "fate=superseded"); n != c.ended {
					t.Errorf("%v receipts were superseded, want %v", n, c.ended)
				}
				if !slices.Equal(accepted, c.statuses) {
					t.Errorf("accepted %v, want %v", accepted, c.statuses)
				}
			})
		})
	}
}
