// Package limit bounds the rate of requests by key: an API key, a user, or a client's address.
package limit

import (
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// most is the largest number of keys that one Limiter remembers.
const most = 50_000

// Limiter grants each key burst requests at once and perSecond more every second. It is safe for concurrent use. A nil
// Limiter grants everything.
type Limiter struct {
	perSecond rate.Limit
	burst     int

	mu      sync.Mutex
	buckets map[string]*rate.Limiter
	sweepAt int // number of buckets at which full ones are removed
}

// New returns a Limiter, or nil if perSecond is 0.
func New(perSecond float64, burst int) *Limiter {
	if perSecond <= 0 {
		return nil
	}
	return &Limiter{perSecond: rate.Limit(perSecond), burst: burst, buckets: map[string]*rate.Limiter{}, sweepAt: 1024}
}

// Take counts one request of key at the time now. It returns 0 if the request is granted, else how long the key must
// wait.
func (l *Limiter) Take(key string, now time.Time) (wait time.Duration) {
	if l == nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.buckets[key]
	if b == nil {
		l.sweep(now)
		b = rate.NewLimiter(l.perSecond, l.burst)
		l.buckets[key] = b
	}
	if b.AllowN(now, 1) {
		return 0
	}
	missing := 1 - b.TokensAt(now)
	return max(1, time.Duration(math.Ceil(missing/float64(l.perSecond)*float64(time.Second))))
}

// sweep removes full buckets, which equal new ones, and if too many are left, half of the others.
func (l *Limiter) sweep(now time.Time) {
	if len(l.buckets) < l.sweepAt {
		return
	}
	for key, b := range l.buckets {
		if b.TokensAt(now) >= float64(l.burst) {
			delete(l.buckets, key)
		}
	}
	if len(l.buckets) >= most {
		for key := range l.buckets {
			if len(l.buckets) <= most/2 {
				break
			}
			delete(l.buckets, key)
		}
	}
	l.sweepAt = min(max(1024, 2*len(l.buckets)), most)
}
