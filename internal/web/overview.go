package web

import (
	"net/http"
	"strings"
	"time"

	"github.com/smshooks/smshooks/internal/deliverylog"
	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// overviewView shows the state of the user's endpoints, and what became of the latest events.
type overviewView struct {
	frame
	Form      *form // of a user without URLs, to begin with
	Endpoints *endpointsView
	Banner    *bannerView
	Missing   string // why there is no chart, if the log cannot be read
	Chart     *chart
	Letters   *lettersView
}

// bannerView shows what needs the user's attention. It is nil if nothing does.
type bannerView struct {
	Failing  string // names of the endpoints that fail
	Waiting  int    // events in the log that wait for an attempt
	Next     time.Time
	Offer    bool // something may be waiting
	Recovery *recoveryView
}

// recoveryShown is how long the overview shows a recovery after its end, also if nothing waits any more: who has
// watched it sees how it ended.
const recoveryShown = 5 * time.Minute

// overview writes the first view.
func (p *Page) overview(w http.ResponseWriter, r *http.Request, s *session, status int, f frame) {
	v := overviewView{frame: f}
	v.of(s, "overview")
	settings, err := p.service.Settings(r.Context(), s.userID)
	switch {
	case err != nil:
		status, v.Alert = http.StatusServiceUnavailable, textSettings
	case settings.URLs == [webhook.NumKinds]*string{}:
		v.Form = formOf(&settings)
	}
	events, err := p.service.Events(r.Context(), s.userID)
	if err != nil {
		v.Missing = textDeliveries
	}
	v.Chart = newChart(events, time.Now())
	v.Endpoints = p.endpoints(r.Context(), s.userID, settings.URLs, events)
	v.Banner = p.banner(r, s.userID, v.Endpoints, events)
	v.Letters = p.letters(w, r, s.userID, events)
	p.views.render(w, status, "overview.html", &v)
}

func (p *Page) banner(r *http.Request, userID int64, e *endpointsView, events []deliverylog.Event) *bannerView {
	v := &bannerView{Failing: listing(e.Failing)}
	now := time.Now()
	for i := range events {
		next := events[i].Next
		if !isWaiting(&events[i]) || !next.After(now) { // the log may lack the result of an overdue attempt
			continue
		}
		v.Waiting++
		if v.Next.IsZero() || next.Before(v.Next) {
			v.Next = next
		}
	}
	v.Offer = v.Failing != "" || v.Waiting > 0
	v.Recovery = p.recovery(r.Context(), userID)
	asked := v.Offer || r.URL.Query().Get("done") == "recovering"
	if e := v.Recovery; e != nil && !asked && !e.Running && now.Sub(e.Ended) > recoveryShown {
		v.Recovery = nil
	}
	if !v.Offer && v.Recovery == nil {
		return nil
	}
	return v
}

// isWaiting reports whether an event waits for an attempt that a recovery can bring forward.
func isWaiting(e *deliverylog.Event) bool { return e.Fate.State() == stateWaiting }

// listing joins names: "a, b and c".
func listing(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}

// last returns the time of an event's latest attempt; zero if none is known.
func last(e *deliverylog.Event) time.Time {
	if n := len(e.Attempts); n > 0 {
		return e.Attempts[n-1].Time
	}
	return time.Time{}
}

// machineTime formats a time for programs.
func machineTime(t time.Time) string { return event.FormatTime(t) }
