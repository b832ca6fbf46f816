package kafka

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"
)

const (
	// DefaultMaxBatchBytes is the limit of a batch's uncompressed size if [Config.MaxBatchBytes] is 0.
	DefaultMaxBatchBytes = 64 << 20

	// A client unpacks whole responses ahead of its polls, so the uncompressed size of a response must be bounded: a batch
	// of more than inlineBytes is read by itself, and after responseBytes the rest of a response is fetched again later.
	inlineBytes   = 16 << 20
	responseBytes = 32 << 20

	// A batch can be as large as a request that a broker accepts (socket.request.max.bytes, 100 MiB by default).
	maxResponseBytes = 128 << 20

	batchTimeout = 10 * time.Second
	batchPause   = 100 * time.Millisecond // after a failure, before the poll is over
)

var (
	errAside = errors.New("the batch is too large to be unpacked together with others")
	errLater = errors.New("the response unpacks to too much, its rest is fetched again")
)

// Skipped is the error of a partition in which [Poll] skipped a batch that cannot be read. The partition continues at
// Next. The batch has already been logged and counted.
type Skipped struct {
	From, Next int64 // the offsets skipped are From ≤ o < Next
	Epoch      int32 // the batch's leader epoch, -1 if unknown
	Err        error
}

func (s *Skipped) Error() string {
	return fmt.Sprintf("skipped offsets %d to %d: %v", s.From, s.Next-1, s.Err)
}

// Unwrap returns why the batch cannot be read.
func (s *Skipped) Unwrap() error { return s.Err }

// Skips reports the batches that a process skips, each once, however many clients read it. It is safe for concurrent
// use.
type Skips struct {
	log   *zap.Logger
	count func(topic string)

	mu   sync.Mutex
	seen map[skip]bool
}

type skip struct {
	topic     string
	partition int32
	from      int64
}

const maxSkipsSeen = 10_000

// NewSkips returns Skips that log an error line per batch, and call count, if it is not nil.
func NewSkips(log *zap.Logger, count func(topic string)) *Skips {
	return &Skips{log: log, count: count, seen: map[skip]bool{}}
}

func (s *Skips) report(topic string, partition int32, b *Skipped) {
	at := skip{topic, partition, b.From}
	s.mu.Lock()
	known := s.seen[at]
	if len(s.seen) >= maxSkipsSeen {
		clear(s.seen)
	}
	s.seen[at] = true
	s.mu.Unlock()
	if known {
		return
	}
	s.log.Error("skipped an unreadable batch and its records", zap.String("topic", topic),
		zap.Int32("partition", partition),
		zap.Int64("from", b.From), zap.Int64("to", b.Next-1), zap.Error(b.Err))
	if s.count != nil {
		s.count(topic)
	}
}

// unpacker is a client's decompressor. It limits what the client unpacks by itself, and knows the limit for batches
// that are read one by one. It is also a hook: each response gets a new budget.
type unpacker struct {
	inline, whole kgo.Decompressor
	skips         *Skips
	left          atomic.Int64 // bytes that the batches of a response may still unpack to
	release       bool         // the last poll read a batch by itself; used by the polling goroutine only
}

func newUnpacker(maxBytes int64, skips *Skips) (*unpacker, error) {
	inline, err := bounded(min(maxBytes, inlineBytes))
	if err != nil {
		return nil, err
	}
	whole, err := bounded(maxBytes)
	if err != nil {
		return nil, err
	}
	u := &unpacker{inline: inline, whole: whole, skips: skips}
	u.left.Store(responseBytes)
	return u, nil
}

// bounded returns a decompressor that refuses to unpack more than limit bytes. The library bounds only the
// decompressors that it makes for a client.
func bounded(limit int64) (kgo.Decompressor, error) {
	cl, err := kgo.NewClient(kgo.MaxDecompressBatchBytes(int(limit)))
	if err != nil {
		return nil, fmt.Errorf("kafka.max_batch_bytes: %w", err)
	}
	defer cl.Close()
	return cl.OptValue(kgo.WithDecompressor).(kgo.Decompressor), nil
}

// unpackerOf returns cl's unpacker. A client that was not made by [Config.NewClient] has no bound.
func unpackerOf(cl *kgo.Client) *unpacker {
	if u, ok := cl.OptValue(kgo.WithDecompressor).(*unpacker); ok {
		return u
	}
	return &unpacker{whole: cl.OptValue(kgo.WithDecompressor).(kgo.Decompressor), skips: NewSkips(zap.NewNop(), nil)}
}

// OnBrokerRead implements [kgo.HookBrokerRead].
func (u *unpacker) OnBrokerRead(_ kgo.BrokerMetadata, key int16, _ int, _, _ time.Duration, _ error) {
	if kmsg.Key(key) == kmsg.Fetch {
		u.left.Store(responseBytes)
	}
}

// Decompress implements [kgo.Decompressor]. Its own errors must not be [kgo.ErrMaxDecompress]: that would stop the
// partition, even if nobody polls the error because the partition is paused.
func (u *unpacker) Decompress(src []byte, codec kgo.CompressionCodecType) ([]byte, error) {
	if u.left.Load() <= 0 {
		return nil, errLater
	}
	out, err := u.inline.Decompress(src, codec)
	if errors.Is(err, kgo.ErrMaxDecompress) {
		return nil, errAside
	}
	u.left.Add(-int64(len(out)))
	return out, err
}

// Poll waits for records for at most wait (0: until ctx ends) and returns at most most of them (0: no limit). A batch
// that cl cannot unpack is read separately, at most one in a poll, so that there is never more than one in memory: use
// or copy the records before the next Poll. If it cannot be read at all, its partition has the error [Skipped] and
// continues behind it.
//
// next returns the offset after the last record polled of a partition, or a negative number if there is none yet.
func Poll(ctx context.Context, cl *kgo.Client, wait time.Duration, most int,
	next func(topic string, partition int32) int64) kgo.Fetches {
	u := unpackerOf(cl)
	if u.release {
		debug.FreeOSMemory()
		u.release = false
	}
	polling, cancel := ctx, context.CancelFunc(func() {})
	if wait > 0 {
		polling, cancel = context.WithTimeout(ctx, wait)
	}
	fetches := cl.PollRecords(polling, most)
	cancel()
	for i := range fetches {
		for j := range fetches[i].Topics {
			topic := &fetches[i].Topics[j]
			for k := range topic.Partitions {
				p := &topic.Partitions[k]
				switch {
				case p.Err == nil || !isBatchError(p.Err):
				case len(p.Records) > 0 || u.release || errors.Is(p.Err, errLater):
					p.Err = nil // the client fetches the batch again
				default:
					u.release = true
					from := max(next(topic.Topic, p.Partition), p.LogStartOffset, 0)
					p.Records, p.Err = u.readAside(ctx, cl, topic.Topic, p.Partition, from, p.Err)
				}
			}
		}
	}
	return fetches
}

// isBatchError reports whether a partition's error may come from the contents of its next batch. Other errors come
// from a broker, from the connection to it, or from the client's own state.
func isBatchError(err error) bool {
	if _, ok := errors.AsType[*kerr.Error](err); ok {
		return false
	}
	if _, ok := errors.AsType[*kgo.ErrDataLoss](err); ok {
		return false
	}
	if _, ok := errors.AsType[*kgo.ErrGroupSession](err); ok {
		return false
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return false
	}
	return !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) &&
		!errors.Is(err, kgo.ErrClientClosed) &&
		!kgo.IsRetryableBrokerErr(err)
}

// readAside reads the batch at an offset, at which the client failed, and moves the client behind it.
func (u *unpacker) readAside(ctx context.Context, cl *kgo.Client, topic string, partition int32, offset int64,
	failed error) ([]*kgo.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, batchTimeout)
	defer cancel()
	moveTo := func(b *batch) {
		// This drops what is buffered for other partitions, too. The client fetches it again.
		cl.SetOffsets(map[string]map[int32]kgo.EpochOffset{topic: {partition: {Epoch: b.epoch, Offset: b.next}}})
	}
	var before *batch // the last one that was passed over
	for {
		b, err := readBatch(ctx, cl, topic, partition, offset)
		switch {
		case err == nil && b.next > offset && b.empty: // the client does not report how many of those it passed over
			before, offset = b, b.next
		case err == nil && b.next > offset && b.bad == nil:
			moveTo(b)
			return b.records, nil
		case err == nil && b.next > offset:
			moveTo(b)
			skipped := &Skipped{From: max(b.first, offset), Next: b.next, Epoch: b.epoch, Err: b.bad}
			u.skips.report(topic, partition, skipped)
			return nil, skipped
		case err == nil && before != nil: // it failed at a batch that is empty for it
			moveTo(before)
			return nil, nil
		default:
			select {
			case <-ctx.Done():
			case <-time.After(batchPause):
			}
			return nil, errors.Join(failed, err)
		}
	}
}

// batch is one batch as a client sees it that reads at an offset.
type batch struct {
	first, next int64 // its offsets are first ≤ o < next
	epoch       int32
	records     []*kgo.Record // those from the offset on, if it is not empty
	bad         error         // why it cannot be read
	empty       bool          // it has no records for the client: all are aborted, control records, or compacted away
}

// readBatch reads the one batch that holds offset, or the next one. If there is none yet, next is offset.
func readBatch(ctx context.Context, cl *kgo.Client, topic string, partition int32, offset int64) (*batch, error) {
	answer, err := fetchBatch(ctx, cl, topic, partition, offset)
	if err != nil {
		return nil, err
	}
	b, wire := findBatch(answer, offset)
	if wire != nil && !b.empty {
		b.unpack(isolationOf(cl).level(), unpackerOf(cl).whole, topic, answer, wire, offset)
	}
	return b, nil
}

// fetchBatch fetches the one batch that holds offset, or the next one, in its wire form.
func fetchBatch(ctx context.Context, cl *kgo.Client, topic string, partition int32,
	offset int64) (*kmsg.FetchResponseTopicPartition, error) {
	leader, id, err := leaderOf(ctx, cl, topic, partition)
	if err != nil {
		return nil, err
	}
	req := kmsg.NewPtrFetchRequest()
	req.ReplicaID, req.MaxBytes, req.SessionEpoch, req.IsolationLevel = -1, 1, -1, IsolationLevel(cl)
	t := kmsg.NewFetchRequestTopic()
	t.Topic, t.TopicID = topic, id
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.FetchOffset, p.PartitionMaxBytes = partition, offset, 1 // the first batch is complete nevertheless
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	kresp, err := cl.Broker(int(leader)).Request(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("fetch %s/%d at offset %d: %w", topic, partition, offset, err)
	}
	resp := kresp.(*kmsg.FetchResponse)
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return nil, fmt.Errorf("fetch %s/%d at offset %d: %w", topic, partition, offset, err)
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return nil, fmt.Errorf("fetch %s/%d at offset %d: no answer about it", topic, partition, offset)
	}
	answer := &resp.Topics[0].Partitions[0]
	if err := kerr.ErrorForCode(answer.ErrorCode); err != nil {
		return nil, fmt.Errorf("fetch %s/%d at offset %d: %w", topic, partition, offset, err)
	}
	return answer, nil
}

// findBatch finds the first batch of a response that reaches offset. wire is nil if there is none, or only a part of
// it.
func findBatch(answer *kmsg.FetchResponseTopicPartition, offset int64) (b *batch, wire []byte) {
	const (
		lengthAt, epochAt, magicAt, attributesAt, lastDeltaAt, producerAt, countAt, header = 8, 12, 16, 21, 23, 43, 57, 61

		transactional, control = 1 << 4, 1 << 5
	)
	b = &batch{first: offset, next: offset, epoch: -1}
	for in := answer.RecordBatches; len(in) > magicAt; {
		length := int64(int32(binary.BigEndian.Uint32(in[lengthAt:]))) + lengthAt + 4
		b.first, b.next = int64(binary.BigEndian.Uint64(in)), int64(binary.BigEndian.Uint64(in))+1
		if in[magicAt] == 2 && len(in) >= header {
			b.epoch = int32(binary.BigEndian.Uint32(in[epochAt:]))
			b.next += max(int64(int32(binary.BigEndian.Uint32(in[lastDeltaAt:]))), 0)
			attributes := binary.BigEndian.Uint16(in[attributesAt:])
			b.empty = binary.BigEndian.Uint32(in[countAt:]) == 0 || attributes&control != 0 ||
				attributes&transactional != 0 && aborted(answer, int64(binary.BigEndian.Uint64(in[producerAt:])), b.first)
		}
		whole := length > magicAt && length <= int64(len(in))
		if whole && b.next <= offset {
			in = in[length:]
			continue
		}
		b.next = max(b.next, offset+1)
		if !whole {
			b.bad = fmt.Errorf("the batch claims to have %d bytes, the broker sent %d", length, len(in))
			return b, nil
		}
		return b, in[:length]
	}
	return &batch{first: offset, next: offset, epoch: -1}, nil
}

// aborted reports whether a producer's batch belongs to an aborted transaction. A broker returns the aborted
// transactions that end after the requested offset.
func aborted(answer *kmsg.FetchResponseTopicPartition, producer, first int64) bool {
	for _, t := range answer.AbortedTransactions {
		if t.ProducerID == producer && t.FirstOffset <= first {
			return true
		}
	}
	return false
}

var errTooLarge = errors.New("it unpacks to more than kafka.max_batch_bytes")

// unpack reads the records of b.
func (b *batch) unpack(level kgo.IsolationLevel, unpack kgo.Decompressor, topic string,
	answer *kmsg.FetchResponseTopicPartition, wire []byte, offset int64) {
	one := *answer
	one.RecordBatches = wire
	fetched, next := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{
		KeepControlRecords: true, Offset: offset, IsolationLevel: level, Topic: topic, Partition: answer.Partition,
	}, &one, unpack, nil)
	switch {
	case errors.Is(fetched.Err, kgo.ErrMaxDecompress): // the client's own text advises to move on by hand
		b.bad = errTooLarge
	case fetched.Err != nil:
		b.bad = fetched.Err
	case next < b.next:
		b.bad = errors.New("not all of its records can be decoded")
	default:
		b.records = fetched.Records
	}
}

// ReadAt returns the records of the batch that holds an offset, from that offset on. The first one's offset is higher
// if there is no such record any more. cl must not be consuming: its fetches would keep the request waiting.
func ReadAt(ctx context.Context, cl *kgo.Client, topic string, partition int32, offset int64) ([]*kgo.Record, error) {
	b, err := readBatch(ctx, cl, topic, partition, offset)
	if err != nil {
		return nil, err
	}
	return b.records, b.bad
}

func leaderOf(ctx context.Context, cl *kgo.Client, topic string,
	partition int32) (leader int32, id [16]byte, err error) {
	found, err := TopicMetadata(ctx, cl, topic)
	t := found[topic]
	if err == nil {
		err = kerr.ErrorForCode(t.ErrorCode)
	}
	if err == nil {
		i := slices.IndexFunc(t.Partitions, func(p kmsg.MetadataResponseTopicPartition) bool {
			return p.Partition == partition
		})
		switch {
		case i < 0: // the topic was created again with fewer partitions
			err = kerr.UnknownTopicOrPartition
		case t.Partitions[i].Leader < 0:
			err = kerr.LeaderNotAvailable
		default:
			return t.Partitions[i].Leader, t.TopicID, nil
		}
	}
	return 0, id, fmt.Errorf("find the leader of %s/%d: %w", topic, partition, err)
}

// NextRecord returns the lowest offset in from ≤ o < end at which there is a record, or a batch that cannot be read,
// and end if there is none: batches without records (emptied by compaction, aborted, control) are passed over.
// Clients do not report how many of them they passed over.
//
// For a compacted topic, an empty answer means that no batch is left before end. For other topics it means nothing: a
// broker also returns it while it waits for its remote storage. NextRecord then returns from.
func NextRecord(ctx context.Context, cl *kgo.Client, topic string, partition int32, from, end int64,
	compacted bool) (int64, error) {
	for from < end {
		answer, err := fetchBatch(ctx, cl, topic, partition, from)
		if err != nil {
			return from, err
		}
		stable := answer.HighWatermark
		if isolationOf(cl) == readCommitted {
			stable = answer.LastStableOffset
		}
		b, wire := findBatch(answer, from)
		switch {
		case b.next <= from && stable >= end && compacted:
			return end, nil
		case b.next <= from: // or a new leader does not show all yet
			return from, nil
		case !b.empty && (b.first >= from || wire == nil):
			return max(from, b.first), nil
		case !b.empty: // from is within the batch, the rest of which may be compacted away
			b.unpack(isolationOf(cl).level(), unpackerOf(cl).whole, topic, answer, wire, from)
			if b.bad != nil || len(b.records) > 0 {
				return from, nil
			}
		}
		from = b.next
	}
	return from, nil
}
