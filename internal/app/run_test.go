package app

import (
	"context"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/smshooks/smshooks/config"
)

// TestWarningsAreLogged checks that the start logs the warnings about settings once, also without Kafka.
func TestWarningsAreLogged(t *testing.T) {
	cfg := config.Defaults()
	cfg.Kafka.Brokers, cfg.Redis.Addrs, cfg.API.Addr, cfg.Ops.Addr = []string{"127.0.0.1:1"}, []string{"127.0.0.1:1"}, "127.0.0.1:0", "127.0.0.1:0"
	cfg.Retry.Schedule, cfg.Retry.Window = []time.Duration{time.Second, 20 * time.Second}, 5*time.Second
	core, logs := observer.New(zap.WarnLevel)
	a, err := New(Options{Config: cfg, Version: "test", Log: zap.New(core), Registry: NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := a.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if want := cfg.Warnings(); len(want) != 1 || logs.FilterMessage(want[0]).Len() != 1 {
		t.Errorf("logged %v, want %q once", logs.All(), want)
	}
}
