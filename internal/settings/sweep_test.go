package settings

import (
	"context"
	"testing"

	"github.com/redis/go-redis/v9"
)

// roundTrips counts pipelines.
type roundTrips struct {
	redis.Hook
	n int
}

func (r *roundTrips) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (r *roundTrips) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (r *roundTrips) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		r.n++
		return next(ctx, cmds)
	}
}

// TestSweepRoundTrips checks that a sweep fills its round trips, however the users are spread over the index.
func TestSweepRoundTrips(t *testing.T) {
	k := newEnv(t)
	for userID := range int64(sweepBatch + 10) {
		k.set(userID+1, "example.com")
	}
	s, _, stop := k.start()
	waitLoaded(t, s)
	stop() // so that only this sweep asks Redis
	count := new(roundTrips)
	s.rdb.rdb.AddHook(count)
	if wrong, err := s.sweep(t.Context(), true); err != nil || wrong != 0 {
		t.Fatalf("sweep: %d wrong, %v", wrong, err)
	}
	if count.n != 2 {
		t.Errorf("%d round trips for %d users, want 2", count.n, sweepBatch+10)
	}
}
