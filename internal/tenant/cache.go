package tenant

import (
	"sync"
	"time"
)

// shardCount spreads the locks; a power of two.
const shardCount = 64

// cache is a bounded map from a key to the newest value known of it. It is fed
// by the topic (put), which it always believes, and by Redis (offer), which may
// lag behind the topic.
//
// What was heard from the topic lately is remembered by version even after the
// value was thrown out, until Redis is sure to have it: so a slow Redis can't
// bring an old value back that no later record would correct.
type cache[K comparable, V any] struct {
	perShard int
	hash     func(K) uint64
	shards   [shardCount]shard[K, V]
}

type shard[K comparable, V any] struct {
	mu      sync.RWMutex
	entries map[K]entry[V]
	heard   map[K]hearing
}

type entry[V any] struct {
	value V
	ver   Version
	set   bool // false: the key is known to have no document
}

type hearing struct {
	ver Version
	at  time.Time
}

// newCache returns a cache of about size entries.
func newCache[K comparable, V any](size int, hash func(K) uint64) *cache[K, V] {
	c := &cache[K, V]{perShard: max(1, (size+shardCount-1)/shardCount), hash: hash}
	c.clear()
	return c
}

func (c *cache[K, V]) shard(key K) *shard[K, V] { return &c.shards[c.hash(key)%shardCount] }

// get returns what is known of key; ok is false when nothing is.
func (c *cache[K, V]) get(key K) (e entry[V], ok bool) {
	s := c.shard(key)
	s.mu.RLock()
	e, ok = s.entries[key]
	s.mu.RUnlock()
	return e, ok
}

// put takes over a value heard from the topic. at is the time of hearing, zero
// for one so old that Redis needn't be suspected of lacking it.
func (c *cache[K, V]) put(key K, e entry[V], at time.Time) {
	s := c.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.heard[key].ver.newer(e.ver) {
		return
	}
	if !at.IsZero() {
		s.heard[key] = hearing{e.ver, at}
	}
	if old, ok := s.entries[key]; ok && !e.ver.newer(old.ver) {
		return
	}
	c.insert(s, key, e)
}

// refresh replaces the value of a key that is present by a newer one.
func (c *cache[K, V]) refresh(key K, e entry[V]) {
	s := c.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.entries[key]; ok && e.ver.newer(old.ver) {
		s.entries[key] = e
	}
}

// offer takes over a value read from Redis unless a newer one is known. It
// returns false when a newer one was heard but is known no more: then nothing
// can be concluded, and Redis is to be asked again.
func (c *cache[K, V]) offer(key K, e entry[V]) bool {
	s := c.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.entries[key]; ok && !e.ver.newer(old.ver) {
		return true
	}
	if s.heard[key].ver.newer(e.ver) {
		return false
	}
	c.insert(s, key, e)
	return true
}

// heard returns the newest version of key heard from the topic lately.
func (c *cache[K, V]) heard(key K) Version {
	s := c.shard(key)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.heard[key].ver
}

// insert makes room by throwing out any entry: a map's order is random.
func (c *cache[K, V]) insert(s *shard[K, V], key K, e entry[V]) {
	if _, present := s.entries[key]; !present && len(s.entries) >= c.perShard {
		for victim := range s.entries {
			delete(s.entries, victim)
			break
		}
	}
	s.entries[key] = e
}

// forget drops the memory of what was heard before t.
func (c *cache[K, V]) forget(t time.Time) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		for key, h := range s.heard {
			if h.at.Before(t) {
				delete(s.heard, key)
			}
		}
		s.mu.Unlock()
	}
}

// clear empties the cache.
func (c *cache[K, V]) clear() {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		s.entries, s.heard = make(map[K]entry[V]), make(map[K]hearing)
		s.mu.Unlock()
	}
}

// count returns the number of entries that have a document.
func (c *cache[K, V]) count() (n int) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.RLock()
		for _, e := range s.entries {
			if e.set {
				n++
			}
		}
		s.mu.RUnlock()
	}
	return n
}
