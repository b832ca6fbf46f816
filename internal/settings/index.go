package settings

import "sync"

// index remembers which record of every key is the newest, and whether it is a
// tombstone. It is the measure of every answer: a value counts only with the
// version that stands here, wherever the value was kept.
//
// It holds all keys of a topic, so it is packed: 24 bytes per user and 32 per
// API key, and what a Go map needs on top of that, 53 MB and 79 MB for a
// million of each (TestIndexSize).
type index[K comparable] struct {
	hash   func(K) uint64
	shards [shardCount]indexShard[K]
}

type indexShard[K comparable] struct {
	mu     sync.RWMutex
	newest map[K]stamp
}

// stamp is a Version in 16 bytes, and whether it is that of a tombstone.
type stamp struct {
	at   uint64 // the partition in the upper 16 bits, the version's offset in the others
	time int64  // twice the time, plus 1 for a tombstone
}

const offsetBits = 48

func stampOf(v Version, removed bool) stamp {
	s := stamp{uint64(v.Partition)<<offsetBits | uint64(v.Offset), v.Time << 1}
	if removed {
		s.time |= 1
	}
	return s
}

func (s stamp) version() (v Version, removed bool) {
	return Version{int32(s.at >> offsetBits), int64(s.at & (1<<offsetBits - 1)), s.time >> 1}, s.time&1 == 1
}

func newIndex[K comparable](hash func(K) uint64) *index[K] {
	x := &index[K]{hash: hash}
	x.clear()
	return x
}

func (x *index[K]) shard(key K) *indexShard[K] { return &x.shards[x.hash(key)%shardCount] }

// get returns the newest version of a key, the zero Version if there is none.
func (x *index[K]) get(key K) (v Version, removed bool) {
	s := x.shard(key)
	s.mu.RLock()
	newest, ok := s.newest[key]
	s.mu.RUnlock()
	if !ok {
		return Version{}, false
	}
	return newest.version()
}

// put notes a version. It returns false if a newer one is known.
func (x *index[K]) put(key K, v Version, removed bool) bool {
	s := x.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.newest[key]; ok {
		if was, _ := old.version(); was.newer(v) {
			return false
		}
	}
	s.newest[key] = stampOf(v, removed)
	return true
}

// drop forgets a key if v is its newest version.
func (x *index[K]) drop(key K, v Version) {
	s := x.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.newest[key]; ok {
		if was, _ := old.version(); was.is(v) {
			delete(s.newest, key)
		}
	}
}

// keys returns the keys of one of the shardCount shards.
func (x *index[K]) keys(shard int) []K {
	s := &x.shards[shard]
	s.mu.RLock()
	defer s.mu.RUnlock()
	keys := make([]K, 0, len(s.newest))
	for key := range s.newest {
		keys = append(keys, key)
	}
	return keys
}

// len returns the number of keys.
func (x *index[K]) len() (n int) {
	for i := range x.shards {
		s := &x.shards[i]
		s.mu.RLock()
		n += len(s.newest)
		s.mu.RUnlock()
	}
	return n
}

func (x *index[K]) clear() {
	for i := range x.shards {
		s := &x.shards[i]
		s.mu.Lock()
		s.newest = make(map[K]stamp)
		s.mu.Unlock()
	}
}
