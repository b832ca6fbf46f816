package apikey

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/compacted"
)

// ErrNotReady is the error while the topic has not been read to its end.
var ErrNotReady = errors.New("API keys are not loaded")

// Store finds the owner of a key. It is safe for concurrent use.
type Store struct {
	topic  string
	topics *compacted.Follower
	keys   *compacted.Index[id, int64] // the user of each key
	loaded chan struct{}
	log    *zap.Logger
}

// New returns a store that is not ready before Run. newClient returns a Kafka client without a group.
func New(topic string, newClient compacted.NewClient, log *zap.Logger, obs compacted.Observer) *Store {
	s := &Store{
		topic: topic, log: log, loaded: make(chan struct{}),
		keys: compacted.NewIndex[id, int64](func(key id) uint64 { return uint64(key[0]) }),
	}
	s.topics = compacted.NewFollower(topic, newClient, log, obs, compacted.Hooks{Begin: s.begin, Take: s.take, End: s.end})
	return s
}

// Run keeps the store up to date until ctx ends, and returns ctx's error. It retries whatever fails at Kafka.
func (s *Store) Run(ctx context.Context) error { return s.topics.Run(ctx) }

// Follower returns the follower of the topic.
func (s *Store) Follower() *compacted.Follower { return s.topics }

// Loaded is closed when the topic has been read to its end for the first time.
func (s *Store) Loaded() <-chan struct{} { return s.loaded }

// KeyUser returns the owner of the key with this [Hash]. found is false for an unknown or revoked key. After an error
// the owner is not known.
func (s *Store) KeyUser(_ context.Context, hash string) (userID int64, found bool, err error) {
	key, err := parseHash([]byte(hash))
	if err != nil {
		return 0, false, nil // Create never makes such a key
	}
	if !s.topics.Read() {
		return 0, false, ErrNotReady
	}
	userID, _, _ = s.keys.Get(key)
	if !s.topics.Read() { // the topic has been created again by now
		return 0, false, ErrNotReady
	}
	return userID, userID != 0, nil
}

// Err returns why owners cannot be looked up now, or nil.
func (s *Store) Err() error {
	if s.topics.Read() {
		return nil
	}
	select {
	case <-s.loaded:
		return fmt.Errorf("topic %s was created again and is being read", s.topic)
	default:
		return ErrNotReady
	}
}

func (s *Store) begin(void bool, _ *compacted.Reader) {
	if void {
		s.keys.Clear()
	}
}

// take stores a record in memory. A revoked key has user 0.
func (s *Store) take(r *kgo.Record, _ bool) error {
	key, err := parseHash(r.Key)
	var user int64
	if err == nil && r.Value != nil {
		user, err = parseUser(r.Value)
	}
	if err == nil {
		s.keys.Put(key, user, compacted.VersionOf(r), r.Value == nil)
	}
	return err
}

func (s *Store) end() {
	s.log.Info("API keys loaded", zap.Int("keys", s.keys.Len()))
	select {
	case <-s.loaded:
	default:
		close(s.loaded)
	}
}
