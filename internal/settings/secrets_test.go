package settings

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/smshooks/smshooks/pkg/webhook"
)

func secretOf(b string) string { return webhook.NewSecret([]byte(strings.Repeat(b, 32))) }

func TestRotate(t *testing.T) {
	now := time.Date(2026, 2, 27, 12, 0, 0, 0, time.UTC)
	a, b, c := secretOf("a"), secretOf("b"), secretOf("c")
	element := func(secret, until string) string {
		if until != "null" {
			until = `"` + until + `"`
		}
		return `{"secret":"` + secret + `","until":` + until + `}`
	}
	for _, tc := range []struct {
		name, before string
		grace        time.Duration
		want         string
	}{
		{"first", "", time.Hour, element(c, "null")},
		{"second", element(a, "null"), time.Hour, element(c, "null") + "," + element(a, "2026-02-27T13:00:00.000Z")},
		{"third drops the oldest", element(b, "null") + "," + element(a, "2026-02-28T00:00:00Z"), time.Hour,
			element(c, "null") + "," + element(b, "2026-02-27T13:00:00.000Z")},
		{"without grace", element(b, "null") + "," + element(a, "2026-02-28T00:00:00Z"), 0, element(c, "null")},
		{"an earlier end is kept", element(a, "2026-02-27T12:30:00Z"), time.Hour, element(c, "null") + "," + element(a, "2026-02-27T12:30:00Z")},
		{"expired secrets are removed", element(a, "2026-02-27T12:00:00Z"), time.Hour, element(c, "null")},
		{"again", element(c, "null") + "," + element(b, "2026-02-28T00:00:00Z"), 24 * time.Hour, element(c, "null") + "," + element(b, "2026-02-28T00:00:00Z")},
		{"again, with a shorter grace", element(c, "null") + "," + element(b, "2026-02-28T00:00:00Z"), time.Hour,
			element(c, "null") + "," + element(b, "2026-02-27T13:00:00.000Z")},
		{"again, without grace", element(c, "null") + "," + element(b, "2026-02-28T00:00:00Z"), 0, element(c, "null")},
		{"one that signs nothing gives way", element("enc:v1:lost", "null") + "," + element(a, "null"), time.Hour,
			element(c, "null") + "," + element(a, "2026-02-27T13:00:00.000Z")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := Document{UserID: 1}
			if tc.before != "" {
				d.SigningSecrets = text("[" + tc.before + "]")
			}
			d = d.Rotate(c, now, tc.grace)
			if got := value(d.SigningSecrets); got != "["+tc.want+"]" {
				t.Errorf("got  %s\nwant [%s]", got, tc.want)
			}
			if usable, all := d.usable(); len(usable) != strings.Count(tc.want, "whsec_") || !all || !d.Signing(now) {
				t.Errorf("%d secrets are usable (%v)", len(usable), all)
			}
			if got := value(d.PreviousUntil()); (got != "") != strings.Contains(tc.want, ",{") || got != "" && !strings.Contains(tc.want, got) {
				t.Errorf("the previous one ends %q", got)
			}
		})
	}
}

func TestUsableSecrets(t *testing.T) {
	sealer, other := testSealer(t, "k"), testSealer(t, "z")
	sealed, unknown := sealer.Seal(1, secretOf("a")), other.Seal(1, secretOf("b"))
	record := func(secrets ...string) []byte {
		return []byte(`{"user_id":1,"dlr_url":"http://a","signing_secrets":[{"secret":"` + strings.Join(secrets, `"},{"secret":"`) + `"}]}`)
	}
	for _, tc := range []struct {
		name     string
		secrets  []string
		usable   int
		all      bool
		outdated bool
	}{
		{"sealed", []string{sealed}, 1, true, false},
		{"in clear", []string{secretOf("a")}, 1, true, true},
		{"sealed with another key", []string{unknown}, 0, false, false},
		{"one of two", []string{unknown, sealed}, 1, false, false},
		{"the first two", []string{sealed, sealed, sealed}, 2, true, false},
		{"beyond the first two", []string{sealed, sealed, unknown}, 2, true, false},
		{"too short", []string{webhook.NewSecret(make([]byte, 23))}, 0, false, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d, err := parseDocument(1, record(tc.secrets...), sealer)
			if err != nil {
				t.Fatal(err)
			}
			usable, all := d.usable()
			if len(usable) != tc.usable || all != tc.all || d.outdated != tc.outdated || d.Signing(time.Now()) != (tc.usable > 0) {
				t.Errorf("%d usable (all: %v), outdated %v; want %d (%v), %v", len(usable), all, d.outdated, tc.usable, tc.all, tc.outdated)
			}
			if signing := d.Settings().Endpoints[webhook.DLR].Secrets != nil; signing != (tc.usable > 0) {
				t.Errorf("the endpoint signs: %v", signing)
			}
			// What cannot be opened is kept unchanged, the rest is sealed.
			written := string(d.AppendJSON(nil, sealer))
			if strings.Contains(written, "whsec_") || strings.Contains(written, unknown) != strings.Contains(strings.Join(tc.secrets, ""), unknown) {
				t.Errorf("written as %s", written)
			}
			if again, err := parseDocument(1, []byte(written), sealer); err != nil || !again.equal(d) {
				t.Errorf("read again: %v, %v", again, err)
			}
		})
	}
}

// TestUnusableSecretIsReported checks that a secret of an unknown key is counted, and that the user's other settings
// stay in use. Updates keep it, a rotation replaces it.
func TestUnusableSecretIsReported(t *testing.T) {
	k := newEnv(t)
	url := "http://a"
	d := Document{UserID: 1, DLRURL: &url}.Rotate(secretOf("x"), time.Now(), 0)
	record := string(d.AppendJSON(nil, testSealer(t, "z")))
	k.write("1", `{"user_id":1}`, "1", record, "2", record) // the last is not of its key's user
	store, obs, _ := k.start(sealedWith(testSealer(t, "k")))
	waitLoaded(t, store)
	eventually(t, time.Minute, "the record counted", func() bool { return obs.skipped() == 2 })
	s, ok := store.Lookup(1)
	if !ok || s.Endpoints[webhook.DLR] == nil || s.Endpoints[webhook.DLR].Secrets != nil {
		t.Fatalf("settings %+v, known: %v", s, ok)
	}
	if _, err := store.Update(t.Context(), 1, setClick("http://c")); err != nil {
		t.Fatal(err)
	}
	sealed := record[strings.Index(record, `"enc:v1:`):]
	sealed = sealed[:strings.Index(sealed, ",")]
	if got := k.newest()["1"]; !strings.Contains(got, sealed) {
		t.Errorf("the update wrote %s, want it to keep %s", got, sealed)
	}
	d, err := store.Update(t.Context(), 1, func(d Document) Document { return d.Rotate(secretOf("y"), time.Now(), 0) })
	if err != nil || !d.Signing(time.Now()) {
		t.Fatalf("after the rotation: %v", err)
	}
	if s, _ := store.Lookup(1); s.Endpoints[webhook.DLR].Secrets == nil || s.Endpoints[webhook.Click].Secrets == nil {
		t.Error("the new secret does not sign")
	}
	if got := k.newest()["1"]; strings.Contains(got, "whsec_") || !strings.Contains(got, `"signing_secrets":[{"secret":"enc:v1:`) {
		t.Errorf("the rotation wrote %s", got)
	}
	for key, fields := range k.rdb.HGetAll(t.Context(), store.rdb.key(userName(1))).Val() {
		if strings.Contains(fields, "whsec_") {
			t.Errorf("Redis holds a secret in clear in %s", key)
		}
	}
}

// TestResealSecrets checks that reseal covers signing secrets of documents without auth.
func TestResealSecrets(t *testing.T) {
	k := newEnv(t)
	before, after := testSealer(t, "o"), testSealer(t, "k", "o")
	record := func(user int64, with *Sealer) string {
		return string(Document{UserID: user}.Rotate(secretOf("x"), time.Now(), 0).AppendJSON(nil, with))
	}
	k.write("1", record(1, before), "2", record(2, nil), "3", record(3, after), "4", record(4, testSealer(t, "l")), "5", `{"user_id":5}`)
	store, _, _ := k.start(sealedWith(after))
	got, err := store.Reseal(t.Context(), false)
	if want := (Resealing{Documents: 5, Resealed: 2, Current: 1, Bare: 1, Locked: 1}); err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	alone := testSealer(t, "k")
	for key, value := range k.newest() {
		d, err := readDocument([]byte(key), []byte(value), alone)
		if err != nil || d.Signing(time.Now()) != (key <= "3") || strings.Contains(value, "whsec_") {
			t.Errorf("user %s: signing %v, %v: %s", key, d.Signing(time.Now()), err, value)
		}
	}
}

// TestRacingFurtherSettings checks that set-webhook's fields and further settings, changed on two instances at once,
// lose nothing.
func TestRacingFurtherSettings(t *testing.T) {
	k := newEnv(t)
	stores := []*Store{k.loaded(), k.loaded()}
	changes := []func(Document) Document{
		setDLR("http://a"), setClick("http://c"),
		func(d Document) Document { d.Statuses = text(`["Failed"]`); return d },
		func(d Document) Document { return d.Rotate(secretOf("x"), time.Now(), 0) },
	}
	for user := range int64(5) {
		var wg sync.WaitGroup
		for i, change := range changes {
			wg.Go(func() {
				if _, err := stores[i%2].Update(t.Context(), user+1, change); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		d, _, err := stores[0].Document(t.Context(), user+1)
		if err != nil || value(d.DLRURL) == "" || value(d.ClickURL) == "" || value(d.Statuses) == "" || !d.Signing(time.Now()) {
			t.Errorf("user %d has lost a change: %s, %v", user+1, d.AppendJSON(nil, nil), err)
		}
	}
}
