package settings

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// rotated returns the sealers of a rotation: one with the old key, and one with the new key that also knows the old
// one.
func rotated(t *testing.T) (before, after *Sealer) {
	t.Helper()
	return testSealer(t, "o"), testSealer(t, "n", "x", "o")
}

func TestSealerWithPreviousKeys(t *testing.T) {
	before, after := rotated(t)
	old := before.Seal(7, "u:p")
	if plain, current, err := after.open(7, old); plain != "u:p" || current || err != nil {
		t.Errorf("a text of the previous key: %q, current %v, %v", plain, current, err)
	}
	if plain, current, err := after.open(7, after.Seal(7, "u:p")); plain != "u:p" || !current || err != nil {
		t.Errorf("a text of the current key: %q, current %v, %v", plain, current, err)
	}
	if _, err := after.Open(8, old); err == nil {
		t.Error("another user's text is opened")
	}
	if _, err := before.Open(7, after.Seal(7, "u:p")); err == nil {
		t.Error("the old key opens what the new one sealed")
	}
	if _, err := NewSealer([]byte(strings.Repeat("n", 32)), []byte("short")); err == nil || !strings.Contains(err.Error(), "secrets.previous_keys") {
		t.Errorf("a short previous key: %v", err)
	}
}

// TestReseal covers documents sealed with a previous key, in clear text, sealed with the current key, sealed with an
// unknown key, and without credentials.
func TestReseal(t *testing.T) {
	k := newEnv(t)
	before, after := rotated(t)
	stranger := testSealer(t, "s")
	record := func(user int, auth string) string {
		return fmt.Sprintf(`{"user_id":%d,"dlr_url":"http://a","auth":%s,"later":{"x":[1]}}`, user, auth)
	}
	unopened := record(4, `"`+stranger.Seal(4, "u4:p")+`"`)
	k.write("1", record(1, `"`+before.Seal(1, "u1:p")+`"`), "2", record(2, `"u2:p"`), "3", record(3, `"`+after.Seal(3, "u3:p")+`"`),
		"4", unopened, "5", record(5, "null"), "6", record(6, `"u6:p"`), "6", "", "7", record(7, `"u7:p"`), "7", "no JSON",
		"8", record(8, `""`))
	store, _, _ := k.start(func(c *Config) { c.Secrets, c.Materialise = after, false })
	waitLoaded(t, store)

	want := Resealing{Documents: 7, Resealed: 3, Current: 1, Bare: 2, Locked: 1}
	got, err := store.Reseal(t.Context(), true)
	if err != nil || got != want {
		t.Errorf("dry: %v, %v", got, err)
	}
	end := k.end()
	if got, err = store.Reseal(t.Context(), false); err != nil || got != want {
		t.Errorf("got %v, %v", got, err)
	}
	if n := k.end() - end; n != 3 {
		t.Errorf("%d records written, want 3", n)
	}
	if got, err = store.Reseal(t.Context(), false); err != nil || got != (Resealing{Documents: 7, Current: 4, Bare: 2, Locked: 1}) {
		t.Errorf("again: %v, %v", got, err)
	}
	// An instance with only the new key can read all documents that could be opened; unknown keys are kept.
	alone := testSealer(t, "n")
	for user, value := range k.newest() {
		if user == "4" {
			if value != unopened {
				t.Errorf("a document that cannot be opened was changed: %s", value)
			}
			continue
		}
		if value == "" || user == "7" && value == "no JSON" {
			continue
		}
		var id int64
		if _, err := fmt.Sscan(user, &id); err != nil {
			t.Fatal(err)
		}
		d, err := parseDocument(id, []byte(value), alone)
		if err != nil || !strings.HasSuffix(value, `,"later":{"x":[1]}}`) {
			t.Errorf("user %s: %v in %s", user, err, value)
		}
		if auth := fmt.Sprintf("u%s:p", user); user != "5" && user != "8" && (d.Auth == nil || *d.Auth != auth) {
			t.Errorf("user %s has auth %v", user, d.Auth)
		}
	}
	if got := fmt.Sprint(want); strings.Contains(got, "u1") {
		t.Errorf("printed as %s", got)
	}
}

// TestEmptyAuth checks that "" counts as not set, also after the document is sealed.
func TestEmptyAuth(t *testing.T) {
	_, sealer := rotated(t)
	d, err := parseDocument(1, []byte(`{"user_id":1,"auth":""}`), sealer)
	if err != nil {
		t.Fatal(err)
	}
	if d, err = parseDocument(1, d.AppendJSON(nil, sealer), sealer); err != nil || value(d.Auth) != "" {
		t.Errorf("auth is %q, %v", value(d.Auth), err)
	}
}

// TestLockedReports checks that a record that cannot be opened is reported only if it is the user's newest: after a
// rotation, older records sealed with the old key stay in the topic until it is compacted.
func TestLockedReports(t *testing.T) {
	k := newEnv(t)
	before, _ := rotated(t)
	alone := testSealer(t, "n")
	sealed := func(user int64, with *Sealer) string {
		return fmt.Sprintf(`{"user_id":%d,"auth":%q}`, user, with.Seal(user, "u:p"))
	}
	k.write("1", sealed(1, before), "1", sealed(1, alone), "2", sealed(2, before), "2", "", "3", sealed(3, before))
	store, obs, _ := k.start(sealedWith(alone))
	waitLoaded(t, store)
	if n := obs.skipped(); n != 1 {
		t.Errorf("%d records reported, want that of user 3", n)
	}
	k.write("4", sealed(4, before))
	eventually(t, 5*time.Second, "a later record is reported, too", func() bool { return obs.skipped() == 2 })
}

// TestResealLosesNoChange changes settings, through this program and others, while documents are resealed.
func TestResealLosesNoChange(t *testing.T) {
	k := newEnv(t)
	before, after := rotated(t)
	const users = 60
	for user := int64(1); user <= users; user++ {
		k.write(fmt.Sprint(user), fmt.Sprintf(`{"user_id":%d,"auth":%q}`, user, before.Seal(user, "u:p")))
	}
	store, _, _ := k.start(sealedWith(after))
	other, _, _ := k.start(sealedWith(after))
	waitLoaded(t, store, other)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := store.Reseal(ctx, false); err != nil {
			t.Error(err)
		}
	})
	for user := int64(1); user <= users; user++ {
		wg.Go(func() {
			url := fmt.Sprintf("http://h%d", user)
			if _, err := other.Update(ctx, user, func(d Document) Document { d.DLRURL = &url; return d }); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if _, err := store.Reseal(ctx, false); err != nil {
		t.Fatal(err)
	}
	for user, value := range k.newest() {
		if !strings.Contains(value, `"dlr_url":"http://h`+user+`"`) {
			t.Errorf("user %s: the change is lost: %s", user, value)
		}
		if strings.Contains(value, `"auth":null`) {
			t.Errorf("user %s: auth is lost", user)
		}
	}
}
