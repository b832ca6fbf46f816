package consumer

import (
	"math"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// TestLagOfTheGroup checks that every member reports the metrics of the whole group, read from Kafka, whoever owns a
// partition.
func TestLagOfTheGroup(t *testing.T) {
	withEnv(t, 4, func(t *testing.T, w *env) {
		w.write(source, 0, 3, time.Time{})
		w.write(source, 3, 5, time.Time{})
		w.write(delayed, 1, 7, time.Now().Add(time.Hour))
		open := func(e *event.Event) bool { return e.Partition != 3 }
		a, b := w.join(open), w.join(open)
		time.Sleep(20 * time.Second)
		for name, m := range map[string]*member{"a": a, "b": b} {
			for partition, want := range []float64{0, 0, 0, 5} {
				if got := m.value(t, "smshooks_group_lag_records", source, strconv.Itoa(partition)); got != want {
					t.Errorf("%s: lag of partition %d = %v, want %v", name, partition, got, want)
				}
			}
			if got := m.value(t, "smshooks_retry_waiting_records", delayed); got != 7 {
				t.Errorf("%s: %v delayed, want 7", name, got)
			}
			if got := m.value(t, "smshooks_lag_age_seconds"); got > 3 {
				t.Errorf("%s: the lag is %v s old", name, got)
			}
		}
		w.cut(true)
		time.Sleep(time.Minute)
		if got := a.value(t, "smshooks_lag_age_seconds"); got < 50 {
			t.Errorf("after a minute without Kafka the lag is %v s old", got)
		}
		w.cut(false)
	})
}

// TestUnknownLag checks that lag is neither 0 before Kafka's first answer nor an old figure after its last one, and
// that an age is still reported if a record in memory shows it.
func TestUnknownLag(t *testing.T) {
	withEnv(t, 1, func(t *testing.T, w *env) {
		names := map[string]string{
			"smshooks_group_lag_records": source, "smshooks_source_lag_seconds": source,
			"smshooks_retry_waiting_records": delayed, "smshooks_retry_overdue_seconds": delayed,
		}
		want := func(when string, m *member, known bool) {
			t.Helper()
			for name, topic := range names {
				if got := m.known(t, name, topic); got != known {
					t.Errorf("%s %s of %s is known: %v, want %v", when, name, topic, got, known)
				}
			}
		}
		w.cut(true)
		m := w.join(func(*event.Event) bool { return true })
		want("at the start", m, false)
		time.Sleep(30 * time.Second)
		want("without an answer", m, false)
		w.cut(false)
		time.Sleep(30 * time.Second)
		want("after an answer", m, true)
		w.cut(true)
		time.Sleep(30 * time.Second)
		want("half a minute after the last answer", m, true)
		time.Sleep(time.Minute)
		want("long after the last answer", m, false)
		w.cut(false)
		time.Sleep(30 * time.Second)
		want("after an answer again", m, true)

		m.mu.Lock()
		m.settle = nil
		m.mu.Unlock()
		w.write(source, 0, 1, time.Time{})
		time.Sleep(time.Second)
		w.hideEnds()
		time.Sleep(2 * time.Minute)
		if got := m.value(t, "smshooks_source_lag_seconds", source); got < 115 {
			t.Errorf("the age of a record in memory is %v s, want about 120", got)
		}
		if m.known(t, "smshooks_group_lag_records", source) {
			t.Error("a partition without a leader has a lag")
		}
	})
}

// A record that is never settled shows in the metrics, whatever else is delivered.
func TestStalledAndGap(t *testing.T) {
	withEnv(t, 1, func(t *testing.T, w *env) {
		w.write(source, 0, 3, time.Time{})
		m := w.join(func(e *event.Event) bool { return e.Offset != 1 })
		time.Sleep(time.Minute)
		w.write(source, 0, 10, time.Time{})
		time.Sleep(time.Minute)
		if got := m.value(t, "smshooks_commit_stalled_seconds"); got < 100 || got > 130 {
			t.Errorf("stalled for %v s, want about 120", got)
		}
		if got := m.value(t, "smshooks_ledger_gap_records"); got != 0 {
			t.Errorf("a gap of %v", got)
		}
		e := m.take(source + "/0/1")
		m.buffer.subtract(e) // a record that leaves the buffer without a fate
		if got := m.value(t, "smshooks_ledger_gap_records"); got != 1 {
			t.Errorf("a gap of %v, want 1", got)
		}
		m.buffer.add(e)
		e.Acquire()
		e.Settle(webhook.Delivered)
		time.Sleep(5 * time.Second)
		for _, name := range []string{"smshooks_commit_stalled_seconds", "smshooks_ledger_gap_records"} {
			if got := m.value(t, name); got != 0 {
				t.Errorf("%s = %v while idle", name, got)
			}
		}
	})
}

// value returns a metric of the member; labels are values of its labels, in any order.
func (m *member) value(t *testing.T, name string, labels ...string) float64 {
	t.Helper()
	v, ok := m.find(t, name, labels...)
	if !ok {
		t.Fatalf("no %s of %v", name, labels)
	}
	return v
}

// known reports whether a topic's metric has a value.
func (m *member) known(t *testing.T, name, topic string) bool {
	t.Helper()
	v, ok := m.find(t, name, topic, "0")
	if !ok {
		v, ok = m.find(t, name, topic)
	}
	return ok && !math.IsNaN(v)
}

// find returns a metric of the member, and whether it exists.
func (m *member) find(t *testing.T, name string, labels ...string) (float64, bool) {
	t.Helper()
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, s := range f.GetMetric() {
			left := slices.Clone(labels)
			for _, l := range s.GetLabel() {
				left = slices.DeleteFunc(left, func(v string) bool { return v == l.GetValue() })
			}
			if len(left) == 0 {
				return s.GetCounter().GetValue() + s.GetGauge().GetValue(), true
			}
		}
	}
	return 0, false
}
