package settings

import (
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/smshooks/smshooks/internal/compacted"
	"github.com/smshooks/smshooks/pkg/webhook"
)

func TestPauses(t *testing.T) {
	p := newPauses()
	for _, c := range []struct {
		document string // "" = removed
		want     string
	}{
		{`{"user_id":42}`, "[]"},
		{`{"user_id":42,"dlr_paused":true,"click_paused":true}`, "[]"},
		{`{"user_id":42,"dlr_paused":true}`, "[click]"},
		{`{"user_id":42,"dlr_paused":true,"inbound_paused":true}`, "[]"},
		{`{"user_id":42,"dlr_paused":false}`, "[dlr inbound]"},
		{`{"user_id":42,"revoke_click_paused":true}`, "[]"},
		{"", "[revoke_click]"},
		{"", "[]"},
	} {
		change := &change{userID: 42, removed: c.document == ""}
		if !change.removed {
			var err error
			if change.document, err = parseDocument(42, []byte(c.document), nil); err != nil {
				t.Fatal(err)
			}
		}
		if got := fmt.Sprint(p.see(change).all()); got != c.want {
			t.Errorf("%s: %s resumed, want %s", c.document, got, c.want)
		}
	}
	if len(p.now) != 0 {
		t.Errorf("users without a pause are kept: %v", p.now)
	}
}

// TestPauseEndsInARecreatedTopic checks that exactly the pauses that ended while the config topic was created again are
// reported once it is read. A user without a document keeps his pauses.
func TestPauseEndsInARecreatedTopic(t *testing.T) {
	k := newEnv(t)
	paused := func(userID int, kinds ...string) {
		t.Helper()
		document := fmt.Sprintf(`{"user_id":%d`, userID)
		for _, kind := range kinds {
			document += `,"` + kind + `_paused":true`
		}
		k.write(strconv.Itoa(userID), document+"}")
	}
	var mu sync.Mutex
	var resumed []string
	documents := map[string]bool{}
	store := k.loaded(func(c *Config) {
		c.Resumed = func(userID int64, kind webhook.Kind, document string) {
			mu.Lock()
			defer mu.Unlock()
			resumed = append(resumed, fmt.Sprintf("%d %v", userID, kind))
			documents[document] = true
		}
	})
	want := func(what string, want ...string) {
		t.Helper()
		got := []string{}
		eventually(t, 20*time.Second, what, func() bool {
			mu.Lock()
			defer mu.Unlock()
			got = slices.Sorted(slices.Values(resumed))
			return len(got) >= len(want)
		})
		if slices.Sort(want); !slices.Equal(got, want) {
			t.Errorf("%s: resumed %q, want %q", what, got, want)
		}
	}
	seen := func(userID int64, host string) {
		t.Helper()
		eventually(t, 20*time.Second, "the settings of the last user", func() bool { return host == url(t, store, userID) })
	}
	paused(1, "dlr", "click")
	paused(1, "dlr")
	want("one pause of two ends", "1 click")
	paused(1, "dlr", "click")
	paused(2, "dlr")
	paused(3, "inbound")
	paused(4, "dlr")
	k.set(9, "before")
	seen(9, "http://before")

	k.deleteTopic()
	eventually(t, 10*time.Second, "the topic gone", func() bool {
		_, err := compacted.Describe(t.Context(), k.open(), k.topic)
		return err != nil
	})
	k.createTopic()
	k.client = k.open()
	paused(1)
	paused(1, "click") // only this one counts
	paused(2, "dlr")
	k.write("4", "")
	k.set(9, "after")
	seen(9, "http://after")
	want("the new topic is read", "1 click", "1 dlr", "4 dlr")
	paused(3)
	want("a user's document is written later", "1 click", "1 dlr", "3 inbound", "4 dlr")
	paused(1)
	want("a further pause ends", "1 click", "1 click", "1 dlr", "3 inbound", "4 dlr")
	if len(documents) != 5 {
		t.Errorf("5 documents have the names %v", documents)
	}
}
