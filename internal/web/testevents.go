package web

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/smshooks/smshooks/internal/api"
	"github.com/smshooks/smshooks/internal/api/limit"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// testView is one test event. State has the words of attempts; it is empty if the event was not sent yet.
type testView struct {
	Kind  string `json:"kind"`
	Label string `json:"-"`
	State badge  `json:"state"`
	Text  string `json:"text"`
}

func untried() []testView {
	list := make([]testView, webhook.NumKinds)
	for i, k := range kinds {
		list[i] = testView{Kind: k.Name, Label: k.Label, Text: "not tested yet"}
	}
	return list
}

func testOf(kind webhook.Kind, t api.TestResult) testView {
	v := testView{Kind: kinds[kind].Name, Label: kinds[kind].Label}
	switch t.Status {
	case api.TestSkipped:
		v.State, v.Text = endpointBadges[api.EndpointUnset], "no URL is saved"
	case api.TestError:
		v.State = resultBadges[webhook.Failure(t.Reason).Result()]
		v.Text = fmt.Sprintf("%s after %s", t.Reason, took(t.Took))
	default:
		v.State = resultBadges[webhook.OK]
		if t.Status == api.TestFailed {
			v.State = resultBadges[webhook.Failed]
		}
		v.Text = fmt.Sprintf("HTTP %d in %s", t.HTTPCode, took(t.Took))
	}
	return v
}

// test sends the test event of the kind whose button was pressed, or all. A request for JSON lines receives each result
// as soon as it arrives, other requests the page with all results.
func (p *Page) test(w http.ResponseWriter, r *http.Request) {
	s, ok := p.own(w, r, func(status int, text string) { p.views.message(w, status, text) })
	if !ok {
		return
	}
	var each func(webhook.Kind, api.TestResult)
	lines := strings.Contains(r.Header.Get("Accept"), "application/x-ndjson")
	if lines {
		each = lineWriter(w)
	}
	var only *webhook.Kind
	if kind, err := webhook.ParseKind(r.PostForm.Get("kind")); err == nil {
		only = &kind
	}
	results, err := p.service.Test(r.Context(), s.userID, only, each)
	var tooMany *api.TooManyError
	switch {
	case errors.Is(err, api.ErrUnavailable):
		p.views.message(w, http.StatusServiceUnavailable, textUnavailable)
	case errors.As(err, &tooMany):
		limit.SetRetryAfter(w, tooMany.After)
		p.views.message(w, http.StatusTooManyRequests, textBusy)
	case lines: // all results have been written
	default:
		v := settingsView{frame: frame{Notice: "Test events were sent. The results are below."}, Tests: untried()}
		for _, kind := range webhook.Kinds() {
			if only == nil || kind == *only {
				v.Tests[kind] = testOf(kind, results[kind])
			}
		}
		p.edit(w, r, &s, http.StatusOK, v)
	}
}

// lineWriter writes each result as a line of JSON.
func lineWriter(w http.ResponseWriter) func(webhook.Kind, api.TestResult) {
	flush := http.NewResponseController(w)
	enc := json.NewEncoder(w)
	return func(kind webhook.Kind, t api.TestResult) {
		w.Header().Set("Content-Type", "application/x-ndjson")
		w.Header().Set("X-Accel-Buffering", "no") // proxies must not buffer the lines
		_ = enc.Encode(testOf(kind, t))           // the client may have disconnected
		_ = flush.Flush()                         // without it the lines arrive together
	}
}
