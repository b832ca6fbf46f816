package real_test

import (
	"testing"
	"time"

	"github.com/smshooks/smshooks/test/real/harness"
)

// TestRack checks that a member reads from the replicas in its own rack, whichever brokers lead.
func TestRack(t *testing.T) {
	t.Parallel()
	c := harness.OwnCluster(t)
	e := &env{kafka: &harness.Broker{Addr: c.Addr}, redis: harness.Redis(t), topics: harness.TopicsFor(t)}
	e.begin(t, []string{"--topics.partitions=6", "--kafka.rack=rack-2"})
	const users = 12
	hooks := map[int64]harness.Webhook{}
	for user := int64(1); user <= users; user++ {
		hooks[user] = e.all(user, "")
	}
	e.configure(t, hooks)
	p := e.serve(t)
	fetched := func() (near, far float64) {
		m := p.Metrics(t)
		near = m.Sum("kafka_consumer_fetch_bytes_total", "node_id", "2")
		return near, m.Sum("kafka_consumer_fetch_bytes_total") - near
	}
	sms := int64(0)
	round := func() {
		t.Helper()
		sms++
		for user := int64(1); user <= users; user++ {
			e.emit(t, e.dlr(user, sms))
		}
		e.recv.WaitCount(t, "", int(sms)*users, harness.Patience)
	}
	// A leader returns the replica to read from in its first reply with a high watermark above the consumer's position.
	harness.Eventually(t, 60*time.Second, func() bool {
		nearBefore, farBefore := fetched()
		round()
		near, far := fetched()
		t.Logf("round %d: %v bytes of records from its own rack, %v from others", sms, near-nearBefore, far-farBefore)
		return near > nearBefore && far == farBefore
	}, "all records come from its own rack")
	p.WaitBalanced(t, 1, harness.Patience)
}
