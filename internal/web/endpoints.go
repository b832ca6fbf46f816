package web

import (
	"context"

	"github.com/smshooks/smshooks/internal/api"
	"github.com/smshooks/smshooks/internal/event"
)

// endpointsView is the state of the user's URLs.
type endpointsView struct {
	Alert   string
	Rows    []endpointView
	failing bool // one of them
}

type endpointView struct {
	Kind, Label, Host string
	Badge             string // class of the state
	State, Failure    string
	Since, Machine    string // "" unless it fails
}

// endpointBadges are the class and the name of each state.
var endpointBadges = map[api.EndpointState]struct{ class, label string }{
	api.EndpointOK: {"ok", "ok"}, api.EndpointFailing: {"failed", "failing"}, api.EndpointPaused: {"blocked", "paused"},
	api.EndpointUnset: {"none", "no URL"},
}

func (p *Page) endpoints(ctx context.Context, userID int64) *endpointsView {
	all, err := p.service.Endpoints(ctx, userID)
	if err != nil {
		return &endpointsView{Alert: "The state of your URLs is temporarily unavailable. Please try again in a moment."}
	}
	v := &endpointsView{}
	for _, e := range all {
		badge := endpointBadges[e.State]
		row := endpointView{Kind: e.Kind.String(), Label: kinds[e.Kind].Label, Host: e.Host, Badge: badge.class,
			State: badge.label, Failure: string(e.Failure)}
		v.failing = v.failing || e.State == api.EndpointFailing
		if !e.Since.IsZero() {
			row.Since, row.Machine = shortTime(e.Since), event.FormatTime(e.Since)
		}
		v.Rows = append(v.Rows, row)
	}
	return v
}
