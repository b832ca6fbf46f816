package app

import (
	"context"
	"time"

	"github.com/smshooks/smshooks/internal/deliverylog"
	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/explain"
)

// logTimeout is how long a command waits for the delivery log. It works without it.
const logTimeout = 500 * time.Millisecond

// Explain returns the events that q selects. If the delivery log cannot be read, warn receives the
// error and the attempts are left out.
func (a *Admin) Explain(ctx context.Context, q explain.Query, warn func(error)) ([]explain.Event, error) {
	rdb, err := a.openRedis()
	if err != nil {
		return nil, err
	}
	defer rdb.Close()
	log := deliverylog.New(rdb, a.cfg.Redis.KeyPrefix, nil, a.log)
	return explain.Find(ctx, explain.Config{
		Plan: a.cfg.TopicPlan(), Group: a.cfg.Kafka.Group, Epoch: a.cfg.Topics.Epoch, NewClient: a.kafka.NewClient,
		Warn: warn,
		Log: func(ctx context.Context, userID int64) ([]event.LogEntry, error) {
			ctx, cancel := context.WithTimeout(ctx, logTimeout)
			defer cancel()
			all, err := log.Rows(ctx, userID)
			return all, explainRedis(err)
		},
	}, q)
}
