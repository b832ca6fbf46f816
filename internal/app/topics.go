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

// tryAgain is the pause between attempts to reach Kafka at the start.
const tryAgain = time.Second

// TopicError says that topics are not as they must be; the service does not start.
type TopicError struct{ Problems []string }

func (e *TopicError) Error() string { return strings.Join(e.Problems, "\n") }

// awaitTopics checks the topics, or creates them, and keeps trying while Kafka is away.
func (a *App) awaitTopics(ctx context.Context) error {
	unchecked := outage.New(a.Log, "cannot check the topics, trying again", "the topics are checked")
	for {
		err := a.kafka.Probe(ctx) // which logs the brokers that do not answer
		if err == nil {
			if err = a.checkTopics(ctx); err == nil {
				unchecked.Recover()
				return nil
			}
			var wrong *TopicError
			if errors.As(err, &wrong) || ctx.Err() != nil {
				return err
			}
			err = kafka.Explain(err)
			unchecked.Fail(err)
		}
		if ctx.Err() != nil || !kafka.IsUnavailable(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(tryAgain):
		}
	}
}

func (a *App) checkTopics(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	if a.Config.Topics.Ensure {
		lines, err := kafka.EnsureTopics(ctx, a.admin, a.plan)
		for _, l := range lines {
			a.Log.Info("topic", zap.String("topic", l.Topic), zap.String("state", l.What))
		}
		return err
	}
	problems, err := kafka.CheckTopics(ctx, a.admin, a.plan)
	if err != nil || len(problems) == 0 {
		return err
	}
	wrong, connection := &TopicError{}, kafka.Connection{Brokers: a.Config.Kafka.Brokers, Flags: a.Config.Flags()}
	for _, p := range problems {
		wrong.Problems = append(wrong.Problems, p.Line(connection))
	}
	return wrong
}

// warnOfRisks logs with which topics a broker that fails may lose records.
func (a *App) warnOfRisks(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	risks, err := kafka.TopicRisks(ctx, a.admin, a.plan)
	if err != nil && ctx.Err() == nil {
		a.Log.Warn("cannot read how durable the topics are", zap.Error(err))
	}
	for _, r := range risks {
		a.Log.Warn("topics may lose records when a broker fails", zap.String("setting", r.What), zap.Strings("topics", r.Topics), zap.String("advice", r.Why))
	}
}

// unreadInterval is the pause between looks for records in waiting topics that no setting names any more.
const unreadInterval = 30 * time.Second

// watchUnread looks, until ctx ends, for records that wait where nobody reads: after a change of retry.schedule or
// overflow.delays. It tells when what it finds has changed.
func (a *App) watchUnread(ctx context.Context) {
	var told []string
	unasked := outage.New(a.Log, "cannot look for waiting topics that nobody reads", "it can be seen again which waiting topics nobody reads")
	for ctx.Err() == nil {
		asked, cancel := context.WithTimeout(ctx, 10*time.Second)
		unread, err := kafka.UnreadTopics(asked, a.admin, a.plan, a.Config.Kafka.Group)
		cancel()
		if err == nil {
			unasked.Recover()
			told = a.tellUnread(unread, told)
		} else if ctx.Err() == nil {
			unasked.Fail(err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(unreadInterval):
		}
	}
}

func (a *App) tellUnread(unread []kafka.Unread, told []string) (topics []string) {
	records := int64(0)
	for _, u := range unread {
		records += u.Records
		topics = append(topics, u.Topic)
		if !slices.Contains(told, u.Topic) {
			a.Log.Warn("records wait in a topic that no setting names: they are not sent until it is read again",
				zap.String("topic", u.Topic), zap.Int64("records", u.Records), zap.String("set", u.Setting))
		}
	}
	a.metrics.UnreadWaiting(records)
	return topics
}
