package app

import (
	"net/http"
	"time"

	"github.com/smshooks/smshooks/config"
	"github.com/smshooks/smshooks/internal/api"
	"github.com/smshooks/smshooks/internal/deadletter"
	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/kafka"
	"github.com/smshooks/smshooks/internal/sender"
	"github.com/smshooks/smshooks/internal/web"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// customers serves the users: the API and the account page.
type customers struct {
	letters *deadletter.Store
	page    *web.Page
	handler http.Handler
}

func (a *App) newSender() *sender.Sender {
	d := a.Config.Dispatch
	return sender.New(sender.Config{
		Timeout: d.Timeout, Any2xx: d.Success == "2xx", Addresses: addresses(d),
		MaxInFlight: a.share.inFlight, MaxConns: a.share.conns, Version: a.Version, Dial: a.HTTPDial,
	})
}

// addresses returns the rule for the addresses that webhooks may reach.
func addresses(d config.Dispatch) sender.Addresses {
	a := sender.Addresses{Allow: d.AllowNetworks, Deny: d.DenyNetworks, NAT64: d.NAT64Prefixes}
	for _, r := range d.Ports {
		a.Ports = append(a.Ports, sender.Ports(r))
	}
	return a
}

func (a *App) newCustomers() (*customers, error) {
	letters, err := newDeadLetters(a.Config, a.kafka, a.clock.Now, a.deliveries.Note)
	if err != nil {
		return nil, err
	}
	events := userReplays{letters, a.replays}
	service := api.New(api.Parts{
		Keys: a.keys, Documents: a.store, Sender: a.sender, Deliveries: a.deliveries, States: a.endpoints,
		DeadLetters: events, Sources: events,
		Recoveries:     recoveries{a.releases, a.plan},
		Log:            a.Log.Named("api"),
		TrustedProxies: a.Config.API.TrustedProxies, MaxTests: a.share.tests, Turns: a.replays,
		ReplayLimit: a.Config.API.ReplayLimit,
	})
	page := web.New(web.Options{Service: service, Redis: a.redis, KeyPrefix: a.Config.Redis.KeyPrefix,
		PortalSecret: a.Config.Portal.Secret, Log: a.Log.Named("page")})
	handler := api.Handler(service, api.Options{Rate: a.Config.API.Rate, Page: page})
	return &customers{letters: letters, page: page, handler: handler}, nil
}

// newDeadLetters returns the store that reads and replays dead letters. note receives what is replayed.
func newDeadLetters(cfg *config.Config, k kafka.Config, now func() time.Time,
	note func(event.LogEntry)) (*deadletter.Store, error) {
	plan := cfg.TopicPlan()
	c := deadletter.Config{Topic: cfg.Topics.DeadLetter, Sources: plan.Sources(), Epoch: cfg.Topics.Epoch, Now: now,
		Note: note, Batches: plan.Delays(webhook.RevokeClick), MaxIDs: cfg.Revocation.MaxIDs}
	for _, kind := range webhook.Kinds() {
		c.Overflow[kind] = plan.Overflow(kind, 0)
	}
	return deadletter.New(c, k.NewClient)
}
