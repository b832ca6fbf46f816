package settings

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2/server"
	"github.com/twmb/franz-go/pkg/kgo"
)

// small keeps nearly nothing in memory, so that Redis is asked.
func small(c *Config) { c.MaxUsers = 1 }

// url returns the user's DLR URL as the API would.
func url(t *testing.T, s *Store, userID int64) string {
	t.Helper()
	var d Document
	var err error
	for began := time.Now(); time.Since(began) < busy*2*time.Second; {
		if d, _, err = s.Document(t.Context(), userID); err == nil {
			return value(d.DLRURL)
		}
	}
	t.Fatalf("user %d: %v", userID, err)
	return ""
}

// TestDamagedRows: whatever becomes of single keys in Redis, the topic's documents are answered, are the base of
// updates, and come back.
func TestDamagedRows(t *testing.T) {
	k, _ := newStack(t)
	const users = 100 // more than memory keeps
	for id := int64(1); id <= users; id++ {
		k.set(id, "old")
	}
	for id := int64(1); id <= users; id++ {
		k.write(k.config, strconv.FormatInt(id, 10), fmt.Sprintf(`{"user_id":%d,"dlr_url":"http://new%d","auth":"u:p","plan":[ 1.50 ]}`, id, id))
	}
	key, err := CreateKey(t.Context(), k.client, k.keys, 7, "n")
	if err != nil {
		t.Fatal(err)
	}
	a, _, _ := k.start(small)
	b, _, _ := k.start(small)
	waitLoaded(t, a, b)
	x := subject{user: 1}
	version := func(x subject) Version { v, _ := a.newest(x); return v }
	row := func(x subject) string { return a.rdb.key(x.name()) }
	for name, spoil := range map[string]func(ctx context.Context, x subject) error{
		"deleted": func(ctx context.Context, x subject) error { return k.rdb.Del(ctx, row(x)).Err() },
		"older": func(ctx context.Context, x subject) error {
			v := version(x)
			v.Offset--
			return k.rdb.HSet(ctx, row(x), "v", v.String(), "d", fmt.Sprintf(`{"user_id":%d,"dlr_url":"http://old"}`, x.user)).Err()
		},
		"of a record that is another's": func(ctx context.Context, x subject) error {
			v := version(x)
			v.Offset++
			return k.rdb.HSet(ctx, row(x), "v", v.String(), "d", fmt.Sprintf(`{"user_id":%d,"dlr_url":"http://foreign"}`, x.user)).Err()
		},
		"of a record that never was": func(ctx context.Context, x subject) error {
			return k.rdb.HSet(ctx, row(x), "v", "0/1000000/9999999999999", "d", fmt.Sprintf(`{"user_id":%d,"dlr_url":"http://foreign"}`, x.user)).Err()
		},
		"an old tombstone": func(ctx context.Context, x subject) error {
			return errors.Join(k.rdb.HSet(ctx, row(x), "v", "0/1/1").Err(), k.rdb.HDel(ctx, row(x), "d").Err())
		},
		"without its document": func(ctx context.Context, x subject) error { return k.rdb.HDel(ctx, row(x), "d").Err() },
		"unreadable":           func(ctx context.Context, x subject) error { return k.rdb.HSet(ctx, row(x), "d", "{").Err() },
		"no version":           func(ctx context.Context, x subject) error { return k.rdb.HSet(ctx, row(x), "v", "nonsense").Err() },
		"another type": func(ctx context.Context, x subject) error {
			return errors.Join(k.rdb.Del(ctx, row(x)).Err(), k.rdb.Set(ctx, row(x), "x", 0).Err())
		},
	} {
		t.Run(name, func(t *testing.T) {
			for id := int64(1); id <= users; id++ {
				x.user = id
				if err := spoil(t.Context(), x); err != nil {
					t.Fatal(err)
				}
			}
			for id := int64(1); id <= users; id += 3 {
				want := "new" + strconv.FormatInt(id, 10)
				if got := host(t, b, id); got != "?" && got != want {
					t.Fatalf("an event of user %d goes to %q", id, got)
				}
				if got := url(t, a, id); got != "http://"+want {
					t.Fatalf("user %d is answered %q", id, got)
				}
				eventually(t, 5*time.Second, "the settings of an event", func() bool { return host(t, b, id) == want })
			}
			// A partial update of one that nobody asked for loses nothing.
			x.user = 2
			if err := spoil(t.Context(), x); err != nil {
				t.Fatal(err)
			}
			d, err := b.Update(t.Context(), 2, func(d Document) Document {
				d.ClickURL = text("http://c/" + strings.ReplaceAll(name, " ", "-"))
				return d
			})
			if got := string(d.AppendJSON(nil, nil)); err != nil || !strings.Contains(got, `"dlr_url":"http://new2","click_url":"http://c/`) || !strings.HasSuffix(got, `"auth":"u:p","plan":[ 1.50 ]}`) {
				t.Errorf("updated to %s, %v", got, err)
			}
			// Nobody asked for the others, and they come back too.
			eventually(t, 10*time.Second, "all of Redis", func() bool {
				for id := int64(1); id <= users; id++ {
					x.user = id
					rows, err := a.rdb.read(t.Context(), []string{x.name()})
					if name == "unreadable" && id%3 != 1 {
						continue // a text that was edited is found out when it is used
					}
					if err != nil || rows[0].err != nil || !rows[0].ver.is(version(x)) || !strings.Contains(string(rows[0].doc), fmt.Sprintf(`"http://new%d"`, id)) {
						return false
					}
				}
				return true
			})
		})
	}
	t.Run("API key", func(t *testing.T) {
		hash, _ := parseKeyHash([]byte(HashKey(key)))
		x := subject{isKey: true, key: hash}
		for _, spoil := range []func() error{
			func() error { return k.rdb.Del(t.Context(), row(x)).Err() },
			func() error { return k.rdb.HSet(t.Context(), row(x), "v", "0/1/1").Err() },
			func() error { return k.rdb.HSet(t.Context(), row(x), "d", "99999").Err() },
		} {
			for _, s := range []*Store{a, b} {
				s.keys.drop(hash)
				if err := spoil(); err != nil {
					t.Fatal(err)
				}
				id, found, err := s.KeyUser(t.Context(), HashKey(key))
				if err != nil || !found || id != 7 && id != 99999 {
					t.Errorf("the key is %d's, %v, %v", id, found, err)
				}
			}
		}
	})
}

// TestGoneFromTheTopics: Redis holds nothing that the topics don't hold, when the first answer is given.
func TestGoneFromTheTopics(t *testing.T) {
	k, _ := newStack(t)
	for id := int64(1); id <= 5; id++ {
		k.set(id, "h"+strconv.FormatInt(id, 10))
	}
	key, err := CreateKey(t.Context(), k.client, k.keys, 7, "n")
	if err != nil {
		t.Fatal(err)
	}
	first, _, stop := k.start()
	waitLoaded(t, first)
	id := *first.rdb.id.Load()
	stop()
	former, foreign := strings.Repeat("0", 15)+"1", strings.Repeat("0", 15)+"2"
	if err := k.rdb.Set(t.Context(), k.prefix+"topics:"+k.config+":"+k.keys, former, 0).Err(); err != nil {
		t.Fatal(err)
	}
	gone := HashKey("gone")
	for name, fields := range map[string][]any{
		k.prefix + id + ":user:77":           {"v", "0/1/1", "d", `{"user_id":77,"dlr_url":"http://gone"}`},
		k.prefix + id + ":user:78":           {"v", "2/1/1"},
		k.prefix + id + ":user:79":           {"v", "0/999999/1", "d", `{"user_id":79,"dlr_url":"http://never"}`},
		k.prefix + id + ":key:" + gone:       {"v", "0/1/1", "d", "77"},
		k.prefix + former + ":user:1":        {"v", "0/1/1", "d", `{"user_id":1,"dlr_url":"http://former"}`},
		k.prefix + former + ":key:" + gone:   {"v", "0/1/1", "d", "77"},
		k.prefix + "deliveries:77":           {"x", "not ours"},
		k.prefix + foreign + ":user:77":      {"v", "0/1/1", "d", "of other topics in the same Redis"},
		k.prefix + id + ":something:else":    {"x", "not ours"},
		"other" + id + ":user:77":            {"v", "0/1/1", "d", "another prefix"},
		k.prefix + "xyz" + id[3:] + ":user:": {"x", "not ours"},
	} {
		if err := k.rdb.HSet(t.Context(), name, fields...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	second, _, _ := k.start(small)
	waitLoaded(t, second)
	for _, name := range []string{id + ":user:77", id + ":user:78", id + ":user:79", id + ":key:" + gone, former + ":user:1", former + ":key:" + gone} {
		if n := k.rdb.Exists(t.Context(), k.prefix+name).Val(); n != 0 {
			t.Errorf("%s is still in Redis", name)
		}
	}
	for _, name := range []string{"deliveries:77", foreign + ":user:77", id + ":something:else", id + ":user:1", id + ":key:" + HashKey(key)} {
		if n := k.rdb.Exists(t.Context(), k.prefix+name).Val(); n != 1 {
			t.Errorf("%s was removed", name)
		}
	}
	if n := k.rdb.Exists(t.Context(), "other"+id+":user:77").Val(); n != 1 {
		t.Error("a key of another prefix was removed")
	}
	// Put there again, it is no answer.
	for _, name := range []string{id + ":user:77", id + ":key:" + gone} {
		if err := k.rdb.HSet(t.Context(), k.prefix+name, "v", "0/1/1", "d", "77").Err(); err != nil {
			t.Fatal(err)
		}
	}
	wantHost(t, second, 77, "")
	if got := url(t, second, 77); got != "" {
		t.Errorf("user 77 is answered %q", got)
	}
	if _, found, err := second.KeyUser(t.Context(), gone); found || err != nil {
		t.Errorf("a key that its topic doesn't have: %v, %v", found, err)
	}
}

// TestRedisAheadOfTheTopics: Redis has versions that the topics lost when they were cut back. They count neither before
// nor after the start, and are gone then.
func TestRedisAheadOfTheTopics(t *testing.T) {
	k, _ := newStack(t)
	for id := int64(1); id <= 5; id++ {
		k.set(id, "h"+strconv.FormatInt(id, 10))
	}
	first, _, stop := k.start()
	waitLoaded(t, first)
	stop()
	for id := int64(1); id <= 5; id++ {
		row := first.rdb.key(userName(id))
		if err := k.rdb.HSet(t.Context(), row, "v", "0/999999/9999999999999", "d", fmt.Sprintf(`{"user_id":%d,"dlr_url":"http://lost"}`, id)).Err(); err != nil {
			t.Fatal(err)
		}
	}
	second, _, _ := k.start(small)
	waitLoaded(t, second)
	for id := int64(1); id <= 5; id++ {
		want := "h" + strconv.FormatInt(id, 10)
		if got := url(t, second, id); got != "http://"+want {
			t.Errorf("user %d is answered %q", id, got)
		}
		eventually(t, 5*time.Second, "Redis as the topic says", func() bool {
			return strings.Contains(k.rdb.HGet(t.Context(), second.rdb.key(userName(id)), "d").Val(), want)
		})
	}
}

// TestCutBack: a topic that lost records while it was followed is read anew, and nothing is concluded until then.
func TestCutBack(t *testing.T) {
	k, _ := newStack(t)
	k.set(1, "a")
	store, _, _ := k.start()
	waitLoaded(t, store)
	if err := store.readFailed(t.Context(), fmt.Errorf("poll: %w", &kgo.ErrDataLoss{Topic: k.config})); err == nil {
		t.Fatal("reading goes on")
	}
	store.startOver(store.reading.Load())
	if _, ok := store.Lookup(1); ok || store.Err() == nil {
		t.Error("what was read before counts")
	}
	if _, _, err := store.Document(t.Context(), 1); !errors.Is(err, ErrNotReady) {
		t.Errorf("a document: %v", err)
	}
}

// TestMuchLost: more is lost than is repaired one by one.
func TestMuchLost(t *testing.T) {
	k, _ := newStack(t)
	const users = muchLost + 500
	var pairs []string
	for id := 1; id <= users; id++ {
		pairs = append(pairs, strconv.Itoa(id), fmt.Sprintf(`{"user_id":%d,"dlr_url":"http://h%d"}`, id, id))
	}
	k.write(k.config, pairs...)
	store, _, _ := k.start(small)
	waitLoaded(t, store)
	var rows []string
	for id := int64(1); id <= users; id++ {
		rows = append(rows, store.rdb.key(userName(id)))
	}
	if n := k.rdb.Del(t.Context(), rows...).Val(); n != users {
		t.Fatalf("%d of %d were in Redis", n, users)
	}
	eventually(t, 20*time.Second, "all are in Redis again", func() bool { return k.rdb.Exists(t.Context(), rows...).Val() == users })
}

// TestUnreadableAfterCompaction: the record that the index names is not in its topic any more. The user counts as
// removed, as after a restart, and not before the topic has been read to its end.
func TestUnreadableAfterCompaction(t *testing.T) {
	k, _ := newStack(t)
	k.set(1, "a")
	store, _, _ := k.start(small)
	waitLoaded(t, store)
	ver, _ := store.newest(subject{user: 1})
	end, err := highWatermark(t.Context(), store.reading.Load().client, slot{k.config, ver.Partition})
	if err != nil || end != ver.Offset {
		t.Fatalf("end %d, %v", end, err)
	}
	// As if it had been read at an offset that is not there.
	ver.Offset += 5
	store.userIndex.put(1, ver, false)
	store.users.drop(1)
	k.rdb.Del(t.Context(), store.rdb.key(userName(1)))
	eventually(t, 5*time.Second, "an answer", func() bool {
		d, _, err := store.Document(t.Context(), 1)
		return err == nil && d.DLRURL == nil
	})
	wantHost(t, store, 1, "")
}

// TestLostWrites: a node that came back with an older data set is noticed without INFO.
func TestLostWrites(t *testing.T) {
	k, mini := newStack(t)
	if mini == nil {
		t.Skip("needs the Redis in the process")
	}
	d := newDatabase(k.rdb, "p:", nil)
	want := func(what string, want bool) {
		t.Helper()
		if lost, err := d.lost(t.Context()); lost != want || err != nil {
			t.Errorf("%s: lost %v, %v", what, lost, err)
		}
	}
	want("first look", false)
	want("nothing happened", false)
	key := "p:{pulse0}:" + d.instance
	old := k.rdb.Get(t.Context(), key).Val()
	want("nothing happened", false)
	k.rdb.FlushAll(t.Context())
	want("flushed", true)
	want("nothing since", false)
	k.rdb.Set(t.Context(), key, old, 0)
	want("an old snapshot", true)
	mini.SetError("LOADING")
	if _, err := d.lost(t.Context()); err == nil {
		t.Error("no error without an answer")
	}
	mini.SetError("")
	want("answering again", false)
}

// TestLimitedRights: a Redis user who may neither INFO nor SCAN.
func TestLimitedRights(t *testing.T) {
	k, mini := newStack(t)
	if mini == nil {
		t.Skip("needs the Redis in the process")
	}
	mini.Server().SetPreHook(func(c *server.Peer, cmd string, _ ...string) bool {
		switch strings.ToUpper(cmd) {
		case "INFO", "SCAN", "DBSIZE", "KEYS", "FLUSHALL":
			c.WriteError("NOPERM this user has no permissions to run the command")
			return true
		}
		return false
	})
	k.set(1, "a")
	store, _, _ := k.start(small)
	waitLoaded(t, store)
	mini.FlushAll()
	if got := url(t, store, 1); got != "http://a" {
		t.Errorf("answered %q", got)
	}
	eventually(t, 5*time.Second, "Redis filled again", func() bool { return mini.Exists(store.rdb.key(userName(1))) })
}

// TestUpdatesRaceWithoutLock: Redis loses the lock all the time.
func TestUpdatesRaceWithoutLock(t *testing.T) {
	k, _ := newStack(t)
	a, _, _ := k.start()
	b, _, _ := k.start()
	waitLoaded(t, a, b)
	ctx, cancel := context.WithCancel(t.Context())
	var evicting sync.WaitGroup
	evicting.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			k.rdb.Del(ctx, a.rdb.key("lock:1"))
			if n%10 == 0 {
				k.rdb.Del(ctx, a.rdb.key(userName(1)))
			}
		}
	})
	for round := range 20 {
		v := text("http://host/" + strconv.Itoa(round))
		changes := []func(Document) Document{
			func(d Document) Document { d.DLRURL = v; return d },
			func(d Document) Document { d.ClickURL = v; return d },
			func(d Document) Document { d.InboundURL = v; return d },
			func(d Document) Document { d.RevokeClickURL = v; return d },
		}
		var wg sync.WaitGroup
		for i, change := range changes {
			wg.Go(func() {
				if _, err := []*Store{a, b}[i%2].Update(t.Context(), 1, change); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for _, s := range []*Store{a, b} {
			d, _, err := s.Document(t.Context(), 1)
			if err != nil {
				t.Fatal(err)
			}
			fields := d.fields()
			for _, f := range fields[:4] {
				if value(*f.value) != *v {
					t.Errorf("round %d: %s is %q", round, f.name, value(*f.value))
				}
			}
		}
	}
	cancel()
	evicting.Wait()
}

// TestRandomDamage is a model: whatever happens to Redis in whatever order, the last value written is what both
// instances answer.
func TestRandomDamage(t *testing.T) {
	k, _ := newStack(t)
	a, _, _ := k.start(small)
	b, _, _ := k.start(small, func(c *Config) { c.Materialise = false })
	waitLoaded(t, a, b)
	stores := []*Store{a, b}
	const users = 6
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	model := map[int64]string{}
	saved := map[int64]map[string]string{}
	for step := range 400 {
		id := 1 + random.Int64N(users)
		row, s := a.rdb.key(userName(id)), stores[random.IntN(2)]
		switch random.IntN(8) {
		case 0:
			to := "http://h/" + strconv.Itoa(step)
			if _, err := s.Update(t.Context(), id, func(d Document) Document { d.DLRURL = &to; return d }); err != nil {
				t.Fatal(err)
			}
			model[id] = to
		case 1: // no field that the model knows
			other := text("http://c/" + strconv.Itoa(step))
			if _, err := s.Update(t.Context(), id, func(d Document) Document { d.ClickURL = other; return d }); err != nil {
				t.Fatal(err)
			}
		case 2:
			k.rdb.Del(t.Context(), row)
		case 3:
			saved[id] = k.rdb.HGetAll(t.Context(), row).Val()
		case 4:
			if len(saved[id]) > 0 {
				// No snapshot is restored within the milliseconds that a record takes.
				newest := func(s *Store) Version { v, _ := s.newest(subject{user: id}); return v }
				eventually(t, time.Second, "both have read it", func() bool { return newest(a) == newest(b) })
				k.rdb.HSet(t.Context(), row, saved[id])
			}
		case 5:
			if random.IntN(5) == 0 {
				k.rdb.FlushAll(t.Context())
			}
		}
		if got := url(t, s, id); got != model[id] {
			t.Fatalf("step %d: user %d is answered %q, want %q", step, id, got, model[id])
		}
	}
	for id, want := range model {
		for _, s := range stores {
			eventually(t, 2*time.Second, "the settings of events", func() bool { return "http://"+host(t, s, id)+strings.TrimPrefix(want, "http://h") == want })
		}
	}
}

// TestIndexSize: a million users and as many API keys are held by every instance.
func TestIndexSize(t *testing.T) {
	const n = 1_000_000
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	began := heap()
	users := newIndex[int64](hashUser)
	for id := range int64(n) {
		users.put(id+1, Version{int32(id % 12), id + 1, 1_900_000_000_000 + id}, false)
	}
	afterUsers := heap()
	keys := newIndex[keyID](hashKeyID)
	for i := range int64(n) {
		var h keyID
		binary.BigEndian.PutUint64(h[:], hashUser(i))
		keys.put(h, Version{int32(i % 12), i + 1, 1_900_000_000_000 + i}, false)
	}
	afterKeys := heap()
	t.Logf("users %d MB, keys %d MB", (afterUsers-began)>>20, (afterKeys-afterUsers)>>20)
	if used := int64(afterUsers - began); used > 64<<20 {
		t.Errorf("a million users take %d bytes", used)
	}
	if users.len() != n || keys.len() != n {
		t.Error("some are missing")
	}
}
