package settings

import (
	"strings"
	"testing"

	"github.com/smshooks/smshooks/internal/compacted"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// readDocument reads a record like the store.
func readDocument(key, value []byte, sealer *Sealer) (Document, error) {
	userID, err := parseUserKey(key)
	if err != nil {
		return Document{}, err
	}
	return parseDocument(userID, value, sealer)
}

func TestParseDocument(t *testing.T) {
	sealer := testSealer(t, "k")
	sealed := sealer.Seal(42, "bob:s3cret")
	for _, c := range []struct {
		name, key, value string
		want             string // the document written without a sealer; "" for an error
	}{
		{"whole", "42", `{"user_id":42,"dlr_url":"http://a/?x=1&y=<2>","click_url":"http://b","inbound_url":"http://c","revoke_click_url":"http://d","auth":"u:p"}`,
			`{"user_id":42,"dlr_url":"http://a/?x=1&y=<2>","click_url":"http://b","inbound_url":"http://c","revoke_click_url":"http://d","auth":"u:p"}`},
		{"absent and null", "42", `{"user_id":42,"click_url":null,"inbound_url":""}`,
			`{"user_id":42,"dlr_url":null,"click_url":null,"inbound_url":"","revoke_click_url":null,"auth":null}`},
		{"extra and doubled", "42", ` { "x":{"y":[1]}, "DLR_URL":7, "dlr_url":"http://a", "user_id":42, "dlr_url":"http://b" } `,
			`{"user_id":42,"dlr_url":"http://b","click_url":null,"inbound_url":null,"revoke_click_url":null,"auth":null,"x":{"y":[1]},"DLR_URL":7}`},
		{"unknown keys as they stand", "42", `{"big":9007199254740993,"list":[ ],"user_id":42,"b":1e2,"\u0061\"":"\u003c","null":null,"b":{"c" : [{}]},"dlr_url":"http://a"}`,
			`{"user_id":42,"dlr_url":"http://a","click_url":null,"inbound_url":null,"revoke_click_url":null,"auth":null,"big":9007199254740993,"list":[ ],"\u0061\"":"\u003c","null":null,"b":{"c" : [{}]}}`},
		{"unknown keys, the flat form", "42", `{"user_id":42,"dlr_pause":null,"n":12,"failover_url":"http://f","n":13}`,
			`{"user_id":42,"dlr_url":null,"click_url":null,"inbound_url":null,"revoke_click_url":null,"auth":null,"dlr_pause":null,"failover_url":"http://f","n":13}`},
		{"further settings", "42", `{"dlr_statuses":[ "Failed", "Deliv\u0065red"],"click_failover_url":"http://f","dlr_order":"latest","n":13,"user_id":42,"inbound_paused":true,"dlr_paused":false,"click_paused":null}`,
			`{"user_id":42,"dlr_url":null,"click_url":null,"inbound_url":null,"revoke_click_url":null,"auth":null,"click_failover_url":"http://f","dlr_paused":false,"inbound_paused":true,"dlr_order":"latest","dlr_statuses":["Failed","Delivered"],"n":13}`},
		{"further settings that are null", "42", `{"user_id":42,"dlr_statuses":null,"click_failover_url":null,"dlr_order":null,"revoke_click_paused":null}`,
			`{"user_id":42,"dlr_url":null,"click_url":null,"inbound_url":null,"revoke_click_url":null,"auth":null}`},
		{"secrets", "42", `{"user_id":42,"signing_secrets":[{"until":"2026-02-27T14:30:00Z","x":{"y":1},"secret":"whsec_a"},{"secret":"` + sealed + `"}, {"secret":"\u0062","until":null}]}`,
			`{"user_id":42,"dlr_url":null,"click_url":null,"inbound_url":null,"revoke_click_url":null,"auth":null,"signing_secrets":[` +
				`{"secret":"whsec_a","until":"2026-02-27T14:30:00Z","x":{"y":1}},{"secret":"bob:s3cret","until":null},{"secret":"b","until":null}]}`},
		{"no secret", "42", `{"user_id":42,"signing_secrets":[]}`,
			`{"user_id":42,"dlr_url":null,"click_url":null,"inbound_url":null,"revoke_click_url":null,"auth":null}`},
		{"secrets are text", "42", `{"user_id":42,"signing_secrets":"s3cret"}`, ""},
		{"secrets are texts", "42", `{"user_id":42,"signing_secrets":["s3cret"]}`, ""},
		{"secret is a number", "42", `{"user_id":42,"signing_secrets":[{"secret":1}]}`, ""},
		{"secret is absent", "42", `{"user_id":42,"signing_secrets":[{"until":null}]}`, ""},
		{"until is a number", "42", `{"user_id":42,"signing_secrets":[{"secret":"s3cret","until":1}]}`, ""},
		{"until is not a time", "42", `{"user_id":42,"signing_secrets":[{"secret":"s3cret","until":"tomorrow"}]}`, ""},
		{"paused is text", "42", `{"user_id":42,"dlr_paused":"true"}`, ""},
		{"paused is a number", "42", `{"user_id":42,"revoke_click_paused":1}`, ""},
		{"failover is a list", "42", `{"user_id":42,"dlr_failover_url":["http://f"]}`, ""},
		{"order is a boolean", "42", `{"user_id":42,"dlr_order":true}`, ""},
		{"order is another word", "42", `{"user_id":42,"dlr_order":"newest"}`, ""},
		{"statuses are text", "42", `{"user_id":42,"dlr_statuses":"Delivered"}`, ""},
		{"statuses are numbers", "42", `{"user_id":42,"dlr_statuses":[1]}`, ""},
		{"unknown statuses", "42", `{"user_id":42,"dlr_statuses":["delivered"]}`, ""},
		{"no status", "42", `{"user_id":42,"dlr_statuses":[]}`, ""},
		{"sealed", "42", `{"user_id":42,"auth":"` + sealed + `"}`,
			`{"user_id":42,"dlr_url":null,"click_url":null,"inbound_url":null,"revoke_click_url":null,"auth":"bob:s3cret"}`},
		{"largest id", "9223372036854775807", `{"user_id":9223372036854775807}`,
			`{"user_id":9223372036854775807,"dlr_url":null,"click_url":null,"inbound_url":null,"revoke_click_url":null,"auth":null}`},
		{"sealed for another", "43", `{"user_id":43,"auth":"` + sealed + `"}`, ""},
		{"plain, like a sealed one", "42", `{"user_id":42,"auth":"enc:v1:???"}`,
			`{"user_id":42,"dlr_url":null,"click_url":null,"inbound_url":null,"revoke_click_url":null,"auth":"enc:v1:???"}`},
		{"plain, of the longest allowed", "42", `{"user_id":42,"auth":"enc:v1:` + strings.Repeat("A", 24) + `"}`,
			`{"user_id":42,"dlr_url":null,"click_url":null,"inbound_url":null,"revoke_click_url":null,"auth":"enc:v1:` + strings.Repeat("A", 24) + `"}`},
		{"url is a number", "42", `{"user_id":42,"dlr_url":1}`, ""},
		{"url is an object", "42", `{"user_id":42,"click_url":{}}`, ""},
		{"auth is a boolean", "42", `{"user_id":42,"auth":false}`, ""},
		{"no user", "42", `{"dlr_url":"http://a"}`, ""},
		{"user is text", "42", `{"user_id":"42"}`, ""},
		{"user is a fraction", "42", `{"user_id":42.0}`, ""},
		{"other user", "42", `{"user_id":43}`, ""},
		{"key with zeros", "042", `{"user_id":42}`, ""},
		{"key is not a number", "x", `{"user_id":42}`, ""},
		{"key is zero", "0", `{"user_id":0}`, ""},
		{"array", "42", `[42]`, ""},
		{"null", "42", `null`, ""},
		{"empty", "42", ``, ""},
		{"cut", "42", `{"user_id":42`, ""},
		{"not UTF-8", "42", "{\"user_id\":42,\"dlr_url\":\"http://\xff\"}", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := readDocument([]byte(c.key), []byte(c.value), sealer)
			if c.want == "" {
				if err == nil {
					t.Fatalf("no error, got %+v", d)
				}
				if strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), "enc:v1") {
					t.Errorf("the error repeats a value: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := string(d.AppendJSON(nil, nil)); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			again, err := readDocument([]byte(c.key), d.AppendJSON(nil, sealer), sealer)
			if err != nil || !again.equal(d) {
				t.Errorf("written sealed and read again: %+v, %v", again, err)
			}
		})
	}
}

func TestDocumentWithoutSealer(t *testing.T) {
	if _, err := readDocument([]byte("1"), []byte(`{"user_id":1,"auth":"`+testSealer(t, "k").Seal(1, "a:b")+`"}`), nil); err == nil {
		t.Error("a sealed auth was read without a key")
	}
	d := Document{UserID: 1, DLRURL: text("enc:v1:no"), Auth: text("a:b")}
	s := string(d.AppendJSON(nil, testSealer(t, "k")))
	if strings.Contains(s, "a:b") || !strings.Contains(s, `"dlr_url":"enc:v1:no"`) {
		t.Errorf("sealed document: %s", s)
	}
}

func TestAppendString(t *testing.T) {
	for s, want := range map[string]string{
		"": `""`, "a<b>&c/": `"a<b>&c/"`, `q"\`: `"q\"\\"`, "\n\x7f": "\"\\n\x7f\"", "é": `"é"`,
	} {
		if got := string(appendString(nil, s)); got != want {
			t.Errorf("%q: %s, want %s", s, got, want)
		}
	}
}

func TestSettings(t *testing.T) {
	s := Document{UserID: 7, DLRURL: text("https://a/x"), ClickURL: text(""), RevokeClickURL: text("http://d"), Auth: text("u:p")}.Settings()
	for kind, want := range [webhook.NumKinds]bool{webhook.DLR: true, webhook.RevokeClick: true} {
		if got := s.Endpoints[kind] != nil; got != want {
			t.Errorf("%v configured: %v, want %v", webhook.Kind(kind), got, want)
		}
	}
	if s.UserID != 7 || s.Endpoints[webhook.DLR].Authorization == "" || s.Endpoints[webhook.RevokeClick].Authorization != "" {
		t.Errorf("settings: %+v", s)
	}
}

// TestFailoverSettings checks that a failover URL needs a first URL, and has the same credentials and secrets.
func TestFailoverSettings(t *testing.T) {
	secret := webhook.NewSecret(make([]byte, 32))
	d := Document{UserID: 7, DLRURL: text("https://a/x"), InboundURL: text("https://c"), Auth: text("u:p"),
		SigningSecrets: text(`[{"secret":"` + secret + `"}]`)}
	d.FailoverURLs = [webhook.NumKinds]*string{webhook.DLR: text("http://spare:81/y"), webhook.Click: text("http://spare"), webhook.Inbound: text("")}
	s := d.Settings()
	first := s.Endpoints[webhook.DLR]
	if s.Endpoints[webhook.Click] != nil || s.Endpoints[webhook.Inbound].Failover != nil || first.Failover == nil {
		t.Fatalf("settings: %+v", s.Endpoints)
	}
	if f := first.Failover; f.Address != "spare:81" || f.Target != "/y" || f.Authorization != first.Authorization || f.Authorization == "" ||
		f.Secrets != first.Secrets || f.Secrets == nil || f.Failover != nil {
		t.Errorf("failover: %+v of %+v", f, first)
	}
}

func TestSealer(t *testing.T) {
	a, b := testSealer(t, "a"), testSealer(t, "b")
	sealed := a.Seal(1, "u:p")
	if sealed == a.Seal(1, "u:p") || !strings.HasPrefix(sealed, "enc:v1:") {
		t.Errorf("sealed: %s", sealed)
	}
	if plain, err := a.Open(1, sealed); err != nil || plain != "u:p" {
		t.Errorf("opened: %q, %v", plain, err)
	}
	if _, err := a.Open(2, sealed); err == nil {
		t.Error("opened for another user")
	}
	if _, err := b.Open(1, sealed); err == nil {
		t.Error("opened with another key")
	}
	if plain, err := a.Open(1, "u:p"); err != nil || plain != "u:p" {
		t.Errorf("plain text: %q, %v", plain, err)
	}
	if _, err := NewSealer([]byte("short")); err == nil {
		t.Error("a short key was accepted")
	}
}

func TestCache(t *testing.T) {
	x := compacted.NewIndex[int64, struct{}](func(id int64) uint64 { return uint64(id) })
	c := newCache[int64, string](compacted.Shards*2, func(id int64) uint64 { return uint64(id) }, func(id int64) compacted.Version { _, v, _ := x.Get(id); return v })
	v := func(offset int64) compacted.Version { return compacted.Version{Offset: offset} }
	apply := func(id int64, e entry[string]) {
		x.Put(id, struct{}{}, e.ver, !e.set)
		c.put(id, e)
	}
	apply(1, entry[string]{"new", v(5), true})
	if !c.put(1, entry[string]{"old", v(4), true}) {
		t.Error("an old value is no obstacle when the new one is there")
	}
	apply(1, entry[string]{"older", v(3), true})
	if e, _ := c.get(1); e.value != "new" {
		t.Errorf("reverted to %q", e.value)
	}
	// Two more keys of the same shard evict it sooner or later.
	for id := int64(1 + compacted.Shards); ; id += compacted.Shards {
		apply(id, entry[string]{"x", v(1), true})
		if _, ok := c.get(1); !ok {
			break
		}
	}
	if c.put(1, entry[string]{"old", v(4), true}) {
		t.Error("a value of a lagging Redis was accepted")
	}
	if c.put(1, entry[string]{}) {
		t.Error("a missing key in Redis was accepted")
	}
	if !c.put(1, entry[string]{"new", v(5), true}) {
		t.Error("the value was not accepted although Redis has caught up")
	}
	c.drop(1)
	if _, ok := c.get(1); ok {
		t.Error("still there")
	}
	for id := range int64(10_000) {
		apply(id, entry[string]{"x", v(10), true})
	}
	if n := c.count(); n != compacted.Shards*2 {
		t.Errorf("%d entries, want %d", n, compacted.Shards*2)
	}
}

func TestPuttingBack(t *testing.T) {
	base := Document{DLRURL: text("d0"), ClickURL: text("c0"), unknown: `,"x":1`}
	change := func(d Document) Document { d.DLRURL = text("mine"); return d }
	between := []intervening{
		{change: documentOf(Document{DLRURL: text("d1"), ClickURL: text("c1"), Auth: text("a:1"), unknown: `,"x":1`}), all: true},
		// Its writer had not read the previous one.
		{change: documentOf(Document{DLRURL: text("d0"), ClickURL: text("c0"), InboundURL: text("i2"), unknown: `,"x":1`}), changed: "inbound_url"},
		{change: documentOf(Document{DLRURL: text("d0"), ClickURL: text("c1"), Auth: text("a:1"), unknown: `,"x":2`}), all: true},
	}
	again := restoring(change, base, between)
	got := string(again(Document{DLRURL: text("mine"), ClickURL: text("c0"), unknown: `,"x":1`}).AppendJSON(nil, nil))
	if want := `{"user_id":0,"dlr_url":"mine","click_url":"c1","inbound_url":"i2","revoke_click_url":null,"auth":"a:1","x":2}`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	// Fields that were changed again meanwhile keep the newer value.
	if d := again(Document{DLRURL: text("mine"), ClickURL: text("c9")}); value(d.ClickURL) != "c9" {
		t.Errorf("click_url reverted to %s", value(d.ClickURL))
	}
}

func documentOf(d Document) change { return change{document: d} }

func TestQueue(t *testing.T) {
	q := queue{wake: make(chan struct{}, 1)}
	for range 3 {
		q.push(change{})
	}
	if got := len(q.take(2)); got != 2 || q.idle() {
		t.Errorf("took %d, idle %v", got, q.idle())
	}
	q.finished()
	q.take(2)
	q.finished()
	if !q.idle() {
		t.Error("not idle although everything was written")
	}
	for range queueLimit + 1 {
		q.push(change{})
	}
	n, unhealed := q.dropped()
	if n != 1 || !unhealed || q.idle() {
		t.Errorf("after dropping: %d, %v, idle %v", n, unhealed, q.idle())
	}
	q.heal(n)
	if !q.idle() {
		t.Error("not idle after a rebuild")
	}
}

func FuzzParseDocument(f *testing.F) {
	f.Add([]byte("42"), []byte(`{"user_id":42,"dlr_url":"http://a","auth":"u:p"}`))
	f.Add([]byte("1"), []byte(`{"user_id":1,"auth":"enc:v1:AAAA","x":[]}`))
	f.Add([]byte("1"), []byte(`{"user_id":1,"click_url":"http://a%25b/"}`))
	f.Fuzz(func(t *testing.T, key, value []byte) {
		d, err := readDocument(key, value, nil)
		if err != nil {
			return
		}
		d.Settings()
		again, err := readDocument(key, d.AppendJSON(nil, nil), nil)
		if err != nil || !again.equal(d) {
			t.Fatalf("%+v became %+v, %v", d, again, err)
		}
	})
}
