package release

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/compacted"
	"github.com/smshooks/smshooks/internal/kafka"
	"github.com/smshooks/smshooks/internal/outage"
)

const (
	// writeTimeout bounds the storing of a record.
	writeTimeout = 4 * time.Second
	// retriesSettle is the time for the retries of attempts that have just failed to be stored: they are selected, too.
	retriesSettle = 250 * time.Millisecond
	// endsTimeout bounds the part of it for reading the ends of delay topics.
	endsTimeout = 1500 * time.Millisecond
	// catchUpTimeout bounds one attempt to read the topic to its end.
	catchUpTimeout = 30 * time.Second
	// endPoll is the interval at which CatchUp checks whether open transactions have ended.
	endPoll        = 5 * time.Millisecond
	forgetInterval = 10 * time.Minute
	// maxUsers is the number of users that one marker can name; more need several.
	maxUsers = 10_000
)

// Config of a Log.
type Config struct {
	Topic string        // of releases
	Keep  time.Duration // how long records of the topic are kept at least
	Now   func() time.Time
}

// NewClient returns a Kafka client without a group that has the given options as well.
type NewClient = compacted.NewClient

// Observer receives measurements of the topic.
type Observer = compacted.Observer

// Log follows the topic of releases and writes to it.
type Log struct {
	*State
	cfg       Config
	newClient NewClient
	follower  *compacted.Follower
	loaded    chan struct{} // closed when the topic was read to its end
	changed   chan struct{} // receives when a record was read
	unread    *outage.Outage
	unwritten *outage.Outage
	resumed   resumptions
	waiting   atomic.Pointer[error] // why AwaitEnd waits, or nil

	mu       sync.Mutex
	producer *kgo.Client // nil until something is written
}

// NewLog returns a Log that has read nothing until Run runs.
func NewLog(cfg Config, newClient NewClient, log *zap.Logger, obs Observer) *Log {
	l := &Log{
		State: newState(), cfg: cfg, newClient: newClient, loaded: make(chan struct{}), changed: make(chan struct{}, 1),
		unread: outage.New(log, "cannot read topics.releases to its end, delayed events are held back; retrying",
			"topics.releases was read to its end"),
		unwritten: outage.New(log, "cannot release events whose pause has ended; retrying",
			"events whose pause has ended are released again"),
		resumed: resumptions{wake: make(chan struct{}, 1)},
	}
	once := sync.OnceFunc(func() { close(l.loaded) })
	l.follower = compacted.NewFollower(cfg.Topic, newClient, log, obs, compacted.Hooks{
		Deletes: true,
		// What was read stays valid, also when the topic was created again: the copies exist.
		Begin: func(bool, *compacted.Reader) {},
		Take:  func(r *kgo.Record, _ bool) error { return l.take(r) },
		End:   once,
	})
	return l
}

func (l *Log) take(r *kgo.Record) error {
	var e entry
	if err := json.Unmarshal(r.Value, &e); err != nil {
		return errors.New("not a record of this version")
	}
	l.add(e)
	if e.Marker != nil {
		l.found(e.Marker.ID, place{l.follower.ID(), r.Partition, r.Offset})
	}
	return nil
}

func (l *Log) add(e entry) {
	l.apply(e)
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

// Run follows the topic until ctx ends.
func (l *Log) Run(ctx context.Context) error {
	go l.writeResumptions(ctx)
	go func() {
		for compacted.Sleep(ctx, forgetInterval) == nil {
			l.forgetGone(ctx)
		}
	}()
	defer l.Close()
	return l.follower.Run(ctx)
}

// forgetGone forgets the recoveries that are older than Keep and whose markers are no longer in the topic. Until then,
// delay topics may hold records that they have released: `topics ensure` keeps none for longer.
func (l *Log) forgetGone(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, catchUpTimeout)
	defer cancel()
	r := l.follower.Reader()
	if r == nil {
		return
	}
	bounds, err := compacted.Describe(ctx, r.Client(), l.cfg.Topic)
	if err != nil {
		return // the next call tries again
	}
	l.forget(l.cfg.Now().Add(-l.cfg.Keep), func(p place) bool {
		return p.topic == [16]byte(bounds.ID) && p.offset >= bounds.Spans[p.partition].Start
	})
}

// Close closes the connection that Begin has opened, for a log that does not run.
func (l *Log) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.producer != nil {
		l.producer.Close()
	}
}

// Follower returns the follower of the topic.
func (l *Log) Follower() *compacted.Follower { return l.follower }

// Loaded is closed when the topic was read to its end.
func (l *Log) Loaded() <-chan struct{} { return l.loaded }

// Err returns why delayed events are held back, or nil.
func (l *Log) Err() error {
	if !l.follower.Read() {
		return fmt.Errorf("topic %s has not been read to its end", l.cfg.Topic)
	}
	if err := l.waiting.Load(); err != nil {
		return fmt.Errorf("read topic %s to its end, delayed events are held back until then: %w", l.cfg.Topic, *err)
	}
	return nil
}

// CatchUp returns when everything that was written by now was read. It waits for open transactions to end.
func (l *Log) CatchUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, catchUpTimeout)
	defer cancel()
	r := l.follower.Reader()
	if r == nil || !l.follower.Read() {
		return fmt.Errorf("topic %s has not been read to its end", l.cfg.Topic)
	}
	// Not the last stable offsets: behind an open transaction there may be records of others that are committed.
	ends, err := kadm.NewClient(r.Client()).ListEndOffsets(ctx, l.cfg.Topic)
	if err = errors.Join(err, ends.Error()); err != nil {
		return fmt.Errorf("read the end of topic %s: %w", l.cfg.Topic, err)
	}
	read := func() bool {
		for partition, end := range ends[l.cfg.Topic] {
			if r.Position(partition) < end.Offset {
				return false
			}
		}
		return true
	}
	for !read() {
		if err := r.CatchUp(ctx); err != nil {
			return err
		}
		if err := compacted.Sleep(ctx, endPoll); err != nil {
			return err
		}
	}
	return nil
}

// AwaitEnd returns when everything that was written by now was read, however long that takes, or when ctx ends.
func (l *Log) AwaitEnd(ctx context.Context) error {
	for pause := compacted.NewBackoff(); ; {
		err := l.CatchUp(ctx)
		if err == nil {
			l.waiting.Store(nil)
			l.unread.Recover()
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		l.waiting.Store(&err)
		l.unread.Fail(err)
		if err := pause.Wait(ctx); err != nil {
			return err
		}
	}
}

// Begin stores markers for m and returns the ids of their recoveries: one, or several if m names many users. It fills
// in the rest of m: topics are the delay topics to examine.
func (l *Log) Begin(ctx context.Context, m Marker, topics []string) (ids []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	client, err := l.client()
	if err != nil {
		return nil, err
	}
	if err := l.setTopics(ctx, client, &m, topics); err != nil {
		return nil, err
	}
	if m.Cause != Resume { // an instance that does not know yet of the end of a pause still stores paused events
		if err := compacted.Sleep(ctx, retriesSettle); err != nil {
			return nil, err
		}
		setEnds(ctx, client, &m, topics)
	}
	m.Created = l.cfg.Now().UTC().Truncate(time.Millisecond)
	for _, part := range m.split() {
		if part.ID == "" {
			part.ID = newID()
		}
		if err := l.writeAll(ctx, []keyed{{part.ID, entry{Marker: &part}}}); err != nil {
			return ids, err
		}
		ids = append(ids, part.ID)
	}
	return ids, nil
}

// split returns markers of at most maxUsers users each, which together select what m selects.
func (m *Marker) split() (parts []Marker) {
	if len(m.Users) <= maxUsers {
		return []Marker{*m}
	}
	part := *m
	part.Users = nil
	for userID, kinds := range m.Users {
		if part.Users == nil {
			part.Users = map[int64][]string{}
		}
		if part.Users[userID] = kinds; len(part.Users) == maxUsers {
			parts = append(parts, part)
			part.Users = nil
		}
	}
	if part.Users != nil {
		parts = append(parts, part)
	}
	return parts
}

// client returns the client that writes to the topic.
func (l *Log) client() (*kgo.Client, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.producer == nil {
		client, err := l.newClient(kgo.RequiredAcks(kgo.AllISRAcks()), kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)),
			kgo.RecordDeliveryTimeout(writeTimeout), kgo.MetadataMinAge(250*time.Millisecond))
		if err != nil {
			return nil, fmt.Errorf("client for topic %s: %w", l.cfg.Topic, err)
		}
		l.producer = client
	}
	return l.producer, nil
}

// Adopt makes the log write to a topic that was deleted and created again, with another client: see [kafka.Producer].
func (l *Log) Adopt(_ context.Context, topics []string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if former := l.producer; former != nil && slices.Contains(topics, l.cfg.Topic) {
		l.producer = nil
		time.AfterFunc(2*writeTimeout, former.Close) // requests that use it have ended by then
	}
	return nil
}

// keyed is an entry and the key of its record.
type keyed struct {
	key string
	entry
}

// writeAll stores entries and applies them at once: an open transaction may hold back those who follow the topic.
func (l *Log) writeAll(ctx context.Context, entries []keyed) error {
	client, err := l.client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	records := make([]*kgo.Record, len(entries))
	for i, e := range entries {
		records[i] = record(l.cfg.Topic, e.key, e.entry)
	}
	if err := kafka.ProduceWithin(ctx, client, records...); err != nil {
		return fmt.Errorf("write to topic %s: %w", l.cfg.Topic, err)
	}
	for _, e := range entries {
		l.add(e.entry)
	}
	return nil
}

func record(topic, key string, e entry) *kgo.Record {
	value, _ := json.Marshal(e) // all types can be encoded
	return &kgo.Record{Topic: topic, Key: []byte(key), Value: value}
}
