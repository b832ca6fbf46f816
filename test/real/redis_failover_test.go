package real_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/smshooks/smshooks/test/real/harness"
)

// worksAgain is the time after the election of a new master within which the API and clicks work again, by contract.
const worksAgain = 10 * time.Second

// failover is a service on a Redis of several nodes, some of which die.
type failover struct {
	*env
	p      *harness.Proc
	key    string // of user 1
	clicks atomic.Int64
	urls   int
}

func newFailover(t *testing.T, r *harness.RedisServer, flags ...string) *failover {
	t.Helper()
	f := &failover{env: &env{kafka: harness.Kafka(t), redis: r, topics: harness.TopicsFor(t)}}
	f.begin(t, flags)
	f.configure(t, map[int64]harness.Webhook{1: f.all(1, "")})
	f.p = f.serve(t)
	f.key = f.newKey(t, 1)
	harness.Eventually(t, harness.Patience, func() bool { return f.apiWorks(t) }, "the API works at first")
	f.click30(t, 20*time.Second, "at first")
	return f
}

// apiWorks reports whether a change of settings is accepted and can be read.
func (f *failover) apiWorks(t testing.TB) bool {
	f.urls++
	url := f.recv.URL(fmt.Sprint("/inbound/", f.urls))
	return post(t, f.p.Addr, f.key, "/v1/user/set-webhook", "inbound_url="+url) == http.StatusOK && strings.Contains(webhooks(t, f.p.Addr, f.key), url)
}

// click30 emits clicks of 30 messages, whose keys are on all masters, and waits until each has arrived.
func (f *failover) click30(t testing.TB, within time.Duration, when string) {
	t.Helper()
	const n = 30
	for range n {
		f.emit(t, f.click(1, f.clicks.Add(1)))
	}
	f.recv.WaitCount(t, "/click/1", int(f.clicks.Load()), within)
	t.Logf("clicks work %s", when)
}

// survives kills nodes, waits for the election, and checks that the API and clicks work again in time.
func (f *failover) survives(t testing.TB, what string, strike func(), elected func()) {
	t.Helper()
	strike()
	for range 30 { // these are written while there is no master
		f.emit(t, f.click(1, f.clicks.Add(1)))
	}
	elected()
	began := time.Now()
	harness.Eventually(t, worksAgain, func() bool { return f.apiWorks(t) }, "the API works again after %s", what)
	api := time.Since(began)
	// The slack that a busy machine has cost the API is not taken from the clicks.
	f.click30(t, max(worksAgain-api, 0)+harness.Slack(began), "after "+what)
	t.Logf("%s: the API works again %v after the election, clicks %v", what, api.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	f.p.WaitReady(t, harness.Patience)
}

// judge checks that every click was received once.
func (f *failover) judge(t testing.TB) {
	t.Helper()
	f.p.WaitBalanced(t, float64(f.clicks.Load()), harness.Patience)
	if n, want := f.recv.Count("/click/1"), int(f.clicks.Load()); n != want {
		t.Errorf("%d requests for %d clicks", n, want)
	}
	if n := notConfigured(t, f.p); n != 0 {
		t.Errorf("%v events not configured", n)
	}
}

// TestRedisClusterFailover ends masters of a cluster for good: one is killed and one stops answering.
func TestRedisClusterFailover(t *testing.T) {
	t.Parallel()
	c := harness.OwnRedisCluster(t)
	f := newFailover(t, &c.RedisServer)
	first := c.MasterOf(t, f.topics.KeyPrefix+"click:1:1")
	f.survives(t, "a killed master", func() { first.Kill(t) }, func() { c.MasterOf(t, f.topics.KeyPrefix+"click:1:1", first) })
	second := first
	for n := 1; second == first || !isMaster(t, second); n++ { // one of the initial masters
		second = c.Nodes[n]
	}
	served := slotKey(t, second)
	f.survives(t, "a master that is silent", func() { second.Pause(t) }, func() { c.MasterOf(t, served, first, second) })
	f.judge(t)
}

func isMaster(t testing.TB, n *harness.RedisNode) bool {
	t.Helper()
	role, err := n.Client(t).Do(t.Context(), "ROLE").Slice()
	return err == nil && len(role) > 0 && role[0] == "master"
}

// slotKey returns a key that a node serves.
func slotKey(t testing.TB, n *harness.RedisNode) string {
	t.Helper()
	cl := n.Client(t)
	for i := range 1000 {
		if key := fmt.Sprint("k", i); cl.Exists(t.Context(), key).Err() == nil {
			return key
		}
	}
	t.Fatal("the node serves no slots")
	return ""
}

// TestRedisSentinelFailover freezes the master and the Sentinel at which the service has subscribed, as if their
// machine had died. Later it kills the new master.
func TestRedisSentinelFailover(t *testing.T) {
	t.Parallel()
	s := harness.OwnRedisSentinelWithPassword(t, "hush-sentinel")
	harness.Secret("hush-sentinel")
	f := newFailover(t, &s.RedisServer, "--redis.sentinel.password=hush-sentinel")
	first, asked := s.Master(t), s.Asked(t)
	f.survives(t, "a silent machine", func() { first.Pause(t); asked.Pause(t) }, func() { s.Master(t, first, asked) })
	first.Unpause(t)
	asked.Unpause(t)
	s.Settle(t)
	second := s.Master(t)
	f.survives(t, "a killed master", func() { second.Kill(t) }, func() { s.Master(t, second) })
	f.judge(t)
}
