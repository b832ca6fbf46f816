package settings

import (
	"testing"

	"github.com/smshooks/smshooks/internal/compacted"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// stopped returns a store that has read users and no longer runs.
func stopped(t testing.TB, users int64) *Store {
	t.Helper()
	store, _, stop := newEnv(t).start()
	waitLoaded(t, store)
	stop()
	for id := range users {
		ver := compacted.Version{Offset: 1}
		store.users.put(id, entry[*webhook.Settings]{&webhook.Settings{UserID: id}, ver, true})
	}
	return store
}

// TestLookupAllocatesNothing checks that lookups do not allocate; every event needs at least two.
func TestLookupAllocatesNothing(t *testing.T) {
	s := stopped(t, 100)
	var id int64
	allocs := testing.AllocsPerRun(1000, func() {
		if settings, ok := s.Lookup(id % 100); !ok || settings.UserID != id%100 {
			t.Fatalf("user %d: %v, %v", id%100, settings, ok)
		}
		id++
	})
	if allocs != 0 {
		t.Errorf("%v allocations a lookup", allocs)
	}
}

func BenchmarkLookup(b *testing.B) {
	s := stopped(b, 100_000)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(p *testing.PB) {
		for id := int64(0); p.Next(); id++ {
			if _, ok := s.Lookup(id % 100_000); !ok {
				b.Error("not found")
			}
		}
	})
}
