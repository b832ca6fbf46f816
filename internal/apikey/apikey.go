// Package apikey creates and revokes API keys, and finds the owner of a key.
//
// A compacted topic holds the keys: the key of a record is the hash of an API key, a tombstone revokes it. Every
// instance reads the whole topic and follows it with a [compacted.Follower], so a [Store] answers from memory alone.
// Redis is not involved: whatever happens to it, no revoked key is accepted and no other one is refused.
//
// Store.Run runs in the goroutine of internal/app. Create and Revoke are for the commands of cmd/smshooks and the demo.
package apikey

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/internal/compacted"
	"github.com/smshooks/smshooks/internal/kafka"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// Hash returns the lower-case hex SHA-256 of an API key: the key of its record.
func Hash(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}

// id is the half of a key's hash that is kept in memory. Two keys with the same half cannot be made.
type id [16]byte

// parseHash parses a hash that Hash returned.
func parseHash(text []byte) (id, error) {
	var h [sha256.Size]byte
	if len(text) != 2*len(h) {
		return id{}, errors.New("the key is not a SHA-256 in hex")
	}
	if _, err := hex.Decode(h[:], text); err != nil || hex.EncodeToString(h[:]) != string(text) {
		return id{}, errors.New("the key is not a SHA-256 in lower-case hex")
	}
	return id(h[:]), nil
}

// parseUser returns the owner of a key, given the value of its record.
func parseUser(value []byte) (userID int64, err error) {
	members, err := webhook.AppendMembers(nil, value)
	if err != nil {
		return 0, err
	}
	for _, m := range members { // the last of several counts
		if m.Name != "user_id" {
			continue
		}
		if userID, err = strconv.ParseInt(string(m.Value), 10, 64); err != nil {
			userID = 0 // of a number out of range, ParseInt returns the nearest valid one
		}
	}
	if userID < 1 {
		return 0, errors.New("user_id is not an integer from 1 to 2^63-1")
	}
	return userID, nil
}

// Create makes a new API key for a user and returns it. Only its hash is stored, in the topic. When Create
// returns, all in-sync replicas have the record.
func Create(ctx context.Context, client *kgo.Client, topic string, userID int64, name string) (key string, err error) {
	if userID < 1 {
		return "", fmt.Errorf("user %d: must be from 1 to 2^63-1", userID)
	}
	var random [32]byte
	rand.Read(random[:]) // never fails: see crypto/rand
	key = "smsh_" + hex.EncodeToString(random[:])
	value, err := json.Marshal(struct {
		UserID int64  `json:"user_id"`
		Name   string `json:"name"`
	}{userID, name})
	if err != nil {
		return "", err
	}
	record := &kgo.Record{Topic: topic, Key: []byte(Hash(key)), Value: value}
	if err := kafka.ProduceWithin(ctx, client, record); err != nil {
		return "", fmt.Errorf("write the key to topic %s: %w", topic, err)
	}
	return key, nil
}

// Revoke revokes an API key. It reads the topic to find it; found is false, and nothing is written, when the key is
// unknown or revoked already. It uses clients of its own with the options of client.
func Revoke(ctx context.Context, client *kgo.Client, topic, key string) (found bool, err error) {
	newClient := func(extra ...kgo.Opt) (*kgo.Client, error) { return kgo.NewClient(append(client.Opts(), extra...)...) }
	r, err := compacted.Open(ctx, newClient, topic)
	if err != nil {
		return false, err
	}
	defer r.Close()
	hash := Hash(key)
	last := map[int32]*kgo.Record{} // by partition
	err = r.ReadAll(ctx, nil, func(record *kgo.Record) error {
		if string(record.Key) == hash {
			last[record.Partition] = record
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	// Write the tombstones to the partitions of the records, whatever partitioner chose them: compaction removes only
	// older records of the same partition.
	var tombstones []*kgo.Record
	var newest *kgo.Record
	for partition, record := range last {
		if record.Value != nil {
			tombstones = append(tombstones, &kgo.Record{Topic: topic, Partition: partition, Key: record.Key})
		}
		if newest == nil || compacted.VersionOf(record).Newer(compacted.VersionOf(newest)) {
			newest = record
		}
	}
	if newest == nil || newest.Value == nil {
		return false, nil
	}
	producer, err := newClient(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		return false, fmt.Errorf("client for topic %s: %w", topic, err)
	}
	defer producer.Close()
	if err := kafka.ProduceWithin(ctx, producer, tombstones...); err != nil {
		return false, fmt.Errorf("write to topic %s: %w", topic, err)
	}
	return true, nil
}
