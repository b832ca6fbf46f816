package web

import (
	"math"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// maxBuckets bounds a limiter's memory.
	maxBuckets = 20_000

	// Wrong keys: per remote address, and all together.
	addressBurst, addressRate = 20, 0.2
	globalBurst, globalRate   = 200, 20
)

// limiter gives each key burst requests at once and rate more per second.
type limiter struct {
	rate, burst float64
	mu          sync.Mutex
	buckets     map[string]bucket
}

type bucket struct {
	tokens float64
	at     time.Time
}

func newLimiter(rate, burst float64) *limiter {
	return &limiter{rate: rate, burst: burst, buckets: map[string]bucket{}}
}

// take asks for one request at now. wait is 0 if it was given, else how long until there is one.
func (l *limiter) take(key string, now time.Time) (wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.bucket(key, now)
	if b.tokens < 1 {
		return time.Duration((1 - b.tokens) / l.rate * float64(time.Second))
	}
	b.tokens--
	l.buckets[key] = b
	return 0
}

// giveBack returns a request that was taken.
func (l *limiter) giveBack(key string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.bucket(key, now)
	b.tokens = min(l.burst, b.tokens+1)
	l.buckets[key] = b
}

func (l *limiter) bucket(key string, now time.Time) bucket {
	b, known := l.buckets[key]
	if !known {
		l.sweep(now)
		return bucket{tokens: l.burst, at: now}
	}
	return bucket{min(l.burst, b.tokens+max(now.Sub(b.at).Seconds(), 0)*l.rate), now}
}

// sweep makes room when there is none: full buckets are as good as none, and of the others half go.
func (l *limiter) sweep(now time.Time) {
	if len(l.buckets) < maxBuckets {
		return
	}
	for key, b := range l.buckets {
		if b.tokens+now.Sub(b.at).Seconds()*l.rate >= l.burst {
			delete(l.buckets, key)
		}
	}
	for key := range l.buckets {
		if len(l.buckets) <= maxBuckets/2 {
			break
		}
		delete(l.buckets, key)
	}
}

// signInLimit bounds how often wrong keys are tried.
type signInLimit struct{ address, global *limiter }

func newSignInLimit() *signInLimit {
	return &signInLimit{newLimiter(addressRate, addressBurst), newLimiter(globalRate, globalBurst)}
}

// try takes one attempt of an address; right gives it back when the key turns out to be right.
func (s *signInLimit) try(address string, now time.Time) (right func(), wait time.Duration) {
	if wait = s.address.take(address, now); wait > 0 {
		return nil, wait
	}
	if wait = s.global.take("", now); wait > 0 {
		s.address.giveBack(address, now)
		return nil, wait
	}
	return func() {
		s.address.giveBack(address, now)
		s.global.giveBack("", now)
	}, 0
}

// remote tells where a request came from: the address of an IPv4 client, the /64 network of an IPv6 one. Where a
// neighbour made the connection, it is taken for a proxy, and what it added last to X-Forwarded-For counts.
func remote(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return "unknown"
	}
	if addr = addr.Unmap(); addr.IsLoopback() || addr.IsPrivate() {
		forwarded := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
		if client, err := netip.ParseAddr(strings.TrimSpace(forwarded[len(forwarded)-1])); err == nil {
			addr = client.Unmap()
		}
	}
	if addr.Is6() {
		if network, err := addr.WithZone("").Prefix(64); err == nil {
			return network.String()
		}
	}
	return addr.String()
}

func userKey(userID int64) string { return strconv.FormatInt(userID, 10) }

func retryAfter(w http.ResponseWriter, wait time.Duration) {
	w.Header().Set("Retry-After", strconv.Itoa(max(1, int(math.Ceil(wait.Seconds())))))
}
