package web

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/smshooks/smshooks/internal/api"
	"github.com/smshooks/smshooks/internal/api/limit"
	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// recoveryView describes the sending of waiting events before their time.
type recoveryView struct {
	Offer   bool   // something may be waiting
	Text    string // how far the latest recovery is, "" if there was none
	Running bool
}

// recovery reads the latest recovery if something may be waiting, or one was just begun.
func (p *Page) recovery(r *http.Request, userID int64, waiting bool) *recoveryView {
	v := &recoveryView{Offer: waiting}
	if !v.Offer && r.URL.Query().Get("done") != "recovering" {
		return v
	}
	latest, ok, err := p.service.LatestRecovery(r.Context(), userID)
	if err != nil || !ok {
		return v // the rest of the page does not need it
	}
	events := strconv.FormatInt(latest.Released, 10) + " events"
	if latest.Released == 1 {
		events = "1 event"
	}
	if v.Running = latest.Ended.IsZero(); v.Running {
		v.Text = "Looking for waiting events since " + shortTime(latest.Started) + " UTC; " + events + " found so far."
	} else {
		v.Text = "Last time: " + shortTime(latest.Ended) + " UTC, " + events + "."
	}
	return v
}

// waits reports whether an event waits for its next attempt. A paused one waits for the end of the pause. attempts are
// sorted, newest first.
func waits(attempts []event.Attempt, now time.Time) bool {
	seen := map[string]bool{}
	for i := range attempts {
		a := &attempts[i]
		if !seen[a.ID] && a.Next.After(now) && a.Fate != webhook.Paused {
			return true
		}
		seen[a.ID] = true
	}
	return false
}

// recover sends the user's waiting events now.
func (p *Page) recover(w http.ResponseWriter, r *http.Request) {
	s, ok := p.own(w, r, func(status int, text string) { p.views.message(w, status, text) })
	if !ok {
		return
	}
	_, err := p.service.Recover(r.Context(), s.userID, api.Recovery{})
	if tooMany, is := errors.AsType[*api.TooManyError](err); is {
		limit.SetRetryAfter(w, tooMany.After)
		p.views.message(w, http.StatusTooManyRequests, textRecovering)
		return
	}
	if err != nil {
		p.views.message(w, http.StatusServiceUnavailable, textUnavailable)
		return
	}
	http.Redirect(w, r, base+"?done=recovering#endpoints", http.StatusSeeOther)
}
