// Package metrics holds the service's Prometheus metrics. All of them exist from the start, and no label contains a
// user id or a URL.
package metrics

import (
	"math"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/smshooks/smshooks/pkg/webhook"
)

// Metrics are the service's metrics. The counters of the hot path are looked up once, in New.
type Metrics struct {
	consumed map[string]prometheus.Counter
	settled  [webhook.NumKinds][webhook.NumFates]prometheus.Counter
	attempts [webhook.NumKinds][webhook.NumResults]prometheus.Counter
	failover [webhook.NumKinds][webhook.NumResults]prometheus.Counter
	dead     *prometheus.CounterVec
	took     [webhook.NumKinds]prometheus.Observer
	delivery [webhook.NumKinds]prometheus.Observer
	first    [webhook.NumKinds]prometheus.Observer

	Miskeyed     prometheus.Counter
	BadIDs       prometheus.Counter
	CommitErrors prometheus.Counter
	Rebalances   prometheus.Counter
	logDropped   prometheus.Counter
	events       *prometheus.CounterVec
	eventDropped prometheus.Counter
	unreadable   *prometheus.CounterVec
	localErrors  *prometheus.CounterVec
	skipped      *prometheus.CounterVec
	lag          *prometheus.GaugeVec
	delayed      *prometheus.GaugeVec
	overdue      *prometheus.GaugeVec
	sourceLag    *prometheus.GaugeVec
	configLag    prometheus.Gauge
	configLagMu  sync.Mutex
	configLagOf  map[string]int64 // by topic
	configUsers  prometheus.Gauge
	orphaned     prometheus.Gauge
	redisEvicts  prometheus.Gauge
	readings     [numReadings]atomic.Pointer[func() float64]
	factory      factory
}

// Reading is a gauge that is read when Prometheus scrapes.
type Reading int

// The readings. On an instance without the role consume they are 0, and LagAge is NaN: it measures no lag.
const (
	InFlight Reading = iota
	BufferedRecords
	BufferedBytes
	LagAge
	CommitStalled
	LedgerGap
	FailingEndpoints
	RunningRecoveries
	numReadings
)

// Topics are the values that labels may have.
type Topics struct {
	Consumed []string // source and delay topics
	Delayed  []string // the delay topics among them
	Settings []string // config and keys topics
	Dead     []string // dead letter topic

	Exhaustions []string // resources that the process may run out of
	Events      []string // types of endpoint events
}

// readings are the names and help texts of the readings.
var readings = [numReadings][2]string{
	InFlight:        {"smshooks_in_flight_requests", "HTTP requests in flight from this instance."},
	BufferedRecords: {"smshooks_buffered_records", "Records ingested and not settled."},
	BufferedBytes:   {"smshooks_buffered_bytes", "Bytes of the records ingested and not settled."},
	LagAge:          {"smshooks_lag_age_seconds", "Seconds since Kafka last returned end and committed offsets, from which lag and delayed records are computed; NaN without the role consume."},
	CommitStalled: {"smshooks_commit_stalled_seconds",
		"Longest time in seconds that a source partition of this instance has had unsettled records without its committed offset moving."},
	LedgerGap:         {"smshooks_ledger_gap_records", "Unsettled records of this instance's partitions minus those that are gated or buffered; normally 0."},
	FailingEndpoints:  {"smshooks_failing_endpoints", "Endpoints whose last attempt failed; every consuming instance knows all, so aggregate with max."},
	RunningRecoveries: {"smshooks_running_recoveries", "Recoveries that have delayed events left to release, of all instances; every instance knows all, so aggregate with max."},
}

// LogLinesDropped registers and returns the counter of log lines that were not written. Logging begins before [New].
func LogLinesDropped(reg prometheus.Registerer) prometheus.Counter {
	return factory{reg}.counter("smshooks_log_lines_dropped_total", "Log lines that were not written, because they repeated too often within a second or stderr was closed.")
}

type factory struct{ reg prometheus.Registerer }

func (f factory) counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	f.reg.MustRegister(c)
	return c
}

func (f factory) counters(name, help string, labels ...string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	f.reg.MustRegister(v)
	return v
}

func (f factory) gauge(name, help string) prometheus.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	f.reg.MustRegister(g)
	return g
}

func (f factory) gauges(name, help string, labels ...string) *prometheus.GaugeVec {
	v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	f.reg.MustRegister(v)
	return v
}

func (f factory) histograms(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
	f.reg.MustRegister(v)
	return v
}

// New registers all metrics with reg.
func New(reg prometheus.Registerer, topics Topics) *Metrics {
	f := factory{reg}
	m := &Metrics{factory: f, consumed: map[string]prometheus.Counter{}}
	consumed := f.counters("smshooks_records_consumed_total", "Records of source and delay topics that were settled.", "topic")
	for _, t := range topics.Consumed {
		m.consumed[t] = consumed.WithLabelValues(t)
	}
	settled := f.counters("smshooks_settled_total", "Records settled, by kind and fate; each record has exactly one fate.", "kind", "fate")
	m.dead = f.counters("smshooks_dead_letters_total", "Events stored as dead letters, by kind and reason.", "kind", "reason")
	attempts := f.counters("smshooks_attempts_total", "Attempts, by kind and result.", "kind", "result")
	failover := f.counters("smshooks_failover_total", "Requests to failover URLs, by kind and result.", "kind", "result")
	took := f.histograms("smshooks_attempt_seconds", "Duration of an attempt in seconds, from dial to the last byte of the reply.",
		[]float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}, "kind")
	delivery := f.histograms("smshooks_event_to_delivery_seconds", "Seconds from an event's time, or its replay, to its delivery.",
		[]float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 21600, 43200, 86400}, "kind")
	first := f.histograms("smshooks_first_attempt_seconds",
		"Seconds from an event's time to the start of its first attempt, of events that were not stored in a delay topic before.",
		[]float64{.01, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 21600}, "kind")
	for _, k := range webhook.Kinds() {
		for _, fate := range webhook.Fates() {
			m.settled[k][fate] = settled.WithLabelValues(k.String(), fate.String())
		}
		for _, reason := range webhook.Reasons() {
			m.dead.WithLabelValues(k.String(), string(reason))
		}
		for _, r := range webhook.Results() {
			m.attempts[k][r] = attempts.WithLabelValues(k.String(), r.String())
			m.failover[k][r] = failover.WithLabelValues(k.String(), r.String())
		}
		m.took[k] = took.WithLabelValues(k.String())
		m.delivery[k] = delivery.WithLabelValues(k.String())
		m.first[k] = first.WithLabelValues(k.String())
	}
	m.Miskeyed = f.counter("smshooks_miskeyed_records_total", "Records whose key is not the user_id of their value.")
	m.BadIDs = f.counter("smshooks_bad_ids_total", "Source records whose webhook-id header is invalid and was ignored.")
	m.CommitErrors = f.counter("smshooks_commit_errors_total", "Offset commits that failed: one per refused partition, or one per request without a reply; they are retried.")
	m.Rebalances = f.counter("smshooks_rebalances_total", "Times that partitions were assigned to this instance or taken from it.")
	m.logDropped = f.counter("smshooks_delivery_log_dropped_total", "Attempts and states missing in the delivery log because Redis was unreachable or slow.")
	m.events = f.counters("smshooks_endpoint_events_total", "Endpoint events stored, by type.", "type")
	for _, t := range topics.Events {
		m.events.WithLabelValues(t)
	}
	m.eventDropped = f.counter("smshooks_endpoint_events_dropped_total", "Endpoint events that could not be stored, and results of attempts that they do not count because too many came at once.")
	m.unreadable = f.counters("smshooks_unreadable_settings_total", "Records of the config and keys topics that could not be read and were skipped, or hold a secret that cannot be used.", "topic")
	for _, t := range topics.Settings {
		m.unreadable.WithLabelValues(t)
	}
	m.localErrors = f.counters("smshooks_local_errors_total", "Requests postponed because this process ran out of descriptors, ports, buffers or memory; they do not count as attempts.", "reason")
	for _, reason := range topics.Exhaustions {
		m.localErrors.WithLabelValues(reason)
	}
	m.skipped = f.counters("smshooks_skipped_batches_total", "Batches that were too large or undecodable and were skipped with all their records.", "topic")
	for _, t := range slices.Concat(topics.Consumed, topics.Settings, topics.Dead) {
		m.skipped.WithLabelValues(t)
	}
	m.registerGauges(topics)
	return m
}

// registerGauges registers the gauges. Those that need an answer of Kafka are unknown until it has come.
func (m *Metrics) registerGauges(topics Topics) {
	f := m.factory
	m.lag = f.gauges("smshooks_group_lag_records", "Records of a partition between the group's committed offset and the end; absent if unknown for a minute; every consuming instance reports all partitions, so aggregate with max.", "topic", "partition")
	m.delayed = f.gauges("smshooks_retry_waiting_records", "Records of a delay topic above the committed offsets; NaN if unknown for a minute; every consuming instance reports the same, so aggregate with max.", "topic")
	m.overdue = f.gauges("smshooks_retry_overdue_seconds", "Seconds since the oldest delayed record in this instance's partitions was due, fetched or not; 0 if none is due, NaN if unknown for a minute.", "topic")
	m.sourceLag = f.gauges("smshooks_source_lag_seconds", "Age in seconds of the oldest unsettled record of a source in this instance's partitions, fetched or not; 0 if there is none, NaN if unknown for a minute.", "topic")
	for _, t := range topics.Consumed {
		if !slices.Contains(topics.Delayed, t) {
			m.SourceLagUnknown(t)
		}
	}
	for _, t := range topics.Delayed {
		m.DelayedUnknown(t)
		m.OverdueUnknown(t)
	}
	m.configLagOf = map[string]int64{}
	m.configLag = f.gauge("smshooks_config_lag_records", "Records of the config and keys topics that are not yet applied.")
	m.configUsers = f.gauge("smshooks_config_users", "Users whose settings are cached in memory, at most 200,000.")
	m.orphaned = f.gauge("smshooks_unread_waiting_records", "Records in orphaned delay topics, whose delay is in no setting, so that they are not read.")
	m.redisEvicts = f.gauge("smshooks_redis_evicts", "1 if a Redis server may evict keys because its maxmemory-policy is not noeviction, else 0.")
	for i, r := range readings {
		f.reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: r[0], Help: r[1]}, func() float64 {
			switch read := m.readings[i].Load(); {
			case read != nil:
				return (*read)()
			case Reading(i) == LagAge:
				return math.NaN()
			}
			return 0
		}))
	}
}

// Read sets the function that returns the value of a reading.
func (m *Metrics) Read(r Reading, value func() float64) { m.readings[r].Store(&value) }

// Settled counts a record of topic, of kind k, whose fate is stored.
func (m *Metrics) Settled(topic string, k webhook.Kind, fate webhook.Fate) {
	if c := m.consumed[topic]; c != nil {
		c.Inc()
	}
	m.settled[k][fate].Inc()
}

// DeadLetter counts an event that was stored as a dead letter.
func (m *Metrics) DeadLetter(k webhook.Kind, reason webhook.Reason) {
	m.dead.WithLabelValues(k.String(), string(reason)).Inc()
}

// Build sets the version of the program.
func (m *Metrics) Build(version string) {
	build := m.factory.gauges("smshooks_build_info", "Always 1; the labels are the version and the Go version that built it.", "version", "go_version")
	build.WithLabelValues(version, runtime.Version()).Set(1)
}

// Attempt counts an attempt and observes how long it took.
func (m *Metrics) Attempt(k webhook.Kind, r webhook.Result, took time.Duration) {
	m.attempts[k][r].Inc()
	m.took[k].Observe(took.Seconds())
}

// Failover counts a request to a failover URL.
func (m *Metrics) Failover(k webhook.Kind, r webhook.Result) { m.failover[k][r].Inc() }

// Delivered observes how long after its time an event was delivered.
func (m *Metrics) Delivered(k webhook.Kind, after time.Duration) {
	m.delivery[k].Observe(max(after.Seconds(), 0))
}

// FirstAttempt observes how long after its time an event was attempted for the first time.
func (m *Metrics) FirstAttempt(k webhook.Kind, after time.Duration) {
	m.first[k].Observe(max(after.Seconds(), 0))
}

// Lag sets the lag of a partition in records.
func (m *Metrics) Lag(topic string, partition int32, records int64) {
	m.lag.WithLabelValues(topic, strconv.Itoa(int(partition))).Set(float64(records))
}

// LagUnknown removes the lag of a partition, which cannot be measured.
func (m *Metrics) LagUnknown(topic string, partition int32) {
	m.lag.DeleteLabelValues(topic, strconv.Itoa(int(partition)))
}

// Delayed sets how many records of a delay topic are above the committed offsets.
func (m *Metrics) Delayed(topic string, records int64) {
	m.delayed.WithLabelValues(topic).Set(float64(records))
}

// DelayedUnknown sets the number of delayed records to NaN, because it cannot be measured.
func (m *Metrics) DelayedUnknown(topic string) { m.delayed.WithLabelValues(topic).Set(math.NaN()) }

// Overdue sets how long ago the oldest record of a delay topic was due.
func (m *Metrics) Overdue(topic string, by time.Duration) {
	m.overdue.WithLabelValues(topic).Set(by.Seconds())
}

// OverdueUnknown sets the time since the oldest record was due to NaN, because it cannot be measured.
func (m *Metrics) OverdueUnknown(topic string) { m.overdue.WithLabelValues(topic).Set(math.NaN()) }

// SourceLag sets the age of the oldest unsettled record of a source.
func (m *Metrics) SourceLag(topic string, age time.Duration) {
	m.sourceLag.WithLabelValues(topic).Set(age.Seconds())
}

// SourceLagUnknown sets the age of the oldest unsettled record to NaN, because it cannot be measured.
func (m *Metrics) SourceLagUnknown(topic string) { m.sourceLag.WithLabelValues(topic).Set(math.NaN()) }

// ConfigLag sets how many records of the config or keys topic are not applied yet.
func (m *Metrics) ConfigLag(topic string, records int64) {
	m.configLagMu.Lock()
	defer m.configLagMu.Unlock()
	m.configLag.Add(float64(records - m.configLagOf[topic]))
	m.configLagOf[topic] = records
}

// ConfigUsers sets how many users' settings are cached.
func (m *Metrics) ConfigUsers(n int) { m.configUsers.Set(float64(n)) }

// RedisEvicts sets whether Redis may evict keys.
func (m *Metrics) RedisEvicts(may bool) {
	m.redisEvicts.Set(0)
	if may {
		m.redisEvicts.Set(1)
	}
}

// Orphaned sets how many records orphaned delay topics hold.
func (m *Metrics) Orphaned(records int64) { m.orphaned.Set(float64(records)) }

// UnreadableRecord counts a skipped record of the config or keys topic.
func (m *Metrics) UnreadableRecord(topic string) { m.unreadable.WithLabelValues(topic).Inc() }

// EndpointEvent counts an endpoint event that was stored.
func (m *Metrics) EndpointEvent(eventType string) { m.events.WithLabelValues(eventType).Inc() }

// EndpointEventDropped counts an endpoint event that was not stored, or a result that the events do not count.
func (m *Metrics) EndpointEventDropped() { m.eventDropped.Inc() }

// LocalError counts a request that was postponed because the process ran out of a resource.
func (m *Metrics) LocalError(reason string) { m.localErrors.WithLabelValues(reason).Inc() }

// BatchSkipped counts a batch of a topic that could not be read and was skipped.
func (m *Metrics) BatchSkipped(topic string) { m.skipped.WithLabelValues(topic).Inc() }

// DeliveryLogDropped counts attempts that are missing in the delivery log.
func (m *Metrics) DeliveryLogDropped(attempts int) { m.logDropped.Add(float64(attempts)) }
