package tenant

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestOrphans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOrphans()
		away, got := true, map[string]string{}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			o.run(ctx, func(_ context.Context, name, token string) error {
				if away {
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
			t.Fatalf("given back while Redis is away: %v", got)
		}
		away = false
		time.Sleep(orphanPeriod)
		synctest.Wait()
		if got["lock:1"] != "a" || got["lock:2"] != "b" || len(o.locks) != 0 {
			t.Errorf("given back %v, left %v", got, o.locks)
		}
		away = true
		o.add("lock:3", "c")
		time.Sleep(lockKept + time.Second)
		synctest.Wait()
		if len(o.locks) != 0 {
			t.Errorf("%v have run out in Redis and are still kept", o.locks)
		}
		cancel()
		<-ended
	})
}
