package click

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

const remember = 30 * 24 * time.Hour

// start returns a memory on a Redis of its own.
func start(t testing.TB) (*Memory, *miniredis.Miniredis) {
	t.Helper()
	mini := miniredis.RunT(t)
	rdb := redis.NewClient(&redis.Options{Addr: mini.Addr(), ContextTimeoutEnabled: true, MaxRetries: 1})
	t.Cleanup(func() { _ = rdb.Close() })
	return New(rdb, "p:", remember), mini
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
		{"free", []Claim{{1, "a", "c/0/1"}}, []bool{true}},
		{"redelivery", []Claim{{1, "a", "c/0/1"}}, []bool{true}},
		{"second click", []Claim{{1, "a", "c/0/2"}}, []bool{false}},
		{"other user", []Claim{{2, "a", "c/0/3"}}, []bool{true}},
		{"twice in one batch", []Claim{{1, "b", "c/0/4"}, {1, "b", "c/0/5"}, {1, "b", "c/0/4"}}, []bool{true, false, true}},
		{"mixed batch", []Claim{{1, "a", "c/0/6"}, {1, "new", "c/0/7"}}, []bool{false, true}},
		{"long ids", []Claim{{1, long, "c/0/8"}, {1, long + "y", "c/0/9"}, {1, long, "c/0/10"}}, []bool{true, true, false}},
		{"odd ids", []Claim{{1, "", "c/0/11"}, {1, "\r\n \x00{}", "c/0/12"}, {1, "", "c/0/13"}}, []bool{true, true, false}},
		{"colons", []Claim{{1, "2:z", "c/0/14"}, {12, "z", "c/0/15"}}, []bool{true, true}},
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
	claim(t, m, Claim{1, "a", "c/0/1"})
	mini.FastForward(remember + time.Second)
	if got := claim(t, m, Claim{1, "a", "c/0/2"}); !got[0] {
		t.Error("a click after the time to remember is not the first")
	}
}

func TestClaimWithoutRedis(t *testing.T) {
	m, mini := start(t)
	claims, first := []Claim{{1, "a", "c/0/1"}, {1, "a", "c/0/2"}}, make([]bool, 2)
	mini.SetError("LOADING Redis is loading the dataset in memory")
	if err := m.Claim(t.Context(), claims, first); err == nil {
		t.Error("no error although every command failed")
	}
	mini.SetError("")
	mini.Close()
	if err := m.Claim(t.Context(), claims, first); err == nil {
		t.Error("no error although Redis is away")
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
		claims[i] = Claim{int64(i), "1234567890", "sms-click/3/100"}
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := m.Claim(b.Context(), claims, first); err != nil {
			b.Fatal(err)
		}
	}
}

// A key of another type is nothing of ours: it goes, and the claims that came with it are asked for again.
func TestForeignKey(t *testing.T) {
	m, mini := start(t)
	if _, err := mini.Lpush("p:click:1:a", "x"); err != nil {
		t.Fatal(err)
	}
	claims := []Claim{{2, "b", "c/0/1"}, {1, "a", "c/0/2"}, {3, "c", "c/0/3"}}
	if err := m.Claim(t.Context(), claims, make([]bool, 3)); err == nil {
		t.Error("no error")
	}
	if got := claim(t, m, claims...); !slices.Equal(got, []bool{true, true, true}) {
		t.Errorf("asked again: %v", got)
	}
}
