package real_test

import (
	"testing"
	"time"

	"github.com/smshooks/smshooks/test/real/harness"
)

// TestSourceLag checks that the metric is the age of the oldest unsettled record, and 0 if all are settled.
func TestSourceLag(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.configure(t, map[int64]harness.Webhook{1: e.all(1, "")})
	harness.Settle()
	e.recv.On("/dlr/1", harness.Slow(6*time.Second, 200))
	p := e.serve(t)
	old := e.dlr(1, 1)
	old.Timestamp = time.Now().Add(-2 * time.Minute)
	e.emit(t, old, e.dlr(1, 2))
	p.WaitMetric(t, harness.Patience, harness.AtLeast(120), "smshooks_source_lag_seconds", "topic", e.topics.DLR)
	e.recv.WaitCount(t, "/dlr/1", 2, harness.Patience)
	p.WaitMetric(t, harness.Patience, harness.Exactly(0), "smshooks_source_lag_seconds", "topic", e.topics.DLR)
	p.WaitMetric(t, time.Second, harness.Exactly(1), "smshooks_build_info")

	e.emit(t, harness.Event(e.topics.Inbound, 1, "{"))
	p.WaitMetric(t, harness.Patience, harness.Exactly(1), "smshooks_dead_letters_total", "kind", "inbound", "reason", "invalid_record")
}
