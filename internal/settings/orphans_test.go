package settings

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestOrphans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrphans()
		got := map[string]string{}
		var away atomic.Bool
		away.Store(true)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			o.run(ctx, func(_ context.Context, name, token string) error {
				if away.Load() {
					return errors.New("away")
				}
				got[name] = token
				return nil
			})
		}()
		o.add("lock:1", "a")
		o.add("lock:2", "b")
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if len(got) != 0 {
			t.Fatalf("released while Redis is unreachable: %v", got)
		}
		away.Store(false)
		time.Sleep(orphanPeriod)
		synctest.Wait()
		if got["lock:1"] != "a" || got["lock:2"] != "b" || o.left() != 0 {
			t.Errorf("released %v, %d left", got, o.left())
		}
		away.Store(true)
		o.add("lock:3", "c")
		time.Sleep(lockKept + time.Second)
		synctest.Wait()
		if n := o.left(); n != 0 {
			t.Errorf("%d have expired in Redis and are still remembered", n)
		}
		cancel()
		<-ended
	})
}

func (o *orphans) left() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.locks)
}
