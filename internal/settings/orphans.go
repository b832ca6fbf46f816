package settings

import (
	"context"
	"sync"
	"time"

	"github.com/smshooks/smshooks/internal/compacted"
)

const (
	// orphanPeriod is the pause between two attempts to release orphans.
	orphanPeriod = 250 * time.Millisecond
	// maxOrphans is the number of orphans remembered while Redis is unreachable. Others expire.
	maxOrphans = 10_000
)

// orphans are locks that may exist in Redis although no update holds them: Redis did not answer when they were granted
// or released. They are released as soon as Redis answers, so that no user waits until they expire.
type orphans struct {
	mu    sync.Mutex
	locks map[orphan]time.Time // when they expire
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

// run releases orphans until ctx ends.
func (o *orphans) run(ctx context.Context, release func(ctx context.Context, name, token string) error) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-o.wake:
		}
		for o.pass(ctx, release) {
			if compacted.Sleep(ctx, orphanPeriod) != nil {
				return
			}
		}
	}
}

// pass tries to release each once, until one fails. It reports whether any are left.
func (o *orphans) pass(ctx context.Context, release func(ctx context.Context, name, token string) error) bool {
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
		if release(ctx, lock.name, lock.token) != nil {
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
