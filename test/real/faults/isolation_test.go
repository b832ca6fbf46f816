package faults_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/test/real/harness"
)

// crowdEnv is an env with the users of a crowd.
func crowdEnv(t *testing.T, c *crowd, users int64) *env {
	t.Helper()
	broker := harness.Kafka
	if long() {
		broker = harness.OwnKafka // on a shared one the p99 without hung users rose from 28 to 236 ms over twelve cases
	}
	s := newEnv(t, broker(t).Addr, harness.Redis(t).Addr, 1, "--topics.partitions=12", "--dispatch.timeout="+pick("2s", "10s"))
	var records []*kgo.Record
	for user := int64(1); user <= users; user++ {
		records = append(records, harness.WebhookRecord(t, s.topics.Config, user, harness.Webhook{DLR: fmt.Sprintf("http://%s/dlr/%d?token=%s", c.addr, user, envToken), Auth: "crowd:" + envPassword}))
	}
	harness.ProduceMany(t, s.brokers, records)
	return s
}

// memory observes the memory of an instance.
type memory struct{ resident, buffered float64 }

func (m *memory) look(t testing.TB, p *harness.Proc) func() {
	return func() {
		now := p.Metrics(t)
		m.resident = max(m.resident, now.Sum("process_resident_memory_bytes"))
		m.buffered = max(m.buffered, now.Sum("smshooks_buffered_bytes"))
	}
}

// The limits. Buffered: dispatch.max_buffered_bytes and one poll. Resident: twice that for a heap during garbage
// collection, the clients' buffers and the program itself.
const (
	maxBuffered = 72 << 20
	maxResident = 300 << 20
)

// TestIsolation has a thousand users, some of whom hang or answer 500 slowly. The others' events must be delivered as
// fast as without them, memory must stay within its limits, and the events of the hung users must be accounted for. A
// hand-written consumer runs for comparison.
func TestIsolation(t *testing.T) {
	longOnly(t, "TestIsolation of the real floor")
	harness.Need(t)
	const users = 1000
	rate := pick(500, 1000)
	var cases []traffic
	for _, hung := range []int64{1, 10, 100} {
		for _, percent := range []int64{2, 20} {
			for _, slowly := range []bool{false, true} {
				cases = append(cases, traffic{hung: hung, percent: percent, slowly: slowly})
			}
		}
	}
	if !long() {
		cases = []traffic{{hung: 10, percent: 20}}
	}
	for _, f := range cases {
		f.users, f.perSecond, f.lasts = users, rate, pick(5*time.Second, 10*time.Minute)
		t.Run(f.String(), func(t *testing.T) { isolate(t, f) })
		if f.hung == 1 && f.percent == 2 && !f.slowly && long() { // a comparison, not a check
			f.lasts = 45 * time.Second // long enough to see it fall behind
			t.Run("hand-written, "+f.String(), func(t *testing.T) { isolateHandwritten(t, f) })
		}
	}
}

func isolate(t *testing.T, f traffic) {
	rec := newCase(t, "13", f.String(), loadRate(f.perSecond, f.lasts))
	rec.did("events of %d healthy users, before, while and after %v", f.users-f.hung, f)
	c := newCrowd(t)
	s := crowdEnv(t, c, f.users)
	c.schedule = s.schedule
	p := s.start(t)
	var m memory
	calm := f
	calm.perSecond, calm.hung, calm.percent, calm.lasts = f.perSecond*int(100-f.percent)/100, 0, 0, min(f.lasts, time.Minute)
	c.run(t, s, traffic{users: f.users, perSecond: f.perSecond, lasts: 2 * time.Second}, func() {}) // connections and caches
	before := c.wait(c.run(t, s, calm, m.look(t, p)), patience)
	c.misbehave(f.hung, f.slowly)
	during := c.wait(c.run(t, s, f, m.look(t, p)), patience)
	c.misbehave(0, false)
	base := before
	if long() {
		if after := c.wait(c.run(t, s, calm, m.look(t, p)), patience); after.at(99) > base.at(99) {
			base = after // the slower of the two, because other load on the machine varies
		}
	}
	missing, delivered, dead := c.account(t, s, during, pick(patience, 10*time.Minute))
	rec.note("without them: %v", base)
	rec.note("with them: %v", during)
	rec.note("at most %.0f MiB resident, %.1f MiB of events buffered", m.resident/(1<<20), m.buffered/(1<<20))
	rec.set(func(r *result) {
		r.Produced, r.Delivered, r.Dead, r.Missing = during.to-during.from, delivered, dead, missing
	})
	c.wantInOrder(t, rec)
	if during.delivered != during.healthy {
		t.Errorf("%d healthy events are missing", during.healthy-during.delivered)
	}
	// In a short run, one pause of the machine decides the 99th percentile.
	if limit := base.at(99)*3/2 + pick(250*time.Millisecond+harness.Slack(c.began), 0); during.at(99) > limit {
		t.Errorf("healthy p99 is %v with them, %v without: more than 1.5 times", during.at(99), base.at(99))
	}
	if m.buffered > maxBuffered || m.resident > maxResident {
		t.Errorf("%.0f MiB resident, %.1f MiB of events buffered", m.resident/(1<<20), m.buffered/(1<<20))
	}
	p.WaitBalanced(t, 1, patience)
}

// account waits until each event of a phase is delivered, or is dead after all attempts at a user that hung. No user
// hangs any more.
func (c *crowd) account(t *testing.T, s *env, p phase, timeout time.Duration) (missing, delivered, dead int) {
	t.Helper()
	every := int32(1)<<(len(s.schedule)+2) - 2 // attempts 1 to 3, one bit each
	for deadline := time.Now().Add(timeout); ; harness.Pass(500 * time.Millisecond) {
		given := map[string]bool{} // up to now; later ones are examined in the next round
		for _, r := range harness.Consume(t, s.brokers, s.topics.DeadLetter) {
			given[string(r.Value)] = harness.Header(r, "smshooks-reason") == "attempts_exhausted"
		}
		missing, delivered, dead = 0, 0, 0
		c.mu.Lock()
		for n := p.from; n < p.to; n++ {
			switch {
			case c.ok[n]:
				delivered++
			case given[harness.DLRValue(c.users[n], int64(n))] && c.users[n] <= p.hung && c.attempts[n] == every:
				dead++
			default:
				missing++
			}
		}
		c.mu.Unlock()
		if missing == 0 {
			return 0, delivered, dead
		}
		if time.Now().After(deadline) {
			t.Errorf("%d events are neither delivered nor dead %v after the last user stopped hanging", missing, timeout)
			return missing, delivered, dead
		}
	}
}

// wantInOrder checks that no attempt was repeated, beyond the third or early.
func (c *crowd) wantInOrder(t *testing.T, rec *caseRecord) {
	t.Helper()
	slack := harness.Slack(c.began)
	c.mu.Lock()
	defer c.mu.Unlock()
	early := c.early(slack)
	rec.set(func(r *result) { r.Duplicates, r.Unexplained, r.Beyond, r.Early = c.again, c.again, c.beyond, early })
	if c.again > 0 || c.beyond > 0 || early > 0 {
		t.Errorf("%d attempts were repeated, %d were beyond the third, %d early", c.again, c.beyond, early)
	}
}

func isolateHandwritten(t *testing.T, f traffic) {
	rec := newCase(t, "13h", "for comparison, a hand-written consumer: "+f.String(), loadRate(f.perSecond, f.lasts))
	rec.did("the same load, consumed by a pool of 64 workers with a commit per batch")
	c := newCrowd(t)
	s := crowdEnv(t, c, f.users)
	stop := startHandwritten(t, s, "http://"+c.addr)
	calm := f
	calm.perSecond, calm.hung, calm.percent, calm.lasts = f.perSecond*int(100-f.percent)/100, 0, 0, min(f.lasts, pick(3*time.Second, 20*time.Second))
	c.wait(c.run(t, s, traffic{users: f.users, perSecond: 100, lasts: time.Second}, func() {}), patience)
	before := c.wait(c.run(t, s, calm, func() {}), patience)
	if before.delivered != before.healthy {
		t.Errorf("without anybody who hangs: %v", before)
	}
	c.misbehave(f.hung, f.slowly)
	during := c.wait(c.run(t, s, f, func() {}), time.Second)
	stop()
	rec.note("without them: %v", before)
	rec.note("with them: %v by the end of the load", during)
	rec.set(func(r *result) { r.Produced, r.Delivered = during.to-during.from, during.delivered })
}

// TestIsolationBacklog processes a backlog, part of it for an endpoint that hangs. The others' events must be delivered
// meanwhile.
func TestIsolationBacklog(t *testing.T) {
	longOnly(t, "TestIsolation of the real floor")
	harness.Need(t)
	f := traffic{users: 1000, hung: 1, percent: 2}
	total := int64(pick(10_000, 100_000))
	lasts := pick(8*time.Second, 16*time.Second)
	load := fmt.Sprintf("a backlog of %s", count(int(total)))
	t.Run("smshooks", func(t *testing.T) {
		rec := newCase(t, "13b", "a backlog, 2% for one who hangs", load)
		rec.did("a backlog was written, then the service started; one user of a thousand, to whom 2%% of it goes, hangs")
		c := newCrowd(t)
		s := crowdEnv(t, c, f.users)
		c.schedule = s.schedule
		c.misbehave(f.hung, false)
		p := c.backlog(t, s, f, total)
		proc := s.start(t)
		var m memory
		m.look(t, proc)()
		p = c.wait(p, 2*lasts+harness.Slack(c.began))
		m.look(t, proc)()
		c.misbehave(0, false)
		missing, delivered, dead := c.account(t, s, p, pick(patience, 5*time.Minute))
		rec.note("healthy events: %s of %s within %.1f s of the start of the program", count(p.delivered), count(p.healthy), p.took.Seconds())
		rec.note("%.0f MiB resident", m.resident/(1<<20))
		rec.set(func(r *result) {
			r.Produced, r.Delivered, r.Dead, r.Missing = int(total), delivered, dead, missing
		})
		c.wantInOrder(t, rec)
		if p.delivered != p.healthy || p.took > lasts+harness.Slack(c.began) {
			t.Errorf("%d of %d healthy events within %v", p.delivered, p.healthy, p.took)
		}
		if m.buffered > maxBuffered || m.resident > maxResident {
			t.Errorf("%.0f MiB resident, %.1f MiB of events buffered", m.resident/(1<<20), m.buffered/(1<<20))
		}
	})
	if !long() {
		return // the rest is a comparison, not a check
	}
	t.Run("hand-written", func(t *testing.T) {
		rec := newCase(t, "13b", "for comparison, a hand-written consumer: a backlog, 2% for one who hangs", load)
		rec.did("the same backlog, consumed by a pool of 64 workers with a commit per batch")
		c := newCrowd(t)
		s := crowdEnv(t, c, f.users)
		c.misbehave(f.hung, false)
		p := c.backlog(t, s, f, total)
		stop := startHandwritten(t, s, "http://"+c.addr)
		p = c.wait(p, pick(5*time.Second, 45*time.Second))
		stop()
		if p.delivered == 0 {
			t.Error("it delivered nothing: the comparison is meaningless")
		}
		rec.note("healthy events: %s of %s within %v", count(p.delivered), count(p.healthy), pick(5*time.Second, 45*time.Second))
		rec.set(func(r *result) { r.Produced, r.Delivered = int(total), p.delivered })
	})
}
