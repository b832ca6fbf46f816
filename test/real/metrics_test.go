package real_test

import (
	"testing"
	"time"

	"github.com/smshooks/smshooks/test/real/harness"
)

// TestMetrics checks that every metric of the contract exists from the start and has the right value.
func TestMetrics(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.configure(t, map[int64]harness.Webhook{1: e.all(1, ""), 2: e.all(2, "")})
	e.recv.On("/dlr/1", harness.Slow(1500*time.Millisecond, 500))
	e.recv.On("/dlr/2", harness.Hang())
	p := e.serve(t, "--dispatch.timeout=4s")
	m := p.Metrics(t)
	for _, kind := range []string{"dlr", "click", "inbound", "revoke_click"} {
		for _, fate := range []string{"delivered", "retry", "overflow", "dead", "not_configured", "filtered", "duplicate", "batched", "paused", "released"} {
			wantSample(t, m, "smshooks_settled_total", "kind", kind, "fate", fate)
		}
		for _, result := range []string{"ok", "failed", "timeout", "error", "blocked"} {
			wantSample(t, m, "smshooks_attempts_total", "kind", kind, "result", result)
		}
		wantSample(t, m, "smshooks_attempt_seconds_count", "kind", kind)
		wantSample(t, m, "smshooks_event_to_delivery_seconds_count", "kind", kind)
	}
	for _, source := range []string{e.topics.DLR, e.topics.Click, e.topics.Inbound, e.topics.Revocation} {
		wantSample(t, m, "smshooks_records_consumed_total", "topic", source)
		for _, waiting := range []string{harness.Retry(source, "1s"), harness.Retry(source, "2s"), harness.Overflow(source, "1s"), harness.Overflow(source, "10s"), harness.Paused(source, "24h")} {
			wantSample(t, m, "smshooks_records_consumed_total", "topic", waiting)
			wantSample(t, m, "smshooks_retry_waiting_records", "topic", waiting)
			wantSample(t, m, "smshooks_retry_overdue_seconds", "topic", waiting)
		}
		for _, partition := range []string{"0", "1"} {
			harness.Eventually(t, harness.Patience, func() bool {
				return has(p.Metrics(t), "smshooks_group_lag_records", "topic", source, "partition", partition)
			}, "the lag of %s/%s", source, partition)
		}
	}
	for _, name := range []string{
		"smshooks_in_flight_requests", "smshooks_buffered_records", "smshooks_buffered_bytes", "smshooks_config_lag_records", "smshooks_config_users",
		"smshooks_miskeyed_records_total", "go_goroutines", "process_resident_memory_bytes",
	} {
		wantSample(t, m, name)
	}
	if n := m.Sum("smshooks_config_users"); n != 2 {
		t.Errorf("%v users, want 2", n)
	}
	// It is measured every five seconds, and the settings may have arrived just after.
	harness.Eventually(t, harness.Patience, func() bool { return p.Metrics(t).Sum("smshooks_config_lag_records") == 0 }, "no config records behind")

	e.emit(t, e.dlr(1, 1), e.dlr(1, 2), e.dlr(2, 1), e.dlr(2, 2), e.dlr(2, 3), e.dlr(2, 4))
	e.recv.WaitCount(t, "", 5, harness.Patience)
	m = p.Metrics(t)
	if n := m.Sum("smshooks_in_flight_requests"); n != 5 {
		t.Errorf("%v requests in flight, want 5", n)
	}
	if n, b := m.Sum("smshooks_buffered_records"), m.Sum("smshooks_buffered_bytes"); n != 6 || b < 6*400 {
		t.Errorf("%v records and %v bytes buffered, want 6 and some thousand", n, b)
	}
	harness.Eventually(t, harness.Patience, func() bool { return p.Metrics(t).Sum("smshooks_group_lag_records", "topic", e.topics.DLR) >= 4 }, "a lag of the events that hang")
	harness.Eventually(t, harness.Patience, func() bool {
		return p.Metrics(t).Sum("smshooks_retry_waiting_records", "topic", harness.Retry(e.topics.DLR, "2s")) > 0
	}, "waiting records")
	e.recv.On("/dlr/2", harness.Status(200))
	e.dead(t, 1, 2, harness.Patience)
	harness.Eventually(t, harness.Patience, func() bool {
		return p.Metrics(t).Sum("smshooks_settled_total", "kind", "dlr", "fate", "delivered") == 4
	}, "the events that hung are delivered")
	m = p.WaitBalanced(t, 13, harness.Patience) // 6 events and 4 + 3 retries
	if n := m.Sum("smshooks_attempts_total", "kind", "dlr", "result", "failed"); n != 6 {
		t.Errorf("%v failed attempts, want 6", n)
	}
	if n := m.Sum("smshooks_attempt_seconds_count", "kind", "dlr"); n != m.Sum("smshooks_attempts_total", "kind", "dlr") {
		t.Errorf("%v attempts measured", n)
	}
	if n := m.Sum("smshooks_event_to_delivery_seconds_count", "kind", "dlr"); n != m.Sum("smshooks_settled_total", "kind", "dlr", "fate", "delivered") || n != 4 {
		t.Errorf("%v deliveries measured", n)
	}
	harness.Eventually(t, 6*time.Second, func() bool { return p.Metrics(t).Sum("smshooks_group_lag_records") == 0 }, "no lag")
}

func has(m harness.Metrics, name string, labels ...string) bool {
	return m.Samples(name, labels...) > 0
}

func wantSample(t *testing.T, m harness.Metrics, name string, labels ...string) {
	t.Helper()
	if n := m.Samples(name, labels...); n != 1 {
		t.Errorf("%d samples of %s %v, want 1", n, name, labels)
	}
}
