package api

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/smshooks/smshooks/internal/sender"
	"github.com/smshooks/smshooks/internal/settings"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// rotate makes a new signing secret of user 42.
func (s *server) rotate(t *testing.T, body string) (secret string, previousUntil *string) {
	t.Helper()
	w := s.post(t, "webhook-secret/rotate", body)
	var reply struct{ Data rotateReply }
	if err := json.Unmarshal(w.Body.Bytes(), &reply); err != nil || w.Code != 200 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	return reply.Data.Secret, reply.Data.PreviousValidUntil
}

func TestSecrets(t *testing.T) {
	s := newServer(t, Options{})
	s.outcomes[webhook.DLR], s.outcomes[webhook.Click] = sender.Outcome{Status: 200}, sender.Outcome{Status: 200}
	url := "http://a"
	s.documents[42] = settings.Document{DLRURL: &url, ClickURL: &url}
	rotate := func(body string) (string, *string) { t.Helper(); return s.rotate(t, body) }
	ends := func(until *string, in time.Duration) {
		t.Helper()
		if until == nil {
			t.Errorf("the previous secret has no end, want it in %v", in)
			return
		}
		if end, err := time.Parse(time.RFC3339, *until); err != nil || time.Until(end) > in || time.Until(end) < in-time.Minute {
			t.Errorf("the previous secret ends %s, want it in %v", *until, in)
		}
	}
	first, until := rotate("")
	if until != nil {
		t.Errorf("there was a secret before the first one, until %s", *until)
	}
	want(t, s.do(t, "GET", furtherPath, key42, "", ""), 200, strings.Replace(furtherData("null"), `"signing":false`, `"signing":true`, 1))
	second, until := rotate("grace=90m")
	ends(until, 90*time.Minute)
	third, until := rotate("")
	ends(until, 24*time.Hour)
	fourth, until := rotate("grace=0s")
	if until != nil {
		t.Errorf("without grace the previous secret is valid until %s", *until)
	}
	all := []string{first, second, third, fourth}
	slices.Sort(all)
	if len(slices.Compact(all)) != 4 {
		t.Error("a secret was given twice")
	}
	// Tests are signed, too.
	want(t, s.post(t, "test-webhook", ""), 200, "")
	for _, r := range s.sent {
		if r.Endpoint.Secrets == nil || len(*r.Endpoint.Secrets) != 1 {
			t.Errorf("the test of kind %s is not signed by one secret", r.Kind)
		}
	}
	want(t, s.post(t, "webhook-secret/clear", ""), 200, `{"success":true,"data":{"signing":false}}`)
	want(t, s.post(t, "webhook-secret/clear", ""), 200, `{"success":true,"data":{"signing":false}}`)
	want(t, s.do(t, "GET", furtherPath, key42, "", ""), 200, furtherData("null"))
	if d := s.documents[42]; d.SigningSecrets != nil || d.Settings().Endpoints[webhook.DLR].Secrets != nil {
		t.Error("a secret is left")
	}
	for _, entry := range s.logs.All() {
		if text := fmt.Sprint(entry.Message, entry.ContextMap()); strings.Contains(text, "whsec_") {
			t.Errorf("a secret is logged: %s", text)
		}
	}
}

// TestRotateUnanswered checks that a rotation that failed although it was stored, and is repeated, does not end the
// secret that the receiver knows.
func TestRotateUnanswered(t *testing.T) {
	s := newServer(t, Options{})
	rotate := func(body string) (string, *string) { t.Helper(); return s.rotate(t, body) }
	fail := func(times int) {
		t.Helper()
		s.unanswered = true
		for range times {
			want(t, s.post(t, "webhook-secret/rotate", ""), 503, "")
		}
		s.unanswered = false
	}
	stored := func() string { return *s.documents[42].SigningSecrets }
	synctest.Test(t, func(t *testing.T) {
		known, _ := rotate("")
		fail(3)
		time.Sleep(time.Second)
		second, until := rotate("")
		if until == nil || !strings.Contains(stored(), known) || !strings.Contains(stored(), second) {
			t.Errorf("the known secret has ended: %s", stored())
		}
		third, _ := rotate("")
		if third == second {
			t.Error("a rotation that was answered is repeated")
		}

		fail(1)
		fourth, until := rotate("grace=0s") // the third was leaked
		if until != nil || strings.Contains(stored(), third) || !strings.Contains(stored(), fourth) {
			t.Errorf("the secret before is valid without grace: %s", stored())
		}

		fail(1)
		unseen := stored()
		time.Sleep(unansweredLasts)
		if last, _ := rotate(""); strings.Contains(unseen, last) {
			t.Error("a secret is kept for too long")
		}
	})
}

func TestUnansweredSecretsAreLimited(t *testing.T) {
	var u unanswered
	now := time.Now()
	for user := range int64(maxUnanswered + 10) {
		u.keep(user+1, "whsec_", now)
	}
	if len(u.secrets) != maxUnanswered {
		t.Errorf("%d secrets are kept, want %d", len(u.secrets), maxUnanswered)
	}
	if u.keep(1<<40, "whsec_x", now.Add(unansweredLasts)); len(u.secrets) != 1 || u.take(1<<40, now) != "whsec_x" {
		t.Errorf("%d secrets are kept, want only the one that has not expired", len(u.secrets))
	}
}

func TestGrace(t *testing.T) {
	bad := refusal("grace: must be a duration from 0s to 168h, as in 24h or 1h30m")
	for _, tc := range []struct {
		contentType, body string
		status            int
		want              string
	}{
		{formType, "grace=168h", 200, ""},
		{formType, "grace=", 200, ""},
		{formType, "grace=168h1ms", 422, bad},
		{formType, "grace=-1s", 422, bad},
		{formType, "grace=24", 422, bad},
		{formType, "grace=1d", 422, bad},
		{"application/json", `{"grace":"0s"}`, 200, ""},
		{"application/json", `{"grace":null}`, 200, ""},
		{"application/json", `{"grace":3600}`, 422, refusal("grace: must be a string or null")},
	} {
		s := newServer(t, Options{})
		want(t, s.do(t, "POST", "/v1/user/webhook-secret/rotate", key42, tc.contentType, tc.body), tc.status, tc.want)
		if signing := s.documents[42].SigningSecrets != nil; signing != (tc.status == 200) {
			t.Errorf("%s: a secret is set: %v", tc.body, signing)
		}
	}
	s := newServer(t, Options{})
	s.storeDown = true
	for _, path := range []string{"rotate", "clear"} {
		w := s.post(t, "webhook-secret/"+path, "")
		want(t, w, 503, "")
		if strings.Contains(w.Body.String(), "whsec_") {
			t.Error("a secret that was not stored is shown")
		}
	}
}
