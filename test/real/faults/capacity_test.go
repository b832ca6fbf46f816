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
// up. It compares the page's assumptions with what happens: each event of the outage leaves one delayed record, and
// during the next delay the retries arrive at the rate of those events, in addition to the new ones.
func TestCapacity(t *testing.T) {
	inTurn(t)
	rate, delay := pick(200, 1000), pick(5*time.Second, 30*time.Second)
	rec := newCase(t, "17", "all endpoints are down for one delay", loadRate(rate, 3*delay))
	rec.did("all endpoints answer 503 for %v, which is also the delay of the retry topic", delay)
	s := newEnvOf(t, harness.Kafka(t).Addr, harness.Redis(t).Addr, 200, []time.Duration{delay, delay})
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
	harness.Pass(2 * delay)
	b := s.drain(t, l.end(t), backlog())
	b.judge(t, rec, judgement{healed: healed})

	failed, most := s.judge.retries()
	stored := p.Metrics(t).Sum("smshooks_settled_total", "fate", "retry")
	if failed == 0 || stored != float64(failed) {
		t.Errorf("%v records were stored for %d failed attempts", stored, failed)
	}
	rec.note("%.0f records waited, %.0f bytes each on disk", stored, s.bytesEach(t, harness.Retry(s.topics.DLR, delay.String()), stored))
	// Each retry comes one delay after its failure, so retries arrive at the rate of the events of the outage.
	if limit := delay + time.Second + harness.Slack(began); most > limit {
		t.Errorf("a retry came %v after its failure, want %v at most", most, limit)
	}
	rec.note("each retry came within %.1f s of the delay", (most - delay).Seconds())
	for i := range 3 { // the middle of each delay: the edges depend on other load on the machine
		from := began.Add(time.Duration(i)*delay + delay/4)
		rec.note("delay %d: %.0f attempts per second", i+1, s.perSecond(from, from.Add(delay/2)))
	}
}

// retries returns the number of failed attempts, and the longest time from one to the next attempt of its event.
func (j *judge) retries() (failed int, longest time.Duration) {
	for _, s := range j.events() {
		for i, h := range s.hits {
			if h.end != 0 && !h.ok {
				failed++
			}
			if i > 0 {
				longest = max(longest, h.start-s.hits[i-1].end)
			}
		}
	}
	return failed, longest
}

// perSecond returns the rate of requests that began between two times.
func (s *env) perSecond(from, to time.Time) float64 {
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

// bytesEach returns the average size of a topic's records on the broker's disk.
func (s *env) bytesEach(t testing.TB, topic string, records float64) float64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
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
