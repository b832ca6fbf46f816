package kafka

import "github.com/twmb/franz-go/pkg/kgo"

// RecordSize returns the bytes of a record's key, value and headers.
func RecordSize(r *kgo.Record) (n int) {
	n = len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		n += len(h.Key) + len(h.Value)
	}
	return n
}

// Partitioner places records of the topics that manual accepts on the partition that they name. It places all others
// by the hash of their key, as Kafka's own clients do.
func Partitioner(manual func(topic string) bool) kgo.Partitioner {
	return partitioner{manual, kgo.ManualPartitioner(), kgo.StickyKeyPartitioner(nil)}
}

type partitioner struct {
	manual        func(topic string) bool
	named, hashed kgo.Partitioner
}

func (p partitioner) ForTopic(topic string) kgo.TopicPartitioner {
	if p.manual(topic) {
		return p.named.ForTopic(topic)
	}
	return p.hashed.ForTopic(topic)
}
