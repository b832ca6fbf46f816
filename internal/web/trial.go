package web

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/smshooks/smshooks/internal/api"
	"github.com/smshooks/smshooks/internal/api/limit"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// trialView is one test event. Status is ok, failed, error, skipped, or "" before any was sent.
type trialView struct {
	Kind   string `json:"kind"`
	Label  string `json:"-"`
	Status string `json:"status"`
	Text   string `json:"text"`
}

func untried() []trialView {
	list := make([]trialView, webhook.NumKinds)
	for i, k := range kinds {
		list[i] = trialView{Kind: k.Name, Label: k.Label, Text: "not tested yet"}
	}
	return list
}

func trialOf(kind webhook.Kind, t api.Trial) trialView {
	v := trialView{Kind: kinds[kind].Name, Label: kinds[kind].Label, Status: t.Status}
	switch t.Status {
	case api.TrialOK, api.TrialFailed:
		v.Text = fmt.Sprintf("HTTP %d in %s", t.HTTPCode, took(t.Took))
	case api.TrialError:
		v.Text = fmt.Sprintf("%s after %s", t.Reason, took(t.Took))
	default:
		v.Text = t.Reason
	}
	return v
}

func took(d time.Duration) string { return fmt.Sprintf("%.3f s", d.Seconds()) }

// test sends the test events. Who asks for JSON lines gets each result as soon as it is there, others the page with
// all of them.
func (p *Page) test(w http.ResponseWriter, r *http.Request) {
	s, ok := p.own(w, r, func(status int, text string) { p.views.message(w, status, text) })
	if !ok {
		return
	}
	var each func(webhook.Kind, api.Trial)
	lines := strings.Contains(r.Header.Get("Accept"), "application/x-ndjson")
	if lines {
		each = lineWriter(w)
	}
	trials, err := p.service.Test(r.Context(), s.userID, each)
	var tooMany *api.TooManyError
	switch {
	case errors.Is(err, api.ErrUnavailable):
		p.views.message(w, http.StatusServiceUnavailable, textAway)
	case errors.As(err, &tooMany):
		limit.SetRetryAfter(w, tooMany.After)
		p.views.message(w, http.StatusTooManyRequests, textBusy)
	case lines: // all is written
	default:
		v := accountView{Notice: "Test events were sent; the results are below.", Trials: make([]trialView, 0, len(trials))}
		for kind, t := range trials {
			v.Trials = append(v.Trials, trialOf(webhook.Kinds()[kind], t))
		}
		p.account(w, r, &s, http.StatusOK, v)
	}
}

// lineWriter writes each result as a line of JSON.
func lineWriter(w http.ResponseWriter) func(webhook.Kind, api.Trial) {
	flush := http.NewResponseController(w)
	enc := json.NewEncoder(w)
	return func(kind webhook.Kind, t api.Trial) {
		w.Header().Set("Content-Type", "application/x-ndjson")
		w.Header().Set("X-Accel-Buffering", "no") // a proxy is not to gather the lines
		_ = enc.Encode(trialOf(kind, t))          // a client that left
		_ = flush.Flush()                         // without it the lines come together
	}
}
