package faults_test

import (
	"strings"
	"testing"
	"time"

	"github.com/smshooks/smshooks/test/real/harness"
)

// disturbance is a way in which a connection fails.
type disturbance struct {
	name, what string
	begin      func(t testing.TB, p *harness.Proxy)
	lives      bool // events go on meanwhile
}

var (
	cut = disturbance{"cut", "all connections are closed and new ones refused",
		func(t testing.TB, p *harness.Proxy) { p.Cut(t) }, false}
	late = disturbance{"slow", "each piece of an answer comes 300 ms later, give or take 100",
		func(t testing.TB, p *harness.Proxy) { p.Delay(t, 300, 100) }, true}
	halfOpen = disturbance{"half-open", "connections stay open and can be made, but nothing passes in either direction",
		func(t testing.TB, p *harness.Proxy) { p.Swallow(t) }, false}
)

// TestLinkKafka disturbs the connection between two instances and Kafka in three ways. The short form is one case with
// all three.
func TestLinkKafka(t *testing.T) {
	inTurn(t)
	each := func(t *testing.T, point, name string, disturbances ...disturbance) {
		k, proxy := harness.ProxiedKafka(t)
		link(t, linkCase{
			point: point, to: name, brokers: k.Addr, serve: proxy.Addr, redis: harness.Redis(t).Addr, proxy: proxy, disturbances: disturbances,
			why: whyKafka,
		})
	}
	if !long() {
		each(t, "3a", "Kafka", cut, late, halfOpen)
		return
	}
	for i, disturbance := range []disturbance{cut, late, halfOpen} {
		t.Run(disturbance.name, func(t *testing.T) { each(t, "3"+string(rune('a'+i)), "Kafka "+disturbance.name, disturbance) })
	}
}

// TestLinkRedis does the same with Redis. There is no crash, so nothing may be sent twice.
func TestLinkRedis(t *testing.T) {
	inTurn(t)
	each := func(t *testing.T, point, name string, disturbances ...disturbance) {
		proxy := harness.NewProxy(t, harness.SingleRedis(t).Addr)
		addr := harness.Kafka(t).Addr
		link(t, linkCase{point: point, to: name, brokers: addr, serve: addr, redis: proxy.Addr, proxy: proxy, disturbances: disturbances, known: true})
	}
	if !long() {
		each(t, "3d", "Redis", cut, late, halfOpen)
		return
	}
	for i, disturbance := range []disturbance{cut, late, halfOpen} {
		t.Run(disturbance.name, func(t *testing.T) { each(t, "3"+string(rune('d'+i)), "Redis "+disturbance.name, disturbance) })
	}
}

type linkCase struct {
	point, to             string
	brokers, serve, redis string
	proxy                 *harness.Proxy
	disturbances          []disturbance
	why                   string // why duplicates are allowed; "" if they are not
	known                 bool   // known users' events go on meanwhile
}

func link(t *testing.T, c linkCase) {
	t.Helper()
	rate, lasts := pick(300, 2000), pick(2*time.Second, 20*time.Second)
	rec := newCase(t, c.point, "connection to "+c.to, loadRate(rate, time.Duration(len(c.disturbances))*(lasts+5*time.Second)))
	did := ""
	for _, tr := range c.disturbances {
		did += tr.name + ": " + tr.what + "; "
	}
	rec.did("%s for %v each, by toxiproxy between two instances and the server", strings.TrimSuffix(did, "; "), lasts)
	s := newEnv(t, c.brokers, c.redis, 300)
	s.serve = c.serve
	members := s.members(t, 2)
	l := s.load(t, rate)
	s.judge.wait(t, 3*rate, patience)
	var faults []span
	var healed time.Time
	for _, tr := range c.disturbances {
		began := time.Now()
		tr.begin(t, c.proxy)
		before := s.judge.count()
		harness.Pass(lasts)
		if wanted := before + int(float64(rate)*lasts.Seconds()/4); tr.lives || c.known {
			harness.Eventually(t, patience, func() bool { return s.judge.count() >= wanted }, "%s: events go on meanwhile", tr.name)
		}
		c.proxy.Heal(t)
		healed = time.Now()
		if c.why != "" {
			faults = append(faults, span{from: began, to: healed.Add(2 * s.sessionTime())})
		}
		for _, p := range members {
			p.WaitReady(t, patience)
		}
		s.judge.wait(t, rate, patience)
	}
	harness.Pass(pick(time.Second, 5*time.Second))
	b := s.drain(t, l.end(t), backlog())
	b.judge(t, rec, judgement{faults: faults, healed: healed, why: c.why})
	wantAlive(t, members)
}
