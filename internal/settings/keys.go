package settings

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// HashKey returns the lower-case hex SHA-256 of an API key: the key of its
// record in the keys topic.
func HashKey(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}

func parseKeyHash(text []byte) (h keyHash, err error) {
	if len(text) != 2*len(h) {
		return h, errors.New("the key is no SHA-256 in hex")
	}
	if _, err := hex.Decode(h[:], text); err != nil || hex.EncodeToString(h[:]) != string(text) {
		return h, errors.New("the key is no SHA-256 in lower-case hex")
	}
	return h, nil
}

// parseKeyRecord reads the value of a record of the keys topic.
func parseKeyRecord(value []byte) (userID int64, err error) {
	object, err := parseObject(value, nil)
	if err != nil {
		return 0, err
	}
	return parseUserID(object)
}

// CreateKey makes a new API key for a user and returns it. It is stored
// nowhere: the topic gets only its hash. When CreateKey returns, all in-sync
// replicas have the record.
func CreateKey(ctx context.Context, client *kgo.Client, topic string, userID int64, name string) (key string, err error) {
	if userID < 1 {
		return "", fmt.Errorf("user %d: must be from 1 to 2^63-1", userID)
	}
	key = "smsh_" + randomHex(32)
	value := append([]byte(`{"user_id":`), strconv.FormatInt(userID, 10)...)
	value = append(appendString(append(value, `,"name":`...), name), '}')
	record := &kgo.Record{Topic: topic, Key: []byte(HashKey(key)), Value: value}
	if err := client.ProduceSync(ctx, record).FirstErr(); err != nil {
		return "", fmt.Errorf("writing the key to topic %s: %w", topic, err)
	}
	return key, nil
}

// RevokeKey revokes an API key. It reads the keys topic to find it; found is
// false, and nothing is written, when the key is unknown or revoked already. It
// works with clients of its own, made from client's options.
func RevokeKey(ctx context.Context, client *kgo.Client, topic, key string) (found bool, err error) {
	own, err := kgo.NewClient(append(append(client.Opts(), readerOpts([]string{topic})...),
		kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		return false, fmt.Errorf("client for topic %s: %w", topic, err)
	}
	defer own.CloseAllowingRebalance()
	last, err := lastOf(ctx, own, topic, HashKey(key))
	if err != nil {
		return false, err
	}
	// The tombstones go where the records are, whatever partitioner put them
	// there: compaction takes away a key's older records of the same partition.
	var tombstones []*kgo.Record
	var newest *kgo.Record
	for partition, r := range last {
		if r.Value != nil {
			tombstones = append(tombstones, &kgo.Record{Topic: topic, Partition: partition, Key: r.Key})
		}
		if newest == nil || versionOf(r).newer(versionOf(newest)) {
			newest = r
		}
	}
	if newest == nil || newest.Value == nil {
		return false, nil
	}
	if err := own.ProduceSync(ctx, tombstones...).FirstErr(); err != nil {
		return false, fmt.Errorf("writing to topic %s: %w", topic, err)
	}
	return true, nil
}

// lastOf reads the topic and returns the last record of key in each partition.
func lastOf(ctx context.Context, client *kgo.Client, topic, key string) (map[int32]*kgo.Record, error) {
	r, err := newReader(ctx, client, topic)
	if err != nil {
		return nil, err
	}
	last := map[int32]*kgo.Record{}
	for {
		switch done, err := r.done(ctx); {
		case err != nil:
			return nil, err
		case done:
			return last, nil
		}
		err := r.poll(ctx, 100*time.Millisecond, func(record *kgo.Record) {
			if string(record.Key) == key {
				last[record.Partition] = record
			}
		})
		if err != nil {
			return nil, err
		}
	}
}
