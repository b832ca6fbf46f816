// Package settings holds users' webhook settings: config topic → Redis → memory.
//
// The topic is the source of truth. Every instance reads all of it and follows it with a [compacted.Follower].
// Records go into memory at once and, if the instance materialises, into Redis, where each row has the version of its
// document and is replaced only by a newer one. So any number of instances may write in any order. Memory is bounded.
// Users who are not in memory are looked up in Redis.
//
// An index of all users holds the version of each newest record (ADR 0010). An answer of Redis counts only with that
// version. Whatever else happened to Redis (eviction, a restored snapshot, a replica that was behind), the record is
// read back from its topic by its offset, into memory and Redis.
//
// The dispatcher calls Lookup and Load, internal/api calls Document and Update, and the command reseal calls Reseal.
//
// Run reads in the caller's goroutine. While it follows the topic, these run beside it: repairLoop (records that Redis
// has lost), orphans.run (locks to release), countUsers and, if the instance materialises, writeLoop (fresh records to
// Redis), sweepLoop (compares Redis with the index) and fillLoop (writes everything to Redis when it lost something).
//
// Each mutex guards one structure (queue, repairs, updates, orphans, the producer, one shard of the index or of the
// cache). The only nested pair is: a shard of the cache, then a shard of the index.
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

	"github.com/smshooks/smshooks/internal/compacted"
	"github.com/smshooks/smshooks/internal/outage"
	"github.com/smshooks/smshooks/pkg/webhook"
)

var (
	// ErrNotReady is the error while no answer is possible: the topic has not been read to its end, or Redis is being
	// filled or lags behind.
	ErrNotReady = errors.New("settings are not ready")
	// ErrUnavailable is the error of an update that changed nothing, because Kafka or Redis is not reachable.
	ErrUnavailable = errors.New("settings cannot be changed now")
)

const (
	defaultUsers = 200_000
)

// Config configures a Store.
type Config struct {
	Topic       string  // the config topic
	KeyPrefix   string  // of every Redis key, e.g. "smshooks:"
	MaxUsers    int     // users held in memory; 0: 200,000
	Secrets     *Sealer // nil: auth is stored in clear
	Materialise bool    // write the topic's documents to Redis
	Resumed     Resumed // nil: ended pauses are not reported
}

// Observer receives measurements. Its methods must not block.
type Observer interface {
	compacted.Observer
	// ConfigUsers receives the number of users with settings in memory.
	ConfigUsers(n int)
}

// Store looks up users' settings. It is safe for concurrent use.
type Store struct {
	cfg       Config
	newClient compacted.NewClient
	rdb       *database
	log       *zap.Logger
	sampled   *zap.Logger
	obs       Observer

	topic *compacted.Follower
	index *compacted.Index[int64, struct{}]
	users *cache[int64, *webhook.Settings]

	filled   atomic.Bool // this instance has filled Redis once
	loaded   chan struct{}
	onReady  sync.Once
	queue    queue
	unusable map[int64]unusable // found before the topic's end, when it is not known yet which records are the newest

	repairs   repairs
	sweepNow  chan struct{}
	fillAgain atomic.Bool // too much is lost to be repaired one by one
	updates   updates
	pauses    pauses
	orphans   *orphans

	noWriting, noFilling, noRepair, noSweep *outage.Outage

	producerMu sync.Mutex
	producer   *kgo.Client

	life        context.Context // ends with Run
	endLife     context.CancelFunc
	renewPeriod time.Duration // shorter in tests
}

// New returns a store that is not ready before Run. newClient returns a Kafka client without a group that has
// the given options as well.
func New(cfg Config, newClient compacted.NewClient, rdb redis.UniversalClient, log *zap.Logger, obs Observer) *Store {
	if cfg.MaxUsers <= 0 {
		cfg.MaxUsers = defaultUsers
	}
	s := &Store{
		cfg: cfg, newClient: newClient, log: log, sampled: compacted.Sample(log), obs: obs,
		rdb:      newDatabase(rdb, cfg.KeyPrefix, cfg.Secrets),
		index:    compacted.NewIndex[int64, struct{}](hashUser),
		loaded:   make(chan struct{}),
		queue:    queue{wake: make(chan struct{}, 1)},
		repairs:  repairs{wake: make(chan struct{}, 1), known: map[int64]*repair{}},
		sweepNow: make(chan struct{}, 1),
		orphans:  newOrphans(),
		pauses:   newPauses(),

		renewPeriod: renewPeriod,

		noWriting: outage.New(log, "cannot write settings to Redis; changes are queued",
			"settings are written to Redis again"),
		noFilling: outage.New(log, "cannot fill Redis with settings; retrying", "Redis is filled with settings again"),
		noRepair: outage.New(log, "cannot read settings that Redis has lost back from Kafka",
			"settings that Redis has lost are read back from Kafka again"),
		noSweep: outage.New(log, "cannot compare settings in Redis with their topic",
			"settings in Redis are compared with their topic again"),
	}
	s.life, s.endLife = context.WithCancel(context.Background())
	s.users = newCache[int64, *webhook.Settings](cfg.MaxUsers, hashUser, func(userID int64) compacted.Version {
		v, _ := s.newest(userID)
		return v
	})
	s.topic = compacted.NewFollower(cfg.Topic, newClient, log, s.obs, compacted.Hooks{
		Begin: s.begin, Take: s.take, End: s.end, Beside: s.beside,
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

// Run keeps the store up to date until ctx ends, and returns ctx's error. It retries after every other error.
func (s *Store) Run(ctx context.Context) error {
	defer s.closeProducer()
	defer s.endLife()
	return s.topic.Run(ctx)
}

// Follower returns the follower of the topic.
func (s *Store) Follower() *compacted.Follower { return s.topic }

// Loaded is closed when the topic has been read to its end and, if this instance materialises, Redis has been filled.
func (s *Store) Loaded() <-chan struct{} { return s.loaded }

// ready reports whether this instance knows enough to check the answers of Redis.
func (s *Store) ready() bool {
	return s.topic.Read() && (s.filled.Load() || !s.cfg.Materialise)
}

// becameReady is called when one of the two conditions has been met.
func (s *Store) becameReady() {
	if s.ready() {
		s.onReady.Do(func() { close(s.loaded) })
	}
}

// Lookup returns a user's settings from memory, and false if they are not in memory: call Load. A user without a
// document has settings without endpoints.
func (s *Store) Lookup(userID int64) (*webhook.Settings, bool) {
	if !s.topic.Read() {
		return nil, false
	}
	e, ok := s.users.get(userID)
	return e.value, ok && e.value != nil
}

// Load loads the users' settings from Redis into memory, in one round trip, so that Lookup finds each of them until it
// is evicted. After an error, the settings of users that Lookup does not find are unknown: Redis is unreachable or has
// lost them, and Load must be called again later. A user without a document in the topic has no settings, whatever
// Redis holds. But while Redis is unreachable, events of such users wait, like those of all users who are not in memory
// (contract, section 4).
func (s *Store) Load(ctx context.Context, users []int64) error {
	if !s.ready() {
		return ErrNotReady
	}
	rows, err := s.rdb.read(ctx, users...)
	if err != nil {
		return err
	}
	var failed error
	for i, userID := range users {
		if ver, removed := s.newest(userID); ver.Offset == 0 || removed {
			s.users.put(userID, withoutDocument(userID, ver))
			continue
		}
		d, ver, err := s.documentIn(ctx, userID, rows[i])
		switch {
		case errors.Is(err, errLost):
			s.repairing(userID, rows[i].seen)
			failed = err
		case err != nil:
			failed = err
		case ver.Offset == 0 || d == nil:
			s.users.put(userID, withoutDocument(userID, ver))
		default:
			s.users.put(userID, entry[*webhook.Settings]{d.Settings(), ver, true})
		}
	}
	return failed
}

// errLost is the error of a row that differs from the topic.
var errLost = fmt.Errorf("%w: Redis has lost settings, they are read back", ErrNotReady)

// documentIn returns the document of a row, nil for a user who was removed or never had one. It returns errLost if the
// row differs from the topic.
func (s *Store) documentIn(ctx context.Context, userID int64, r row) (*Document, compacted.Version, error) {
	is, err := s.rowState(ctx, userID, r)
	if err != nil {
		return nil, r.ver, err
	}
	if is != current {
		s.sweepSoon()
		return nil, r.ver, errLost
	}
	if r.doc == nil {
		return nil, r.ver, nil
	}
	d, err := parseDocument(userID, r.doc, s.cfg.Secrets)
	switch {
	case errors.Is(err, errSealed):
		return nil, r.ver, fmt.Errorf("%w: settings of user %d: %w", ErrNotReady, userID, err)
	case err != nil:
		return nil, r.ver, errLost
	}
	return &d, r.ver, nil
}

// Err returns why there are no settings now, nil if there are: they have not been loaded yet, or the topic was created
// again and is being read. It does not report whether Kafka, the topic or Redis can be reached.
func (s *Store) Err() error {
	select {
	case <-s.loaded:
	default:
		return errors.New("the settings are not loaded")
	}
	if !s.ready() {
		return fmt.Errorf("topic %s was created again and is being read", s.cfg.Topic)
	}
	return nil
}
