package kafka

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// renewTime is how long the former client of a [Producer] has to store what it holds for topics that were created
// again. What is left then waits for a topic that is gone.
const renewTime = 5 * time.Second

// Producer produces with a client that Renew replaces. It is safe for concurrent use.
//
// A client that continued would be wrong. It never uses the new id of a topic that was created again, unless it forgets
// the topic. Then it numbers its batches from 0 again, under the same producer id: if it has written to the new topic
// before, the broker takes the next batch for a repetition, acknowledges it, and stores nothing.
type Producer struct {
	open     func() (*kgo.Client, error)
	patience time.Duration // renewTime; less in tests

	mu      sync.RWMutex // held for reading while a record is handed to the client
	client  *kgo.Client
	closed  bool
	closing context.Context
	close   context.CancelFunc
	former  sync.WaitGroup // clients that still have records
}

// NewProducer returns a producer whose clients are made by open, now and at each Renew. It dials nothing yet.
func NewProducer(open func() (*kgo.Client, error)) (*Producer, error) {
	client, err := open()
	if err != nil {
		return nil, err
	}
	p := &Producer{open: open, patience: renewTime, client: client}
	p.closing, p.close = context.WithCancel(context.Background())
	return p, nil
}

// TryProduce hands r to the client, like [kgo.Client.TryProduce].
func (p *Producer) TryProduce(ctx context.Context, r *kgo.Record, promise func(*kgo.Record, error)) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	p.client.TryProduce(ctx, r, promise)
}

// Renew makes the producer write to topics that were deleted and created again. Records that wait for the deleted ones
// fail within some seconds; their callers produce them again. Other records are not affected. It does not wait.
func (p *Producer) Renew(topics []string) error {
	client, err := p.open()
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		client.Close()
		return nil
	}
	former := p.client
	p.client = client
	p.former.Go(func() { p.retire(former, slices.Clone(topics)) })
	return nil
}

// retire closes a former client when it has no records any more. Those that it can still store must not fail: they
// would be stored twice.
func (p *Producer) retire(former *kgo.Client, topics []string) {
	defer former.Close()
	ctx, cancel := context.WithTimeout(p.closing, p.patience)
	defer cancel()
	if former.Flush(ctx) == nil || p.closing.Err() != nil {
		return
	}
	former.PurgeTopicsFromProducing(topics...)
	_ = former.Flush(p.closing)
}

// Flush waits until the client has no records.
func (p *Producer) Flush(ctx context.Context) error {
	p.mu.RLock()
	client := p.client
	p.mu.RUnlock()
	return client.Flush(ctx)
}

// Close closes the clients. What they still hold fails with [kgo.ErrClientClosed].
func (p *Producer) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.close()
	p.client.Close()
	p.former.Wait()
}
