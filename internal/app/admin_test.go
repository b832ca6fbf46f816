package app_test

import (
	"testing"

	"github.com/alicebob/miniredis/v2"
	goredis "github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/config"
	"github.com/smshooks/smshooks/internal/app"
	"github.com/smshooks/smshooks/internal/deadletter"
	"github.com/smshooks/smshooks/internal/deliverylog"
	"github.com/smshooks/smshooks/internal/event"
)

// TestReplayIsNoted checks that an operator's replay is in the user's delivery log when the command ends.
func TestReplayIsNoted(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	cfg := config.Defaults()
	cfg.Kafka.Brokers, cfg.Redis.Addrs, cfg.Topics.Partitions = cluster.ListenAddrs(), []string{miniredis.RunT(t).Addr()}, 1
	admin, err := app.NewAdmin(t.Context(), cfg, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(admin.Close)
	if _, err := admin.EnsureTopics(t.Context()); err != nil {
		t.Fatal(err)
	}
	gateway, err := kgo.NewClient(kgo.SeedBrokers(cfg.Kafka.Brokers...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(gateway.Close)
	letter := &kgo.Record{Topic: cfg.Topics.DeadLetter, Key: []byte("42"), Value: []byte(message(42, "7")), Headers: []kgo.RecordHeader{
		{Key: event.HeaderID, Value: []byte("evt_1")}, {Key: event.HeaderKind, Value: []byte("dlr")},
		{Key: event.HeaderAttempts, Value: []byte("3")}, {Key: event.HeaderReason, Value: []byte("attempts_exhausted")},
	}}
	if err := gateway.ProduceSync(t.Context(), letter).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if n, err := admin.ReplayDeadLetters(t.Context(), deadletter.Run{}); n != 1 || err != nil {
		t.Fatalf("%d replayed, %v", n, err)
	}
	rdb := goredis.NewClient(&goredis.Options{Addr: cfg.Redis.Addrs[0]})
	t.Cleanup(func() { _ = rdb.Close() })
	events, err := deliverylog.New(rdb, cfg.Redis.KeyPrefix, nil, zap.NewNop()).Events(t.Context(), 42, func(*event.LogEntry) bool { return true })
	if err != nil || len(events) != 1 || events[0].ID != "evt_1" || events[0].Fate.State() != "waiting" {
		t.Errorf("the log has %+v, %v; want evt_1, which waits", events, err)
	}
}
