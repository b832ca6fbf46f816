package settings

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2/server"
	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/smshooks/smshooks/internal/compacted"
)

// TestDamagedRows damages single keys in Redis in every way. Reads return the topic's documents, updates are based on
// them, and Redis is repaired.
func TestDamagedRows(t *testing.T) {
	k := newEnv(t)
	const users = 100 // more than memory keeps
	for id := int64(1); id <= users; id++ {
		k.set(id, "old")
	}
	for id := int64(1); id <= users; id++ {
		k.write(strconv.FormatInt(id, 10), fmt.Sprintf(`{"user_id":%d,"dlr_url":"http://new%d","auth":"u:p","plan":[ 1.50 ]}`, id, id))
	}
	a, b := k.loaded(small), k.loaded(small)
	version := func(x int64) compacted.Version { v, _ := a.newest(x); return v }
	row := func(x int64) string { return a.rdb.key(userName(x)) }
	for name, spoil := range map[string]func(ctx context.Context, x int64) error{
		"deleted": func(ctx context.Context, x int64) error { return k.rdb.Del(ctx, row(x)).Err() },
		"older": func(ctx context.Context, x int64) error {
			v := version(x)
			v.Offset--
			return k.rdb.HSet(ctx, row(x), "v", v.String(), "d", fmt.Sprintf(`{"user_id":%d,"dlr_url":"http://old"}`, x)).Err()
		},
		"of another user's record": func(ctx context.Context, x int64) error {
			v := version(x)
			v.Offset++
			return k.rdb.HSet(ctx, row(x), "v", v.String(), "d", fmt.Sprintf(`{"user_id":%d,"dlr_url":"http://foreign"}`, x)).Err()
		},
		"of a record that never existed": func(ctx context.Context, x int64) error {
			return k.rdb.HSet(ctx, row(x), "v", "0/1000000/9999999999999", "d", fmt.Sprintf(`{"user_id":%d,"dlr_url":"http://foreign"}`, x)).Err()
		},
		"an old tombstone": func(ctx context.Context, x int64) error {
			return errors.Join(k.rdb.HSet(ctx, row(x), "v", "0/1/1").Err(), k.rdb.HDel(ctx, row(x), "d").Err())
		},
		"without its document": func(ctx context.Context, x int64) error { return k.rdb.HDel(ctx, row(x), "d").Err() },
		"unreadable":           func(ctx context.Context, x int64) error { return k.rdb.HSet(ctx, row(x), "d", "{").Err() },
		"no version":           func(ctx context.Context, x int64) error { return k.rdb.HSet(ctx, row(x), "v", "nonsense").Err() },
		"another type": func(ctx context.Context, x int64) error {
			return errors.Join(k.rdb.Del(ctx, row(x)).Err(), k.rdb.Set(ctx, row(x), "x", 0).Err())
		},
	} {
		t.Run(name, func(t *testing.T) {
			for id := int64(1); id <= users; id++ {
				if err := spoil(t.Context(), id); err != nil {
					t.Fatal(err)
				}
			}
			for id := int64(1); id <= users; id += 3 {
				want := "new" + strconv.FormatInt(id, 10)
				if got := host(t, b, id); got != "?" && got != want {
					t.Fatalf("an event of user %d is sent to %q", id, got)
				}
				if got := url(t, a, id); got != "http://"+want {
					t.Fatalf("user %d gets %q", id, got)
				}
				eventually(t, 5*time.Second, "the settings of an event", func() bool { return host(t, b, id) == want })
			}
			// A partial update of a user who was not looked up loses nothing.
			if err := spoil(t.Context(), 2); err != nil {
				t.Fatal(err)
			}
			d, err := b.Update(t.Context(), 2, func(d Document) Document {
				d.ClickURL = text("http://c/" + strings.ReplaceAll(name, " ", "-"))
				return d
			})
			if got := string(d.AppendJSON(nil, nil)); err != nil || !strings.Contains(got, `"dlr_url":"http://new2","click_url":"http://c/`) || !strings.HasSuffix(got, `"auth":"u:p","plan":[ 1.50 ]}`) {
				t.Errorf("updated to %s, %v", got, err)
			}
			// The others were not looked up, and are repaired too.
			eventually(t, 10*time.Second, "all of Redis", func() bool {
				for id := int64(1); id <= users; id++ {
					rows, err := a.rdb.read(t.Context(), id)
					if name == "unreadable" && id%3 != 1 {
						continue // an edited text is detected when it is used
					}
					if err != nil || rows[0].err != nil || !rows[0].ver.Is(version(id)) || !strings.Contains(string(rows[0].doc), fmt.Sprintf(`"http://new%d"`, id)) {
						return false
					}
				}
				return true
			})
		})
	}
}

// TestGoneFromTheTopic checks that Redis holds nothing that the topic does not hold, before the first lookup.
func TestGoneFromTheTopic(t *testing.T) {
	k := newEnv(t)
	for id := int64(1); id <= 5; id++ {
		k.set(id, "h"+strconv.FormatInt(id, 10))
	}
	first, _, stop := k.start()
	waitLoaded(t, first)
	id := *first.rdb.id.Load()
	stop()
	previous, foreign := strings.Repeat("0", 15)+"1", strings.Repeat("0", 15)+"2"
	if err := k.rdb.Set(t.Context(), k.prefix+"topics:"+k.topic, previous, 0).Err(); err != nil {
		t.Fatal(err)
	}
	for name, fields := range map[string][]any{
		k.prefix + id + ":user:77":           {"v", "0/1/1", "d", `{"user_id":77,"dlr_url":"http://gone"}`},
		k.prefix + id + ":user:78":           {"v", "2/1/1"},
		k.prefix + id + ":user:79":           {"v", "0/999999/1", "d", `{"user_id":79,"dlr_url":"http://never"}`},
		k.prefix + previous + ":user:1":      {"v", "0/1/1", "d", `{"user_id":1,"dlr_url":"http://previous"}`},
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
	for _, name := range []string{id + ":user:77", id + ":user:78", id + ":user:79", previous + ":user:1"} {
		if n := k.rdb.Exists(t.Context(), k.prefix+name).Val(); n != 0 {
			t.Errorf("%s is still in Redis", name)
		}
	}
	for _, name := range []string{"deliveries:77", foreign + ":user:77", id + ":something:else", id + ":user:1"} {
		if n := k.rdb.Exists(t.Context(), k.prefix+name).Val(); n != 1 {
			t.Errorf("%s was removed", name)
		}
	}
	if n := k.rdb.Exists(t.Context(), "other"+id+":user:77").Val(); n != 1 {
		t.Error("a key of another prefix was removed")
	}
	// If it is written again, it is not used.
	if err := k.rdb.HSet(t.Context(), k.prefix+id+":user:77", "v", "0/1/1", "d", `{"user_id":77,"dlr_url":"http://gone"}`).Err(); err != nil {
		t.Fatal(err)
	}
	wantHost(t, second, 77, "")
	if got := url(t, second, 77); got != "" {
		t.Errorf("user 77 gets %q", got)
	}
}

// TestRedisAheadOfTheTopics writes versions to Redis that the topics have lost by truncation. They are used neither
// before nor after the start, and are removed by it.
func TestRedisAheadOfTheTopics(t *testing.T) {
	k := newEnv(t)
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
			t.Errorf("user %d gets %q", id, got)
		}
		eventually(t, 5*time.Second, "Redis agrees with the topic", func() bool {
			return strings.Contains(k.rdb.HGet(t.Context(), second.rdb.key(userName(id)), "d").Val(), want)
		})
	}
}

// TestMuchLost deletes more keys than are repaired one by one.
func TestMuchLost(t *testing.T) {
	k := newEnv(t)
	const users = muchLost + 500
	var pairs []string
	for id := 1; id <= users; id++ {
		pairs = append(pairs, strconv.Itoa(id), fmt.Sprintf(`{"user_id":%d,"dlr_url":"http://h%d"}`, id, id))
	}
	k.write(pairs...)
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

// TestUnreadableAfterCompaction removes the record that the index names from its topic. The user counts as removed, as
// after a restart, but not before the topic has been read to its end.
func TestUnreadableAfterCompaction(t *testing.T) {
	k := newEnv(t)
	k.set(1, "a")
	store, _, _ := k.start(small)
	waitLoaded(t, store)
	ver, _ := store.newest(1)
	var offsets kadm.Offsets
	offsets.Add(kadm.Offset{Topic: k.topic, Partition: ver.Partition, At: ver.Offset})
	if resp, err := kadm.NewClient(k.open()).DeleteRecords(t.Context(), offsets); err != nil || resp.Error() != nil {
		t.Fatalf("delete records: %v, %v", err, resp.Error())
	}
	store.users.drop(1)
	k.rdb.Del(t.Context(), store.rdb.key(userName(1)))
	eventually(t, 5*time.Second, "an answer", func() bool {
		d, _, err := store.Document(t.Context(), 1)
		return err == nil && d.DLRURL == nil
	})
	wantHost(t, store, 1, "")
}

// TestLostWrites checks that a node that returned with older data is detected without INFO.
func TestLostWrites(t *testing.T) {
	k := newEnv(t)
	mini := k.needMini()
	d := newDatabase(k.rdb, "p:", nil)
	want := func(what string, want bool) {
		t.Helper()
		if lost, err := d.lost(t.Context()); lost != want || err != nil {
			t.Errorf("%s: lost %v, %v", what, lost, err)
		}
	}
	want("first check", false)
	want("no change", false)
	key := "p:{pulse0}:" + d.instance
	old := k.rdb.Get(t.Context(), key).Val()
	want("no change", false)
	k.rdb.FlushAll(t.Context())
	want("flushed", true)
	want("no change since", false)
	k.rdb.Set(t.Context(), key, old, 0)
	want("an old snapshot", true)
	k.rdb.FlushAll(t.Context())
	want("flushed again", true)
	k.rdb.FlushAll(t.Context()) // before the next call: the first one has left a number
	want("flushed at once after a loss", true)
	late := []any{d.pulses[0] - 1, d.pulses[0] - 1, pulseKept.Milliseconds()}
	k.rdb.Eval(t.Context(), pulseScript, []string{key}, late...)
	want("a command that arrived late", false)
	mini.SetError("LOADING")
	if _, err := d.lost(t.Context()); err == nil {
		t.Error("no error without an answer")
	}
	mini.SetError("")
	want("answering again", false)
}

// TestLimitedRights uses a Redis user who may run neither INFO nor SCAN, and a Redis that has disabled them.
func TestLimitedRights(t *testing.T) {
	for _, refusal := range []string{"NOPERM this user has no permissions to run the command", "ERR unknown command"} {
		k := newEnv(t)
		mini := k.needMini()
		mini.Server().SetPreHook(func(c *server.Peer, cmd string, _ ...string) bool {
			switch strings.ToUpper(cmd) {
			case "INFO", "SCAN", "DBSIZE", "KEYS", "FLUSHALL":
				c.WriteError(refusal)
				return true
			}
			return false
		})
		k.set(1, "a")
		store, _, _ := k.start(small)
		waitLoaded(t, store)
		mini.FlushAll()
		if got := url(t, store, 1); got != "http://a" {
			t.Errorf("%s: answered %q", refusal, got)
		}
		eventually(t, 5*time.Second, "Redis filled again", func() bool { return mini.Exists(store.rdb.key(userName(1))) })
	}
}

// TestUpdatesRaceWithoutLock runs updates while Redis keeps losing the lock.
func TestUpdatesRaceWithoutLock(t *testing.T) {
	k := newEnv(t)
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
		updateEach(t, "http://host/"+strconv.Itoa(round), a, b)
	}
	cancel()
	evicting.Wait()
}

// TestRandomDamage checks a model: whatever happens to Redis in whatever order, both instances return the last value
// written.
func TestRandomDamage(t *testing.T) {
	k := newEnv(t)
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
				newest := func(s *Store) compacted.Version { v, _ := s.newest(id); return v }
				eventually(t, time.Second, "both have read it", func() bool { return newest(a) == newest(b) })
				k.rdb.HSet(t.Context(), row, saved[id])
			}
		case 5:
			if random.IntN(5) == 0 {
				k.rdb.FlushAll(t.Context())
			}
		}
		if got := url(t, s, id); got != model[id] {
			t.Fatalf("step %d: user %d gets %q, want %q", step, id, got, model[id])
		}
	}
	for id, want := range model {
		for _, s := range stores {
			eventually(t, 2*time.Second, "the settings of events", func() bool { return "http://"+host(t, s, id)+strings.TrimPrefix(want, "http://h") == want })
		}
	}
}
