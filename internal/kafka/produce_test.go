package kafka

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/test/fakekafka"
)

func TestProduceWithin(t *testing.T) {
	cluster := newCluster(t, kfake.SeedTopics(1, "t"))
	network := new(fakekafka.Network)
	cl, err := Config{Brokers: cluster.ListenAddrs(), Dial: network.Dial}.NewClient()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	record := func(size int) *kgo.Record { return &kgo.Record{Topic: "t", Value: make([]byte, size)} }
	stored := record(1)
	if err := ProduceWithin(t.Context(), cl, record(1), stored); err != nil || stored.Offset != 1 {
		t.Fatalf("offset %d, %v", stored.Offset, err)
	}
	if err := ProduceWithin(t.Context(), cl, record(2<<20), record(1)); !errors.Is(err, kerr.MessageTooLarge) {
		t.Errorf("too large: %v", err)
	}

	network.CutAtProduce()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- ProduceWithin(ctx, cl, record(1)) }()
	select {
	case err := <-done:
		if !errors.Is(err, context.DeadlineExceeded) || !IsUnavailable(err) || !strings.Contains(err.Error(), "may still") {
			t.Errorf("no answer: %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("ProduceWithin did not return when its context ended")
	}
}
