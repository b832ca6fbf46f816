package app

import (
	"context"
	"errors"

	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/metrics"
	"github.com/smshooks/smshooks/internal/release"
)

// wireReleases makes the log of recoveries, which consumers obey and the API writes.
func (a *App) wireReleases() error {
	if !a.plays(Consume) && !a.plays(API) {
		return nil
	}
	a.releases = newReleases(a, a.Log.Named("releases"))
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
		MaxBatch: a.Config.Kafka.MaxBatchBytes, Client: a.admin,
	}, a.releases, p.consumer, a.Log.Named("releases"))
}

// checkReleases returns why delayed events wait, nil if they do not.
func (a *App) checkReleases(context.Context) error {
	if a.pipeline == nil {
		return a.releases.Err()
	}
	return errors.Join(a.releases.Err(), a.pipeline.recoveries.Err())
}
