package settings

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap/zaptest"

	"github.com/smshooks/smshooks/internal/compacted"
	"github.com/smshooks/smshooks/pkg/webhook"
)

func TestStoreReadsAndFollows(t *testing.T) {
	k := newEnv(t)
	k.set(1, "a")
	k.set(1, "b")
	k.set(2, "c")
	k.write("2", "")
	k.write("1", `{"user_id":1,"dlr_url":5}`, "1", `nonsense`, "x", "", "3", `{"user_id":4}`)
	unread := New(Config{Topic: k.topic, KeyPrefix: k.prefix}, k.newClient, k.newRedis(), zaptest.NewLogger(t), &observed{})
	if _, ok := unread.Lookup(1); ok {
		t.Error("an answer before anything was read")
	}
	store, obs, _ := k.start()
	waitLoaded(t, store)
	wantHost(t, store, 1, "b")
	wantHost(t, store, 2, "")
	wantHost(t, store, 99, "")
	eventually(t, 2*time.Second, "what is observed", func() bool {
		obs.mu.Lock()
		defer obs.mu.Unlock()
		return obs.unreadable == 4 && obs.users == 1 && obs.lag == 0
	})

	// Memory has 99 as a user without settings by now; the change must reach it too.
	k.set(99, "z")
	eventually(t, time.Second, "the new user", func() bool { return host(t, store, 99) == "z" })
	k.write("1", "")
	eventually(t, time.Second, "the removal", func() bool { return host(t, store, 1) == "" })
}

func TestStoreEmptyTopics(t *testing.T) {
	k := newEnv(t)
	store, _, _ := k.start()
	waitLoaded(t, store)
	wantHost(t, store, 1, "")
}

func TestStoreSmallMemory(t *testing.T) {
	k := newEnv(t)
	const users = 2000
	var pairs []string
	for id := 1; id <= users; id++ {
		pairs = append(pairs, strconv.Itoa(id), fmt.Sprintf(`{"user_id":%d,"dlr_url":"http://h%d"}`, id, id))
	}
	k.write(pairs...)
	store, _, _ := k.start(func(c *Config) { c.MaxUsers = 128 })
	waitLoaded(t, store)
	for id := int64(1); id <= users; id++ {
		// Records that were just read do not count as missing; Redis has them.
		wantHost(t, store, id, fmt.Sprintf("h%d", id))
	}
	if n := store.users.count(); n > 128 {
		t.Errorf("%d users in memory", n)
	}
	k.set(5, "changed")
	eventually(t, time.Second, "the change", func() bool { return host(t, store, 5) == "changed" })
}

func TestFlush(t *testing.T) {
	k := newEnv(t)
	for id := int64(1); id <= 300; id++ {
		k.set(id, "h"+strconv.FormatInt(id, 10))
	}
	a, _, _ := k.start(small)
	b, _, _ := k.start(small)
	waitLoaded(t, a, b)
	for round := range 5 {
		// While rounds continue, a flush also hits a rebuild.
		flushed := time.Now()
		if err := k.rdb.FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		for id := int64(1); id <= 300; id += 7 {
			for _, s := range []*Store{a, b} {
				if got := host(t, s, id); got != "?" && got != "h"+strconv.FormatInt(id, 10) {
					t.Fatalf("round %d: user %d appears with %q", round, id, got)
				}
			}
		}
		if round%2 == 1 {
			<-time.After(time.Duration(round) * 130 * time.Millisecond)
			continue
		}
		for id := int64(1); id <= 300; id++ {
			eventually(t, 5*time.Second, "user "+strconv.FormatInt(id, 10), func() bool {
				return host(t, b, id) == "h"+strconv.FormatInt(id, 10)
			})
		}
		t.Logf("round %d: back after %v", round, time.Since(flushed))
	}
}

func TestTombstonesSurviveOutOfOrderWriters(t *testing.T) {
	k := newEnv(t)
	k.set(1, "a")
	k.write("1", "")
	store, _, _ := k.start()
	waitLoaded(t, store)
	// A slow instance writes what it read long ago.
	c, err := store.decode(&kgo.Record{
		Topic: k.topic, Key: []byte("1"), Value: []byte(`{"user_id":1,"dlr_url":"http://a"}`),
		Partition: partitionOf(t, k, "1"), Offset: 0, Timestamp: time.Now(),
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.rdb.write(t.Context(), []change{c}, nil); err != nil {
		t.Fatal(err)
	}
	d, ver, err := store.Document(t.Context(), 1)
	if err != nil || d.DLRURL != nil || ver.Offset == 0 {
		t.Errorf("document %+v, version %v, %v", d, ver, err)
	}
	if ttl := k.rdb.PTTL(t.Context(), store.rdb.key(userName(1))).Val(); ttl <= 0 || ttl > tombstoneKept {
		t.Errorf("the tombstone is kept %v", ttl)
	}
	k.set(1, "b")
	eventually(t, time.Second, "the user again", func() bool {
		d, _, err := store.Document(t.Context(), 1)
		return err == nil && d.DLRURL != nil && *d.DLRURL == "http://b"
	})
	// The document may have been answered from the topic before Redis had it.
	eventually(t, time.Second, "a document that does not expire", func() bool {
		return k.rdb.PTTL(t.Context(), store.rdb.key(userName(1))).Val() == -1
	})
}

func partitionOf(t *testing.T, k *env, key string) int32 {
	t.Helper()
	return int32(kgo.StickyKeyPartitioner(nil).ForTopic(k.topic).Partition(&kgo.Record{Key: []byte(key)}, partitions))
}

func TestOtherPartitioner(t *testing.T) {
	k := newEnv(t)
	own := partitionOf(t, k, "1")
	k.set(2, "x") // some offsets of difference
	k.set(1, "first")
	k.set(1, "second")
	manual := k.open(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	store, _, _ := k.start()
	waitLoaded(t, store)
	err := manual.ProduceSync(t.Context(), &kgo.Record{
		Topic: k.topic, Partition: (own + 1) % partitions, Key: []byte("1"),
		Value: []byte(`{"user_id":1,"dlr_url":"http://elsewhere"}`), Timestamp: time.Now().Add(10 * time.Millisecond),
	}).FirstErr()
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Second, "the record in the other partition", func() bool { return host(t, store, 1) == "elsewhere" })
	d, err := store.Update(t.Context(), 1, func(d Document) Document { d.ClickURL = text("http://c"); return d })
	if err != nil || value(d.DLRURL) != "http://elsewhere" {
		t.Fatalf("updated: %+v, %v", d, err)
	}
	// A store that starts now must have the same result.
	late, _, _ := k.start(func(c *Config) { c.KeyPrefix = "late" + k.prefix })
	waitLoaded(t, late)
	for _, s := range []*Store{store, late} {
		d, _, err := s.Document(t.Context(), 1)
		if err != nil || value(d.DLRURL) != "http://elsewhere" || value(d.ClickURL) != "http://c" {
			t.Errorf("document: %+v, %v", d, err)
		}
		if settings, ok := s.Lookup(1); !ok || settings.Endpoints[webhook.Click] == nil {
			t.Error("memory has an older document")
		}
	}
}

func TestUpdatesRace(t *testing.T) {
	k := newEnv(t)
	a, _, _ := k.start()
	b, _, _ := k.start()
	waitLoaded(t, a, b)
	for round := range 15 {
		updateEach(t, "http://host/"+strconv.Itoa(round), a, b)
	}
}

// updateEach sets all four URLs of user 1 concurrently, each with its own update, and checks that none is lost.
func updateEach(t *testing.T, url string, stores ...*Store) {
	t.Helper()
	var wg sync.WaitGroup
	for i, change := range setEach(url) {
		wg.Go(func() {
			if _, err := stores[i%len(stores)].Update(t.Context(), 1, change); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, s := range stores {
		d, _, err := s.Document(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		fields := d.fields()
		for _, f := range fields[:4] {
			if value(*f.value) != url {
				t.Errorf("%s is %q, want %q", f.name, value(*f.value), url)
			}
		}
	}
}

func TestUpdateSeesOtherWriters(t *testing.T) {
	k := newEnv(t)
	store, _, _ := k.start()
	waitLoaded(t, store)
	for i := range 20 {
		k.set(1, "h"+strconv.Itoa(i)) // acknowledged, perhaps not yet heard
		d, err := store.Update(t.Context(), 1, func(d Document) Document {
			d.ClickURL = text("http://c" + strconv.Itoa(i))
			return d
		})
		if err != nil {
			t.Fatal(err)
		}
		if value(d.DLRURL) != "http://h"+strconv.Itoa(i) {
			t.Fatalf("round %d: the other writer's URL became %q", i, value(d.DLRURL))
		}
	}
	_, before, _ := store.Document(t.Context(), 1)
	if _, err := store.Update(t.Context(), 1, func(d Document) Document { return d }); err != nil {
		t.Fatal(err)
	}
	if _, after, _ := store.Document(t.Context(), 1); after != before {
		t.Errorf("an update without a change wrote version %v after %v", after, before)
	}
}

func TestSealedAtRest(t *testing.T) {
	k := newEnv(t)
	sealer := testSealer(t, "k")
	k.write("1", `{"user_id":1,"dlr_url":"http://a","auth":"u:plain"}`)
	store, _, _ := k.start(sealedWith(sealer))
	waitLoaded(t, store)
	if s, ok := store.Lookup(1); !ok || s.Endpoints[webhook.DLR].Authorization == "" {
		t.Error("a plain auth of another writer is not used")
	}
	d, err := store.Update(t.Context(), 2, func(d Document) Document {
		d.DLRURL, d.Auth = text("http://b"), text("u:sealed")
		return d
	})
	if err != nil || value(d.Auth) != "u:sealed" {
		t.Fatalf("updated: %+v, %v", d, err)
	}
	for _, id := range []int64{1, 2} {
		doc := k.rdb.HGet(t.Context(), store.rdb.key(userName(id)), "d").Val()
		if !strings.Contains(doc, `"auth":"enc:v1:`) || strings.Contains(doc, "u:") {
			t.Errorf("user %d in Redis: %s", id, doc)
		}
		if d, _, err := store.Document(t.Context(), id); err != nil || d.Auth == nil {
			t.Errorf("user %d read again: %+v, %v", id, d, err)
		}
	}
	if got := k.newest()["2"]; strings.Contains(got, "u:sealed") || !strings.Contains(got, "enc:v1:") {
		t.Errorf("in Kafka: %s", got)
	}
	// For an instance without the key the user's settings are unknown.
	blind, obs, _ := k.start(func(c *Config) { c.Materialise = false })
	waitLoaded(t, blind)
	if got := host(t, blind, 2); got != "?" {
		t.Errorf("without the key user 2 appears with %q", got)
	}
	if n := obs.skipped(); n != 1 {
		t.Errorf("%d records reported, want 1", n)
	}
	// The same holds for one with another key that fills an empty Redis. Its entries can be opened with the right key.
	k.rdb.FlushAll(t.Context())
	wrong, _, _ := k.start(func(c *Config) { c.Secrets = testSealer(t, "o") })
	waitLoaded(t, wrong)
	if got := host(t, wrong, 2); got != "?" {
		t.Errorf("with another key user 2 appears with %q", got)
	}
	if _, err := wrong.Update(t.Context(), 2, func(d Document) Document { d.InboundURL = text("http://i"); return d }); err == nil {
		t.Error("an update overwrote settings that cannot be opened")
	}
	right, _, _ := k.start(sealedWith(sealer))
	waitLoaded(t, right)
	if d, _, err := right.Document(t.Context(), 2); err != nil || value(d.Auth) != "u:sealed" || value(d.DLRURL) != "http://b" {
		t.Errorf("with the right key again: %+v, %v", d, err)
	}
}

func TestRedisUnreachable(t *testing.T) {
	k := newEnv(t)
	mini := k.needMini()
	k.set(1, "a")
	mini.Close()
	store, _, _ := k.start()
	eventually(t, 5*time.Second, "memory", func() bool { return host(t, store, 1) == "a" })
	select {
	case <-store.Loaded():
		t.Fatal("loaded without Redis")
	default:
	}
	if got := host(t, store, 2); got != "?" {
		t.Errorf("before Redis is filled a user appears with %q", got)
	}
	if store.Err() == nil {
		t.Error("no error without Redis at the start")
	}
	if err := mini.Restart(); err != nil {
		t.Fatal(err)
	}
	waitLoaded(t, store)
	wantHost(t, store, 2, "")

	mini.Close()
	k.set(1, "b")
	eventually(t, time.Second, "a change without Redis", func() bool { return host(t, store, 1) == "b" })
	if got := host(t, store, 3); got != "?" {
		t.Errorf("without Redis a user who is not in memory appears with %q", got)
	}
	began := time.Now()
	if _, err := store.Update(t.Context(), 1, func(d Document) Document { return d }); !errors.Is(err, ErrUnavailable) {
		t.Errorf("update without Redis: %v", err)
	}
	if took := time.Since(began); took > busy*4500*time.Millisecond {
		t.Errorf("refused after %v", took)
	}
	if err := mini.Restart(); err != nil {
		t.Fatal(err)
	}
	other := New(Config{Topic: k.topic, KeyPrefix: k.prefix, Materialise: true}, k.newClient, k.newRedis(), zaptest.NewLogger(t), &observed{})
	other.rdb.use(*store.rdb.id.Load())
	eventually(t, 5*time.Second, "the change in Redis", func() bool {
		rows, err := other.rdb.read(t.Context(), 1)
		return err == nil && strings.Contains(string(rows[0].doc), "http://b")
	})
	if err := mini.DB(0).Set("unrelated", "x"); err != nil {
		t.Fatal(err)
	}
}

func TestQueueOverflowIsRepaired(t *testing.T) {
	k := newEnv(t)
	store, _, _ := k.start()
	waitLoaded(t, store)
	store.queue.mu.Lock()
	store.queue.drops++ // as if the next change had found no room
	store.queue.mu.Unlock()
	eventually(t, 5*time.Second, "a rebuild", func() bool { return store.queue.idle() })
}

func TestTopicRecreated(t *testing.T) {
	k := newEnv(t)
	for range 5 {
		k.set(1, "old")
	}
	k.set(2, "gone")
	store := k.loaded()
	k.deleteTopic()
	eventually(t, 10*time.Second, "the topic deleted", func() bool {
		_, err := compacted.Describe(t.Context(), k.open(), k.topic)
		return err != nil
	})
	k.createTopic()
	k.client = k.open()
	k.set(1, "new")
	eventually(t, 20*time.Second, "the new topic's document", func() bool { return host(t, store, 1) == "new" })
	eventually(t, 5*time.Second, "the old topic's user gone", func() bool { return host(t, store, 2) == "" })
}

// TestRebuildFindsRecreatedTopic checks that reading starts again as soon as a rebuild finds another topic.
func TestRebuildFindsRecreatedTopic(t *testing.T) {
	k := newEnv(t)
	k.set(1, "old")
	store, _, stop := k.start()
	waitLoaded(t, store)
	stop() // the reader stays that of the old topic
	k.deleteTopic()
	eventually(t, 10*time.Second, "the topic deleted", func() bool {
		_, err := compacted.Describe(t.Context(), k.open(), k.topic)
		return err != nil
	})
	k.createTopic()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := store.beside(ctx, nil); !errors.Is(err, compacted.ErrRecreated) || ctx.Err() != nil {
		t.Errorf("the rebuild ended with %v, its context with %v", err, ctx.Err())
	}
}

func TestWithoutMaterialiser(t *testing.T) {
	k := newEnv(t)
	k.set(1, "a")
	reader, _, _ := k.start(func(c *Config) { c.Materialise = false })
	waitLoaded(t, reader)
	wantHost(t, reader, 1, "a")
	wantHost(t, reader, 2, "") // the topic decides, whatever Redis holds
	if _, _, err := reader.Document(t.Context(), 1); err != nil {
		t.Errorf("an empty Redis hides the document: %v", err)
	}
	if n := k.rdb.Exists(t.Context(), reader.rdb.key(userName(1))).Val(); n != 0 {
		t.Error("it wrote to Redis")
	}
}

// TestForeignKeys checks that a Redis key written by another program affects no other user, and that the next record
// replaces it.
func TestForeignKeys(t *testing.T) {
	k := newEnv(t)
	for id := int64(1); id <= 4; id++ {
		k.set(id, "h"+strconv.FormatInt(id, 10))
	}
	a, _, _ := k.start()
	waitLoaded(t, a)
	spoil := func() {
		t.Helper()
		for id, with := range map[int64]func(key string) error{
			2: func(key string) error { return k.rdb.Set(t.Context(), key, "text", 0).Err() },
			3: func(key string) error {
				return k.rdb.HSet(t.Context(), key, "v", "0/99999999999999999999/0", "d", "{}").Err()
			},
		} {
			key := a.rdb.key(userName(id))
			if err := errors.Join(k.rdb.Del(t.Context(), key).Err(), with(key)); err != nil {
				t.Fatal(err)
			}
		}
	}
	bad := func() (which []int) {
		t.Helper()
		rows, err := a.rdb.read(t.Context(), 1, 2, 3, 4)
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range rows {
			if r.err != nil || r.doc == nil {
				which = append(which, i+1)
			}
		}
		return which
	}
	spoil()
	if got := bad(); !slices.Equal(got, []int{2, 3}) {
		t.Errorf("users %v cannot be read, want 2 and 3", got)
	}
	k.set(2, "new2")
	k.set(3, "new3")
	eventually(t, 2*time.Second, "the changes are in Redis", func() bool { return len(bad()) == 0 })
	spoil()
	b, _, _ := k.start() // fills Redis
	waitLoaded(t, b)
	if got := bad(); len(got) != 0 {
		t.Errorf("users %v cannot be read after a start", got)
	}
}
