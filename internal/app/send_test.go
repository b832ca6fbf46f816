package app_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/config"
	"github.com/smshooks/smshooks/internal/app"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// TestSendEndsWithItsContext checks that sending can be interrupted while Kafka does not answer a record that was sent.
func TestSendEndsWithItsContext(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	cfg := config.Defaults()
	cfg.Kafka.Brokers, cfg.Topics.Partitions = cluster.ListenAddrs(), 1
	admin, err := app.NewAdmin(t.Context(), cfg, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(admin.Close)
	if _, err := admin.EnsureTopics(t.Context()); err != nil {
		t.Fatal(err)
	}
	end := make(chan struct{})
	t.Cleanup(func() { close(end) })
	cluster.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		cluster.SleepControl(func() { <-end })
		return nil, nil, false
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- admin.Send(ctx, app.Sending{Kind: webhook.DLR, UserID: 42, Count: 1}, func(app.Sent) error { return nil })
	}()
	select {
	case err := <-done:
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("has not returned when its context ended")
	}
}
