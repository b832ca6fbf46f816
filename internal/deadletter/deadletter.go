// Package deadletter lists dead letters and replays them. It also reads the source record of an event whose position is
// known, and replays that.
//
// A replayed event goes to its kind's first overflow topic, due at once, with its identity and no attempts. The dead
// letter stays: after the replay has ended, the event can be replayed again.
//
// internal/api lists and replays a user's dead letters, the commands under deadletter those of all users. Every call
// reads the topic in the caller's goroutine with a client of its own. A replay starts one more goroutine per chunk,
// since producing blocks while the client's buffer is full. The package holds no locks.
package deadletter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/internal/compacted"
	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/kafka"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// Config names the topics that dead letters come from and are replayed to. Arrays are in the order of kinds.
type Config struct {
	Topic    string // of dead letters
	Sources  [webhook.NumKinds]string
	Overflow [webhook.NumKinds]string // the first overflow topic of each kind
	Batches  []string                 // the delay topics of revocations
	MaxIDs   int                      // of a batch of revocations
	Epoch    string                   // topics.epoch
	// Patience is how long Kafka may not answer before a call fails; 0: 4 s.
	Patience time.Duration
	// Now returns the time of day; nil: time.Now.
	Now func() time.Time
	// Note, if not nil, receives each replayed event. It must not block.
	Note func(event.LogEntry)
}

// Filter selects dead letters; the zero value selects all.
type Filter struct {
	UserID int64  // 0: all users
	Kind   string // "": all kinds
	Reason string // "": all reasons
	// Since and Until bound the time when the event was given up: since ≤ t < until. Zero: no bound.
	Since, Until time.Time
	IDs          []string // of events; empty: all
}

// Store lists and replays dead letters. It is safe for concurrent use.
type Store struct {
	cfg       Config
	newClient func(...kgo.Opt) (*kgo.Client, error)
	client    *kgo.Client // reads
	producer  *kafka.Producer
	large     *kafka.LargeProducer // for records that do not fit into a usual batch
	admin     *kadm.Client
}

// New returns a store and dials nothing yet. newClient returns a Kafka client without a group that has the given
// options as well.
func New(cfg Config, newClient func(extra ...kgo.Opt) (*kgo.Client, error)) (*Store, error) {
	if cfg.Patience <= 0 {
		cfg.Patience = 4 * time.Second
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Note == nil {
		cfg.Note = func(event.LogEntry) {}
	}
	client, err := newClient(kgo.MetadataMinAge(metadataAge))
	if err != nil {
		return nil, fmt.Errorf("client for dead letters: %w", err)
	}
	s := &Store{cfg: cfg, newClient: newClient, client: client, admin: kadm.NewClient(client)}
	if s.producer, err = kafka.NewProducer(s.opens(kgo.MaxBufferedRecords(maxProducing))); err != nil {
		client.Close()
		return nil, fmt.Errorf("producer for dead letters: %w", err)
	}
	if s.large, err = kafka.NewLargeProducer(s.opens(kafka.LargeOptions(0)...)); err != nil {
		client.Close()
		s.producer.Close()
		return nil, fmt.Errorf("producer for large dead letters: %w", err)
	}
	return s, nil
}

// opens returns a function that makes a client for a producer.
func (s *Store) opens(extra ...kgo.Opt) func() (*kgo.Client, error) {
	return func() (*kgo.Client, error) {
		return s.newClient(append([]kgo.Opt{
			kgo.RequiredAcks(kgo.AllISRAcks()), kgo.RecordPartitioner(kgo.ManualPartitioner()),
			kgo.RecordDeliveryTimeout(4 * s.cfg.Patience), kgo.MetadataMinAge(metadataAge),
		}, extra...)...)
	}
}

// Close closes the store's connections.
func (s *Store) Close() {
	s.client.Close()
	s.producer.Close()
	s.large.Close()
}

// Adopt makes the store write to topics that were deleted and created again.
func (s *Store) Adopt(_ context.Context, topics []string) error {
	if err := s.producer.Renew(topics); err != nil {
		return err
	}
	return s.large.Renew(topics)
}

// List calls each for the dead letters that f selects and that existed when List began, oldest first within a partition
// of the topic. An error of each ends List, which returns it. Other errors are Kafka's.
//
// List reads the whole topic from f.Since on, even for one user.
func (s *Store) List(ctx context.Context, f Filter, each func(*Letter) error) error {
	return s.ListWatched(ctx, f, nil, each)
}

// Progress receives, from time to time, how many of the records to read have been read.
type Progress func(read, total int64)

// ListWatched is List, and calls progress, if it is not nil.
func (s *Store) ListWatched(ctx context.Context, f Filter, progress Progress, each func(*Letter) error) error {
	spans, err := s.spans(ctx, f.Since)
	if err != nil {
		return err
	}
	return s.read(ctx, spans, newMatcher(f), progress, each)
}

// read calls each for the selected records of the spans.
func (s *Store) read(ctx context.Context, spans map[int32]compacted.Span, m *matcher, progress Progress,
	each func(*Letter) error) error {
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

// spans returns the offsets to read of each partition that holds records.
func (s *Store) spans(ctx context.Context, since time.Time) (map[int32]compacted.Span, error) {
	return s.spansOf(ctx, s.cfg.Topic, since, time.Time{})
}

// spansOf returns the offsets of the records of a topic with since ≤ time < until; zero: no bound.
func (s *Store) spansOf(ctx context.Context, topic string, since, until time.Time) (map[int32]compacted.Span, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Patience)
	defer cancel()
	// Negative times have other meanings in the protocol.
	at := func(t time.Time) (kadm.ListedOffsets, error) {
		return s.admin.ListOffsetsAfterMilli(ctx, max(t.UnixMilli(), 0), topic)
	}
	starts, err := s.admin.ListStartOffsets(ctx, topic)
	if !since.IsZero() {
		starts, err = at(since)
	}
	if err = errors.Join(err, starts.Error()); err != nil {
		return nil, fmt.Errorf("read the offsets of topic %s: %w", topic, err)
	}
	ends, err := kafka.ListEnds(ctx, s.client, topic)
	if err = errors.Join(err, ends.Error()); err != nil {
		return nil, fmt.Errorf("read the offsets of topic %s: %w", topic, err)
	}
	limits := kadm.ListedOffsets{}
	if !until.IsZero() {
		if limits, err = at(until); err != nil {
			return nil, fmt.Errorf("read the offsets of topic %s: %w", topic, err)
		}
	}
	spans := map[int32]compacted.Span{}
	ends.Each(func(end kadm.ListedOffset) {
		start, ok := starts.Lookup(topic, end.Partition)
		if limit, bounded := limits.Lookup(topic, end.Partition); bounded && limit.Err == nil {
			end.Offset = min(end.Offset, limit.Offset)
		}
		if ok && start.Offset < end.Offset {
			spans[end.Partition] = compacted.Span{Start: start.Offset, End: end.Offset}
		}
	})
	return spans, nil
}
