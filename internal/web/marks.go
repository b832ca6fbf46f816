package web

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// storeEvery is the time between two writes of the marks that an instance remembers.
const storeEvery = 5 * time.Second

// maxMarks is the number of marks that an instance remembers.
const maxMarks = 10_000

// marks stores in Redis which sessions were signed out and which tokens were used. It remembers the marks of this
// instance, and Page.Run stores them again, in case Redis has lost them.
type marks struct {
	rdb redis.UniversalClient

	mu     sync.Mutex           // not held during calls to Redis
	expiry map[string]time.Time // by key in Redis
}

// remember adds a mark, which lasts until expires. It does not store it.
func (m *marks) remember(name string, expires time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expiry[name] = expires
}

// has reports whether this instance remembers the mark.
func (m *marks) has(name string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.expiry[name]
	return ok
}

// remembered returns the marks that have not expired.
func (m *marks) remembered(now time.Time) map[string]time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.expiry, func(_ string, expires time.Time) bool { return !now.Before(expires) })
	for name := range m.expiry {
		if len(m.expiry) <= maxMarks {
			break
		}
		delete(m.expiry, name)
	}
	return maps.Clone(m.expiry)
}

// store saves marks in Redis until they expire. It replaces those that are there, which lasted as long.
func (m *marks) store(ctx context.Context, expiry map[string]time.Time) error {
	_, err := m.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for name, expires := range expiry {
			p.Set(ctx, name, "1", max(time.Until(expires), time.Second))
		}
		return nil
	})
	return err
}

// Run stores the sign-outs and used tokens of this instance again and again until ctx ends: a Redis that was emptied,
// or that lost its last writes in a failover, receives them within seconds.
func (p *Page) Run(ctx context.Context) {
	ticker := time.NewTicker(storeEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		remembered := p.marks.remembered(time.Now())
		if len(remembered) == 0 {
			continue
		}
		if err := p.marks.store(ctx, remembered); err == nil {
			p.unstored.Recover()
		} else if ctx.Err() == nil {
			p.unstored.Fail(err)
		}
	}
}
