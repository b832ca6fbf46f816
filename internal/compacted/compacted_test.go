package compacted

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap/zaptest"

	"github.com/smshooks/smshooks/test/fakekafka"
)

const topic = "topic"

// env is an in-process Kafka with a compacted topic.
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

// write produces the numbers from ≤ n < to.
func (k *env) write(client *kgo.Client, from, to int) {
	k.Helper()
	for n := from; n < to; n++ {
		text := []byte(strconv.Itoa(n))
		if err := client.ProduceSync(k.Context(), &kgo.Record{Topic: topic, Key: text, Value: text}).FirstErr(); err != nil {
			k.Fatal(err)
		}
	}
}

func (k *env) eventually(what string, ok func() bool) {
	k.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			k.Fatal("not within a minute: " + what)
		}
	}
}

func TestReadAll(t *testing.T) {
	k := newEnv(t)
	k.write(k.client, 0, 50)
	r, err := Open(t.Context(), k.kafka.NewClient, topic)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	k.write(k.client, 50, 60)
	var read []int
	err = r.ReadAll(t.Context(), nil, func(record *kgo.Record) error {
		n, err := strconv.Atoi(string(record.Value))
		read = append(read, n)
		return err
	})
	if slices.Sort(read); err != nil || len(read) != 50 || read[49] != 49 {
		t.Errorf("read %v, %v", read, err)
	}
	if n := r.Left(); n != 0 {
		t.Errorf("%d records left", n)
	}
	enough := errors.New("enough")
	if r, err = Open(t.Context(), k.kafka.NewClient, topic); err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := r.ReadAll(t.Context(), nil, func(*kgo.Record) error { return enough }); err != enough { //nolint:errorlint // not wrapped
		t.Errorf("stopped with %v", err)
	}
	if _, err := Open(t.Context(), k.kafka.NewClient, "missing"); err == nil {
		t.Error("a missing topic was opened")
	}
}

// TestReadAllPastDeletedRecords checks that a reader that waits for records in vain finds out that they were deleted.
func TestReadAllPastDeletedRecords(t *testing.T) {
	k := newEnv(t)
	k.write(k.client, 0, 30)
	bounds, err := Describe(t.Context(), k.client, topic)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Open(t.Context(), k.kafka.NewClient, topic)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var all kadm.Offsets
	for partition, s := range bounds.Spans {
		all.AddOffset(topic, partition, s.End, -1)
	}
	if _, err := kadm.NewClient(k.client).DeleteRecords(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	if err := r.ReadAll(t.Context(), nil, func(*kgo.Record) error { return nil }); err != nil || !r.Passed(bounds.Spans) {
		t.Errorf("read to %v: %v", r.position, err)
	}
	if err := r.CatchUp(t.Context()); err != nil {
		t.Errorf("catch up: %v", err)
	}
}

// TestPatience checks that a reader of spans tolerates errors for the given time and no longer.
func TestPatience(t *testing.T) {
	k := newEnv(t)
	const patience = 300 * time.Millisecond
	r, err := OpenSpans(k.kafka.NewClient, topic, map[int32]Span{0: {0, 1 << 40}}, patience)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	began := time.Now()
	err = r.ReadAll(t.Context(), nil, func(*kgo.Record) error { return nil })
	if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took < patience {
		t.Errorf("%v after %v", err, took)
	}
}

func TestAwaitAndExists(t *testing.T) {
	k := newEnv(t)
	r, err := Open(t.Context(), k.kafka.NewClient, topic)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for offset, want := range map[int64]bool{0: true, 1: false} {
		if exists, err := r.Exists(t.Context(), 0, offset); exists != want || err != nil {
			t.Errorf("a record before offset %d: %v, %v", offset, exists, err)
		}
	}
	if _, err := r.Exists(t.Context(), 7, 0); err == nil {
		t.Error("no error for a missing partition")
	}
	if read, err := r.Await(t.Context(), 0, 1); read || err != nil {
		t.Errorf("a record after the end was read: %v, %v", read, err)
	}
}

// followed records the calls of a follower.
type followed struct {
	mu         sync.Mutex
	values     map[string]bool
	fresh      int
	voids      int
	begins     int
	ends       int
	unreadable int
	lag        int64
	measured   int
}

func (f *followed) ConfigLag(_ string, n int64) { f.mu.Lock(); f.lag = n; f.measured++; f.mu.Unlock() }
func (f *followed) UnreadableRecord(string)     { f.mu.Lock(); f.unreadable++; f.mu.Unlock() }

// counted returns the numbers of calls, of fresh records, and of unreadable ones.
func (f *followed) counted() (voids, ends, fresh, unreadable int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.voids, f.ends, f.fresh, f.unreadable
}

func (f *followed) has(values ...string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, v := range values {
		if !f.values[v] {
			return false
		}
	}
	return len(f.values) == len(values)
}

func (f *followed) hooks() Hooks {
	return Hooks{
		Begin: func(void bool, _ *Reader) {
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.begins++; void {
				f.voids++
				f.values = map[string]bool{}
			}
		},
		Take: func(r *kgo.Record, fresh bool) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			if fresh {
				f.fresh++
			}
			if len(r.Value) > 1 {
				return errors.New("more than a digit")
			}
			f.values[string(r.Value)] = true
			return nil
		},
		End: func() { f.mu.Lock(); f.ends++; f.mu.Unlock() },
	}
}

// follow runs a follower until the test ends.
func (k *env) follow(change ...func(*Hooks)) (*Follower, *followed) {
	f := &followed{}
	hooks := f.hooks()
	for _, c := range change {
		c(&hooks)
	}
	follower := NewFollower(topic, k.kafka.NewClient, zaptest.NewLogger(k), f, hooks)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- follower.Run(ctx) }()
	k.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			k.Errorf("Run returned %v", err)
		}
	})
	k.eventually("the end of the topic", follower.Read)
	return follower, f
}

func TestFollow(t *testing.T) {
	k := newEnv(t)
	k.write(k.client, 0, 3)
	k.write(k.client, 10, 12) // unreadable
	follower, f := k.follow()
	k.eventually("existing records", func() bool {
		_, ends, fresh, unreadable := f.counted()
		return f.has("0", "1", "2") && ends == 1 && fresh == 0 && unreadable == 2
	})
	k.write(k.client, 3, 4)
	if err := follower.Reader().CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.eventually("later records", func() bool {
		_, _, fresh, _ := f.counted()
		return f.has("0", "1", "2", "3") && fresh == 1
	})
}

// TestFollowRecreated checks that the records of a deleted topic are void as soon as the new one is read.
func TestFollowRecreated(t *testing.T) {
	k := newEnv(t)
	k.write(k.client, 0, 5)
	follower, f := k.follow()
	previous := follower.ID()
	if _, err := kadm.NewClient(k.client).DeleteTopic(t.Context(), topic); err != nil {
		t.Fatal(err)
	}
	k.eventually("the topic deleted", func() bool {
		_, err := Describe(t.Context(), k.kafka.Open(), topic)
		return err != nil
	})
	k.kafka.CreateCompacted(topic)
	k.write(k.kafka.Open(), 7, 8)
	k.eventually("the new topic", func() bool { _, ends, _, _ := f.counted(); return f.has("7") && ends == 2 })
	if voids, _, _, _ := f.counted(); voids != 2 {
		t.Errorf("%d beginnings that void, want 2", voids)
	}
	if now, err := Describe(t.Context(), k.kafka.Open(), topic); err != nil || follower.ID() != now.ID || previous == now.ID {
		t.Errorf("the follower reads %x after %x, the topic is %x, %v", follower.ID(), previous, now.ID, err)
	}
}

// TestAdopt checks that a follower checks its topic as soon as Adopt reports a new one.
func TestAdopt(t *testing.T) {
	const looks = 20
	k := newEnv(t)
	follower, f := k.follow()
	measured := func() int { f.mu.Lock(); defer f.mu.Unlock(); return f.measured }
	began := time.Now()
	for range looks {
		before := measured()
		if err := follower.Adopt(t.Context(), []string{"another", topic}); err != nil {
			t.Fatal(err)
		}
		k.eventually("a check of the topic", func() bool { return measured() > before })
	}
	if took := time.Since(began); took > looks/2*measurePeriod {
		t.Errorf("%d checks took %v: they waited for the next measurement", looks, took)
	}
}

// TestFollowAgain checks that the records read stay valid while the same topic is read again, and that they are void if
// the topic has lost records.
func TestFollowAgain(t *testing.T) {
	k := newEnv(t)
	k.write(k.client, 0, 5)
	again := make(chan error)
	follower, f := k.follow(func(h *Hooks) {
		h.Beside = func(ctx context.Context, _ *Reader) error {
			select {
			case err := <-again:
				return err
			case <-ctx.Done():
				return nil
			}
		}
	})
	again <- errors.New("once more")
	k.eventually("another reading", func() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.begins == 2 })
	if voids, _, _, _ := f.counted(); !follower.Read() || voids != 1 || !f.has("0", "1", "2", "3", "4") {
		t.Errorf("read %v, %d void", follower.Read(), voids)
	}
	if err := follower.tolerate(t.Context(), fmt.Errorf("poll: %w", &kgo.ErrDataLoss{Topic: topic})); err == nil {
		t.Fatal("reading continues after records were lost")
	}
	again <- errors.New("once more")
	k.eventually("a void beginning", func() bool { voids, ends, _, _ := f.counted(); return voids == 2 && ends == 2 })
}

func TestVersion(t *testing.T) {
	none := Version{}
	for _, c := range []struct {
		name     string
		old, new Version
	}{
		{"first", none, Version{0, 1, 0}},
		{"next offset", Version{3, 5, 100}, Version{3, 6, 100}},
		{"next offset, earlier clock", Version{3, 5, 100}, Version{3, 6, 50}},
		{"other partition, later", Version{3, 500, 100}, Version{4, 1, 101}},
		{"other partition, same time", Version{3, 500, 100}, Version{4, 1, 100}},
	} {
		if !c.new.Newer(c.old) || c.old.Newer(c.new) {
			t.Errorf("%s: %v must be newer than %v", c.name, c.new, c.old)
		}
		if c.new.Newer(c.new) {
			t.Errorf("%v is newer than itself", c.new)
		}
		if got, err := ParseVersion(c.new.String()); err != nil || got != c.new {
			t.Errorf("%v written and read: %v, %v", c.new, got, err)
		}
	}
	for _, s := range []string{"", "1", "1/2", "1/2/x", "99999999999/1/1"} {
		if _, err := ParseVersion(s); err == nil {
			t.Errorf("%q was read", s)
		}
	}
}

func TestIndex(t *testing.T) {
	x := NewIndex[int64, struct{}](spread)
	if _, v, removed := x.Get(1); v != (Version{}) || removed {
		t.Errorf("an unknown key has %v, %v", v, removed)
	}
	for _, want := range []struct {
		v       Version
		removed bool
	}{
		{Version{0, 1, 0}, false},
		{Version{0, 1 << 40, 1_900_000_000_000}, true},
		{Version{30_000, 1 << 47, 1_900_000_000_001}, false},
	} {
		if !x.Put(1, struct{}{}, want.v, want.removed) {
			t.Errorf("%v was refused", want.v)
		}
		if _, v, removed := x.Get(1); v != want.v || removed != want.removed {
			t.Errorf("%v, %v, want %v, %v", v, removed, want.v, want.removed)
		}
	}
	if x.Put(1, struct{}{}, Version{30_000, 7, 2_000_000_000_000}, false) {
		t.Error("an older offset of the same partition was accepted")
	}
	x.Drop(1, Version{30_000, 7, 0})
	if x.Len() != 1 {
		t.Error("another version was dropped")
	}
	x.Drop(1, Version{30_000, 1 << 47, 0})
	if x.Len() != 0 {
		t.Error("not dropped")
	}
}

func spread(n int64) uint64 { return uint64(n) * 0x9e3779b97f4a7c15 >> 32 }

// TestIndexSize measures an index of a million users and as many API keys, which every instance holds.
func TestIndexSize(t *testing.T) {
	const n = 1_000_000
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	began := heap()
	users := NewIndex[int64, struct{}](spread)
	keys := NewIndex[[16]byte, int64](func(key [16]byte) uint64 { return uint64(key[0]) })
	for i := range int64(n) {
		users.Put(i+1, struct{}{}, Version{int32(i % 12), i + 1, 1_900_000_000_000 + i}, false)
	}
	afterUsers := heap()
	for i := range int64(n) {
		keys.Put([16]byte{byte(i), byte(i >> 8), byte(i >> 16)}, i+1, Version{int32(i % 12), i + 1, 1_900_000_000_000 + i}, false)
	}
	afterKeys := heap()
	t.Logf("users %d MB, keys %d MB", (afterUsers-began)>>20, (afterKeys-afterUsers)>>20)
	if used := int64(afterUsers - began); used > 64<<20 {
		t.Errorf("a million users take %d bytes", used)
	}
	if used := int64(afterKeys - afterUsers); used > 110<<20 {
		t.Errorf("a million keys take %d bytes", used)
	}
	if users.Len() != n || keys.Len() != n {
		t.Error("some are missing")
	}
}
