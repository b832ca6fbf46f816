package metrics_test

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/smshooks/smshooks/internal/metrics"
	"github.com/smshooks/smshooks/pkg/webhook"
)

func newMetrics() (*metrics.Metrics, *prometheus.Registry) {
	reg := prometheus.NewPedanticRegistry()
	return metrics.New(reg, metrics.Topics{
		Consumed: []string{"sms-dlr", "sms-dlr-retry-6h"}, Delayed: []string{"sms-dlr-retry-6h"},
		Settings: []string{"webhook-config", "webhook-keys"}, Dead: []string{"webhook-dead-letter"},
	}), reg
}

// Counters and gauges exist from the start, with every value of their labels.
func TestAllExistFromTheStart(t *testing.T) {
	_, reg := newMetrics()
	want := map[string]int{
		"smshooks_records_consumed_total":    2,
		"smshooks_settled_total":             webhook.NumKinds * webhook.NumFates,
		"smshooks_attempts_total":            webhook.NumKinds * webhook.NumResults,
		"smshooks_attempt_seconds":           webhook.NumKinds,
		"smshooks_event_to_delivery_seconds": webhook.NumKinds,
		"smshooks_first_attempt_seconds":     webhook.NumKinds,
		"smshooks_rebalances_total":          1,
		"smshooks_miskeyed_records_total":    1,
		"smshooks_bad_ids_total":             1,
		"smshooks_retry_waiting_records":     1,
		"smshooks_retry_overdue_seconds":     1,
		"smshooks_config_lag_records":        1,
		"smshooks_config_users":              1,
		"smshooks_unread_waiting_records":    1,
		"smshooks_redis_evicts":              1,
		"smshooks_unreadable_settings_total": 2,
		"smshooks_skipped_batches_total":     5,
		"smshooks_commit_errors_total":       1,
		"smshooks_in_flight_requests":        1,
		"smshooks_buffered_records":          1,
		"smshooks_buffered_bytes":            1,
		"smshooks_lag_age_seconds":           1,
		"smshooks_commit_stalled_seconds":    1,
		"smshooks_ledger_gap_records":        1,
		"smshooks_dead_letters_total":        webhook.NumKinds * 3,
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if n, ok := want[f.GetName()]; ok {
			if len(f.GetMetric()) != n {
				t.Errorf("%s has %d series, want %d", f.GetName(), len(f.GetMetric()), n)
			}
			delete(want, f.GetName())
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if !slices.Contains([]string{"topic", "kind", "fate", "result", "reason", "partition"}, l.GetName()) {
					t.Errorf("%s has the label %s", f.GetName(), l.GetName())
				}
			}
		}
	}
	for name := range want {
		t.Errorf("%s is missing", name)
	}
}

func TestCounting(t *testing.T) {
	m, reg := newMetrics()
	m.Settled("sms-dlr", webhook.DLR, webhook.Delivered)
	m.Settled("sms-dlr-retry-6h", webhook.DLR, webhook.Dead)
	m.Settled("of another", webhook.DLR, webhook.Dead)
	m.Attempt(webhook.Click, webhook.TimedOut, 10*time.Second)
	m.Lag("sms-dlr", 3, 17)
	m.Delayed("sms-dlr-retry-6h", 5)
	m.Overdue("sms-dlr-retry-6h", 1500*time.Millisecond)
	m.ConfigLag("webhook-config", 5)
	m.ConfigLag("webhook-keys", 1)
	m.ConfigLag("webhook-config", 1)
	m.ConfigUsers(3)
	m.Orphaned(6)
	m.RedisEvicts(true)
	m.UnreadableRecord("webhook-config")
	m.Read(metrics.BufferedRecords, func() float64 { return 4 })
	for series, want := range map[string]float64{
		"smshooks_buffered_records": 4, "smshooks_buffered_bytes": 0, "smshooks_config_lag_records": 2, "smshooks_config_users": 3, "smshooks_unread_waiting_records": 6, "smshooks_redis_evicts": 1,
		"smshooks_group_lag_records{partition=3,topic=sms-dlr}":    17,
		"smshooks_records_consumed_total{topic=sms-dlr}":           1,
		"smshooks_records_consumed_total{topic=sms-dlr-retry-6h}":  1,
		"smshooks_settled_total{fate=delivered,kind=dlr}":          1,
		"smshooks_settled_total{fate=dead,kind=dlr}":               2,
		"smshooks_settled_total{fate=dead,kind=click}":             0,
		"smshooks_attempts_total{kind=click,result=timeout}":       1,
		"smshooks_attempt_seconds{kind=click}":                     10,
		"smshooks_retry_overdue_seconds{topic=sms-dlr-retry-6h}":   1.5,
		"smshooks_retry_waiting_records{topic=sms-dlr-retry-6h}":   5,
		"smshooks_unreadable_settings_total{topic=webhook-config}": 1,
		"smshooks_unreadable_settings_total{topic=webhook-keys}":   0,
	} {
		if got, ok := values(t, reg)[series]; !ok || got != want {
			t.Errorf("%s = %v (exists: %v), want %v", series, got, ok, want)
		}
	}
}

// Clocks of machines differ: a delivery before its event counts as immediate.
func TestDeliveredBeforeItsTime(t *testing.T) {
	m, reg := newMetrics()
	m.Delivered(webhook.DLR, -time.Hour)
	m.FirstAttempt(webhook.DLR, -time.Hour)
	for _, name := range []string{"smshooks_event_to_delivery_seconds", "smshooks_first_attempt_seconds"} {
		if got := values(t, reg)[name+"{kind=dlr}"]; got != 0 {
			t.Errorf("%s: sum %v, want 0", name, got)
		}
	}
}

// values are all series by name and labels; of a histogram the sum.
func values(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			name := f.GetName()
			if len(labels) > 0 {
				name += "{" + strings.Join(labels, ",") + "}"
			}
			all[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetHistogram().GetSampleSum()
		}
	}
	return all
}

// TestUnknown checks that what was not measured, or cannot be measured any more, is not shown as 0 or as an old figure.
func TestUnknown(t *testing.T) {
	m, reg := newMetrics()
	unknown := func(when string, names ...string) {
		t.Helper()
		for _, name := range names {
			if got, ok := values(t, reg)[name]; !ok || !math.IsNaN(got) {
				t.Errorf("%s: %s = %v (exists: %v), want NaN", when, name, got, ok)
			}
		}
	}
	delayed, overdue := "smshooks_retry_waiting_records{topic=sms-dlr-retry-6h}", "smshooks_retry_overdue_seconds{topic=sms-dlr-retry-6h}"
	source := "smshooks_source_lag_seconds{topic=sms-dlr}"
	unknown("at the start", "smshooks_lag_age_seconds", delayed, overdue, source)
	m.Lag("sms-dlr", 3, 17)
	m.Delayed("sms-dlr-retry-6h", 5)
	m.Overdue("sms-dlr-retry-6h", 0)
	m.SourceLag("sms-dlr", 0)
	m.LagUnknown("sms-dlr", 3)
	m.DelayedUnknown("sms-dlr-retry-6h")
	m.OverdueUnknown("sms-dlr-retry-6h")
	m.SourceLagUnknown("sms-dlr")
	unknown("later", delayed, overdue, source)
	if got, ok := values(t, reg)["smshooks_group_lag_records{partition=3,topic=sms-dlr}"]; ok {
		t.Errorf("the lag that cannot be measured is %v", got)
	}
}
