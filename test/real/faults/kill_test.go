package faults_test

import (
	"testing"
	"time"

	"github.com/smshooks/smshooks/test/real/harness"
)

// TestKill: one of three instances is killed with SIGKILL every two seconds and started again.
func TestKill(t *testing.T) {
	harness.Need(t)
	rate, lasts := pick(1000, 5000), pick(8*time.Second, time.Minute)
	rec := newCase(t, "1", "kill -9 of one of three instances", loadRate(rate, lasts))
	rec.did("one of three instances was killed with SIGKILL every 2 s for %v, each time another one, and started again at once", lasts)
	s := newStage(t, harness.Kafka(t).Addr, harness.Redis(t).Addr, 500, "--kafka.session_timeout=2s")
	members := []*harness.Proc{s.start(t), s.start(t), s.start(t)}
	l := s.load(t, rate)
	s.judge.wait(t, rate, 20*time.Second)
	var kills []span
	for began := time.Now(); time.Since(began) < lasts; harness.Pass(2 * time.Second) {
		n := len(kills) % 3
		members[n].Kill()
		kills = append(kills, at(time.Now()))
		members[n] = harness.Start(t, s.options())
	}
	healed := time.Now()
	for _, p := range members {
		p.WaitReady(t, 30*time.Second)
	}
	harness.Pass(pick(2*time.Second, 5*time.Second))
	acked := l.end(t)
	b := s.drain(t, acked, 2*time.Minute)
	rec.note("%d kills", len(kills))
	b.judge(t, rec, judgement{faults: kills, healed: healed, why: "in flight or not yet committed when the instance was killed"})
}
