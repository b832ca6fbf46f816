package kafka

import (
	"fmt"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

func TestPartitioner(t *testing.T) {
	p := Partitioner(func(topic string) bool { return topic == "waits" })
	hashed := kgo.StickyKeyPartitioner(nil).ForTopic("dead")
	waits, dead := p.ForTopic("waits"), p.ForTopic("dead")
	for n := range int32(12) {
		r := &kgo.Record{Topic: "waits", Partition: n, Key: []byte("42")}
		if got := waits.Partition(r, 12); got != int(n) {
			t.Errorf("a delayed record of partition %d goes to %d", n, got)
		}
		key := []byte(fmt.Sprint(n))
		if got, want := dead.Partition(&kgo.Record{Key: key}, 12), hashed.Partition(&kgo.Record{Key: key}, 12); got != want {
			t.Errorf("the dead letter of key %s goes to %d, Kafka's clients use %d", key, got, want)
		}
	}
	// murmur2 as in the Java client: user 42 of 12 partitions.
	if got := dead.Partition(&kgo.Record{Key: []byte("42")}, 12); got != int(murmur2([]byte("42"))&0x7fffffff)%12 {
		t.Errorf("key 42 goes to %d", got)
	}
}

// murmur2 is Kafka's hash, implemented from its description.
func murmur2(data []byte) uint32 {
	const m, r = 0x5bd1e995, 24
	h := uint32(0x9747b28c) ^ uint32(len(data))
	for ; len(data) >= 4; data = data[4:] {
		k := uint32(data[0]) | uint32(data[1])<<8 | uint32(data[2])<<16 | uint32(data[3])<<24
		k *= m
		k ^= k >> r
		k *= m
		h *= m
		h ^= k
	}
	switch len(data) {
	case 3:
		h ^= uint32(data[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(data[1]) << 8
		fallthrough
	case 1:
		h ^= uint32(data[0])
		h *= m
	}
	h ^= h >> 13
	h *= m
	return h ^ h>>15
}
