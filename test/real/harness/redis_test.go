package harness_test

import (
	"testing"
	"time"

	"github.com/smshooks/smshooks/test/real/harness"
)

func TestRedisCluster(t *testing.T) {
	t.Parallel()
	began := time.Now()
	c := harness.OwnRedisCluster(t)
	t.Logf("the cluster took %v", time.Since(began).Round(time.Millisecond))
	c.Stop(t)
	c.Start(t)
	cl := c.Client(t)
	if err := cl.Set(t.Context(), "a", "1", 0).Err(); err != nil {
		t.Fatal(err)
	}
	c.FlushAll(t)
	if n, err := cl.Exists(t.Context(), "a").Result(); n != 0 || err != nil {
		t.Errorf("after FLUSHALL: %d, %v", n, err)
	}
}

func TestRedisSentinel(t *testing.T) {
	t.Parallel()
	began := time.Now()
	s := harness.OwnRedisSentinel(t)
	t.Logf("the Sentinels took %v", time.Since(began).Round(time.Millisecond))
	if err := s.Client(t).Set(t.Context(), "a", "1", 0).Err(); err != nil {
		t.Fatal(err)
	}
	master := s.Master(t)
	master.Kill(t)
	next := s.Master(t, master)
	if next == master {
		t.Error("the killed master is still the master")
	}
	if err := s.Client(t).Set(t.Context(), "b", "1", 0).Err(); err != nil {
		t.Errorf("write after the failover: %v", err)
	}
}
