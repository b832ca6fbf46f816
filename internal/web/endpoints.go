package web

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/smshooks/smshooks/internal/api"
	"github.com/smshooks/smshooks/internal/deliverylog"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// endpointsView is the state of the user's endpoints.
type endpointsView struct {
	Alert   string
	Rows    []endpointView
	Failing []string // labels of the endpoints that fail
	Paused  []string
}

type endpointView struct {
	Kind, Label string
	URL         string // without its query, which may hold a secret; "" if it is not set
	Query       string
	State       badge
	Since       time.Time // zero unless it fails
	Failure     string
	Attempts    int // in the log
	Percent     int // of them that succeeded
	P50, P95    string
}

// badge is a state with the class of its colour.
type badge struct {
	Class string `json:"class"`
	Text  string `json:"text"`
}

var endpointBadges = map[api.EndpointState]badge{
	api.EndpointOK: {"ok", "ok"}, api.EndpointFailing: {"failed", "failing"}, api.EndpointPaused: {"waiting", "paused"},
	api.EndpointUnset: {"none", "not set"},
}

func (p *Page) endpoints(ctx context.Context, userID int64, urls [webhook.NumKinds]*string,
	events []deliverylog.Event) *endpointsView {
	all, err := p.service.Endpoints(ctx, userID)
	if err != nil {
		return &endpointsView{Alert: "The state of your endpoints is temporarily unavailable. Please try again in a moment."}
	}
	v := &endpointsView{}
	for _, e := range all {
		row := endpointView{Kind: e.Kind.String(), Label: kinds[e.Kind].Label, State: endpointBadges[e.State],
			Since: e.Since, Failure: failure(string(e.Failure))}
		if url := urls[e.Kind]; url != nil {
			row.URL, row.Query, _ = strings.Cut(*url, "?")
		}
		switch e.State {
		case api.EndpointFailing:
			v.Failing = append(v.Failing, row.Label)
		case api.EndpointPaused:
			v.Paused = append(v.Paused, row.Label)
		}
		row.measure(e.Kind, events)
		v.Rows = append(v.Rows, row)
	}
	return v
}

// measure computes the rates and times of the logged attempts.
func (v *endpointView) measure(kind webhook.Kind, events []deliverylog.Event) {
	var all []time.Duration
	ok := 0
	for i := range events {
		if events[i].Kind != kind {
			continue
		}
		for a := range attempts(&events[i]) {
			all = append(all, a.Took)
			if a.Failure == "" {
				ok++
			}
		}
	}
	if v.Attempts = len(all); v.Attempts == 0 {
		return
	}
	slices.Sort(all)
	v.Percent = 100 * ok / len(all)
	v.P50, v.P95 = took(all[(len(all)-1)*50/100]), took(all[(len(all)-1)*95/100])
}
