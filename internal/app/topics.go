package app

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/kafka"
	"github.com/smshooks/smshooks/internal/outage"
)

// topicsRetry is the pause between attempts to check the topics at the start.
const topicsRetry = time.Second

// topicError lists what is wrong with the topics. The service does not start.
type topicError struct{ Problems []string }

func (e *topicError) Error() string { return strings.Join(e.Problems, "\n") }

// awaitTopics checks or creates the topics. It retries while Kafka is unavailable.
func (a *App) awaitTopics(ctx context.Context) error {
	unchecked := outage.New(a.Log, "cannot check the topics; retrying", "the topics are checked")
	for {
		err := a.kafka.Probe(ctx) // which logs the brokers that do not answer
		if err == nil {
			if err = a.checkTopics(ctx); err == nil {
				unchecked.Recover()
				return nil
			}
			var wrong *topicError
			if errors.As(err, &wrong) || ctx.Err() != nil {
				return err
			}
			needs := a.plan.RightsOf("serve", a.Config.Kafka.Group)
			if a.Config.Topics.Ensure {
				needs = append(needs, a.plan.RightsOf("topics ensure", "")...)
			}
			err = kafka.NameRights(ctx, a.admin, a.plan, needs, kafka.Explain(err))
			unchecked.Fail(err)
		}
		if ctx.Err() != nil || !kafka.IsUnavailable(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(topicsRetry):
		}
	}
}

func (a *App) checkTopics(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	if a.Config.Topics.Ensure {
		lines, err := kafka.EnsureTopics(ctx, a.admin, a.plan)
		for _, l := range lines {
			a.Log.Info("topic checked", zap.String("topic", l.Topic), zap.String("state", l.What))
		}
		return err
	}
	problems, err := kafka.CheckTopics(ctx, a.admin, a.plan)
	if err != nil || len(problems) == 0 {
		return err
	}
	wrong, connection := &topicError{}, kafka.Connection{Brokers: a.Config.Kafka.Brokers, Flags: a.Config.Flags()}
	for _, p := range problems {
		wrong.Problems = append(wrong.Problems, p.Line(connection))
	}
	return wrong
}

// warnOfRisks logs which topics may lose records.
func (a *App) warnOfRisks(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	risks, err := kafka.TopicRisks(ctx, a.admin, a.plan)
	if err != nil && ctx.Err() == nil {
		a.Log.Warn("cannot check the settings of the topics for risks", zap.Error(err))
	}
	for _, r := range risks {
		a.Log.Warn("topics may lose records",
			zap.String("setting", r.What), zap.Strings("topics", r.Topics), zap.String("advice", r.Why))
	}
}

// orphanedInterval is the pause between checks for orphaned delay topics.
const orphanedInterval = 30 * time.Second

// watchOrphaned logs, until ctx ends, each orphaned delay topic that holds records. A change of retry.schedule,
// overflow.delays or retry.window leaves such topics.
func (a *App) watchOrphaned(ctx context.Context) {
	var known []string
	failing := outage.New(a.Log, "cannot check for orphaned delay topics; retrying",
		"orphaned delay topics are checked for again")
	for ctx.Err() == nil {
		asking, cancel := context.WithTimeout(ctx, 10*time.Second)
		orphaned, err := kafka.OrphanedTopics(asking, a.admin, a.plan, a.Config.Kafka.Group)
		cancel()
		if err == nil {
			failing.Recover()
			known = a.logOrphaned(orphaned, known)
		} else if ctx.Err() == nil {
			failing.Fail(err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(orphanedInterval):
		}
	}
}

// logOrphaned logs the topics that are not known yet, and returns all.
func (a *App) logOrphaned(orphaned []kafka.Orphaned, known []string) (topics []string) {
	records := int64(0)
	for _, o := range orphaned {
		records += o.Records
		topics = append(topics, o.Topic)
		if !slices.Contains(known, o.Topic) {
			a.Log.Warn("orphaned delay topic holds records; set the given setting to send them",
				zap.String("topic", o.Topic), zap.Int64("records", o.Records), zap.String("set", o.Setting))
		}
	}
	a.metrics.Orphaned(records)
	return topics
}
