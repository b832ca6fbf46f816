package settings

import (
	"testing"

	"github.com/smshooks/smshooks/pkg/webhook"
)

// TestLookupAllocatesNothing: every event looks its user up at least twice.
func TestLookupAllocatesNothing(t *testing.T) {
	s := &Store{users: newCache[int64, *webhook.Settings](1000, hashUser, noVersion)}
	s.read.Store(true)
	for id := range int64(100) {
		s.users.put(id, entry[*webhook.Settings]{&webhook.Settings{UserID: id}, Version{Offset: 1}, true})
	}
	var id int64
	allocs := testing.AllocsPerRun(1000, func() {
		if settings, ok := s.Lookup(id % 100); !ok || settings.UserID != id%100 {
			t.Fatalf("user %d: %v, %v", id%100, settings, ok)
		}
		id++
	})
	if allocs != 0 {
		t.Errorf("%v allocations a look-up", allocs)
	}
}

func noVersion(int64) Version { return Version{} }
