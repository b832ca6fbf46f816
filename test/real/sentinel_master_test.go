package real_test

import (
	"net"
	"testing"

	"github.com/smshooks/smshooks/test/real/harness"
)

// TestSentinelsForgetMaster removes the primary from the Sentinels, as an operator does who sets it up again, while the
// service must connect anew. Redis is away then: a first click must wait, and be sent when the Sentinels know it again.
func TestSentinelsForgetMaster(t *testing.T) {
	t.Parallel()
	s := harness.OwnRedisSentinel(t)
	e := &env{kafka: harness.Kafka(t), redis: &s.RedisServer, topics: harness.TopicsFor(t)}
	e.begin(t, nil)
	e.configure(t, map[int64]harness.Webhook{1: e.all(1, "")})
	p := e.serve(t)
	e.emit(t, e.click(1, 1))
	e.recv.WaitCount(t, path("click", 1), 1, harness.Patience)

	master := s.Master(t)
	primary := master.Client(t).Conn()
	t.Cleanup(func() { _ = primary.Close() })
	onSentinels(t, s, "remove", harness.SentinelMaster)
	if err := primary.Do(t.Context(), "client", "kill", "type", "normal", "skipme", "yes").Err(); err != nil {
		t.Fatal(err)
	}
	p.WaitUnready(t, harness.Patience, "redis.master_name")
	e.emit(t, e.click(1, 2), e.dlr(1, 2))
	e.recv.WaitCount(t, path("dlr", 1), 1, harness.Patience)
	if n := p.Metrics(t).Sum("smshooks_settled_total", "kind", "click", "fate", "duplicate"); n != 0 {
		t.Errorf("%v first clicks were settled as duplicate while Redis was away", n)
	}
	_, port, err := net.SplitHostPort(master.Addr)
	if err != nil {
		t.Fatal(err)
	}
	onSentinels(t, s, "monitor", harness.SentinelMaster, "127.0.0.1", port, 2)
	e.recv.WaitCount(t, path("click", 1), 2, harness.Patience)
}

// onSentinels sends a command to every Sentinel.
func onSentinels(t *testing.T, s *harness.RedisSentinel, args ...any) {
	t.Helper()
	for _, sentinel := range s.Sentinels {
		if err := sentinel.Client(t).Do(t.Context(), append([]any{"sentinel"}, args...)...).Err(); err != nil {
			t.Fatalf("sentinel %v: %v", args, err)
		}
	}
}
