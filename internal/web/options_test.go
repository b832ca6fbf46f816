package web

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/smshooks/smshooks/internal/settings"
)

// stored returns user 42's settings as they would be stored.
func (s *site) stored() string {
	d := s.documents[42]
	return string(d.AppendJSON(nil, nil))
}

// keep sends the options form as shown, with pairs of names and values changed. "-" stands for a box that is not
// ticked.
func (b *browser) keep(t *testing.T, pairs ...string) (sent []string) {
	t.Helper()
	_, part, _ := strings.Cut(b.get("/settings").Body.String(), `id="options"`)
	part, _, _ = strings.Cut(part, "</section>")
	values := map[string][]string{}
	for _, input := range regexp.MustCompile(`<input [^>]*>`).FindAllString(part, -1) {
		attribute := func(name string) string {
			found := regexp.MustCompile(` ` + name + `="([^"]*)"`).FindStringSubmatch(input)
			if found == nil {
				return ""
			}
			return found[1]
		}
		if attribute("type") != "checkbox" || strings.Contains(input, " checked") {
			values[attribute("name")] = append(values[attribute("name")], attribute("value"))
		}
	}
	for _, chosen := range regexp.MustCompile(`<option value="(\w+)" selected>`).FindAllStringSubmatch(part, -1) {
		values["dlr_order"] = chosen[1:]
	}
	for i := 0; i < len(pairs); i += 2 {
		delete(values, pairs[i])
	}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "-" {
			values[pairs[i]] = append(values[pairs[i]], pairs[i+1])
		}
	}
	for name, all := range values {
		for _, value := range all {
			if name != "token" {
				sent = append(sent, name, value)
			}
		}
	}
	return sent
}

func TestOptions(t *testing.T) {
	for name, tc := range map[string]struct {
		change []string
		want   string // further members of the document
	}{
		"nothing":           {nil, `"click_failover_url":"https://spare.example/","dlr_statuses":["Failed","Delivered"]`},
		"statuses":          {[]string{"dlr_statuses", "Pending", "dlr_statuses", "Unknown"}, `"click_failover_url":"https://spare.example/","dlr_statuses":["Pending","Unknown"]`},
		"all statuses":      {[]string{"dlr_statuses", "Delivered", "dlr_statuses", "Pending", "dlr_statuses", "Failed", "dlr_statuses", "Rejected", "dlr_statuses", "Expired", "dlr_statuses", "Unknown"}, `"click_failover_url":"https://spare.example/"`},
		"paused":            {[]string{"inbound_paused", "true"}, `"click_failover_url":"https://spare.example/","inbound_paused":true,"dlr_statuses":["Failed","Delivered"]`},
		"failover URLs":     {[]string{"dlr_failover_url", " https://a.example/?x=1 ", "click_failover_url", "https://b.example/"}, `"dlr_failover_url":"https://a.example/?x=1","click_failover_url":"https://b.example/","dlr_statuses":["Failed","Delivered"]`},
		"order":             {[]string{"dlr_order", "latest"}, `"click_failover_url":"https://spare.example/","dlr_order":"latest","dlr_statuses":["Failed","Delivered"]`},
		"a URL is cleared":  {[]string{"click_failover_url", " "}, `"dlr_statuses":["Failed","Delivered"]`},
		"changed meanwhile": {[]string{"was_click_failover_url", "https://older.example/", "click_failover_url", "https://older.example/"}, `"click_failover_url":"https://spare.example/","dlr_statuses":["Failed","Delivered"]`},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			d := settings.Document{UserID: 42, Statuses: ptr(`["Failed","Delivered"]`)}
			d.Set("click_failover_url", ptr("https://spare.example/"))
			s.documents[42] = d
			b := s.signIn(t, key42)
			w := b.post("/options", b.keep(t, tc.change...)...)
			if w.Code != http.StatusSeeOther || w.Header().Get("Location") != settingsPath+"?done=options#options" {
				t.Fatalf("%d %v\n%s", w.Code, w.Header(), w.Body)
			}
			want(t, b.get("/settings?done=options"), http.StatusOK, "The options apply from now on.")
			if got := strings.TrimPrefix(strings.TrimSuffix(s.stored(), "}"), `{"user_id":42,"dlr_url":null,"click_url":null,"inbound_url":null,"revoke_click_url":null,"auth":null,`); got != tc.want {
				t.Errorf("stored %s, want %s", got, tc.want)
			}
		})
	}
}

func TestOptionsRefused(t *testing.T) {
	s := newSite(t)
	b := s.signIn(t, key42)
	w := b.post("/options", b.keep(t, "dlr_failover_url", "ftp://x.example/", "inbound_failover_url", "https://u:p@x.example/", "dlr_statuses", "-")...)
	want(t, w, http.StatusUnprocessableEntity, "Nothing was saved", `value="ftp://x.example/"`,
		`id="dlr_failover_url-error">Must be an absolute http or https URL.`, `aria-describedby="dlr_failover_url-error" aria-invalid="true" autofocus`,
		`id="inbound_failover_url-error">Must not contain credentials.`, `id="dlr_statuses-error">Select at least one status.`, "!click_failover_url-error")
	if n := strings.Count(w.Body.String(), "autofocus"); n != 1 {
		t.Errorf("%d fields have the focus", n)
	}
	want(t, b.post("/options", b.keep(t, "dlr_order", "any")...), http.StatusUnprocessableEntity, `id="dlr_order-error">Must be all or latest.`)
	want(t, b.post("/options", b.keep(t, "dlr_statuses", "Sent")...), http.StatusUnprocessableEntity, `id="dlr_statuses-error">Must be a list of`)
	s.storeDown = true
	w = b.post("/options", "user", "42", "click_failover_url", "https://typed.example/", "was_click_failover_url", "https://was.example/",
		"dlr_order", "all", "was_dlr_order", "latest", "dlr_statuses", "Failed", "inbound_paused", "true", "was_inbound_paused", "false")
	want(t, w, http.StatusServiceUnavailable, "may or may not have been saved", "!Nothing was changed", `value="https://typed.example/"`, `name="was_click_failover_url" value="https://was.example/"`, `value="Failed" checked`, `id="inbound_paused" name="inbound_paused" value="true" checked`, "User 42", b.token)
	if s.changes != 0 {
		t.Errorf("%d changes", s.changes)
	}
	s.storeDown = false
	s.exhaust(b)
	want(t, b.post("/options", "click_failover_url", "https://typed.example/"), http.StatusTooManyRequests, "https://typed.example/")
}

// TestPause checks that a kind is paused and resumed with its box, which is not sent if it is not ticked.
func TestPause(t *testing.T) {
	s := newSite(t)
	b := s.signIn(t, key42)
	for _, step := range []struct{ box, stored string }{{"true", `"dlr_paused":true`}, {"true", `"dlr_paused":true`}, {"-", ""}} {
		if w := b.post("/options", b.keep(t, "dlr_paused", step.box)...); w.Code != http.StatusSeeOther {
			t.Fatalf("%d\n%s", w.Code, w.Body)
		}
		if got := s.stored(); !strings.Contains(got, step.stored) || step.stored == "" && strings.Contains(got, "paused") {
			t.Errorf("box %s: stored %s", step.box, got)
		}
	}
}

// TestSecret checks that only the page after its creation shows a secret.
func TestSecret(t *testing.T) {
	s := newSite(t)
	b := s.signIn(t, key42)
	want(t, b.get("/settings"), http.StatusOK, `id="signing-state">not set<`, "Create a secret", "!Stop signing", "!Copy")
	shown := regexp.MustCompile(`value="(whsec_[A-Za-z0-9+/=]+)" readonly`)
	rotate := func(pairs ...string) (secret, body string) {
		t.Helper()
		w := b.post("/secret/rotate", pairs...)
		if to := w.Header().Get("Location"); w.Code != http.StatusSeeOther || to != settingsPath+"#signing" || strings.Contains(fmt.Sprint(w.Header()), "whsec_") {
			t.Fatalf("%d %v", w.Code, w.Header())
		}
		kept := w.Result().Cookies()[0]
		show := func(by *browser) *httptest.ResponseRecorder {
			r := httptest.NewRequest(http.MethodGet, base+"/settings", nil)
			r.AddCookie(by.cookie)
			r.AddCookie(&http.Cookie{Name: kept.Name, Value: kept.Value})
			return serve(s.page, r)
		}
		if kept.Path != settingsPath || !kept.HttpOnly || kept.SameSite != http.SameSiteStrictMode || kept.MaxAge != 60 {
			t.Errorf("cookie %+v", kept)
		}
		want(t, show(s.signIn(t, key43)), http.StatusOK, "!whsec_")
		w = show(b)
		if gone := w.Result().Cookies()[0]; gone.Name != kept.Name || gone.Path != kept.Path || gone.MaxAge != -1 {
			t.Errorf("the cookie stays: %+v", gone)
		}
		want(t, w, http.StatusOK, `id="signing-state">set<`, "it is not shown again", "Replace the secret", "Stop signing")
		if w.Header().Get("Cache-Control") != "no-store" {
			t.Error("the secret may be cached")
		}
		found := shown.FindStringSubmatch(strings.ReplaceAll(w.Body.String(), "&#43;", "+"))
		if found == nil || strings.Count(s.stored(), found[1]) != 1 {
			t.Fatalf("shown %v, stored %s", found, s.stored())
		}
		return found[1], w.Body.String()
	}
	first, body := rotate()
	if !strings.Contains(body, "Requests are signed with it from now on.") {
		t.Error("the first secret has one before it")
	}
	if second, body := rotate("grace", "1h"); second == first || !strings.Contains(body, "stays valid until <time") || strings.Contains(body, first) {
		t.Errorf("the second secret: %s", body)
	}
	if _, body := rotate("grace", "0s"); !strings.Contains(body, "Requests are signed with it from now on.") {
		t.Error("without a grace the one before is valid")
	}
	want(t, b.get("/settings"), http.StatusOK, `id="signing-state">set<`, "!whsec_")
	w := b.post("/secret/clear")
	if w.Code != http.StatusSeeOther || strings.Contains(s.stored(), "whsec_") {
		t.Errorf("%d, stored %s", w.Code, s.stored())
	}
	want(t, b.get("/settings?done=unsigned"), http.StatusOK, "not signed any more", `id="signing-state">not set<`)
	changes := s.changes
	for _, path := range []string{"/secret/rotate", "/secret/clear", "/options"} {
		own := b.token
		b.token = "0123456789abcdef0123456789abcdef"
		want(t, b.post(path), http.StatusForbidden, "another session")
		b.token = own
		if w := b.get(path); w.Code != http.StatusSeeOther {
			t.Errorf("GET %s: %d", path, w.Code)
		}
		s.storeDown = true
		if path != "/options" {
			want(t, b.post(path), http.StatusServiceUnavailable, "may or may not have been saved", "!Nothing was changed", "!whsec_")
		}
		s.storeDown = false
	}
	if s.changes != changes {
		t.Errorf("%d changes", s.changes-changes)
	}
	for _, entry := range s.logs.All() {
		if strings.Contains(entry.Message, "whsec_") {
			t.Errorf("the log shows the secret: %s", entry.Message)
		}
	}
}

// TestSecretFormTwice checks that a form that is sent twice, as by a double click, makes one rotation, and that an offer
// is used neither by others nor after another rotation.
func TestSecretFormTwice(t *testing.T) {
	s := newSite(t)
	b, other := s.signIn(t, key42), s.signIn(t, key43)
	offer := func(b *browser) string {
		t.Helper()
		found := regexp.MustCompile(`name="offer" value="([^"]+)"`).FindStringSubmatch(b.get("/settings").Body.String())
		if found == nil {
			t.Fatal("the form has no offer")
		}
		return found[1]
	}
	secrets := func() []string { return regexp.MustCompile(`whsec_[^"]+`).FindAllString(s.stored(), -1) }
	rotate := func(offer string) {
		t.Helper()
		if w := b.post("/secret/rotate", "grace", "24h", "offer", offer); w.Code != http.StatusSeeOther {
			t.Fatalf("%d\n%s", w.Code, w.Body)
		}
	}
	rotate("")
	known := secrets()[0]
	first := offer(b)
	rotate(first)
	created := secrets()
	rotate(first)
	if again := secrets(); len(again) != 2 || again[0] != created[0] || again[1] != known {
		t.Errorf("sent twice: %d secrets, the new one stays: %v, the known one stays: %v", len(again), again[0] == created[0], slices.Contains(again, known))
	}
	rotate(offer(b))
	rotate(first) // from a page that was open all the time
	if last := secrets(); slices.Contains(created, last[0]) {
		t.Error("an earlier secret is the newest again")
	}
	before := secrets()
	rotate(offer(other))
	if last := secrets(); last[1] != before[0] {
		t.Error("a form without a valid offer makes no rotation")
	}
}
