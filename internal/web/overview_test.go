package web

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/smshooks/smshooks/internal/deliverylog"
	"github.com/smshooks/smshooks/internal/endpoints"
	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/settings"
	"github.com/smshooks/smshooks/pkg/webhook"
)

func TestEndpoints(t *testing.T) {
	s := newSite(t)
	s.documents[42] = settings.Document{DLRURL: ptr("https://a.example:8443/dlr?…<"), ClickURL: ptr("https://b.example/"), InboundURL: ptr("https://c.example/"),
		Paused: [webhook.NumKinds]*string{webhook.Inbound: ptr("true")}}
	since := time.Date(2026, 2, 27, 14, 30, 0, 0, time.UTC)
	s.states[webhook.Click] = endpoints.State{Since: since, Failure: "http 503"}
	s.states[webhook.Inbound] = s.states[webhook.Click]
	b := s.signIn(t, key42)
	attempt := func(ms int, failure webhook.Failure) event.LogEntry {
		return event.LogEntry{UserID: 42, Kind: webhook.Click, ID: fmt.Sprint(ms), Number: 1, Time: time.Now(), Failure: failure, Took: time.Duration(ms) * time.Millisecond}
	}
	for ms := range 100 {
		s.attempts = append(s.attempts, attempt(ms+1, []webhook.Failure{"", "", "", "http 503"}[ms%4]))
	}
	// The request to the failover URL belongs to the attempt: together they succeed after 100 ms.
	last := &s.attempts[99]
	last.Took = 60 * time.Millisecond
	second := *last
	second.Failover, second.Failure, second.Took = true, "", 40*time.Millisecond
	s.attempts = append([]event.LogEntry{second}, s.attempts...)
	body := b.get("").Body.String()
	part := func(kind string) string {
		_, rest, _ := strings.Cut(body, `<li id="state-`+kind+`"`)
		rest, _, _ = strings.Cut(rest, "</li>")
		return rest
	}
	for kind, texts := range map[string][]string{
		"dlr":          {`<span class="badge ok">ok</span>`, "https://a.example:8443/dlr?…<", "No attempts yet"},
		"click":        {`<span class="badge failed">failing</span>`, "HTTP 503, since <time datetime=\"2026-02-27T14:30:00.000Z\">2026-02-27 14:30:00 UTC</time>", "<dd>76 %</dd>", "<dd>50 ms</dd>", "<dd>95 ms</dd>", `aria-label="100 attempts, Clicks">100<`},
		"inbound":      {`<span class="badge waiting">paused</span>`, "https://c.example/"},
		"revoke_click": {`<span class="badge none">not set</span>`, "Set a URL"},
	} {
		for _, text := range texts {
			if !strings.Contains(part(kind), text) {
				t.Errorf("%s lacks %q: %s", kind, text, part(kind))
			}
		}
	}
	want(t, b.get(""), http.StatusOK, "Clicks: failing", "Recover now", "76 of 100 attempts succeeded (76 %)")
	s.logDown = true
	want(t, b.get(""), http.StatusOK, "The state of your endpoints is temporarily unavailable", "Your deliveries are temporarily unavailable")
}

// TestBegin checks that a user without URLs starts with the form.
func TestBegin(t *testing.T) {
	s := newSite(t)
	b := s.signIn(t, key42)
	want(t, b.get(""), http.StatusOK, "No URL is set yet", `name="dlr_url"`, "No attempts in the last 7 days", "!Recover now", "None of your latest events")
	if w := b.post("", "dlr_url", "https://a.example/"); w.Header().Get("Location") != settingsPath+"?done=saved" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	want(t, b.get(""), http.StatusOK, "!No URL is set yet", `!name="dlr_url"`, "https://a.example/")
}

// oneEach returns an event for each attempt.
func oneEach(attempts []event.LogEntry) (events []deliverylog.Event) {
	for i, a := range attempts {
		events = append(events, deliverylog.Event{ID: fmt.Sprint(i), Attempts: []deliverylog.Attempt{{LogEntry: a}}})
	}
	return events
}

func TestChart(t *testing.T) {
	now := time.Date(2026, 2, 27, 12, 0, 0, 0, time.UTC)
	if newChart(nil, now) != nil || newChart(oneEach([]event.LogEntry{{Time: now.Add(-chartSpan - time.Hour)}}), now) != nil {
		t.Error("a chart of nothing")
	}
	for _, span := range []time.Duration{0, time.Second, time.Minute, time.Hour, 24 * time.Hour, chartSpan - 7*time.Hour} {
		var attempts []event.LogEntry
		for i := range 100 {
			a := event.LogEntry{Time: now.Add(-span * time.Duration(i) / 99)}
			if i%4 == 0 {
				a.Failure = webhook.Timeout
			}
			attempts = append(attempts, a)
		}
		attempts[0].Time = now.Add(time.Minute) // a clock that is ahead
		events := oneEach(attempts)
		spare := events[1].Attempts[0]
		spare.Failover = true
		first := spare
		first.Failover, first.Failure = false, webhook.Timeout
		events[1].Attempts = []deliverylog.Attempt{first, spare} // one attempt with a failover, which succeeds
		extra := deliverylog.Attempt{LogEntry: event.LogEntry{Time: now.Add(-span), Failure: webhook.Timeout}, Extra: true}
		events[2].Attempts = append(events[2].Attempts, extra) // of a time of which not all attempts are known
		c := newChart(events, now)
		ok, failed := 0, 0
		for _, b := range c.Bars {
			ok, failed = ok+b.OK, failed+b.Failed
			if b.HasOK && (b.OKY < plotTop-2 || b.OKY+b.OKHeight > c.Zero+0.2) || b.HasFailed && c.Zero+b.FailedHeight > c.Bottom+2 {
				t.Errorf("%v: bar outside: %+v, zero line at %v", span, b, c.Zero)
			}
		}
		if len(c.Times) < 2 && span > time.Second || len(c.Times) > 2*maxTicks || len(c.Counts) < 2 || len(c.Counts) > 7 {
			t.Errorf("%v: %d times, %d counts", span, len(c.Times), len(c.Counts))
		}
		if ok != 75 || failed != 25 || len(c.Bars) > maxBars || !strings.HasPrefix(c.Summary, "75 of 100 attempts succeeded (75 %)") {
			t.Errorf("%v: %d and %d in %d bars, %s", span, ok, failed, len(c.Bars), c.Summary)
		}
	}
}
