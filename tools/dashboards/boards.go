package main

import (
	"fmt"

	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

// mixin builds the dashboards. All queries use its selectors. Series that count an instance's own work are summed. What
// is read from Kafka or from the config topic is the same on every instance, so queries take the maximum.
type mixin struct {
	values
	one, retries, overflows, pauses, waiting, sources string
}

func newMixin(v values) mixin {
	one := fmt.Sprintf(`%s=~"$cluster", %s=~"$namespace", job=~"$job", instance=~"$instance"`, v.Cluster, v.Namespace)
	return mixin{
		values: v, one: one,
		retries:   one + `, topic=~".+-retry-.+"`,
		overflows: one + `, topic=~".+-overflow-.+"`,
		pauses:    one + `, topic=~".+-paused-.+"`,
		waiting:   one + `, topic=~".+-(retry|overflow|paused)-.+"`,
		sources:   one + `, topic!~".+-(retry|overflow|paused)-.+"`,
	}
}

func (m mixin) pipeline() *dashboard.DashboardBuilder {
	b := m.board("smshooks-pipeline", "smshooks: pipeline", "Rates, fates and latency of events, and delayed and overdue records.")
	m.now(b)
	m.objective(b)
	m.fates(b)
	m.latency(b)
	m.process(b)
	m.late(b)
	m.rest(b)
	return b
}

func (m mixin) now(b *dashboard.DashboardBuilder) {
	b.WithRow(dashboard.NewRowBuilder("Now")).
		WithPanel(number("Instances", "Instances that Prometheus can scrape.", "none", 0, `count(up{`+m.one+`} == 1)`)).
		WithPanel(number("Delivered", "Events delivered per second.", "ops", 0, `sum(rate(smshooks_settled_total{`+m.one+`, fate="delivered"}[$__rate_interval]))`)).
		WithPanel(number("Failed attempts", "Share of attempts that failed.", "percentunit", 0.5,
			`sum(rate(smshooks_attempts_total{`+m.one+`, result!="ok"}[$__rate_interval])) / sum(rate(smshooks_attempts_total{`+m.one+`}[$__rate_interval]))`)).
		WithPanel(number("Dead letters, last hour", "Events given up within the last hour.", "none", 1, `sum(increase(smshooks_settled_total{`+m.one+`, fate="dead"}[1h]))`)).
		WithPanel(number("Source lag now", "Events in the source topics that are not settled.", "none", 0, `sum(max by (topic, partition) (smshooks_group_lag_records{`+m.sources+`}))`)).
		WithPanel(number("Overdue now", "How late the oldest delayed record is.", "s", 60, `max(smshooks_retry_overdue_seconds{`+m.one+`})`))
}

// objective is the share of first attempts that start in time. Revocations are collected for a minute, so they are not
// counted.
func (m mixin) objective(b *dashboard.DashboardBuilder) {
	const first = `smshooks_first_attempt_seconds`
	kinds := m.one + `, kind!="revoke_click"`
	share := func(window string) string {
		return `sum(increase(` + first + `_bucket{` + kinds + `, le=~"` + m.bound() + `"}[` + window + `])) / sum(increase(` + first + `_count{` + kinds + `}[` + window + `]))`
	}
	burn := func(window string) query {
		return query{`(1 - ` + share(window) + `) / ` + m.Budget(), window}
	}
	b.WithRow(dashboard.NewRowBuilder("Objective")).
		WithPanel(number("First attempts in time", fmt.Sprintf("Share that started within %d s of the event, in the time shown. The objective is %v.", m.Within, m.Objective), "percentunit", 0,
			share("$__range"))).
		WithPanel(graph("Burn rate", "How many times faster than allowed the late first attempts use up the budget. Alerts: 14.4 over an hour, 6 over six hours.", "none", 10,
			burn("5m"), burn("30m"), burn("1h"), burn("6h"))).
		WithPanel(graph("Time to first attempt", "From the event's time to the start of its first attempt, of 50, 95 and 99 of 100 events.", "s", 10, quantiles(first, kinds)...))
}

// quantiles are the median and two upper quantiles of a histogram.
func quantiles(metric, selector string) (qs []query) {
	for _, q := range []string{"50", "95", "99"} {
		qs = append(qs, query{`histogram_quantile(0.` + q + `, sum by (le) (rate(` + metric + `_bucket{` + selector + `}[$__rate_interval])))`, "p" + q})
	}
	return qs
}

func (m mixin) fates(b *dashboard.DashboardBuilder) {
	b.WithRow(dashboard.NewRowBuilder("Rates and fates")).
		WithPanel(graph("Fates", "Every consumed record has exactly one fate.", "ops", 12,
			query{`sum by (fate) (rate(smshooks_settled_total{` + m.one + `}[$__rate_interval]))`, "{{fate}}"})).
		WithPanel(graph("Attempts by result", "failed: a reply other than 200. timeout, error: no reply. blocked: a blocked address.", "ops", 12,
			query{`sum by (result) (rate(smshooks_attempts_total{` + m.one + `}[$__rate_interval]))`, "{{result}}"})).
		WithPanel(graph("Consumed by topic", "Counted when the fate of the record is stored.", "ops", 12,
			query{`sum by (topic) (rate(smshooks_records_consumed_total{` + m.one + `}[$__rate_interval])) > 0`, "{{topic}}"})).
		WithPanel(graph("Delivered by kind", "Attempts that succeeded.", "ops", 12,
			query{`sum by (kind) (rate(smshooks_attempts_total{` + m.one + `, result="ok"}[$__rate_interval]))`, "{{kind}}"})).
		WithPanel(graph("Dead letters by kind", "Attempts exhausted, window closed, or invalid record; `smshooks deadletter list` says which.", "ops", 12,
			query{`sum by (kind, reason) (rate(smshooks_dead_letters_total{` + m.one + `}[$__rate_interval]))`, "{{kind}} {{reason}}"})).
		WithPanel(graph("Failing endpoints", "Endpoints whose last attempt failed.", "none", 12,
			query{`max(smshooks_failing_endpoints{` + m.one + `})`, "failing"})).
		WithPanel(graph("Failover requests", "Requests to failover URLs, by result.", "ops", 8,
			query{`sum by (result) (rate(smshooks_failover_total{` + m.one + `}[$__rate_interval]))`, "{{result}}"})).
		WithPanel(graph("Endpoint events", "Written to the topic of endpoint events, by type.", "ops", 8,
			query{`sum by (type) (rate(smshooks_endpoint_events_total{` + m.one + `}[$__rate_interval]))`, "{{type}}"})).
		WithPanel(graph("Overflow by kind", "Events stored in an overflow topic because their endpoint's queue was full.", "ops", 8,
			query{`sum by (kind) (rate(smshooks_settled_total{` + m.one + `, fate="overflow"}[$__rate_interval]))`, "{{kind}}"}))
}

func (m mixin) latency(b *dashboard.DashboardBuilder) {
	b.WithRow(dashboard.NewRowBuilder("Latency")).
		WithPanel(heat("Attempts", "Duration of requests, from dial to the last body byte.", `sum by (le) (increase(smshooks_attempt_seconds_bucket{`+m.one+`}[$__rate_interval]))`)).
		WithPanel(heat("Event to delivery", "From the event's time to its delivery, retries included.", `sum by (le) (increase(smshooks_event_to_delivery_seconds_bucket{`+m.one+`}[$__rate_interval]))`)).
		WithPanel(graph("Attempts, quantiles", "Duration of requests that 50, 95 and 99 of 100 do not exceed.", "s", 12, quantiles("smshooks_attempt_seconds", m.one)...)).
		WithPanel(graph("Event to delivery, quantiles", "From the event's time to its delivery, of 50, 95 and 99 of 100 events.", "s", 12, quantiles("smshooks_event_to_delivery_seconds", m.one)...))
}

func (m mixin) process(b *dashboard.DashboardBuilder) {
	b.WithRow(dashboard.NewRowBuilder("In the process")).
		WithPanel(graph("Requests in flight", "Bounded by dispatch.max_in_flight per instance.", "none", 8,
			query{`sum by (instance) (smshooks_in_flight_requests{` + m.one + `})`, "{{instance}}"})).
		WithPanel(graph("Buffered records", "In memory without a fate; polling stops at 20,000.", "none", 8,
			query{`sum by (instance) (smshooks_buffered_records{` + m.one + `})`, "{{instance}}"})).
		WithPanel(graph("Buffered bytes", "Bounded by dispatch.max_buffered_bytes per instance.", "bytes", 8,
			query{`sum by (instance) (smshooks_buffered_bytes{` + m.one + `})`, "{{instance}}"})).
		WithPanel(graph("CPU", "Cores in use.", "none", 8, query{`sum by (instance) (rate(process_cpu_seconds_total{` + m.one + `}[$__rate_interval]))`, "{{instance}}"})).
		WithPanel(graph("Memory", "Resident.", "bytes", 8, query{`sum by (instance) (process_resident_memory_bytes{` + m.one + `})`, "{{instance}}"})).
		WithPanel(graph("Kafka traffic", "Read by the consumer, written by the producer.", "Bps", 8,
			query{`sum(rate(kafka_consumer_read_bytes_total{` + m.one + `}[$__rate_interval]))`, "read"},
			query{`sum(rate(kafka_producer_write_bytes_total{` + m.one + `}[$__rate_interval]))`, "written"})).
		WithPanel(graph("Users with settings", "Users in memory. Look for a sudden drop.", "none", 8,
			query{`max(smshooks_config_users{` + m.one + `})`, "users"})).
		WithPanel(graph("Recoveries", "Recoveries that still release delayed events.", "none", 8,
			query{`max(smshooks_running_recoveries{` + m.one + `})`, "running"})).
		WithPanel(graph("Goroutines", "Some more for each request in flight.", "none", 8, query{`sum by (instance) (go_goroutines{` + m.one + `})`, "{{instance}}"}))
}

func (m mixin) late(b *dashboard.DashboardBuilder) {
	b.WithRow(dashboard.NewRowBuilder("Lag, delayed, overdue")).
		WithPanel(graph("Source lag", "As shown by kafka-consumer-groups.", "none", 8,
			query{`sum by (topic) (max by (topic, partition) (smshooks_group_lag_records{` + m.sources + `}))`, "{{topic}}"})).
		WithPanel(graph("Source age", "Age of the oldest record that is neither delivered nor stored in a delay topic.", "s", 8,
			query{`max by (topic) (smshooks_source_lag_seconds{` + m.one + `})`, "{{topic}}"})).
		WithPanel(graph("Overdue", "Now minus the due time of the oldest delayed record; 0 if all is well.", "s", 8,
			query{`max by (topic) (smshooks_retry_overdue_seconds{` + m.one + `})`, "{{topic}}"})).
		WithPanel(graph("Records in retry topics", "Not late: these topics hold records until they are due.", "none", 8,
			query{`max by (topic) (smshooks_retry_waiting_records{` + m.retries + `})`, "{{topic}}"})).
		WithPanel(graph("Records in overflow topics", "Endpoints that are slower than their traffic.", "none", 8,
			query{`max by (topic) (smshooks_retry_waiting_records{` + m.overflows + `})`, "{{topic}}"})).
		WithPanel(graph("Records in paused topics", "Events of endpoints that their users paused.", "none", 8,
			query{`max by (topic) (smshooks_retry_waiting_records{` + m.pauses + `})`, "{{topic}}"}))
}

func (m mixin) rest(b *dashboard.DashboardBuilder) {
	b.WithRow(dashboard.NewRowBuilder("Should be zero")).
		WithPanel(graph("Ledger", "gap: records that the process has lost track of. consumed − settled: records without exactly one fate. Only a lasting value matters.", "none", 8,
			query{`sum(abs(smshooks_ledger_gap_records{` + m.one + `}))`, "gap"},
			query{`abs(sum(smshooks_records_consumed_total{` + m.one + `}) - sum(smshooks_settled_total{` + m.one + `}))`, "consumed − settled"})).
		WithPanel(graph("Stalled", "How long a partition's committed offset has not moved although the instance holds its records.", "s", 8,
			query{`max by (instance) (smshooks_commit_stalled_seconds{` + m.one + `})`, "{{instance}}"})).
		WithPanel(graph("Settings", "Records of the config topic that are not applied yet, and records that cannot be read.", "none", 8,
			query{`max(smshooks_config_lag_records{` + m.one + `})`, "behind"},
			query{`max(increase(smshooks_unreadable_settings_total{` + m.one + `}[$__rate_interval]))`, "unreadable"})).
		WithPanel(graph("Miskeyed records", "Their key is not their user_id, so limits hold per process only.", "ops", 8,
			query{`sum(rate(smshooks_miskeyed_records_total{` + m.one + `}[$__rate_interval]))`, "miskeyed"})).
		WithPanel(graph("Rejected commits", "Kafka rejected them; they are repeated.", "ops", 8,
			query{`sum by (instance) (rate(smshooks_commit_errors_total{` + m.one + `}[$__rate_interval]))`, "{{instance}}"})).
		WithPanel(graph("Dropped lines", "Repeated log lines, entries of the customers' list of deliveries that Redis was too slow for, and endpoint events.", "ops", 8,
			query{`sum(rate(smshooks_log_lines_dropped_total{` + m.one + `}[$__rate_interval]))`, "log"},
			query{`sum(rate(smshooks_delivery_log_dropped_total{` + m.one + `}[$__rate_interval]))`, "deliveries"},
			query{`sum(rate(smshooks_endpoint_events_dropped_total{` + m.one + `}[$__rate_interval]))`, "endpoint events"})).
		WithPanel(graph("Skipped batches", "Batches that were too large or damaged, with all their records.", "ops", 8,
			query{`sum by (topic) (rate(smshooks_skipped_batches_total{` + m.one + `}[$__rate_interval]))`, "{{topic}}"})).
		WithPanel(graph("Postponed requests", "The process ran out of descriptors, ports or memory.", "ops", 8,
			query{`sum by (reason) (rate(smshooks_local_errors_total{` + m.one + `}[$__rate_interval]))`, "{{reason}}"})).
		WithPanel(graph("Redis evicts", "1 if Redis may evict keys, and with them first clicks.", "none", 8,
			query{`max(smshooks_redis_evicts{` + m.one + `})`, "evicts"}))
}

func (m mixin) kafkaLag() *dashboard.DashboardBuilder {
	b := m.board("smshooks-kafka-lag", "smshooks: Kafka lag", "The group's lag per topic and partition. Delay topics are shown separately: their lag is the number of delayed records, and only overdue ones are late.")
	b.WithRow(dashboard.NewRowBuilder("Source topics")).
		WithPanel(graph("Lag by topic", "End offset minus committed offset, as shown by kafka-consumer-groups.", "none", 12,
			query{`sum by (topic) (max by (topic, partition) (smshooks_group_lag_records{` + m.sources + `}))`, "{{topic}}"})).
		WithPanel(graph("Lag by partition", "One partition far above the others: one user's traffic, or a faulty instance.", "none", 12,
			query{`max by (topic, partition) (smshooks_group_lag_records{` + m.sources + `})`, "{{topic}}/{{partition}}"})).
		WithPanel(graph("Lag in time", "Age of the oldest record that is neither delivered nor stored in a delay topic.", "s", 12,
			query{`max by (topic) (smshooks_source_lag_seconds{` + m.one + `})`, "{{topic}}"})).
		WithPanel(graph("Time to catch up", "Lag divided by the current rate, assuming no new events.", "s", 12,
			query{`sum by (topic) (max by (topic, partition) (smshooks_group_lag_records{` + m.sources + `})) / sum by (topic) (rate(smshooks_records_consumed_total{` + m.sources + `}[$__rate_interval]))`, "{{topic}}"})).
		WithPanel(list("Partitions now", "Lag of each partition, the largest first.", "none", 24, `sort_desc(max by (topic, partition) (smshooks_group_lag_records{`+m.sources+`}))`))
	b.WithRow(dashboard.NewRowBuilder("Delay topics")).
		WithPanel(graph("Delayed records", "Not late.", "none", 12, query{`max by (topic) (smshooks_retry_waiting_records{` + m.one + `})`, "{{topic}}"})).
		WithPanel(graph("Overdue", "Now minus the due time of the oldest delayed record.", "s", 12,
			query{`max by (topic) (smshooks_retry_overdue_seconds{` + m.one + `})`, "{{topic}}"})).
		WithPanel(graph("Delayed records by partition", "Not late.", "none", 12, query{`max by (topic, partition) (smshooks_group_lag_records{` + m.waiting + `}) > 0`, "{{topic}}/{{partition}}"})).
		WithPanel(graph("Orphaned records", "Records in topics of old delays that no setting names: see retry.drain.", "none", 12, query{`max(smshooks_unread_waiting_records{` + m.one + `})`, "unread"})).
		WithPanel(list("Topics now", "Delayed records of each topic, the most first.", "none", 24, `sort_desc(max by (topic) (smshooks_retry_waiting_records{`+m.one+`}))`))
	b.WithRow(dashboard.NewRowBuilder("Quality of the metrics")).
		WithPanel(graph("Age of the lag", "Time since Kafka last returned offsets. Above some seconds, the graphs above are out of date.", "s", 12,
			query{`max by (instance) (smshooks_lag_age_seconds{` + m.one + `})`, "{{instance}}"})).
		WithPanel(graph("Connections to Kafka", "New connections per second. Many mean that Kafka drops them.", "ops", 12,
			query{`sum by (instance) (rate(kafka_consumer_connects_total{` + m.one + `}[$__rate_interval]))`, "{{instance}}"}))
	return b
}
