package api

import (
	"sync"
	"time"
)

// maxBuckets bounds the limiter's memory; only keys that exist get a bucket.
const maxBuckets = 50_000

// limiter gives each key so many requests per second, and as many at once.
type limiter struct {
	rate    float64 // 0: no limit
	mu      sync.Mutex
	buckets map[string]bucket
	sweepAt int
}

type bucket struct {
	tokens float64
	at     time.Time
}

func newLimiter(perSecond int) *limiter {
	return &limiter{rate: float64(perSecond), buckets: map[string]bucket{}, sweepAt: 1024}
}

// take asks for one request at now; wait is how long until there is one again.
func (l *limiter) take(key string, now time.Time) (ok bool, wait time.Duration) {
	if l.rate <= 0 {
		return true, 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	b, known := l.buckets[key]
	if !known {
		l.sweep(now)
		b = bucket{tokens: l.rate, at: now}
	}
	b.tokens = min(l.rate, b.tokens+max(now.Sub(b.at).Seconds(), 0)*l.rate)
	b.at = now
	if ok = b.tokens >= 1; ok {
		b.tokens--
	} else {
		wait = time.Duration((1 - b.tokens) / l.rate * float64(time.Second))
	}
	l.buckets[key] = b
	return ok, wait
}

// sweep forgets full buckets, which are as good as none, and if there are still too many, half of the others.
func (l *limiter) sweep(now time.Time) {
	if len(l.buckets) < l.sweepAt {
		return
	}
	for key, b := range l.buckets {
		if now.Sub(b.at) >= time.Second {
			delete(l.buckets, key)
		}
	}
	if len(l.buckets) >= maxBuckets {
		for key := range l.buckets {
			if len(l.buckets) <= maxBuckets/2 {
				break
			}
			delete(l.buckets, key)
		}
	}
	l.sweepAt = min(max(1024, 2*len(l.buckets)), maxBuckets)
}
