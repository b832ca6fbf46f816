package firstclick

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
	"github.com/redis/go-redis/v9"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/topics"
)

const remember = 30 * 24 * time.Hour

// start returns a memory with its own Redis.
func start(t testing.TB) (*Memory, *miniredis.Miniredis) {
	t.Helper()
	mini := miniredis.RunT(t)
	rdb := redis.NewClient(&redis.Options{Addr: mini.Addr(), ContextTimeoutEnabled: true, MaxRetries: 1})
	t.Cleanup(func() { _ = rdb.Close() })
	return New(rdb, "p:", remember), mini
}

// named returns an event with that id.
func named(id string) *event.Event {
	return &event.Event{Delivery: event.Delivery{ID: id, Time: time.UnixMilli(1)}}
}

func claim(t *testing.T, m *Memory, claims ...Claim) []bool {
	t.Helper()
	first := make([]bool, len(claims))
	if err := m.Claim(t.Context(), claims, first); err != nil {
		t.Fatal(err)
	}
	return first
}

func checkClaims(t *testing.T, m *Memory) {
	long := strings.Repeat("x", 300)
	steps := []struct {
		name   string
		claims []Claim
		want   []bool
	}{
		{"free", []Claim{{1, "a", named("c/0/1")}}, []bool{true}},
		{"redelivery", []Claim{{1, "a", named("c/0/1")}}, []bool{true}},
		{"second click", []Claim{{1, "a", named("c/0/2")}}, []bool{false}},
		{"other user", []Claim{{2, "a", named("c/0/3")}}, []bool{true}},
		{"twice in one batch", []Claim{{1, "b", named("c/0/4")}, {1, "b", named("c/0/5")}, {1, "b", named("c/0/4")}}, []bool{true, false, true}},
		{"mixed batch", []Claim{{1, "a", named("c/0/6")}, {1, "new", named("c/0/7")}}, []bool{false, true}},
		{"long ids", []Claim{{1, long, named("c/0/8")}, {1, long + "y", named("c/0/9")}, {1, long, named("c/0/10")}}, []bool{true, true, false}},
		{"odd ids", []Claim{{1, "", named("c/0/11")}, {1, "\r\n \x00{}", named("c/0/12")}, {1, "", named("c/0/13")}}, []bool{true, true, false}},
		{"colons", []Claim{{1, "2:z", named("c/0/14")}, {12, "z", named("c/0/15")}}, []bool{true, true}},
		{"none", nil, []bool{}},
	}
	for _, s := range steps {
		if got := claim(t, m, s.claims...); !slices.Equal(got, s.want) {
			t.Errorf("%s: first = %v, want %v", s.name, got, s.want)
		}
	}
}

func TestClaim(t *testing.T) {
	m, mini := start(t)
	checkClaims(t, m)
	for _, key := range mini.Keys() {
		if len(key) > len("p:click:")+20+1+65 {
			t.Errorf("a key of %d bytes", len(key))
		}
		if got := mini.TTL(key); got != remember {
			t.Errorf("%q is remembered %v, want %v", key, got, remember)
		}
	}
}

func TestClaimIsForgotten(t *testing.T) {
	m, mini := start(t)
	claim(t, m, Claim{1, "a", named("c/0/1")})
	mini.FastForward(remember + time.Second)
	if got := claim(t, m, Claim{1, "a", named("c/0/2")}); !got[0] {
		t.Error("a click after the time to remember is not the first")
	}
}

func TestClaimWithoutRedis(t *testing.T) {
	m, mini := start(t)
	claims, first := []Claim{{1, "a", named("c/0/1")}, {1, "a", named("c/0/2")}}, make([]bool, 2)
	mini.SetError("LOADING Redis is loading the dataset in memory")
	if err := m.Claim(t.Context(), claims, first); err == nil {
		t.Error("no error although every command failed")
	}
	mini.SetError("")
	mini.Close()
	if err := m.Claim(t.Context(), claims, first); err == nil {
		t.Error("no error although Redis is unreachable")
	}
	if err := mini.Restart(); err != nil {
		t.Fatal(err)
	}
	if err := m.Claim(t.Context(), claims, first); err != nil || !first[0] || first[1] {
		t.Errorf("after the return: first = %v, %v", first, err)
	}
	if err := m.Claim(t.Context(), claims, first[:1]); err == nil {
		t.Error("no error for too few answers")
	}
}

func BenchmarkClaim(b *testing.B) {
	m, _ := start(b)
	claims, first := make([]Claim, 100), make([]bool, 100)
	for i := range claims {
		claims[i] = Claim{int64(i), "1234567890", named("sms-click/3/100")}
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := m.Claim(b.Context(), claims, first); err != nil {
			b.Fatal(err)
		}
	}
}

// A key of another type was not written by the service: it is deleted, and the claims of that batch are repeated.
func TestForeignKey(t *testing.T) {
	m, mini := start(t)
	if _, err := mini.Lpush("p:click:1:a", "x"); err != nil {
		t.Fatal(err)
	}
	claims := []Claim{{2, "b", named("c/0/1")}, {1, "a", named("c/0/2")}, {3, "c", named("c/0/3")}}
	if err := m.Claim(t.Context(), claims, make([]bool, 3)); err == nil {
		t.Error("no error")
	}
	if got := claim(t, m, claims...); !slices.Equal(got, []bool{true, true, true}) {
		t.Errorf("asked again: %v", got)
	}
}

// TestOwners checks which other records count as the event of the first click.
func TestOwners(t *testing.T) {
	here, there := event.NamespaceOf([16]byte{1}, "", ""), event.NamespaceOf([16]byte{2}, "", "")
	record := func(space event.Namespace, offset, at int64) event.Event {
		return event.Event{
			Record:   event.Record{Namespace: space, Topic: "sms-click", Partition: 3, Offset: offset},
			Delivery: event.Delivery{Time: time.UnixMilli(at)},
		}
	}
	with := func(e event.Event, change func(*event.Event)) event.Event { change(&e); return e }
	gateway := func(id string) func(*event.Event) { return func(e *event.Event) { e.SetGatewayID([]byte(id)) } }
	tests := []struct {
		name          string
		first, second event.Event
		same          bool
	}{
		{"redelivery", record(here, 7, 1), record(here, 7, 1), true},
		{"second click", record(here, 7, 1), record(here, 8, 1), false},
		{"copy on another cluster", record(here, 7, 1), record(there, 8, 1), true},
		{"second click on another cluster", record(here, 7, 1), record(there, 8, 2), false},
		{"same position in a topic created again", record(here, 7, 1), record(there, 7, 2), false},
		{"gateway's id on another cluster", with(record(here, 7, 1), gateway("a")), with(record(there, 9, 2), gateway("a")), true},
		{"gateway's other id in the same millisecond on another cluster", with(record(here, 7, 1), gateway("a")), with(record(there, 9, 1), gateway("b")), false},
		{"gateway's id and none", with(record(here, 7, 1), gateway("a")), record(there, 9, 1), false},
		{"other click of the same millisecond on another cluster", record(here, 7, 1), with(record(there, 9, 1), func(e *event.Event) { e.Value = []byte("{}") }), false},
		{"gateway's other id", with(record(here, 7, 1), gateway("a")), with(record(here, 7, 1), gateway("b")), false},
		{"after an overflow", with(record(here, 7, 1), gateway("evt_1")),
			with(record(there, 9, 2), func(e *event.Event) { e.Class, e.ID, e.Topic = topics.Overflow, "evt_1", "sms-click-overflow-10s" }), true},
		{"overflow and a second click of its millisecond", with(record(there, 9, 1), func(e *event.Event) { e.Class, e.ID = topics.Overflow, "evt_1" }),
			record(here, 8, 1), false},
	}
	for _, test := range tests {
		m, _ := start(t)
		claim(t, m, Claim{1, "a", &test.first})
		if got := claim(t, m, Claim{1, "a", &test.second}); got[0] != test.same {
			t.Errorf("%s: first = %v, want %v", test.name, got[0], test.same)
		}
	}
}

// TestOwnersOfEarlierVersions checks the same for earlier versions, which stored the position of the record.
func TestOwnersOfEarlierVersions(t *testing.T) {
	m, mini := start(t)
	if err := mini.Set("p:click:1:a", "sms-click/3/7"); err != nil {
		t.Fatal(err)
	}
	same := &event.Event{
		Record:   event.Record{Topic: "sms-click", Partition: 3, Offset: 7},
		Delivery: event.Delivery{Time: time.UnixMilli(1)},
	}
	waited := &event.Event{
		Record:   event.Record{Class: topics.Overflow, Topic: "sms-click-overflow-10s", Offset: 1},
		Delivery: event.Delivery{ID: "sms-click/3/7"},
	}
	other := &event.Event{
		Record:   event.Record{Topic: "sms-click", Partition: 3, Offset: 8},
		Delivery: event.Delivery{Time: time.UnixMilli(1)},
	}
	if got := claim(t, m, Claim{1, "a", same}, Claim{1, "a", waited}, Claim{1, "a", other}); !slices.Equal(got, []bool{true, true, false}) {
		t.Errorf("first = %v, want the same record's alone", got)
	}
}

// TestCopiesOfOneMillisecond checks that, of two clicks in the same millisecond that look like copies of the first,
// only the earlier one counts as a copy.
func TestCopiesOfOneMillisecond(t *testing.T) {
	record := func(topic byte, offset int64) *event.Event {
		return &event.Event{
			Record:   event.Record{Namespace: event.NamespaceOf([16]byte{topic}, "", ""), Topic: "sms-click", Offset: offset},
			Delivery: event.Delivery{Time: time.UnixMilli(1)},
		}
	}
	for _, together := range []bool{true, false} {
		m, mini := start(t)
		claim(t, m, Claim{1, "a", record(1, 0)}, Claim{1, "a", record(1, 1)})
		copies := []Claim{{1, "a", record(2, 5)}, {1, "a", record(2, 6)}}
		for range 2 { // read again
			var got []bool
			if together {
				got = claim(t, m, copies...)
			} else {
				got = append(claim(t, m, copies[0]), claim(t, m, copies[1])...)
			}
			if !slices.Equal(got, []bool{true, false}) {
				t.Errorf("together %v: first = %v, want the first alone", together, got)
			}
		}
		if ttl := mini.TTL("p:click:1:a"); ttl != remember {
			t.Errorf("remembered for %v", ttl)
		}
	}
}

// TestErrorBehindAMissingKey checks that a key that has expired does not hide the error of another one. The commands are
// in random order.
func TestErrorBehindAMissingKey(t *testing.T) {
	m, mini := start(t)
	mini.Server().SetPreHook(func(c *server.Peer, _ string, args ...string) bool {
		if len(args) > 0 && strings.HasSuffix(args[0], ":b") {
			c.WriteError("OOM command not allowed when used memory > 'maxmemory'.")
			return true
		}
		return false
	})
	for range 20 {
		if m.move(t.Context(), map[string]string{"p:click:1:a": "x", "p:click:1:b": "x"}) == nil {
			t.Fatal("no error")
		}
	}
}
