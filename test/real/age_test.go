package real_test

import (
	"testing"
	"time"

	"github.com/smshooks/smshooks/test/real/harness"
)

// TestSourceLag: the age of the oldest record that is not settled is that of its time, and 0 when all are.
func TestSourceLag(t *testing.T) {
	t.Parallel()
	w := newEnv(t)
	w.configure(t, map[int64]harness.Webhook{1: w.all(1, "")})
	settle(t)
	w.recv.On("/dlr/1", harness.Slow(6*time.Second, 200))
	p := w.serve(t)
	old := w.dlr(1, 1)
	old.Timestamp = time.Now().Add(-2 * time.Minute)
	w.emit(t, old, w.dlr(1, 2))
	p.WaitMetric(t, 15*time.Second, harness.AtLeast(120), "smshooks_source_lag_seconds", "topic", w.topics.DLR)
	w.recv.WaitCount(t, "/dlr/1", 2, 20*time.Second)
	p.WaitMetric(t, 20*time.Second, harness.Exactly(0), "smshooks_source_lag_seconds", "topic", w.topics.DLR)
	p.WaitMetric(t, time.Second, harness.Exactly(1), "smshooks_build_info")

	w.emit(t, harness.Event(w.topics.Inbound, 1, "{"))
	p.WaitMetric(t, 15*time.Second, harness.Exactly(1), "smshooks_dead_letters_total", "kind", "inbound", "reason", "invalid_record")
}
