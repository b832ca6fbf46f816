// Package deadletter reads the events that were given up, and sends them again.
//
// An event that is sent again goes to its kind's first overflow topic, due at once, with the identity it always had
// and no attempts made. Sending it again does not take the dead letter away: asked again when the replay has ended, it
// is sent again.
package deadletter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/internal/kafka"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// Config says where dead letters are and where they go. Arrays are in the order of kinds.
type Config struct {
	Topic    string
	Sources  [webhook.NumKinds]string
	Overflow [webhook.NumKinds]string // the first overflow topic of each kind
	// Patience is how long Kafka may be silent before it counts as away; 0 means 4 s.
	Patience time.Duration
	// Now is the time of day; nil means time.Now.
	Now func() time.Time
}

// Filter says which dead letters are wanted; the zero value means all.
type Filter struct {
	UserID int64 // 0: every user's
	Kind   string
	Reason string
	// Since and Until bound when the event was given up: since ≤ t < until.
	Since, Until time.Time
	IDs          []string // none: every event's
}

// Store reads and sends dead letters again. It is safe for concurrent use.
type Store struct {
	cfg       Config
	newClient func(...kgo.Opt) (*kgo.Client, error)
	client    *kgo.Client
	large     *kafka.LargeProducer // of what does not fit into a usual batch
	admin     *kadm.Client
}

// New returns a store; nothing is dialled yet. newClient returns a Kafka client without a group that has the given
// options too.
func New(cfg Config, newClient func(extra ...kgo.Opt) (*kgo.Client, error)) (*Store, error) {
	if cfg.Patience <= 0 {
		cfg.Patience = 4 * time.Second
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	options := []kgo.Opt{
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.RecordDeliveryTimeout(4 * cfg.Patience),
		kgo.MetadataMinAge(250 * time.Millisecond),
	}
	client, err := newClient(options...)
	if err != nil {
		return nil, fmt.Errorf("client for dead letters: %w", err)
	}
	large, err := newClient(append(options, kafka.LargeOptions(0)...)...)
	if err != nil {
		client.Close()
		return nil, fmt.Errorf("client for large dead letters: %w", err)
	}
	return &Store{cfg: cfg, newClient: newClient, client: client, large: &kafka.LargeProducer{Client: large}, admin: kadm.NewClient(client)}, nil
}

// Close ends the store's connections.
func (s *Store) Close() {
	s.client.Close()
	s.large.Close()
}

// Adopt makes the store write to topics that were deleted and created again.
func (s *Store) Adopt(_ context.Context, topics []string) error {
	s.client.PurgeTopicsFromProducing(slices.Clone(topics)...)
	s.large.PurgeTopicsFromProducing(slices.Clone(topics)...)
	return nil
}

// emptyAfter is how long no record may come until a reader looks whether there still is one.
const emptyAfter = 500 * time.Millisecond

// List calls each for the dead letters that were there when it began and that f wants: oldest first within a
// partition of the topic. An error of each ends it and is returned. Other errors are Kafka's.
//
// The whole topic is read, from f.Since on, whomever it is asked for.
func (s *Store) List(ctx context.Context, f Filter, each func(*Letter) error) error {
	return s.ListWatched(ctx, f, nil, each)
}

// Progress is told, from time to time, how many of the records that are to be read have been read.
type Progress func(read, total int64)

// ListWatched is List, and tells progress, if it is not nil.
func (s *Store) ListWatched(ctx context.Context, f Filter, progress Progress, each func(*Letter) error) error {
	spans, err := s.spans(ctx, f.Since)
	if err != nil {
		return err
	}
	return s.read(ctx, spans, newMatcher(f), progress, each)
}

// read hands the wanted records of the spans on.
func (s *Store) read(ctx context.Context, spans map[int32]*span, m *matcher, progress Progress, each func(*Letter) error) error {
	if len(spans) == 0 {
		return nil
	}
	if progress == nil {
		progress = func(int64, int64) {}
	}
	from := make(map[int32]kgo.Offset, len(spans))
	for p, span := range spans {
		from[p] = kgo.NewOffset().At(span.next)
	}
	client, err := s.newClient(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{s.cfg.Topic: from}), kgo.KeepControlRecords())
	if err != nil {
		return fmt.Errorf("client for topic %s: %w", s.cfg.Topic, err)
	}
	defer client.CloseAllowingRebalance()
	total := left(spans)
	progress(0, total)
	err = s.scan(ctx, client, spans, m, func() { progress(total-left(spans), total) }, each)
	if err == nil {
		progress(total, total)
	}
	return err
}

// span is what is to be read of a partition: offsets next ≤ o < end.
type span struct{ next, end int64 }

// left is how many offsets of the spans are still to be read.
func left(spans map[int32]*span) (n int64) {
	for _, s := range spans {
		n += max(s.end-s.next, 0)
	}
	return n
}

// spans finds what is to be read, of the partitions that hold anything.
func (s *Store) spans(ctx context.Context, since time.Time) (map[int32]*span, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Patience)
	defer cancel()
	var (
		starts kadm.ListedOffsets
		err    error
	)
	if since.IsZero() {
		starts, err = s.admin.ListStartOffsets(ctx, s.cfg.Topic)
	} else {
		starts, err = s.admin.ListOffsetsAfterMilli(ctx, max(since.UnixMilli(), 0), s.cfg.Topic) // what is negative means something else
	}
	if err = errors.Join(err, starts.Error()); err != nil {
		return nil, fmt.Errorf("offsets of topic %s: %w", s.cfg.Topic, err)
	}
	ends, err := kafka.ListEnds(ctx, s.client, s.cfg.Topic)
	if err = errors.Join(err, ends.Error()); err != nil {
		return nil, fmt.Errorf("offsets of topic %s: %w", s.cfg.Topic, err)
	}
	spans := map[int32]*span{}
	ends.Each(func(end kadm.ListedOffset) {
		start, ok := starts.Lookup(end.Topic, end.Partition)
		if ok && start.Offset < end.Offset {
			spans[end.Partition] = &span{start.Offset, end.Offset}
		}
	})
	return spans, nil
}

// scan reads the spans to their ends.
func (s *Store) scan(ctx context.Context, client *kgo.Client, spans map[int32]*span, m *matcher, polled func(), each func(*Letter) error) error {
	for progress := time.Now(); len(spans) > 0; {
		fetches := kafka.Poll(ctx, client, min(s.cfg.Patience, emptyAfter), 0, func(_ string, p int32) int64 {
			if at := spans[p]; at != nil {
				return at.next
			}
			return -1
		})
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("reading topic %s: %w", s.cfg.Topic, err)
		}
		var failed, stopped error
		fetches.EachError(func(_ string, p int32, err error) {
			if skipped, ok := errors.AsType[*kafka.Skipped](err); ok {
				progress = time.Now()
				passTo(spans, p, skipped.Next)
			} else if !errors.Is(err, context.DeadlineExceeded) {
				failed = fmt.Errorf("reading %s/%d: %w", s.cfg.Topic, p, err)
			}
		})
		fetches.EachPartition(func(part kgo.FetchTopicPartition) {
			if stopped == nil && len(part.Records) > 0 {
				progress = time.Now()
				stopped = take(spans, part, m, each)
			}
		})
		if stopped != nil {
			return stopped
		}
		polled()
		if time.Since(progress) < min(s.cfg.Patience, emptyAfter) {
			continue
		}
		err := s.passEmpty(ctx, client, spans)
		if len(spans) > 0 && time.Since(progress) >= s.cfg.Patience { // until then the client goes on by itself after an error
			return fmt.Errorf("reading topic %s: no answer for %v: %w", s.cfg.Topic, s.cfg.Patience, errors.Join(failed, err, context.DeadlineExceeded))
		}
	}
	return nil
}

// take hands the wanted records of a partition on, and crosses the partition off when it was read.
func take(spans map[int32]*span, part kgo.FetchTopicPartition, m *matcher, each func(*Letter) error) error {
	at := spans[part.Partition]
	if at == nil {
		return nil
	}
	for _, r := range part.Records {
		if r.Offset >= at.end {
			break
		}
		at.next = r.Offset + 1
		if r.Attrs.IsControl() {
			continue
		}
		if letter := m.match(r); letter != nil {
			if err := each(letter); err != nil {
				return err
			}
		}
	}
	passTo(spans, part.Partition, part.Records[len(part.Records)-1].Offset+1)
	return nil
}

// passTo notes that a partition was read up to next, and crosses it off at its end.
func passTo(spans map[int32]*span, partition int32, next int64) {
	at := spans[partition]
	if at == nil {
		return
	}
	if at.next = max(at.next, next); at.next >= at.end {
		delete(spans, partition)
	}
}

// passEmpty passes over what the client never shows: what retention has deleted meanwhile, and aborted records.
func (s *Store) passEmpty(ctx context.Context, client *kgo.Client, spans map[int32]*span) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Patience)
	defer cancel()
	starts, err := s.admin.ListStartOffsets(ctx, s.cfg.Topic)
	if err = errors.Join(err, starts.Error()); err != nil {
		return fmt.Errorf("starts of topic %s: %w", s.cfg.Topic, err)
	}
	for p, at := range spans {
		start, _ := starts.Lookup(s.cfg.Topic, p)
		next, err := kafka.NextRecord(ctx, client, s.cfg.Topic, p, max(at.next, start.Offset), at.end, false)
		if err != nil {
			return fmt.Errorf("end of %s/%d: %w", s.cfg.Topic, p, err)
		}
		passTo(spans, p, next)
	}
	return nil
}
