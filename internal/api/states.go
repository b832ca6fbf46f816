package api

import (
	"context"
	"time"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// EndpointState is the state of an endpoint as customers see it.
type EndpointState string

// The states. A paused endpoint may be failing as well.
const (
	EndpointOK      EndpointState = "ok" // its last attempt succeeded, or there was none
	EndpointFailing EndpointState = "failing"
	EndpointPaused  EndpointState = "paused"
	EndpointUnset   EndpointState = "unset" // it has no URL
)

// Endpoint describes one of a user's endpoints.
type Endpoint struct {
	Kind    webhook.Kind
	Host    string // of its URL, without port; "" if there is none
	State   EndpointState
	Since   time.Time       // of a failing endpoint: start of the first failed attempt; otherwise zero
	Failure webhook.Failure // of a failing endpoint: the last failure, some seconds late; otherwise ""
}

// Endpoints returns a user's endpoints, one of each kind, in the order of kinds.
func (s *Service) Endpoints(ctx context.Context, userID int64) (all [webhook.NumKinds]Endpoint, err error) {
	d, err := s.document(ctx, userID)
	if err != nil {
		return all, err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	states, err := s.States.States(ctx, userID)
	if err != nil {
		return all, s.unavailable(askEndpoints, userID, err)
	}
	s.failing[askEndpoints].Recover()
	urls, paused := webhooksOf(&d).URLs, furtherOf(&d).Paused
	for _, kind := range webhook.Kinds() {
		e := Endpoint{Kind: kind, State: EndpointUnset}
		if url := urls[kind]; url != nil {
			endpoint := webhook.NewEndpoint(*url)
			e.Host, e.State = endpoint.Hostname(), EndpointOK
			switch state := states[kind]; {
			case paused[kind]:
				e.State = EndpointPaused
			case state.Fails(endpoint):
				e.State, e.Since, e.Failure = EndpointFailing, state.Since, state.Failure
			}
		}
		all[kind] = e
	}
	return all, nil
}

type endpointReply struct {
	Kind    string        `json:"kind"`
	Host    *string       `json:"host"`
	State   EndpointState `json:"state"`
	Since   *string       `json:"since"`
	Failure *string       `json:"failure"`
}

func (h *handler) endpoints(r *request) (any, error) {
	all, err := h.service.Endpoints(r.quick, r.userID)
	if err != nil {
		return nil, err
	}
	replies := make([]endpointReply, len(all))
	for i, e := range all {
		replies[i] = endpointReply{Kind: e.Kind.String(), State: e.State}
		if e.Host != "" {
			replies[i].Host = &e.Host
		}
		if e.State == EndpointFailing {
			since, failure := event.FormatTime(e.Since), string(e.Failure)
			replies[i].Since, replies[i].Failure = &since, &failure
		}
	}
	return replies, nil
}
