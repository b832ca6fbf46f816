package real_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/test/real/harness"
)

// ownEnv returns an env whose servers the test may stop; false means the shared one.
func ownEnv(t testing.TB, kafka, redis bool, flags ...string) *env {
	t.Helper()
	e := &env{topics: harness.TopicsFor(t)}
	if kafka {
		e.kafka = harness.OwnKafka(t)
	} else {
		e.kafka = harness.Kafka(t)
	}
	if redis {
		e.redis = harness.OwnRedis(t)
	} else {
		e.redis = harness.Redis(t)
	}
	e.begin(t, flags)
	return e
}

func notConfigured(t testing.TB, p *harness.Proc) float64 {
	return p.Metrics(t).Sum("smshooks_settled_total", "fate", "not_configured")
}

// TestKafkaRestart stops Kafka under load, cleanly and by kill -9. Nothing may be lost or settled as not configured,
// and only what could not be committed may be sent again.
func TestKafkaRestart(t *testing.T) {
	for name, away := range map[string]func(*harness.Broker){
		"stop": func(b *harness.Broker) { b.Stop(t) },
		"kill": func(b *harness.Broker) { b.Kill(t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const users = 30
			e := ownEnv(t, true, false, "--kafka.session_timeout=45s")
			crowd(t, e, users)
			p := e.serve(t)
			l := startLoad(t, e, users, 100*time.Millisecond)
			e.recv.WaitCount(t, "", 500, harness.Patience)
			away(e.kafka)
			gone := time.Now()
			harness.Eventually(t, harness.Patience, func() bool { return !p.Ready() }, "not ready without Kafka")
			harness.Pass(2 * time.Second)
			e.kafka.Start(t)
			p.WaitReady(t, harness.Patience)
			t.Logf("ready %v after Kafka was stopped", time.Since(gone).Round(time.Millisecond))
			from := e.recv.Count("")
			e.recv.WaitCount(t, "", from+500, harness.Patience)
			events := l.end()
			harness.Eventually(t, harness.Patience, func() bool { return len(succeeded(e)) >= len(events) }, "all %d events delivered", len(events))
			if !p.Running() {
				t.Fatal("the service ended")
			}
			p.WaitBalanced(t, float64(len(events)), harness.Patience)
			if n := notConfigured(t, p); n != 0 {
				t.Errorf("%v events not configured", n)
			}
			// answered requests are finished, whatever the group does after the outage; an event that failed just then may be
			// in its retry topic without the service having heard so
			again := map[string]int{}
			for what, n := range count(e) {
				if n > 1 {
					again[what] = n
				}
			}
			t.Logf("%d events, %d requests again", len(events), len(again))
			for _, r := range e.recv.Requests("") {
				what := r.Header.Get("Webhook-Id") + " " + r.Header.Get("Webhook-Attempt")
				if user, _ := strconv.Atoi(r.Path[len("/dlr/"):]); again[what] > 1 && user%10 != 0 {
					t.Errorf("%s to %s was received %d times although the service did not crash", what, r.Path, again[what])
				}
			}
		})
	}
}

// TestAwayAtStart checks that the service is not ready without Kafka or Redis, and becomes ready by itself.
func TestAwayAtStart(t *testing.T) {
	t.Parallel()
	e := ownEnv(t, true, true)
	e.configure(t, map[int64]harness.Webhook{1: e.all(1, "")})
	e.emit(t, e.dlr(1, 1), e.click(1, 2))
	e.kafka.Stop(t)
	e.redis.Stop(t)
	p := harness.Start(t, e.options())
	wantUnready := func(reason string) {
		t.Helper()
		harness.Eventually(t, harness.Patience, p.Alive, "/healthz answers")
		for range 20 {
			if !p.Running() {
				t.Fatalf("ended without %s", reason)
			}
			if p.Ready() {
				t.Fatalf("ready without %s", reason)
			}
			harness.Pass(100 * time.Millisecond)
		}
	}
	wantUnready("Kafka and Redis")
	e.kafka.Start(t)
	wantUnready("Redis")
	if n := e.recv.Count("/click/1"); n != 0 {
		t.Errorf("%d clicks without Redis", n)
	}
	e.redis.Start(t)
	p.WaitReady(t, harness.Patience)
	e.recv.WaitCount(t, "/dlr/1", 1, harness.Patience)
	e.recv.WaitCount(t, "/click/1", 1, harness.Patience)
	if n := notConfigured(t, p); n != 0 {
		t.Errorf("%v events not configured", n)
	}
	// and it stops cleanly while both are unreachable
	e.kafka.Stop(t)
	e.redis.Stop(t)
	began := time.Now()
	code := p.Term(t)
	t.Logf("stopped with exit code %d after %v without Kafka and Redis", code, time.Since(began).Round(time.Millisecond))
	if took := time.Since(began); took > 16*time.Second+harness.Slack(began) {
		t.Errorf("the stop took %v, the grace is 15 s", took)
	}
	// also before it was ever ready
	p = harness.Start(t, e.options())
	harness.Eventually(t, harness.Patience, p.Alive, "/healthz answers")
	if code := p.Term(t); code != 0 {
		t.Errorf("stop while waiting for Kafka: exit code %d", code)
	}
}

// TestRedisUnreachable checks that without Redis known users' events go on, clicks and unknown users' events wait, and nothing
// is dropped or settled as not configured.
func TestRedisUnreachable(t *testing.T) {
	t.Parallel()
	e := ownEnv(t, false, true)
	const known, late = 1, 2
	e.configure(t, map[int64]harness.Webhook{known: e.all(known, ""), late: e.all(late, "")})
	p := e.serve(t)
	e.emit(t, e.dlr(known, 1), e.click(known, 1))
	e.recv.WaitCount(t, "", 2, harness.Patience)

	e.redis.Stop(t)
	harness.Eventually(t, harness.Patience, func() bool { return !p.Ready() }, "not ready without Redis")
	began := time.Now()
	e.emit(t, e.click(known, 1), e.click(known, 2), e.dlr(known, 2), harness.Event(e.topics.Inbound, known, harness.InboundValue(known, 2)),
		e.revocation(known, numbers(1, 1), nil), e.dlr(999, 1)) // 999 is not in memory
	e.recv.WaitCount(t, "/dlr/1", 2, harness.Patience)
	e.recv.WaitCount(t, "/inbound/1", 1, harness.Patience)
	e.recv.WaitCount(t, "/revoke/1", 1, harness.Patience)
	// changed settings take effect meanwhile, since they are read from the topic
	e.configure(t, map[int64]harness.Webhook{3: e.all(3, ""), known: {DLR: e.recv.URL("/dlr/1/new"), Click: e.recv.URL("/click/1")}})
	harness.Settle()
	e.emit(t, e.dlr(known, 3), e.dlr(3, 1))
	e.recv.WaitCount(t, "/dlr/1/new", 1, harness.Patience)
	e.recv.WaitCount(t, "/dlr/3", 1, harness.Patience)
	// longer than anything waits in memory
	harness.Pass(time.Until(began.Add(18 * time.Second)))
	if n := e.recv.Count("/click/1"); n != 1 {
		t.Errorf("%d clicks without Redis, want the one before", n)
	}
	if n := notConfigured(t, p); n != 0 {
		t.Errorf("%v events not configured without Redis", n)
	}
	e.redis.Start(t)
	p.WaitReady(t, harness.Patience)
	e.recv.WaitCount(t, "/click/1", 2, harness.Patience)
	harness.Eventually(t, harness.Patience, func() bool {
		m := p.Metrics(t)
		return m.Sum("smshooks_settled_total", "fate", "not_configured") == 1 && m.Sum("smshooks_settled_total", "fate", "duplicate") == 1
	}, "the unknown user's event is settled, and the second click of a message")
	p.WaitBalanced(t, 11, harness.Patience)
	if n := e.recv.Count("/click/1"); n != 2 {
		t.Errorf("%d clicks, want 2", n)
	}
}

// TestFlushAll checks that after FLUSHALL settings are back within 5 s, and that no event is settled as not configured
// meanwhile.
func TestFlushAll(t *testing.T) {
	t.Parallel()
	const users = 2000
	e := ownEnv(t, false, true)
	hooks := map[int64]harness.Webhook{}
	for user := int64(1); user <= users; user++ {
		hooks[user] = harness.Webhook{DLR: e.recv.URL("/dlr/all"), Click: e.recv.URL("/click/all")}
	}
	e.configure(t, hooks)
	p := e.serve(t)
	e.emit(t, e.click(1, 1))
	e.recv.WaitCount(t, "/click/all", 1, harness.Patience)
	rdb := e.redis.Client(t)
	keys := rdb.DBSize(t.Context()).Val()
	for round := range int64(3) {
		e.redis.FlushAll(t)
		flushed := time.Now()
		var records []*kgo.Record
		for user := int64(1); user <= users; user += 10 {
			records = append(records, e.dlr(user, round), e.click(user, 100+round))
		}
		e.emit(t, records...)
		harness.Eventually(t, harness.Patience, func() bool { return rdb.DBSize(t.Context()).Val() >= users }, "settings are back (%d keys before)", keys)
		if took := time.Since(flushed); took > 5*time.Second+harness.Slack(flushed) {
			t.Errorf("the settings were back %v after FLUSHALL, want 5 s at most", took)
		}
	}
	e.recv.WaitCount(t, "/dlr/all", 600, harness.Patience)
	e.recv.WaitCount(t, "/click/all", 601, harness.Patience)
	m := p.WaitBalanced(t, 1201, harness.Patience)
	if n := m.Sum("smshooks_settled_total", "fate", "not_configured"); n != 0 {
		t.Errorf("%v events not configured", n)
	}
	// only the memory of clicks was lost
	e.emit(t, e.click(1, 1))
	e.recv.WaitCount(t, "/click/all", 602, harness.Patience)

	// a member that starts on an empty Redis
	e.redis.FlushAll(t)
	q := e.serve(t)
	e.emit(t, e.dlr(5, 77), e.dlr(6, 77), e.dlr(7, 77))
	e.recv.WaitCount(t, "/dlr/all", 603, harness.Patience)
	if n := notConfigured(t, p) + notConfigured(t, q); n != 0 {
		t.Errorf("%v events not configured", n)
	}
}

// TestPaused has a Redis and a Kafka that hang instead of refusing connections.
func TestPaused(t *testing.T) {
	t.Parallel()
	e := ownEnv(t, true, true)
	e.configure(t, map[int64]harness.Webhook{1: e.all(1, "")})
	p := e.serve(t)
	e.emit(t, e.dlr(1, 1))
	e.recv.WaitCount(t, "/dlr/1", 1, harness.Patience)
	e.redis.Pause(t)
	for i := range int64(20) {
		e.emit(t, e.dlr(1, 10+i), e.click(1, 10+i))
	}
	e.recv.WaitCount(t, "/dlr/1", 21, harness.Patience)
	harness.Eventually(t, harness.Patience, func() bool { return !p.Ready() }, "not ready")
	e.redis.Unpause(t)
	e.recv.WaitCount(t, "/click/1", 20, harness.Patience)
	e.kafka.Pause(t)
	harness.Eventually(t, harness.Patience, func() bool { return !p.Ready() }, "not ready")
	harness.Pass(8 * time.Second) // longer than the session
	e.kafka.Unpause(t)
	e.emit(t, e.dlr(1, 99))
	e.recv.WaitCount(t, "/dlr/1", 22, harness.Patience)
	p.WaitReady(t, harness.Patience)
	p.WaitBalanced(t, 42, harness.Patience)
}
