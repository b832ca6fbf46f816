package app

import (
	"context"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/kafka"
	"github.com/smshooks/smshooks/internal/outage"
)

// unreadInterval is the pause between looks for records in waiting topics that no setting names any more.
const unreadInterval = 30 * time.Second

// watchUnread looks, until ctx ends, for records that wait where nobody reads: after a change of retry.schedule or
// overflow.delays. It tells when what it finds has changed.
func (a *App) watchUnread(ctx context.Context) {
	var told []string
	unasked := outage.New(a.Log, "cannot look for waiting topics that nobody reads", "it can be seen again which waiting topics nobody reads")
	for ctx.Err() == nil {
		asked, cancel := context.WithTimeout(ctx, 10*time.Second)
		unread, err := a.plan.Unread(asked, a.admin, a.Config.Kafka.Group)
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
