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

	"github.com/smshooks/smshooks/internal/compacted"
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

// read calls each for the wanted records of the spans.
func (s *Store) read(ctx context.Context, spans map[int32]compacted.Span, m *matcher, progress Progress, each func(*Letter) error) error {
	if len(spans) == 0 {
		return nil
	}
	r, err := compacted.OpenSpans(s.newClient, s.cfg.Topic, spans, s.cfg.Patience)
	if err != nil {
		return err
	}
	defer r.Close()
	if progress == nil {
		progress = func(int64, int64) {}
	}
	total := r.Left()
	polled := func() { progress(total-r.Left(), total) }
	polled()
	return r.ReadAll(ctx, polled, func(record *kgo.Record) error {
		if letter := m.match(record); letter != nil {
			return each(letter)
		}
		return nil
	})
}

// spans finds what is to be read, of the partitions that hold anything.
func (s *Store) spans(ctx context.Context, since time.Time) (map[int32]compacted.Span, error) {
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
	spans := map[int32]compacted.Span{}
	ends.Each(func(end kadm.ListedOffset) {
		start, ok := starts.Lookup(end.Topic, end.Partition)
		if ok && start.Offset < end.Offset {
			spans[end.Partition] = compacted.Span{Start: start.Offset, End: end.Offset}
		}
	})
	return spans, nil
}
