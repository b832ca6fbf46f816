package faults_test

import (
	"testing"
	"time"

	"github.com/smshooks/smshooks/test/real/harness"
)

const whyKafka = "what was finished while Kafka could not take the commit, of partitions that went to another member"

// TestBroker kills the only broker under load and restarts it.
func TestBroker(t *testing.T) {
	longOnly(t, "TestKafkaRestart")
	inTurn(t)
	rate, away := pick(500, 3000), pick(2*time.Second, 20*time.Second)
	rec := newCase(t, "2a", "the only broker is killed", loadRate(rate, away+10*time.Second))
	rec.did("a single broker is killed with SIGKILL under the load of two instances, stays away for %v and is started again", away)
	k := harness.OwnKafka(t)
	s := newEnv(t, k.Addr, harness.Redis(t).Addr, 300)
	members := s.members(t, 2)
	l := s.load(t, rate)
	s.judge.wait(t, 2*rate, patience)
	gone := time.Now()
	k.Kill(t)
	harness.Pass(away)
	k.Start(t)
	healed := time.Now()
	for _, p := range members {
		p.WaitReady(t, patience)
	}
	s.judge.wait(t, rate, patience)
	harness.Pass(pick(time.Second, 5*time.Second))
	b := s.drain(t, l.end(t), backlog())
	b.judge(t, rec, judgement{faults: []span{{from: gone, to: healed.Add(s.sessionTime())}}, healed: healed, why: whyKafka})
	wantAlive(t, members)
}

// sessionTime is the time within which a group re-forms after an outage of Kafka.
func (s *env) sessionTime() time.Duration { return 6 * time.Second }

func wantAlive(t testing.TB, members []*harness.Proc) {
	t.Helper()
	for _, p := range members {
		if !p.Running() {
			t.Error("an instance ended")
		}
	}
}

// TestBrokers kills one of three brokers, then a second one, so that writes are refused, and restarts both.
func TestBrokers(t *testing.T) {
	inTurn(t)
	rate, each := pick(300, 2000), pick(5*time.Second, 15*time.Second)
	rec := newCase(t, "2b", "one, then two of three brokers killed", loadRate(rate, 3*each+10*time.Second))
	rec.did("three brokers, three replicas, two of them in sync for each write: one broker is killed, %v later a second one, so that "+
		"Kafka refuses all writes and commits, %v later both are started again", each, each)
	c := harness.OwnCluster(t)
	s := newEnv(t, c.Addr, harness.Redis(t).Addr, 300)
	members := s.members(t, 2)
	l := s.load(t, rate)
	s.judge.wait(t, 2*rate, patience)

	one := time.Now()
	c.Brokers[1].Kill(t)
	harness.Pass(each)
	s.judge.wait(t, rate, patience)

	two := time.Now()
	c.Brokers[2].Kill(t)
	harness.Pass(each)
	written := l.written()
	harness.Pass(time.Second)
	if n := l.written() - written; n > 0 {
		t.Errorf("Kafka accepted %d events with one of three replicas left: the case is meaningless", n)
	}
	c.Brokers[1].Start(t)
	c.Brokers[2].Start(t)
	healed := time.Now()
	for _, p := range members {
		p.WaitReady(t, patience)
	}
	s.judge.wait(t, rate, patience)
	harness.Pass(5 * time.Second)
	b := s.drain(t, l.end(t), backlog())
	b.judge(t, rec, judgement{faults: []span{{from: one, to: one.Add(2 * s.sessionTime())}, {from: two, to: healed.Add(s.sessionTime())}}, healed: healed, why: whyKafka})
	wantAlive(t, members)
	longest := b.idle(one, two)
	rec.note("with two of three brokers no partition was without a first attempt for longer than %s", seconds(longest[len(longest)-1]))
}
