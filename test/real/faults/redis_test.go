package faults_test

import (
	"testing"
	"time"

	"github.com/smshooks/smshooks/test/real/harness"
)

// TestFlush empties Redis repeatedly under load. Settings must come back; only the memory of clicks may be lost.
func TestFlush(t *testing.T) {
	inTurn(t)
	rate, rounds := pick(500, 3000), pick(2, 6)
	rec := newCase(t, "4a", "FLUSHALL", loadRate(rate, time.Duration(rounds)*5*time.Second))
	rec.did("two instances; FLUSHALL under load, %d times, 5 s apart", rounds)
	r := harness.OwnRedis(t)
	s := newEnv(t, harness.Kafka(t).Addr, r.Addr, 2000)
	members := s.members(t, 2)
	l := s.load(t, rate)
	s.judge.wait(t, 2*rate, patience)
	var slowest time.Duration
	var healed time.Time
	for range rounds {
		r.FlushAll(t)
		healed = time.Now()
		cl := r.Client(t)
		harness.Eventually(t, patience, func() bool {
			n, err := cl.DBSize(t.Context()).Result()
			return err == nil && n >= s.users
		}, "%d users are in Redis again", s.users)
		if took := time.Since(healed); took > 5*time.Second+harness.Slack(healed) {
			t.Errorf("the users were in Redis again after %v, want 5 s at most", took)
		}
		slowest = max(slowest, time.Since(healed))
		harness.Pass(5*time.Second - time.Since(healed))
	}
	b := s.drain(t, l.end(t), backlog())
	rec.note("the settings of %d users were back after %.1f s at the latest", s.users, slowest.Seconds())
	b.judge(t, rec, judgement{healed: healed, forgets: true})
	wantAlive(t, members)
}

// TestRedisUnreachable stops Redis for longer than anything waits in memory.
func TestRedisUnreachable(t *testing.T) {
	longOnly(t, "TestRedisUnreachable of the real floor, and TestLinkRedis,")
	inTurn(t)
	rate, away := pick(300, 1000), pick(4*time.Second, time.Minute)
	rec := newCase(t, "4b", "Redis away", loadRate(rate, away+10*time.Second))
	rec.did("two instances; Redis is stopped under load, and started again %v later", away)
	r := harness.OwnRedis(t)
	s := newEnv(t, harness.Kafka(t).Addr, r.Addr, 300)
	members := s.members(t, 2)
	l := s.load(t, rate)
	s.judge.wait(t, 3*rate, patience)
	r.Stop(t)
	harness.Pass(time.Second)
	before := s.judge.count()
	harness.Pass(away - time.Second)
	wanted := before + int(float64(rate)*(away-time.Second).Seconds()/2)
	harness.Eventually(t, patience, func() bool { return s.judge.count() >= wanted }, "known users' events go on without Redis")
	meanwhile := s.judge.count() - before
	r.Start(t)
	healed := time.Now()
	for _, p := range members {
		p.WaitReady(t, patience)
	}
	harness.Pass(pick(2*time.Second, 10*time.Second))
	b := s.drain(t, l.end(t), 2*time.Minute)
	rec.note("%s requests were made while Redis was away", count(meanwhile))
	b.judge(t, rec, judgement{healed: healed})
	b.wantPurposes(t, members...)
	wantAlive(t, members)
}
