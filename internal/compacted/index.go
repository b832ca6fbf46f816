package compacted

import "sync"

// Shards is the number of shards of an [Index], which spread its locks; a power of two.
const Shards = 64

// Index holds, for every key of a topic, the version of its newest record, whether that is a tombstone, and a value. It
// is safe for concurrent use.
//
// It holds all keys of a topic, so it is packed. Without a value, a million user ids take 53 MB (TestIndexSize).
type Index[K comparable, V any] struct {
	hash   func(K) uint64
	shards [Shards]indexShard[K, V]
}

type indexShard[K comparable, V any] struct {
	mu     sync.RWMutex
	newest map[K]newest[V]
}

type newest[V any] struct {
	value V // first, because a value of size zero then takes no space
	Stamp
}

// Stamp is a [Version] in 16 bytes, and whether it is that of a tombstone.
type Stamp struct {
	at   uint64 // the partition in the upper 16 bits, the version's offset in the others
	time int64  // twice the time, plus 1 for a tombstone
}

const offsetBits = 48

// StampOf packs a version.
func StampOf(v Version, removed bool) Stamp {
	s := Stamp{uint64(v.Partition)<<offsetBits | uint64(v.Offset), v.Time << 1}
	if removed {
		s.time |= 1
	}
	return s
}

// Version unpacks the version.
func (s Stamp) Version() (v Version, removed bool) {
	return Version{int32(s.at >> offsetBits), int64(s.at & (1<<offsetBits - 1)), s.time >> 1}, s.time&1 == 1
}

// NewIndex returns an empty index. hash spreads the keys over the shards.
func NewIndex[K comparable, V any](hash func(K) uint64) *Index[K, V] {
	x := &Index[K, V]{hash: hash}
	x.Clear()
	return x
}

func (x *Index[K, V]) shard(key K) *indexShard[K, V] { return &x.shards[x.hash(key)%Shards] }

// Get returns the value and the version of a key. The version is zero if no record with that key was read.
func (x *Index[K, V]) Get(key K) (value V, v Version, removed bool) {
	s := x.shard(key)
	s.mu.RLock()
	n, ok := s.newest[key]
	s.mu.RUnlock()
	if ok {
		v, removed = n.Version()
	}
	return n.value, v, removed
}

// Put records a version of a key and its value, unless a newer one is known. It reports whether it did.
func (x *Index[K, V]) Put(key K, value V, v Version, removed bool) bool {
	s := x.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.newest[key]; ok {
		if was, _ := old.Version(); was.Newer(v) {
			return false
		}
	}
	s.newest[key] = newest[V]{value, StampOf(v, removed)}
	return true
}

// Drop forgets a key if v is its newest version.
func (x *Index[K, V]) Drop(key K, v Version) {
	s := x.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.newest[key]; ok {
		if was, _ := old.Version(); was.Is(v) {
			delete(s.newest, key)
		}
	}
}

// Keys returns the keys of one of the [Shards].
func (x *Index[K, V]) Keys(shard int) []K {
	s := &x.shards[shard]
	s.mu.RLock()
	defer s.mu.RUnlock()
	keys := make([]K, 0, len(s.newest))
	for key := range s.newest {
		keys = append(keys, key)
	}
	return keys
}

// Len returns the number of keys.
func (x *Index[K, V]) Len() (n int) {
	for i := range x.shards {
		s := &x.shards[i]
		s.mu.RLock()
		n += len(s.newest)
		s.mu.RUnlock()
	}
	return n
}

// Clear forgets all keys.
func (x *Index[K, V]) Clear() {
	for i := range x.shards {
		s := &x.shards[i]
		s.mu.Lock()
		s.newest = make(map[K]newest[V])
		s.mu.Unlock()
	}
}
