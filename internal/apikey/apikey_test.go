package apikey

import (
	"context"
	"encoding/hex"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/smshooks/smshooks/test/fakekafka"
)

const topic = "webhook-keys"

// env is an in-process Kafka with the keys topic.
type env struct {
	*testing.T
	kafka  *fakekafka.Cluster
	client *kgo.Client
}

func newEnv(t *testing.T) *env {
	t.Helper()
	k := &env{T: t, kafka: fakekafka.New(t)}
	k.client = k.kafka.Open()
	k.kafka.CreateCompacted(topic)
	return k
}

func (k *env) create(userID int64) (key string) {
	k.Helper()
	key, err := Create(k.Context(), k.client, topic, userID, `a "name" & more`)
	if err != nil {
		k.Fatal(err)
	}
	return key
}

func (k *env) write(key, value string) {
	k.Helper()
	if err := k.client.ProduceSync(k.Context(), &kgo.Record{Topic: topic, Key: []byte(key), Value: []byte(value)}).FirstErr(); err != nil {
		k.Fatal(err)
	}
}

func (k *env) revoke(key string, want bool) {
	k.Helper()
	if found, err := Revoke(k.Context(), k.client, topic, key); found != want || err != nil {
		k.Errorf("revoked: %v, %v, want %v", found, err, want)
	}
}

// start runs a store until the test ends.
func (k *env) start() (*Store, *skipped) {
	k.Helper()
	obs := &skipped{}
	s := New(topic, k.kafka.NewClient, zaptest.NewLogger(k), obs)
	if _, _, err := s.KeyUser(k.Context(), Hash("x")); !errors.Is(err, ErrNotReady) || s.Err() == nil {
		k.Errorf("a store that has read nothing: error %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = s.Run(ctx) })
	k.Cleanup(func() { cancel(); running.Wait() })
	select {
	case <-s.Loaded():
	case <-time.After(time.Minute):
		k.Fatal("not loaded in a minute")
	}
	return s, obs
}

// want waits until the user owns the key; 0: nobody does.
func (k *env) want(s *Store, key string, user int64) {
	k.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		got, found, err := s.KeyUser(k.Context(), Hash(key))
		if err == nil && got == user && found == (user != 0) {
			return
		}
		if time.Now().After(end) {
			k.Fatalf("owner of the key: user %d, %v, %v, want user %d", got, found, err, user)
		}
	}
}

// skipped counts unreadable records.
type skipped struct{ n atomic.Int32 }

func (*skipped) ConfigLag(string, int64)   {}
func (s *skipped) UnreadableRecord(string) { s.n.Add(1) }

func TestKeys(t *testing.T) {
	k := newEnv(t)
	old := k.create(5)
	s, obs := k.start()
	fresh := k.create(6)
	k.want(s, old, 5)
	k.want(s, fresh, 6)
	k.want(s, "unknown", 0)
	if _, found, err := s.KeyUser(t.Context(), "no hash"); found || err != nil {
		t.Errorf("no hash: %v, %v", found, err)
	}
	k.revoke(old, true)
	k.revoke(old, false)
	k.revoke("unknown", false)
	k.want(s, old, 0)
	k.write("nonsense", `{"user_id":1}`)
	k.write(Hash(fresh), `{"user_id":"x"}`)
	last := k.create(7)
	k.want(s, last, 7)
	for end := time.Now().Add(time.Minute); obs.n.Load() != 2; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d unreadable records, want 2", obs.n.Load())
		}
	}
	k.want(s, fresh, 6) // after an unreadable record of it
	if s.Err() != nil {
		t.Error(s.Err())
	}
	if _, err := Create(t.Context(), k.client, topic, 0, ""); err == nil {
		t.Error("a key for user 0 was created")
	}
}

// TestUserOfARecord checks that a record without a user id of at most 63 bits has no owner.
func TestUserOfARecord(t *testing.T) {
	for value, want := range map[string]int64{
		`{"user_id":5}`:                    5,
		`{"user_id":1,"user_id":2}`:        2,
		`{"user_id":9223372036854775807}`:  1<<63 - 1,
		`{"user_id":9223372036854775808}`:  0,
		`{"user_id":-9223372036854775809}`: 0,
		`{"user_id":"5"}`:                  0,
		`{"user_id":5.0}`:                  0,
		`{"user_id":0}`:                    0,
		`{}`:                               0,
		`null`:                             0,
	} {
		if got, err := parseUser([]byte(value)); got != want || (err == nil) != (want != 0) {
			t.Errorf("%s: user %d, error %v, want user %d", value, got, err, want)
		}
	}
}

// TestRevokedEverywhere checks that a key whose records are in several partitions is revoked in each: compaction of one
// of them must not bring it back.
func TestRevokedEverywhere(t *testing.T) {
	k := newEnv(t)
	key := k.create(5)
	manual := k.kafka.Open(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	for partition := range int32(3) {
		r := &kgo.Record{Topic: topic, Partition: partition, Key: []byte(Hash(key)), Value: []byte(`{"user_id":5}`), Timestamp: time.Now()}
		if err := manual.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	k.revoke(key, true)
	s, _ := k.start()
	k.want(s, key, 0)
	last := map[int32]bool{}
	follower := k.kafka.Open(kgo.ConsumeTopics(topic), kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()))
	for n := 0; n < 7; {
		for _, r := range follower.PollFetches(t.Context()).Records() {
			last[r.Partition] = r.Value == nil
			n++
		}
	}
	for partition := range int32(3) {
		if !last[partition] {
			t.Errorf("the last record of partition %d is not a tombstone", partition)
		}
	}
}

// TestRevokedKeyStaysRevoked checks that no older record brings a revoked key back, in whatever order records are read.
func TestRevokedKeyStaysRevoked(t *testing.T) {
	s := New(topic, nil, zap.NewNop(), &skipped{})
	at := time.UnixMilli(1_900_000_000_000)
	hash := Hash("smsh_x")
	record := func(partition int32, offset int64, after time.Duration, value string) *kgo.Record {
		r := &kgo.Record{Topic: topic, Partition: partition, Offset: offset, Timestamp: at.Add(after), Key: []byte(hash)}
		if value != "" {
			r.Value = []byte(value)
		}
		return r
	}
	h, err := parseHash([]byte(hash))
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct {
		*kgo.Record
		user int64 // owner of the key after the record
	}{
		{record(1, 10, 0, `{"user_id":5}`), 5},
		{record(1, 11, -time.Hour, ""), 0},                  // the offset counts, not the clock
		{record(1, 10, 0, `{"user_id":5}`), 0},              // read again from the start
		{record(0, 99, -2*time.Hour, `{"user_id":5}`), 0},   // of another partition, and older
		{record(1, 12, 0, `{"user_id":0}`), 0},              // unreadable
		{record(1, 13, time.Hour, `{"user_id":6}`), 6},      // created again
		{record(0, 100, 2*time.Hour, ""), 0},                // revoked in another partition
		{record(1, 14, 90*time.Minute, `{"user_id":6}`), 0}, // before that
	} {
		_ = s.take(c.Record, true)
		if user, _, _ := s.keys.Get(h); user != c.user {
			t.Fatalf("owner after record %d: user %d, want %d", i, user, c.user)
		}
	}
	s.begin(false, nil)
	if _, v, removed := s.keys.Get(h); v.Offset != 101 || !removed {
		t.Error("reading the same topic again forgets a revocation")
	}
	if s.begin(true, nil); s.keys.Len() != 0 {
		t.Error("keys of a topic that was created again count")
	}
}

// TestTopicRecreated checks that keys of a deleted topic are not accepted, nor others refused, before the new topic was
// read.
func TestTopicRecreated(t *testing.T) {
	k := newEnv(t)
	old := k.create(5)
	s, _ := k.start()
	if _, err := kadm.NewClient(k.client).DeleteTopic(t.Context(), topic); err != nil {
		t.Fatal(err)
	}
	for {
		details, err := kadm.NewClient(k.kafka.Open()).ListTopics(t.Context(), topic)
		if err != nil {
			t.Fatal(err)
		}
		if details.Error() != nil {
			break
		}
	}
	k.kafka.CreateCompacted(topic)
	k.client = k.kafka.Open()
	fresh := k.create(6)
	k.want(s, fresh, 6)
	k.want(s, old, 0)
}

func TestKeyRecords(t *testing.T) {
	hash := Hash("smsh_x")
	if h, err := parseHash([]byte(hash)); err != nil || !strings.HasPrefix(hash, hex.EncodeToString(h[:])) {
		t.Errorf("hash read again: %v, %v", h, err)
	}
	for _, bad := range []string{"", "12", strings.ToUpper(hash), hash + "00", "zz" + hash[2:]} {
		if _, err := parseHash([]byte(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	for value, want := range map[string]int64{
		`{"user_id":5,"name":"n"}`: 5, `{"user_id":5}`: 5, `{"name":"n"}`: 0, `{"user_id":-5}`: 0, `5`: 0, ``: 0,
	} {
		if id, err := parseUser([]byte(value)); id != want || (err != nil) != (want == 0) {
			t.Errorf("%s: %d, %v", value, id, err)
		}
	}
}

// TestEndsWithItsContext checks that a command can be interrupted while Kafka does not answer a record that was sent.
func TestEndsWithItsContext(t *testing.T) {
	k := newEnv(t)
	key := k.create(42)
	for name, do := range map[string]func(context.Context, *kgo.Client) error{
		"create": func(ctx context.Context, c *kgo.Client) error { _, err := Create(ctx, c, topic, 42, ""); return err },
		"revoke": func(ctx context.Context, c *kgo.Client) error { _, err := Revoke(ctx, c, topic, key); return err },
	} {
		t.Run(name, func(t *testing.T) {
			network := new(fakekafka.Network)
			network.CutAtProduce()
			client := k.kafka.Open(kgo.Dialer(network.Dial))
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- do(ctx, client) }()
			select {
			case err := <-done:
				if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "topic "+topic) {
					t.Error(err)
				}
			case <-time.After(10 * time.Second):
				t.Error("has not returned when its context ended")
			}
		})
	}
}
