package faults_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/test/real/harness"
)

// TestCapacity is the scaled run behind docs/capacity.md: all endpoints are down for one delay of the schedule, then
// up. What the page reckons with is held against what happens: one record waits per event of the outage, and in the
// delay after it the retries come at the rate at which the events came, on top of the new ones.
func TestCapacity(t *testing.T) {
	inTurn(t)
	rate, delay := pick(200, 1000), pick(5*time.Second, 30*time.Second)
	rec := newCase(t, "17", "all endpoints are down for one delay", loadRate(rate, 3*delay))
	rec.did("all endpoints answer 503 for %v, which is also the delay of the retry topic", delay)
	s := newStageOf(t, harness.Kafka(t).Addr, harness.Redis(t).Addr, 200, []time.Duration{delay, delay})
	s.judge.behave(func(string, int64, int) (int, time.Duration) { return http.StatusServiceUnavailable, time.Millisecond })
	p := s.start(t)

	began := time.Now()
	l := s.loadOf(t, rate, func(n int64) *kgo.Record {
		user := n%s.users + 1
		return harness.Event(s.topics.DLR, user, harness.DLRValue(user, n))
	})
	harness.Pass(delay)
	s.judge.behave(func(string, int64, int) (int, time.Duration) { return http.StatusOK, time.Millisecond })
	healed := time.Now()
	parked := p.Metrics(t).Sum("smshooks_settled_total", "fate", "retry")
	if want := float64(rate) * delay.Seconds(); parked < 0.85*want || parked > 1.1*want {
		t.Errorf("%v records wait after the outage, want about %v", parked, want)
	}
	rec.note("%.0f records waited, %.0f bytes each on disk", parked, s.bytesEach(t, harness.Retry(s.topics.DLR, delay.String()), parked))
	harness.Pass(2 * delay)
	b := s.drain(t, l.end(t), backlog())
	b.judge(t, rec, judgement{healed: healed})

	// The middle of each delay, away from the edges.
	for i, want := range []float64{1, 2, 1} {
		from := began.Add(time.Duration(i)*delay + delay/4)
		got := s.perSecond(from, from.Add(delay/2))
		rec.note("delay %d: %.0f attempts per second", i+1, got)
		if low, high := 0.8*want*float64(rate), 1.2*want*float64(rate); got < low || got > high {
			t.Errorf("%.0f attempts per second in delay %d, want %.0f", got, i+1, want*float64(rate))
		}
	}
}

// perSecond is the rate of requests begun between two times.
func (s *stage) perSecond(from, to time.Time) float64 {
	s.judge.mu.Lock()
	defer s.judge.mu.Unlock()
	n := 0
	for _, h := range s.judge.hits {
		if at := s.judge.began.Add(h.start); at.After(from) && at.Before(to) {
			n++
		}
	}
	return float64(n) / to.Sub(from).Seconds()
}

// bytesEach is what a record of a topic takes on the broker's disk.
func (s *stage) bytesEach(t testing.TB, topic string, records float64) float64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	dirs, err := kadm.NewClient(harness.Client(t, s.brokers)).DescribeAllLogDirs(ctx, nil)
	if err != nil {
		t.Fatalf("size of %s: %v", topic, err)
	}
	bytes := int64(0)
	dirs.Each(func(d kadm.DescribedLogDir) {
		d.Topics.Each(func(p kadm.DescribedLogDirPartition) {
			if p.Topic == topic {
				bytes += p.Size
			}
		})
	})
	return float64(bytes) / max(records, 1)
}
