package settings

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/smshooks/smshooks/internal/compacted"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// TestUserSize measures the memory for the settings of a user with one URL, without the index.
func TestUserSize(t *testing.T) {
	const users, most = 200_000, 280 // bytes
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	c := newCache[int64, *webhook.Settings](defaultUsers, hashUser, func(int64) compacted.Version { return compacted.Version{} })
	for n := range int64(users) {
		url := fmt.Sprintf("https://hooks.customer-%d.example/webhooks/sms", n)
		d := Document{UserID: n, DLRURL: &url}
		c.put(n, entry[*webhook.Settings]{d.Settings(), compacted.Version{Partition: 1, Offset: n + 1}, true})
	}
	each := (heap() - before) / users
	runtime.KeepAlive(c)
	t.Logf("%d bytes for a user", each)
	if each > most {
		t.Errorf("%d bytes for a user, want at most %d", each, most)
	}
}
