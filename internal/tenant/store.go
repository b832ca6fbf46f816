// Package tenant holds users' webhook settings and API keys: compacted topics → Redis → memory.
//
// The topics are the truth. Every instance reads them whole, without a group,
// and goes on listening: what it hears goes into its memory at once and, if the
// instance materialises, into Redis, where each key remembers the version of
// its document and takes only a newer one. So any number of instances may write
// in any order. Memory is bounded; for a user it doesn't hold, Redis is asked.
//
// Redis is believed only while its ready marker stands, which an instance sets
// after it has written everything there is. A flush takes the marker away, and
// every materialising instance then reads the topics again.
package tenant

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/trouble"
	"github.com/smshooks/smshooks/pkg/webhook"
)

var (
	// ErrNotReady says that nothing may be concluded now: the topics have not
	// been read to their end, or Redis is being filled or lags behind.
	ErrNotReady = errors.New("settings are not ready")
	// ErrUnavailable says that Kafka or Redis is away and nothing was changed.
	ErrUnavailable = errors.New("settings can't be changed now")
)

const (
	defaultUsers = 200_000
	// hearingKept is how long Redis may lag behind the topic without an old
	// value being believed, in an instance that doesn't write to Redis itself.
	hearingKept = time.Minute
	// housekeeping is the period of measuring the lag and of forgetting.
	housekeeping = 5 * time.Second
)

// Config says where settings live.
type Config struct {
	ConfigTopic, KeysTopic string
	KeyPrefix              string  // of every Redis key, e.g. "smshooks:"
	MaxUsers               int     // users held in memory, and as many keys; 0 means 200,000
	Secrets                *Sealer // nil: auth is stored in clear
	Materialise            bool    // write to Redis what the topics say
}

// Observer hears what is worth measuring. Its methods must not block.
type Observer interface {
	// ConfigLag is the number of records of both topics not yet read.
	ConfigLag(records int64)
	// ConfigUsers is the number of users with settings in memory.
	ConfigUsers(n int)
	// UnreadableRecord is called for each record that was skipped.
	UnreadableRecord(topic string)
}

// Store answers what a user's settings are and whose a key is. It is safe for
// concurrent use.
type Store struct {
	cfg       Config
	newClient func(...kgo.Opt) (*kgo.Client, error)
	rdb       *database
	log       *zap.Logger
	obs       Observer

	users *cache[int64, *webhook.Settings]
	keys  *cache[keyHash, int64]

	read    atomic.Bool // both topics were read to their end
	filled  atomic.Bool // this instance has filled Redis since Redis started
	loaded  chan struct{}
	onReady sync.Once
	queue   queue
	reading atomic.Pointer[reader] // the one that follows the topics

	unreadable limiter

	noSession, noWriting, noFilling *trouble.Trouble

	producerMu sync.Mutex
	producer   *kgo.Client
}

// New returns a store that answers nothing until Run runs. newClient returns a
// Kafka client without a group that has the given options too.
func New(cfg Config, newClient func(extra ...kgo.Opt) (*kgo.Client, error), rdb redis.UniversalClient, log *zap.Logger, obs Observer) *Store {
	if cfg.MaxUsers <= 0 {
		cfg.MaxUsers = defaultUsers
	}
	return &Store{
		cfg: cfg, newClient: newClient, log: log, obs: obs,
		rdb:    newDatabase(rdb, cfg.KeyPrefix, cfg.Secrets),
		users:  newCache[int64, *webhook.Settings](cfg.MaxUsers, hashUser),
		keys:   newCache[keyHash, int64](cfg.MaxUsers, hashKeyHash),
		loaded: make(chan struct{}),
		queue:  queue{wake: make(chan struct{}, 1)},

		noSession: trouble.New(log, "reading settings starts again", "settings are read again"),
		noWriting: trouble.New(log, "settings wait for Redis", "settings are written to Redis again"),
		noFilling: trouble.New(log, "Redis can't be filled with settings now", "Redis is filled with settings again"),
	}
}

// hashUser spreads consecutive ids (splitmix64's last step).
func hashUser(id int64) uint64 {
	x := uint64(id)
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func hashKeyHash(h keyHash) uint64 { return uint64(h[0]) }

// Run keeps the store up to date until ctx ends, and returns ctx's error. It
// waits out whatever is wrong with Kafka and Redis.
func (s *Store) Run(ctx context.Context) error {
	defer s.closeProducer()
	for pause := newBackoff(); ; {
		err := s.session(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.noSession.Met(err)
		if errors.Is(err, errRecreated) {
			pause = newBackoff()
		}
		if err := pause.wait(ctx); err != nil {
			return err
		}
	}
}

// Loaded is closed when both topics have been read to their end and, if this
// instance materialises, Redis has been filled.
func (s *Store) Loaded() <-chan struct{} { return s.loaded }

// ready says whether this instance knows enough to believe Redis.
func (s *Store) ready() bool {
	return s.read.Load() && (s.filled.Load() || !s.cfg.Materialise)
}

// becameReady is called when one of the two conditions has been met.
func (s *Store) becameReady() {
	if s.ready() {
		s.onReady.Do(func() { close(s.loaded) })
	}
}

// Lookup returns a user's settings from memory. false: ask Load. A user without
// a document has settings without endpoints.
func (s *Store) Lookup(userID int64) (*webhook.Settings, bool) {
	if !s.read.Load() {
		return nil, false
	}
	e, ok := s.users.get(userID)
	return e.value, ok && e.value != nil
}

// Load brings the users from Redis into memory, in one round trip, so that
// Lookup answers for each of them (until it is thrown out to make room). After
// an error nothing may be concluded of those that Lookup doesn't know: Redis is
// away, or it's not to be believed now (ErrNotReady), and Load is to be called
// again later.
func (s *Store) Load(ctx context.Context, users []int64) error {
	if !s.ready() {
		return ErrNotReady
	}
	names := make([]string, len(users))
	for i, id := range users {
		names[i] = userName(id)
	}
	rows, err := s.rdb.read(ctx, names)
	if err != nil {
		return err
	}
	var failed error
	for i, id := range users {
		e, err := s.userEntry(id, rows[i])
		switch {
		case err != nil:
			failed = fmt.Errorf("%w: settings of user %d in Redis: %w", ErrNotReady, id, err)
		case !s.users.offer(id, e):
			failed = fmt.Errorf("%w: Redis lags behind the topic", ErrNotReady)
		}
	}
	return failed
}

// userEntry is what a row of Redis says of a user.
func (s *Store) userEntry(id int64, r row) (entry[*webhook.Settings], error) {
	if r.err != nil {
		return entry[*webhook.Settings]{}, r.err
	}
	if r.doc == nil {
		return entry[*webhook.Settings]{value: &webhook.Settings{UserID: id}, ver: r.ver}, nil
	}
	d, err := parseDocument(id, r.doc, s.cfg.Secrets)
	if err != nil {
		return entry[*webhook.Settings]{}, err
	}
	return entry[*webhook.Settings]{value: d.Settings(), ver: r.ver, set: true}, nil
}

// KeyUser returns whose key it is, given the lower-case hex SHA-256 of the key.
// found is false for an unknown or revoked key. After an error nothing may be
// concluded.
func (s *Store) KeyUser(ctx context.Context, hexSHA256 string) (userID int64, found bool, err error) {
	hash, err := parseKeyHash([]byte(hexSHA256))
	if err != nil {
		return 0, false, nil // such a key can't have been made
	}
	if !s.read.Load() {
		return 0, false, ErrNotReady
	}
	if e, ok := s.keys.get(hash); ok {
		return e.value, e.set, nil
	}
	if !s.ready() {
		return 0, false, ErrNotReady
	}
	rows, err := s.rdb.read(ctx, []string{keyName(hash)})
	if err != nil {
		return 0, false, err
	}
	if rows[0].err != nil {
		return 0, false, fmt.Errorf("%w: an API key in Redis: %w", ErrNotReady, rows[0].err)
	}
	e := entry[int64]{ver: rows[0].ver}
	if rows[0].doc != nil {
		if e.value, err = parseUserKey(rows[0].doc); err != nil {
			return 0, false, fmt.Errorf("%w: an API key in Redis: %w", ErrNotReady, err)
		}
		e.set = true
	}
	if e.ver.Offset == 0 {
		// Not remembered: anybody can ask for any number of unknown keys.
		if s.keys.heard(hash).newer(e.ver) {
			return 0, false, ErrNotReady
		}
		return 0, false, nil
	}
	if !s.keys.offer(hash, e) {
		return 0, false, ErrNotReady
	}
	if newest, ok := s.keys.get(hash); ok {
		e = newest
	}
	return e.value, e.set, nil
}
