package settings

import (
	"context"
	"sync"
	"time"

	"github.com/smshooks/smshooks/internal/compacted"
)

const (
	// orphanPeriod is the pause between two attempts to give orphans back.
	orphanPeriod = 250 * time.Millisecond
	// maxOrphans bounds them while Redis is away. Those beyond it run out.
	maxOrphans = 10_000
)

// orphans are locks that may stand in Redis although nobody holds them: the
// reply to their grant or to their return did not come. They are given back as
// soon as Redis answers, so that no user waits until they run out.
type orphans struct {
	mu    sync.Mutex
	locks map[orphan]time.Time // when they run out
	wake  chan struct{}
}

type orphan struct{ name, token string }

func newOrphans() *orphans {
	return &orphans{locks: map[orphan]time.Time{}, wake: make(chan struct{}, 1)}
}

func (o *orphans) add(name, token string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.locks) >= maxOrphans {
		return
	}
	o.locks[orphan{name, token}] = time.Now().Add(lockKept)
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// run gives orphans back with giveBack until ctx ends.
func (o *orphans) run(ctx context.Context, giveBack func(ctx context.Context, name, token string) error) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-o.wake:
		}
		for o.pass(ctx, giveBack) {
			if compacted.Sleep(ctx, orphanPeriod) != nil {
				return
			}
		}
	}
}

// pass tries each once, until one fails. It reports whether some are left.
func (o *orphans) pass(ctx context.Context, giveBack func(ctx context.Context, name, token string) error) bool {
	o.mu.Lock()
	now, all := time.Now(), make([]orphan, 0, len(o.locks))
	for lock, end := range o.locks {
		if now.After(end) {
			delete(o.locks, lock)
			continue
		}
		all = append(all, lock)
	}
	o.mu.Unlock()
	for _, lock := range all {
		if giveBack(ctx, lock.name, lock.token) != nil {
			break
		}
		o.mu.Lock()
		delete(o.locks, lock)
		o.mu.Unlock()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.locks) > 0
}
