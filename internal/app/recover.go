package app

import (
	"context"
	"errors"
	"slices"

	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/metrics"
	"github.com/smshooks/smshooks/internal/release"
	"github.com/smshooks/smshooks/internal/settings"
	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// wireReleases creates the log of recoveries. The API writes to it, and consumers follow it.
func (a *App) wireReleases() error {
	if !a.plays(Consume) && !a.plays(API) {
		return nil
	}
	a.releases = newReleases(a, a.Log.Named("releases"))
	a.watchReader(a.plan.Releases, a.releases.Follower())
	a.watcher.OnRecreated(a.releases.Adopt)
	a.metrics.Read(metrics.RunningRecoveries, func() float64 { return float64(a.releases.Running()) })
	return nil
}

func newReleases(a *App, log *zap.Logger) *release.Log {
	return release.NewLog(release.Config{
		Topic: a.plan.Releases, Keep: a.plan.MinRetention(a.plan.Releases), Now: a.clock.Now,
	}, a.kafka.NewClient, log, noMetrics{})
}

// newRecoveries returns the worker that copies the released events of the partitions of this member.
func (a *App) newRecoveries(p *pipeline) *release.Worker {
	return release.NewWorker(release.WorkerConfig{
		Group: a.Config.Kafka.Group, Epoch: a.Config.Topics.Epoch, Released: a.plan.Released, Now: a.clock.Now,
		MaxBatch: a.Config.Kafka.MaxBatchBytes, Client: a.admin, Pauses: pauses{a.store},
		Note: a.deliveries.Note,
	}, a.releases, p.consumer, a.Log.Named("releases"))
}

// resumed releases the paused events of a user whose pause of a kind has ended.
func (a *App) resumed(userID int64, kind webhook.Kind, document string) {
	if a.releases == nil {
		return
	}
	a.releases.Resume(userID, kind, document, slices.DeleteFunc(a.plan.Delays(kind), func(topic string) bool {
		return a.plan.Describe(topic).Class != topics.Paused
	}))
}

// pauses reports which endpoints are paused according to the settings.
type pauses struct{ store *settings.Store }

// Paused implements release.Pauses.
func (p pauses) Paused(ctx context.Context, userID int64, kind webhook.Kind) (bool, error) {
	s, known := p.store.Lookup(userID)
	if !known {
		if err := p.store.Load(ctx, []int64{userID}); err != nil {
			return false, err
		}
		if s, known = p.store.Lookup(userID); !known {
			return false, settings.ErrNotReady
		}
	}
	endpoint := s.Endpoints[kind]
	return endpoint != nil && endpoint.Paused, nil
}

// checkReleases returns why delayed events are held back, or nil.
func (a *App) checkReleases(context.Context) error {
	if a.pipeline == nil {
		return a.releases.Err()
	}
	return errors.Join(a.releases.Err(), a.pipeline.recoveries.Err())
}

// recoveries begins recoveries for users.
type recoveries struct {
	*release.Log
	plan *topics.Plan
}

// Recover implements api.Recoveries.
func (r recoveries) Recover(ctx context.Context, m release.Marker, kinds []webhook.Kind,
	paused [webhook.NumKinds]bool) (string, error) {
	ids, err := r.Begin(ctx, m, delayed(r.plan, kinds, func(kind webhook.Kind) bool { return !paused[kind] }))
	if err != nil {
		return "", err
	}
	return ids[0], nil
}

// delayed returns the topics that hold the delayed events of kinds. It includes the paused topics of the kinds
// for which resumed returns true.
func delayed(plan *topics.Plan, kinds []webhook.Kind, resumed func(webhook.Kind) bool) (names []string) {
	for _, kind := range kinds {
		for _, topic := range plan.Delays(kind) {
			if topic != plan.Released(kind) && (plan.Describe(topic).Class != topics.Paused || resumed(kind)) {
				names = append(names, topic)
			}
		}
	}
	return names
}
