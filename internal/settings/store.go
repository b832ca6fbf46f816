// Package settings holds users' webhook settings and API keys: compacted topics → Redis → memory.
//
// The topics are the truth. Every instance reads them whole, without a group,
// and goes on listening: what it hears goes into its memory at once and, if the
// instance materialises, into Redis, where each key remembers the version of
// its document and takes only a newer one. So any number of instances may write
// in any order. Memory is bounded; for a user it doesn't hold, Redis is asked.
//
// An index of all keys says which version is the newest (ADR 0010). What Redis
// answers counts only with that version. Whatever else happened to Redis
// (eviction, a restored snapshot, a replica that was behind), the record is read
// back from its topic by its offset, into memory and Redis.
package settings

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

	"github.com/smshooks/smshooks/internal/outage"
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
	// housekeeping is the period of measuring the lag.
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

	userIndex *index[int64]
	keyIndex  *index[keyID]
	users     *cache[int64, *webhook.Settings]
	keys      *cache[keyHash, int64]

	read    atomic.Bool // both topics were read to their end
	filled  atomic.Bool // this instance has filled Redis once
	loaded  chan struct{}
	onReady sync.Once
	queue   queue
	reading atomic.Pointer[reader] // the one that follows the topics

	repairs   repairs
	sweepNow  chan struct{}
	cutBack   atomic.Bool // a topic lost records that were read
	fillAgain atomic.Bool // too much is lost to be repaired one by one
	updates   updates
	orphans   *orphans

	unreadable limiter

	noSession, noWriting, noFilling, noRepair, noSweep *outage.Outage

	producerMu sync.Mutex
	producer   *kgo.Client
}

// New returns a store that answers nothing until Run runs. newClient returns a
// Kafka client without a group that has the given options too.
func New(cfg Config, newClient func(extra ...kgo.Opt) (*kgo.Client, error), rdb redis.UniversalClient, log *zap.Logger, obs Observer) *Store {
	if cfg.MaxUsers <= 0 {
		cfg.MaxUsers = defaultUsers
	}
	s := &Store{
		cfg: cfg, newClient: newClient, log: log, obs: obs,
		rdb:       newDatabase(rdb, cfg.KeyPrefix, cfg.Secrets),
		userIndex: newIndex[int64](hashUser),
		keyIndex:  newIndex[keyID](hashKeyID),
		loaded:    make(chan struct{}),
		queue:     queue{wake: make(chan struct{}, 1)},
		repairs:   repairs{wake: make(chan struct{}, 1), known: map[subject]*repair{}},
		sweepNow:  make(chan struct{}, 1),
		orphans:   newOrphans(),

		noSession: outage.New(log, "reading settings starts again", "settings are read again"),
		noWriting: outage.New(log, "settings wait for Redis", "settings are written to Redis again"),
		noFilling: outage.New(log, "Redis can't be filled with settings now", "Redis is filled with settings again"),
		noRepair:  outage.New(log, "settings that Redis has lost can't be read back", "settings that Redis has lost are read back again"),
		noSweep:   outage.New(log, "settings in Redis can't be compared with their topic", "settings in Redis are compared with their topic again"),
	}
	s.users = newCache[int64, *webhook.Settings](cfg.MaxUsers, hashUser, func(id int64) Version {
		v, _ := s.userIndex.get(id)
		return v
	})
	s.keys = newCache[keyHash, int64](cfg.MaxUsers, func(h keyHash) uint64 { return hashKeyID(h.id()) }, func(h keyHash) Version {
		v, _ := s.keyIndex.get(h.id())
		return v
	})
	return s
}

// hashUser spreads consecutive ids (splitmix64's last step).
func hashUser(id int64) uint64 {
	x := uint64(id)
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func hashKeyID(h keyID) uint64 { return uint64(h[0]) }

// Run keeps the store up to date until ctx ends, and returns ctx's error. It
// waits out whatever is wrong with Kafka and Redis.
func (s *Store) Run(ctx context.Context) error {
	defer s.closeProducer()
	for pause := newBackoff(); ; {
		err := s.session(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.noSession.Fail(err)
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
// away or has lost them, and Load is to be called again later. A user of whom
// the topic has no document has none, whatever Redis holds; but while Redis is
// away such users wait like all that memory does not know (contract, section 4).
func (s *Store) Load(ctx context.Context, users []int64) error {
	if !s.ready() {
		return ErrNotReady
	}
	subjects := make([]subject, len(users))
	names := make([]string, len(users))
	for i, id := range users {
		subjects[i], names[i] = subject{user: id}, userName(id)
	}
	rows, err := s.rdb.read(ctx, names)
	if err != nil {
		return err
	}
	var failed error
	for i, x := range subjects {
		if ver, removed := s.userIndex.get(x.user); ver.Offset == 0 || removed {
			s.users.put(x.user, entry[*webhook.Settings]{value: &webhook.Settings{UserID: x.user}, ver: ver})
			continue
		}
		d, ver, err := s.documentIn(ctx, x, rows[i])
		switch {
		case errors.Is(err, errLost):
			s.repairing(x, rows[i].seen)
			failed = err
		case err != nil:
			failed = err
		case ver.Offset == 0 || d == nil:
			s.users.put(x.user, entry[*webhook.Settings]{value: &webhook.Settings{UserID: x.user}, ver: ver})
		default:
			s.users.put(x.user, entry[*webhook.Settings]{d.Settings(), ver, true})
		}
	}
	return failed
}

// errLost says that Redis has not what the topic says.
var errLost = fmt.Errorf("%w: Redis has lost settings, they are read back", ErrNotReady)

// documentIn returns the document that a row holds if it is what the topic says,
// nil for a user who was removed or never was, and errLost if it is something
// else.
func (s *Store) documentIn(ctx context.Context, x subject, r row) (*Document, Version, error) {
	is, err := s.worthOf(ctx, x, r)
	if err != nil {
		return nil, r.ver, err
	}
	if is != current {
		s.hurry()
		return nil, r.ver, errLost
	}
	if r.doc == nil {
		return nil, r.ver, nil
	}
	d, err := parseDocument(x.user, r.doc, s.cfg.Secrets)
	switch {
	case errors.Is(err, errSealed):
		return nil, r.ver, fmt.Errorf("%w: settings of user %d: %w", ErrNotReady, x.user, err)
	case err != nil:
		return nil, r.ver, errLost
	}
	return &d, r.ver, nil
}

// KeyUser returns whose key it is, given the lower-case hex SHA-256 of the key.
// found is false for an unknown or revoked key: one that its topic doesn't have.
// After an error nothing may be concluded.
func (s *Store) KeyUser(ctx context.Context, hexSHA256 string) (userID int64, found bool, err error) {
	hash, err := parseKeyHash([]byte(hexSHA256))
	if err != nil {
		return 0, false, nil // such a key can't have been made
	}
	if !s.ready() {
		return 0, false, ErrNotReady
	}
	ver, removed := s.keyIndex.get(hash.id())
	if ver.Offset == 0 || removed {
		return 0, false, nil
	}
	if e, ok := s.keys.get(hash); ok && e.ver.is(ver) {
		return e.value, e.set, nil
	}
	x := subject{isKey: true, key: hash}
	rows, err := s.rdb.read(ctx, []string{x.name()})
	if err != nil {
		return 0, false, err
	}
	if rows[0].err == nil && rows[0].ver.is(ver) && rows[0].doc != nil {
		if user, err := parseUserKey(rows[0].doc); err == nil {
			s.keys.put(hash, entry[int64]{user, ver, true})
			return user, true, nil
		}
	}
	s.hurry()
	ctx, cancel := context.WithTimeout(ctx, updateTimeout/2)
	defer cancel()
	c, err := s.repaired(ctx, x, rows[0].seen)
	if err != nil {
		return 0, false, err
	}
	return c.userID, !c.removed, nil
}

// Err returns why there are no settings now, nil if there are: they have not
// been loaded yet, or a topic was created again and is being read. That Kafka, a
// topic or Redis is away is not its matter.
func (s *Store) Err() error {
	select {
	case <-s.loaded:
	default:
		return errors.New("the settings are not loaded")
	}
	if !s.ready() {
		return fmt.Errorf("topic %s or %s was created again and is being read", s.cfg.ConfigTopic, s.cfg.KeysTopic)
	}
	return nil
}
