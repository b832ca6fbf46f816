package settings

import (
	"sync"

	"github.com/smshooks/smshooks/internal/compacted"
)

// cache is a bounded map from a key to its newest value.
type cache[K comparable, V any] struct {
	perShard int
	hash     func(K) uint64
	newest   func(K) compacted.Version // at least as new as every record read before the call
	shards   [compacted.Shards]shard[K, V]
}

type shard[K comparable, V any] struct {
	mu      sync.RWMutex
	entries map[K]packed[V]
}

type entry[V any] struct {
	value V
	ver   compacted.Version
	set   bool // false: the key has no document
}

// packed is an entry in 16 bytes besides the value.
type packed[V any] struct {
	value V
	compacted.Stamp
}

func pack[V any](e entry[V]) packed[V] { return packed[V]{e.value, compacted.StampOf(e.ver, !e.set)} }

func (p packed[V]) entry() entry[V] {
	ver, removed := p.Version()
	return entry[V]{p.value, ver, !removed}
}

// newCache returns a cache of about size entries.
func newCache[K comparable, V any](size int, hash func(K) uint64, newest func(K) compacted.Version) *cache[K, V] {
	c := &cache[K, V]{perShard: max(1, (size+compacted.Shards-1)/compacted.Shards), hash: hash, newest: newest}
	c.clear()
	return c
}

func (c *cache[K, V]) shard(key K) *shard[K, V] { return &c.shards[c.hash(key)%compacted.Shards] }

// get returns the entry of key; ok is false if there is none.
func (c *cache[K, V]) get(key K) (e entry[V], ok bool) {
	s := c.shard(key)
	s.mu.RLock()
	p, ok := s.entries[key]
	s.mu.RUnlock()
	if !ok {
		return entry[V]{}, false
	}
	return p.entry(), true
}

// stale reports whether a value of version v would replace the entry of key.
func (c *cache[K, V]) stale(key K, v compacted.Version) bool {
	e, ok := c.get(key)
	return !ok || v.Newer(e.ver)
}

// put stores a value, unless the entry is at least as new. It returns false if the topic has a newer value that is not
// in memory: then the value of the key is unknown.
//
// newest is called under the lock. So a value that was read before a record arrived cannot replace that record's value:
// either it is refused here, or the record's value is put after it.
func (c *cache[K, V]) put(key K, e entry[V]) bool {
	s := c.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	old, present := s.entries[key]
	if present && !e.ver.Newer(old.entry().ver) {
		return true
	}
	if c.newest(key).Newer(e.ver) {
		return false
	}
	if !present && len(s.entries) >= c.perShard {
		for victim := range s.entries { // any one: map iteration is random
			delete(s.entries, victim)
			break
		}
	}
	s.entries[key] = pack(e)
	return true
}

// drop removes a key.
func (c *cache[K, V]) drop(key K) {
	s := c.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.entries, key)
}

// clear empties the cache.
func (c *cache[K, V]) clear() {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		s.entries = make(map[K]packed[V])
		s.mu.Unlock()
	}
}

// count returns the number of entries that have a document.
func (c *cache[K, V]) count() (n int) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.RLock()
		for _, e := range s.entries {
			if e.entry().set {
				n++
			}
		}
		s.mu.RUnlock()
	}
	return n
}
