package release

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/compacted"
	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/kafka"
	"github.com/smshooks/smshooks/internal/topics"
)

const (
	examineChunk = 512 // records between two readings of the clock
	// maxCopies, maxCopyBytes and maxAge bound a transaction. While one is open, records behind it in its topics cannot
	// be read.
	maxCopies    = 250
	maxCopyBytes = 8 << 20
	maxAge       = 500 * time.Millisecond // of the oldest copy
	// maxProduce is the size of what is produced at once: what fits into one batch. A larger record is a batch of its own.
	maxProduce = 512 << 10

	transactionTimeout = 10 * time.Second
	commitTimeout      = 8 * time.Second
	readPatience       = 10 * time.Second
)

// errRevoked ends a pass because the partition was revoked. The next owner continues.
var errRevoked = errors.New("the partition was revoked")

// errChanged ends a pass because a previous owner had made more progress than was known. The next round continues
// there.
var errChanged = errors.New("another owner has worked on the partition")

// pass carries out one task: it reads the task's span and copies the records that its recoveries select.
type pass struct {
	*Worker
	*task
	client *kgo.Client // of transactions; nil until the first record is to be copied

	copies []*kgo.Record
	of     []string // recoveries, one for each copy
	notes  []event.LogEntry
	bytes  int
	since  time.Time // of the first of copies
}

// run carries out a task.
func (w *Worker) run(ctx context.Context, t *task) error {
	p := &pass{Worker: w, task: t}
	defer p.close()
	began := time.Now()
	err := p.work(ctx)
	if errors.Is(err, errChanged) {
		return nil
	}
	if err == nil {
		w.log.Info("delayed events released", zap.String("topic", t.topic), zap.Int32("partition", t.partition),
			zap.Int("recoveries", len(t.ids)), zap.Int64("records", t.span.End-t.span.Start),
			zap.Int64("released", p.total()), zap.Duration("took", time.Since(began)))
	}
	return err
}

func (p *pass) total() (n int64) {
	for _, released := range p.released {
		n += released
	}
	return n
}

func (p *pass) work(ctx context.Context) error {
	if p.begun || p.owned.Undecided > 0 { // a previous owner's transaction may be open
		if err := p.fence(ctx); err != nil {
			return err
		}
	}
	if p.span.Next < p.span.End && !p.gone {
		if err := p.read(ctx, p.task, func(r *kgo.Record) error { return p.examine(ctx, r) }); err != nil {
			return err
		}
	}
	p.span.Next = p.span.End
	if p.client == nil { // nothing was copied by any owner
		units := map[string]map[string][]int32{}
		for _, id := range p.ids {
			units[id] = map[string][]int32{p.topic: {p.partition}}
		}
		return p.end(ctx, units)
	}
	return p.flush(ctx, true)
}

// read calls take with the records of a task's span, at the pace of maxExamined, while the partition is owned.
func (w *Worker) read(ctx context.Context, t *task, take func(*kgo.Record) error) error {
	spans := map[int32]compacted.Span{t.partition: {Start: t.span.Next, End: t.span.End}}
	r, err := compacted.OpenSpans(w.releases.newClient, t.topic, spans, readPatience)
	if err != nil {
		return err
	}
	defer r.Close()
	n := 0
	return r.ReadAll(ctx, nil, func(r *kgo.Record) error {
		if n++; n%examineChunk == 0 {
			if err := w.examining.WaitN(ctx, examineChunk); err != nil {
				return err
			}
			if !t.owned.Owned() {
				return errRevoked
			}
		}
		return take(r)
	})
}

// examine copies a record if one of the recoveries selects it and nothing else was decided about it.
func (p *pass) examine(ctx context.Context, r *kgo.Record) error {
	if len(p.copies) > 0 && time.Since(p.since) > maxAge {
		if err := p.flush(ctx, false); err != nil {
			return err
		}
	}
	e := eventOf(r, p.owned, p.space)
	id := p.releases.choose(p.job, e)
	if id != "" && p.client == nil {
		if err := p.fence(ctx); err != nil {
			return err
		}
		id = p.releases.choose(p.job, e) // a previous owner may have copied it for another recovery
	}
	if id != "" && !p.owned.Finished(p.id, r.Offset, r.LeaderEpoch) {
		if len(p.copies) == 0 {
			p.since = time.Now()
		}
		due := event.CeilMilli(p.now())
		p.copies, p.of = append(p.copies, p.copyOf(r, due)), append(p.of, id)
		p.bytes += kafka.RecordSize(r)
		if note, ok := e.NewNote(due); ok {
			p.notes = append(p.notes, note)
		}
	}
	p.span.Next, p.span.Epoch = r.Offset+1, max(p.span.Epoch, r.LeaderEpoch)
	if len(p.copies) >= maxCopies || p.bytes >= maxCopyBytes {
		return p.flush(ctx, false)
	}
	return nil
}

// eventOf returns the event of a delayed record, with what decides about it, like the consumer's.
func eventOf(r *kgo.Record, p event.Partition, space event.Namespace) *event.Event {
	e := &event.Event{
		Record: event.Record{
			Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Epoch: r.LeaderEpoch, Namespace: space, Key: r.Key,
			Value: r.Value, Class: topics.Retry,
		},
		Delivery: event.Delivery{Kind: p.Kind, Time: r.Timestamp},
	}
	for _, h := range r.Headers {
		e.SetHeader(h.Key, h.Value)
	}
	return e
}

// copyOf returns the record that is sent instead of r. It is due at that time, and otherwise the same.
func (p *pass) copyOf(r *kgo.Record, at time.Time) *kgo.Record {
	due := kgo.RecordHeader{Key: event.HeaderDue, Value: []byte(event.FormatTime(at))}
	c := &kgo.Record{Topic: p.cfg.Released(p.owned.Kind), Partition: r.Partition, Key: r.Key, Value: r.Value}
	for _, h := range r.Headers {
		if h.Key != event.HeaderDue {
			c.Headers = append(c.Headers, h)
		}
	}
	c.Headers = append(c.Headers, due)
	return c
}

// fence ends the transactions of previous owners of the partition and keeps them from beginning others. If they have
// made more progress than the task, it returns errChanged.
func (p *pass) fence(ctx context.Context) error {
	if p.client != nil {
		return nil
	}
	if !p.owned.Owned() {
		return errRevoked
	}
	id := topics.TransactionPrefix(p.cfg.Group) + p.topic + "-" + strconv.Itoa(int(p.partition))
	options := append(kafka.LargeOptions(p.cfg.MaxBatch),
		kgo.TransactionalID(id), kgo.TransactionTimeout(transactionTimeout), kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(kafka.Partitioner(func(topic string) bool { return topic != p.releases.cfg.Topic })),
		kgo.MaxBufferedRecords(10*maxCopies), kgo.WithCompressor(compressor()),
		kgo.MetadataMinAge(250*time.Millisecond))
	client, err := p.releases.newClient(options...)
	if err != nil {
		return fmt.Errorf("client for transactions: %w", err)
	}
	p.client = client
	asking, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	if _, _, err := client.ProducerID(asking); err != nil {
		return fmt.Errorf("begin transactions as %s (the Kafka user needs the right Write on this transactional id): %w",
			id, err)
	}
	if err := p.releases.CatchUp(ctx); err != nil {
		return err
	}
	if !p.releases.unchanged(p.job) {
		return errChanged
	}
	return nil
}

// bySize compresses usual batches fast, and those of a single large record well: max.message.bytes limits the
// compressed size.
type bySize struct{ fast, well kgo.Compressor }

var compressor = sync.OnceValue(func() kgo.Compressor {
	fast, _ := kgo.DefaultCompressor(kgo.SnappyCompression()) // both codecs exist
	well, _ := kgo.DefaultCompressor(kgo.ZstdCompression())
	return bySize{fast, well}
})

// Compress implements kgo.Compressor.
func (c bySize) Compress(
	dst *bytes.Buffer, src []byte, flags ...kgo.CompressFlag,
) ([]byte, kgo.CompressionCodecType) {
	if len(src) > maxProduce {
		return c.well.Compress(dst, src, flags...)
	}
	return c.fast.Compress(dst, src, flags...)
}

// flush stores the copies and the progress of the pass in one transaction. done means that the pass is complete.
func (p *pass) flush(ctx context.Context, done bool) error {
	if err := p.copying.WaitN(ctx, max(len(p.copies), 1)); err != nil {
		return err
	}
	for _, id := range p.of {
		p.released[id]++
	}
	progress := &progress{
		Topic: p.topic, Partition: p.partition, Span: p.span, Released: p.released, Done: done, Time: p.now(),
	}
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	key := p.topic + "/" + strconv.Itoa(int(p.partition))
	if err := p.commit(ctx, record(p.releases.cfg.Topic, key, entry{Progress: progress})); err != nil {
		return err
	}
	for _, note := range p.notes {
		p.cfg.Note(note)
	}
	if len(p.copies) > 0 {
		p.partitions.Wake(p.cfg.Released(p.owned.Kind), p.partition)
	}
	p.copies, p.of, p.notes, p.bytes = nil, nil, nil, 0
	return nil
}

// commit stores the copies and a record of the topic of releases in one transaction. After an error the client must
// not be used any more: to begin again, it would end the transactions of the next owner.
func (p *pass) commit(ctx context.Context, progress *kgo.Record) error {
	if err := p.client.BeginTransaction(); err != nil {
		return fmt.Errorf("begin a transaction: %w", err)
	}
	err := p.produce(ctx, progress)
	if err == nil && !p.owned.Owned() {
		err = errRevoked
	}
	if err != nil {
		p.abort(ctx)
		return err
	}
	if err := p.client.EndTransaction(ctx, kgo.TryCommit); err != nil {
		return fmt.Errorf("commit a transaction: %w", err)
	}
	return nil
}

// abort ends the transaction at once, so that it does not hold back records behind it until it times out.
func (p *pass) abort(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if p.owned.Owned() && p.client.AbortBufferedRecords(ctx) == nil {
		_ = p.client.EndTransaction(ctx, kgo.TryAbort) // otherwise the next owner ends it, or the broker does
	}
}

// produce stores the copies, and the record of the topic of releases last.
func (p *pass) produce(ctx context.Context, progress *kgo.Record) error {
	for from, bytes := 0, 0; from < len(p.copies); bytes = 0 {
		to := from
		for to < len(p.copies) && (to == from || bytes+kafka.RecordSize(p.copies[to]) <= maxProduce) {
			bytes += kafka.RecordSize(p.copies[to])
			to++
		}
		if err := p.client.ProduceSync(ctx, p.copies[from:to]...).FirstErr(); err != nil {
			return fmt.Errorf("copy to topic %s: %w", p.copies[from].Topic, err)
		}
		from = to
	}
	if err := p.client.ProduceSync(ctx, progress).FirstErr(); err != nil {
		return fmt.Errorf("write to topic %s: %w", progress.Topic, err)
	}
	return nil
}

func (p *pass) close() {
	if p.client != nil {
		p.client.Close()
	}
}
