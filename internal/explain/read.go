package explain

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/smshooks/smshooks/internal/compacted"
	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/pkg/webhook"
)

const (
	// patience is how long Kafka may fail to answer while records are read.
	patience = 10 * time.Second
	// chunk is the number of records that one reader reads: several readers read a large partition.
	chunk = 250_000
	// fetchBytes is the size of a reader's fetches. The service itself fetches less at a time.
	fetchBytes = 8 << 20
)

// part is a range of offsets of one partition.
type part struct {
	topic     *topic
	partition int32
	span      compacted.Span
}

// parts returns the partitions that hold records; those with the given numbers, if there are any.
func (t *topic) parts(partitions ...int32) (list []part) {
	for partition, span := range t.spans {
		if len(partitions) == 0 || slices.Contains(partitions, partition) {
			list = append(list, part{t, partition, span})
		}
	}
	return list
}

// after removes from parts the records written before a time.
func (f *finder) after(ctx context.Context, parts []part, since time.Time) ([]part, error) {
	if len(parts) == 0 || since.IsZero() || since.Before(f.query.Since) {
		return parts, nil
	}
	var names []string
	for _, p := range parts {
		names = append(names, p.topic.name)
	}
	starts, err := kadm.NewClient(f.client).ListOffsetsAfterMilli(ctx, max(since.UnixMilli(), 0), names...)
	if err != nil {
		return nil, fmt.Errorf("read the offsets of the topics: %w", err)
	}
	kept := parts[:0]
	for _, p := range parts {
		if start, ok := starts.Lookup(p.topic.name, p.partition); ok && start.Err == nil {
			p.span.Start = max(p.span.Start, start.Offset)
		}
		if p.span.Start < p.span.End {
			kept = append(kept, p)
		}
	}
	return kept, nil
}

// read passes the records of the parts to the matchers that match returns, one for each reader, and adds the records
// that they select. It leaves out those of other kinds than Query.Kind, since the dead letter topic holds all kinds. A
// topic for which match returns nil is not read.
func (f *finder) read(ctx context.Context, parts []part, match func(*topic) matcher) error {
	return f.readIn(ctx, parts, chunk, match)
}

// readIn is read with readers of at most chunk records each.
func (f *finder) readIn(ctx context.Context, parts []part, chunk int64, match func(*topic) matcher) error {
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(2 * runtime.GOMAXPROCS(0))
	for _, p := range parts {
		for start := p.span.Start; start < p.span.End; start += chunk {
			m := match(p.topic)
			if m == nil {
				break
			}
			span := compacted.Span{Start: start, End: min(start+chunk, p.span.End)}
			g.Go(func() error {
				r, err := compacted.OpenSpans(f.newReader, p.topic.name, map[int32]compacted.Span{p.partition: span}, patience)
				if err != nil {
					return err
				}
				defer r.Close()
				return r.ReadAll(ctx, nil, func(record *kgo.Record) error {
					if e := m(p.topic, record); e != nil && (f.query.Kind == nil || e.Kind == *f.query.Kind) {
						mu.Lock()
						defer mu.Unlock()
						f.add(p.topic, e, record)
					}
					return nil
				})
			})
		}
	}
	return g.Wait()
}

func (f *finder) newReader(extra ...kgo.Opt) (*kgo.Client, error) {
	return f.cfg.NewClient(append(extra, kgo.FetchMaxBytes(fetchBytes), kgo.FetchMaxPartitionBytes(fetchBytes),
		kgo.MaxConcurrentFetches(1))...)
}

// add adds a record to its event.
func (f *finder) add(t *topic, e *event.Event, r *kgo.Record) {
	key := identity{id: e.ID, kind: e.Kind, userID: e.UserID}
	if e.Kind != webhook.RevokeClick {
		key.message = e.Message.ID(r.Value)
	}
	known := f.found[key]
	if known == nil {
		known = &Event{ID: e.ID, Kind: e.Kind, UserID: e.UserID, MessageID: key.message}
		if e.Kind != webhook.RevokeClick {
			known.From, known.To = e.Message.Numbers(r.Value)
		}
		f.found[key] = known
	}
	if t.isSource() || known.Time.IsZero() {
		known.Time = e.Time
	}
	c := Copy{
		Topic: t.name, Partition: r.Partition, Offset: r.Offset, Class: t.info.Class.String(), Time: r.Timestamp, Due: e.Due,
		attempts: e.Attempts, failure: e.Failure, reason: e.Reason, replayed: e.Replayed,
	}
	if t.dead {
		c.Class = DeadLetter
	} else if finished := t.finished[r.Partition]; finished != nil {
		c.Committed = finished(r.Offset)
	}
	known.Copies = append(known.Copies, c)
}
