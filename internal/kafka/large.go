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
type LargeProducer struct {
	*Producer
	room chan struct{} // for one record
}

// NewLargeProducer returns a producer whose clients are made by open, with [LargeOptions].
func NewLargeProducer(open func() (*kgo.Client, error)) (*LargeProducer, error) {
	p, err := NewProducer(open)
	if err != nil {
		return nil, err
	}
	return &LargeProducer{p, make(chan struct{}, 1)}, nil
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
	go func() {
		select {
		case p.room <- struct{}{}:
		case <-ctx.Done():
			promise(r, ctx.Err())
			return
		}
		p.Producer.TryProduce(ctx, r, func(r *kgo.Record, err error) {
			<-p.room
			promise(r, err)
		})
	}()
}
