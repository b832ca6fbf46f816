package faults_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/smshooks/smshooks/test/real/harness"
)

// TestRefused makes the broker refuse the records of a retry topic, then the dead letters, as too large. The events
// must be kept and the log must report it, while other users' events go on. Once the topic accepts records again, they
// are stored.
func TestRefused(t *testing.T) {
	inTurn(t)
	rate, lasts := pick(300, 1000), pick(4*time.Second, 30*time.Second)
	rec := newCase(t, "9a", "max.message.bytes exceeded", loadRate(rate, 2*lasts))
	rec.did("max.message.bytes of the first retry topic, then of the dead letter topic, is set to 100 for %v each, so that the broker "+
		"refuses every record for it, and then back", lasts)
	s := newEnv(t, harness.Kafka(t).Addr, harness.Redis(t).Addr, 300)
	p := s.start(t)
	l := s.load(t, rate)
	s.judge.wait(t, rate, patience)
	var healed time.Time
	retry := harness.Retry(s.topics.DLR, s.schedule[0].String())
	for _, topic := range []string{retry, s.topics.DeadLetter} {
		began, said := time.Now(), len(p.Log()) // before the change, since the log reports only the first refusal
		s.limit(t, topic, "100")
		loudly := func() int { return strings.Count(p.Log()[said:], "cannot store a record") }
		harness.Eventually(t, patience, func() bool { return loudly() > 0 }, "%s refuses all records, and the log reports it", topic)
		harness.Pass(lasts)
		loud := loudly()
		what := map[string]string{retry: "the retry topic refuses", s.topics.DeadLetter: "the dead letter topic refuses"}[topic]
		rec.note("%s: %.1f error lines a second (the log is sampled), healthy events' p99 %v meanwhile", what,
			float64(loud)/time.Since(began).Seconds(), s.healthy(t, began, time.Now()))
		s.limit(t, topic, "1048588")
		healed = time.Now()
		harness.Pass(2 * time.Second)
	}
	b := s.drain(t, l.end(t), backlog())
	b.judge(t, rec, judgement{healed: healed})
	b.wantPurposes(t, p)
}

// limit sets max.message.bytes of a topic.
func (s *env) limit(t testing.TB, topic, bytes string) {
	t.Helper()
	adm := kadm.NewClient(harness.Client(t, s.brokers))
	name := "max.message.bytes"
	done, err := adm.AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: name, Value: &bytes}}, topic)
	if err == nil && len(done) > 0 {
		err = done[0].Err
	}
	if err != nil {
		t.Fatalf("set %s of %s: %v", name, topic, err)
	}
}

// healthy returns the 99th percentile of the delays of first attempts that began between two times and delivered their
// event.
func (s *env) healthy(t testing.TB, from, to time.Time) time.Duration {
	t.Helper()
	b := &ledger{s: s, produced: s.readSources(t, nil), seen: map[string]*seen{}}
	for id, e := range s.judge.events() {
		p, ok := b.produced[id]
		if ok && p.at.After(from) && p.at.Before(to) && len(e.hits) > 0 && e.hits[0].ok {
			b.seen[id] = e
		}
	}
	if len(b.seen) < 100 {
		t.Errorf("only %d healthy events between %v and %v", len(b.seen), from, to)
	}
	_, p99, _ := b.delays()
	return p99.Round(time.Millisecond)
}

// TestDiskFull fills the broker's disk while events fail and must be stored.
func TestDiskFull(t *testing.T) {
	inTurn(t)
	rate, lasts := pick(200, 500), pick(5*time.Second, 15*time.Second)
	rec := newCase(t, "9b", "disk full at the broker", loadRate(rate, 2*lasts))
	rec.did("the disk the broker writes to is filled up under load by another file, for %v; then that file is removed and the broker, "+
		"which ends itself when it cannot write, started again", lasts)
	k, disk := harness.SmallDiskKafka(t, 400)
	s := newEnv(t, k.Addr, harness.Redis(t).Addr, 300)
	p := s.start(t)
	s.judge.behave(func(kind string, user int64, attempt int) (int, time.Duration) {
		if attempt == 1 && user%2 == 0 {
			return http.StatusInternalServerError, 0
		}
		return usual(kind, user, attempt)
	})
	l := s.load(t, rate)
	s.judge.wait(t, 2*rate, patience)
	full, said := time.Now(), len(p.Log())
	disk.Fill(t)
	harness.Eventually(t, patience, func() bool { return !p.Ready() }, "the broker cannot write and the service is not ready")
	unready := time.Since(full)
	harness.Pass(lasts)
	if p.Ready() || k.Answers(t) {
		t.Error("the broker runs or the service is ready: the disk was not full")
	}
	loud := 0
	for _, line := range strings.Split(p.Log()[said:], "\n") {
		if strings.Contains(line, `"level":"error"`) || strings.Contains(line, `"level":"warn"`) {
			loud++
		}
	}
	if loud == 0 {
		t.Error("the log does not report it")
	}
	disk.Free(t)
	k.Restart(t)
	healed := time.Now()
	p.WaitReady(t, patience)
	harness.Pass(5 * time.Second)
	b := s.drain(t, l.end(t), backlog())
	rec.note("%d warnings and errors in the log from then on; /readyz was 503 after %.1f s and until the broker was back", loud, unready.Seconds())
	b.judge(t, rec, judgement{faults: []span{{from: full, to: healed.Add(s.sessionTime())}}, healed: healed, why: whyKafka})
	wantAlive(t, []*harness.Proc{p})
}
