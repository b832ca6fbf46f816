package kafka

import (
	"context"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	maxLargeBatch  = 1 << 30   // the client accepts no more
	largeRequest   = 100 << 20 // the client's limit for a request
	requestHeading = 1 << 20   // of a request, besides its batch
)

// LargeProducer produces records that do not fit into a usual batch. Each record is a batch of its own, so that the
// topic's max.message.bytes applies to each alone. Batches are compressed well, since max.message.bytes counts the
// bytes of compressed batches.
type LargeProducer struct{ *kgo.Client }

// NewLargeProducer returns a producer of records of up to [Config.MaxBatchBytes] and their headers.
func (c Config) NewLargeProducer(extra ...kgo.Opt) (*LargeProducer, error) {
	cl, err := c.NewClient(append(extra, LargeOptions(c.MaxBatchBytes)...)...)
	if err != nil {
		return nil, err
	}
	return &LargeProducer{cl}, nil
}

// LargeOptions returns the options of a client for a [LargeProducer] of records of up to most bytes; 0 is
// [DefaultMaxBatchBytes].
func LargeOptions(most int64) []kgo.Opt {
	if most == 0 {
		most = DefaultMaxBatchBytes
	}
	batch := int32(min(most+headerRoom, maxLargeBatch))
	return []kgo.Opt{
		kgo.ProducerLinger(0), kgo.MaxBufferedRecords(1), kgo.ProducerBatchMaxBytes(batch),
		kgo.BrokerMaxWriteBytes(max(batch+requestHeading, largeRequest)),
		kgo.ProducerBatchCompression(kgo.ZstdCompression(), kgo.SnappyCompression(), kgo.NoCompression()),
	}
}

// TryProduce produces r when those before it are done. Unlike the client's own it never fails for a lack of room.
func (p *LargeProducer) TryProduce(ctx context.Context, r *kgo.Record, promise func(*kgo.Record, error)) {
	go p.Produce(ctx, r, promise)
}
