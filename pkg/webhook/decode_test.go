package webhook

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// golden reads the golden record and body of a kind.
func golden(t testing.TB, kind Kind) (record, body []byte) {
	t.Helper()
	var err error
	if record, err = os.ReadFile(filepath.Join("testdata", kind.String()+".record.json")); err != nil {
		t.Fatal(err)
	}
	if body, err = os.ReadFile(filepath.Join("testdata", kind.String()+".body.txt")); err != nil {
		t.Fatal(err)
	}
	return record, body
}

func TestGoldens(t *testing.T) {
	for _, kind := range []Kind{DLR, Click, Inbound} {
		record, want := golden(t, kind)
		var m Message
		if err := Decode(kind, record, &m); err != nil {
			t.Fatalf("%v: %v", kind, err)
		}
		if got := m.AppendBody(nil, record); !bytes.Equal(got, want) {
			t.Errorf("%v: body\n%s\nwant\n%s", kind, got, want)
		}
		wantID := "12345"
		if kind == Inbound {
			wantID = "5678"
		}
		if m.UserID != 42 || m.Bot || m.Preview || m.ID(record) != wantID {
			t.Errorf("%v: %+v, id %q", kind, m, m.ID(record))
		}
	}
	record, want := golden(t, RevokeClick)
	var r Revocation
	if err := DecodeRevocation(record, &r); err != nil {
		t.Fatal(err)
	}
	if got := r.AppendBody(nil); !bytes.Equal(got, want) {
		t.Errorf("revocation: body %s, want %s", got, want)
	}
	if got := r.AppendRecord(nil); !bytes.Equal(got, record) {
		t.Errorf("revocation: record %s, want %s", got, record)
	}
	if r.UserID != 42 || r.Count() != 5 {
		t.Errorf("revocation: %+v", r)
	}
}

func TestInvalid(t *testing.T) {
	const noUser = "user_id is not an integer from 1 to 9223372036854775807"
	tests := []struct{ value, want string }{
		{``, "not JSON: ends early"},
		{` `, "not JSON: ends early"},
		{`{`, "not JSON: ends early"},
		{`{"user_id":1`, "not JSON: ends early"},
		{`{"user_id":1,"sms":{"id":1}`, "not JSON: ends early"},
		{`{"user_id":1,"sms":{"id":1}}x`, "not JSON: unexpected byte at 28"},
		{`{"user_id":1,"sms":{"id":1}}{}`, "not JSON: unexpected byte at 28"},
		{"{\"user_id\":1,\"sms\":{\"id\":1}}\x00", "not JSON: unexpected byte at 28"},
		{`{"user_id":1,"sms":{"id":1},}`, "not JSON: unexpected byte at 28"},
		{`{"user_id":1,"sms":{"id":01}}`, "not JSON: unexpected byte at 26"},
		{`{"user_id":1,"sms":{"id":1.}}`, "not JSON: unexpected byte at 27"},
		{`{"user_id":1,"sms":{"id":1e}}`, "not JSON: unexpected byte at 27"},
		{`{"user_id":1,"sms":{"id":-}}`, "not JSON: unexpected byte at 26"},
		{`{"user_id":1,"sms":{"id":+1}}`, "not JSON: unexpected byte at 25"},
		{`{"user_id":1,"sms":{"id":.5}}`, "not JSON: unexpected byte at 25"},
		{`{"user_id":1,"sms":{"id":NaN}}`, "not JSON: unexpected byte at 25"},
		{`{"user_id":1,"sms":{"id":nul}}`, "not JSON: unexpected byte at 28"},
		{`{"user_id":1,"sms":{"id":'1'}}`, "not JSON: unexpected byte at 25"},
		{`{"user_id":1,"sms":{"id":"\x"}}`, "not JSON: unexpected byte at 27"},
		{`{"user_id":1,"sms":{"id":"\u12g4"}}`, "not JSON: unexpected byte at 30"},
		{"{\"user_id\":1,\"sms\":{\"id\":\"\n\"}}", "not JSON: unexpected byte at 26"},
		{`{user_id:1}`, "not JSON: unexpected byte at 1"},
		{`{"user_id" 1}`, "not JSON: unexpected byte at 11"},
		{`{"user_id":1,"x":[1,],"sms":{"id":1}}`, "not JSON: unexpected byte at 20"},
		{`{"user_id":1,"x":[,],"sms":{"id":1}}`, "not JSON: unexpected byte at 18"},
		{"\ufeff{\"user_id\":1,\"sms\":{\"id\":1}}", "not JSON: unexpected byte at 0"},
		{"{\"user_id\":1,\"sms\":{\"id\":\"\xff\"}}", "not UTF-8"},
		{"{\"user_id\":1,\"sms\":{\"id\":1},\"x\":\"\xed\xa0\x80\"}", "not UTF-8"},
		{`{"user_id":1,"x":` + strings.Repeat("[", 1000) + strings.Repeat("]", 1000) + `}`, "not JSON: nested too deeply"},
		{`[]`, "not a JSON object"},
		{`null`, "not a JSON object"},
		{`"text"`, "not a JSON object"},
		{`{}`, "user_id is missing"},
		{`{"sms":{"id":1}}`, "user_id is missing"},
		{`{"User_id":1,"sms":{"id":1}}`, "user_id is missing"},
		{`{"user_id":null,"sms":{"id":1}}`, noUser},
		{`{"user_id":"1","sms":{"id":1}}`, noUser},
		{`{"user_id":0,"sms":{"id":1}}`, noUser},
		{`{"user_id":-1,"sms":{"id":1}}`, noUser},
		{`{"user_id":1.0,"sms":{"id":1}}`, noUser},
		{`{"user_id":1e3,"sms":{"id":1}}`, noUser},
		{`{"user_id":9223372036854775808,"sms":{"id":1}}`, noUser},
		{`{"user_id":18446744073709551617,"sms":{"id":1}}`, noUser},
		{`{"user_id":99999999999999999999999,"sms":{"id":1}}`, noUser},
		{`{"user_id":[1],"sms":{"id":1}}`, noUser},
		{`{"user_id":1,"user_id":true,"sms":{"id":1}}`, noUser},
		{`{"user_id":1}`, "sms is missing"},
		{`{"user_id":1,"sms":null}`, "sms is not an object"},
		{`{"user_id":1,"sms":"{}"}`, "sms is not an object"},
		{`{"user_id":1,"sms":[{"id":1}]}`, "sms is not an object"},
		{`{"user_id":1,"sms":{"id":1},"sms":1}`, "sms is not an object"},
		{`{"user_id":1,"sms":{}}`, "sms.id is missing"},
		{`{"user_id":1,"sms":{"id":1},"sms":{"from":"a"}}`, "sms.id is missing"},
		{`{"user_id":1,"sms":{"ID":1}}`, "sms.id is missing"},
		{`{"user_id":1,"sms":{"id":null}}`, "sms.id is neither a number nor a string"},
		{`{"user_id":1,"sms":{"id":true}}`, "sms.id is neither a number nor a string"},
		{`{"user_id":1,"sms":{"id":[1]}}`, "sms.id is neither a number nor a string"},
		{`{"user_id":1,"sms":{"id":1,"id":{}}}`, "sms.id is neither a number nor a string"},
		{`{"user_id":1,"sms":{"id":1,"from":{}}}`, "sms.from is an object or an array"},
		{`{"user_id":1,"sms":{"id":1,"to":[]}}`, "sms.to is an object or an array"},
		{`{"user_id":1,"sms":{"id":1,"clicked":[]}}`, "sms.clicked is an object or an array"},
		{`{"user_id":1,"sms":{"id":1,"dlr_status":1,"dlr_stat\u0075s":[]}}`, "sms.dlr_status is an object or an array"},
		{`{"user_id":1,"sms":{"id":1},"bot":null}`, "bot is not a boolean"},
		{`{"user_id":1,"sms":{"id":1},"bot":0}`, "bot is not a boolean"},
		{`{"user_id":1,"sms":{"id":1},"bot":"true"}`, "bot is not a boolean"},
		{`{"user_id":1,"sms":{"id":1},"bot":true,"preview":{}}`, "preview is not a boolean"},
	}
	for _, tt := range tests {
		var m Message
		err := Decode(Click, []byte(tt.value), &m)
		var bad *InvalidError
		if !errors.As(err, &bad) {
			t.Errorf("%.80q: error %v, want %q", tt.value, err, tt.want)
		} else if bad.Reason != tt.want {
			t.Errorf("%.80q: %q, want %q", tt.value, bad.Reason, tt.want)
		}
	}
}

func TestUserOfInvalid(t *testing.T) {
	var m Message
	if err := Decode(DLR, []byte(`{"sms":1,"user_id":7}`), &m); err == nil || m.UserID != 7 {
		t.Errorf("Decode: %v, user %d; want an error and user 7", err, m.UserID)
	}
	if err := Decode(RevokeClick, []byte(`{}`), &m); err == nil || m.UserID != 0 {
		t.Errorf("Decode of a revocation: %v, user %d; want an error and user 0", err, m.UserID)
	}
}

func TestValid(t *testing.T) {
	tests := []struct {
		kind         Kind
		value        string
		user         int64
		id           string
		bot, preview bool
	}{
		{DLR, `{"user_id":1,"sms":{"id":1}}`, 1, "1", false, false},
		{DLR, " \r\n\t{ \"user_id\" : 1 , \"sms\" : { \"id\" : 1 } } \n", 1, "1", false, false},
		{DLR, `{"user_id":9223372036854775807,"sms":{"id":""}}`, 1<<63 - 1, "", false, false},
		{DLR, `{"user_id":0,"user_id":2,"sms":1,"sms":{"id":{},"id":"a","from":[],"from":1}}`, 2, "a", false, false},
		{DLR, `{"us\u0065r_id":3,"\u0073ms":{"\u0069d":"\u00e9\ud83d\ude00\n\/"}}`, 3, "é😀\n/", false, false},
		{DLR, `{"user_id":1,"sms":{"id":1,"x":{"a":[{}]},"message":{}},"bot":1,"x":[[null]]}`, 1, "1", false, false},
		{DLR, `{"user_id":1,"sms":{"id":-1.50e+2}}`, 1, "-1.50e+2", false, false},
		{DLR, `{"user_id":1,"sms":{"id":"\ud800"}}`, 1, "\xed\xa0\x80", false, false},
		{DLR, `{"user_id":1,"sms":{"id":1},"x":` + strings.Repeat("[", 999) + strings.Repeat("]", 999) + `}`, 1, "1", false, false},
		{DLR, `{"user_id":1,"sms":{"id":1},"` + strings.Repeat(`\u0061`, 1000) + `":1}`, 1, "1", false, false},
		{Click, `{"user_id":1,"sms":{"id":1},"bot":true}`, 1, "1", true, false},
		{Click, `{"user_id":1,"sms":{"id":1},"bot":null,"bot":false,"preview":true}`, 1, "1", false, true},
		{Inbound, `{"user_id":1,"sms":{"id":1,"text":[],"message":"hi"}}`, 1, "1", false, false},
	}
	for _, tt := range tests {
		var m Message
		if err := Decode(tt.kind, []byte(tt.value), &m); err != nil {
			t.Errorf("%.80s: %v", tt.value, err)
			continue
		}
		id := m.ID([]byte(tt.value))
		if m.UserID != tt.user || id != tt.id || m.Bot != tt.bot || m.Preview != tt.preview {
			t.Errorf("%.80s: user %d, id %q, bot %v, preview %v", tt.value, m.UserID, id, m.Bot, m.Preview)
		}
	}
}

func TestKey(t *testing.T) {
	key := func(id string) uint64 {
		value := []byte(`{"user_id":1,"sms":{"id":` + id + `}}`)
		var m Message
		if err := Decode(DLR, value, &m); err != nil {
			t.Fatal(err)
		}
		return m.Key(value)
	}
	for _, ids := range [][2]string{{`12`, `"12"`}, {`"a/"`, `"\u0061\/"`}, {`"é"`, `"\u00e9"`}} {
		if key(ids[0]) != key(ids[1]) {
			t.Errorf("%s and %s are the same id but have different keys", ids[0], ids[1])
		}
	}
	for _, ids := range [][2]string{{`12`, `13`}, {`1`, `1.0`}, {`"\ud800"`, `"\ud801"`}, {`""`, `"\u0000"`}} {
		if key(ids[0]) == key(ids[1]) {
			t.Errorf("%s and %s are different ids but have the same key", ids[0], ids[1])
		}
	}
	if got := key(`12345`); got != 0xe575e8883c0f89f8 {
		t.Errorf("key of 12345 = %#x; it must never change", got)
	}
}

func TestRevocations(t *testing.T) {
	tests := []struct{ value, want string }{ // want: the record, or "!" and the reason
		{`{"user_id":1}`, `{"user_id":1,"api_sms_ids":[],"campaign_sms_ids":[]}`},
		{`{"user_id":1,"api_sms_ids":null,"campaign_sms_ids":[ ]}`, `{"user_id":1,"api_sms_ids":[],"campaign_sms_ids":[]}`},
		{`{"user_id":1,"api_sms_ids":7,"campaign_sms_ids":[ 1 , -2,0 ]}`, `{"user_id":1,"api_sms_ids":[7],"campaign_sms_ids":[1,-2,0]}`},
		{`{"user_id":1,"api_sms_ids":[9007199254740993123456]}`, `{"user_id":1,"api_sms_ids":[9007199254740993123456],"campaign_sms_ids":[]}`},
		{`{"user_id":1,"api_sms_ids":["x"],"api_sms_ids":[5],"x":{}}`, `{"user_id":1,"api_sms_ids":[5],"campaign_sms_ids":[]}`},
		{`{"user_id":1,"api_sms_ids":[4,5],"\u0061pi_sms_ids":null}`, `{"user_id":1,"api_sms_ids":[],"campaign_sms_ids":[]}`},
		{`{"user_id":1,"api_sms_ids":["5"]}`, "!api_sms_ids contains a value that is not an integer"},
		{`{"user_id":1,"api_sms_ids":"5"}`, "!api_sms_ids contains a value that is not an integer"},
		{`{"user_id":1,"api_sms_ids":{}}`, "!api_sms_ids contains a value that is not an integer"},
		{`{"user_id":1,"api_sms_ids":false}`, "!api_sms_ids contains a value that is not an integer"},
		{`{"user_id":1,"api_sms_ids":[null]}`, "!api_sms_ids contains a value that is not an integer"},
		{`{"user_id":1,"campaign_sms_ids":[1,1.0]}`, "!campaign_sms_ids contains a value that is not an integer"},
		{`{"user_id":1,"campaign_sms_ids":[1,1e2]}`, "!campaign_sms_ids contains a value that is not an integer"},
		{`{"user_id":1,"campaign_sms_ids":[[1]]}`, "!campaign_sms_ids contains a value that is not an integer"},
		{`{"api_sms_ids":[1]}`, "!user_id is missing"},
		{`{"user_id":"1","api_sms_ids":[1]}`, "!user_id is not an integer from 1 to 9223372036854775807"},
		{`{"user_id":1,"api_sms_ids":[1,]}`, "!not JSON: unexpected byte at 30"},
		{`{"user_id":1,"api_sms_ids":[01]}`, "!not JSON: unexpected byte at 29"},
		{`{"user_id":1,"api_sms_ids":[1}`, "!not JSON: unexpected byte at 29"},
		{`{"user_id":1,"api_sms_ids":`, "!not JSON: ends early"},
		{`{"user_id":1} {`, "!not JSON: unexpected byte at 14"},
		{`5`, "!not a JSON object"},
		{`x`, "!not JSON: unexpected byte at 0"},
		{"{\"user_id\":1,\"x\":\"\x80\"}", "!not UTF-8"},
	}
	var r Revocation
	for _, tt := range tests {
		err := DecodeRevocation([]byte(tt.value), &r)
		if want, bad := strings.CutPrefix(tt.want, "!"); bad {
			var invalid *InvalidError
			if !errors.As(err, &invalid) || invalid.Reason != want {
				t.Errorf("%s: error %v, want %q", tt.value, err, want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.value, err)
		} else if got := string(r.AppendRecord(nil)); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.value, got, tt.want)
		}
	}
}

func TestNoAllocation(t *testing.T) {
	for _, kind := range []Kind{DLR, Click, Inbound} {
		record, body := golden(t, kind)
		var m Message
		dst := make([]byte, 0, len(body)+64)
		allocs := testing.AllocsPerRun(100, func() {
			if Decode(kind, record, &m) != nil {
				t.Fail()
			}
			m.Key(record)
			dst = m.AppendBody(dst[:0], record)
		})
		if allocs != 0 {
			t.Errorf("%v: %v allocations", kind, allocs)
		}
	}
	record, _ := golden(t, RevokeClick)
	var r Revocation
	dst := make([]byte, 0, 1024)
	allocs := testing.AllocsPerRun(100, func() {
		if DecodeRevocation(record, &r) != nil {
			t.Fail()
		}
		dst = r.AppendRecord(r.AppendBody(dst[:0]))
	})
	if allocs != 0 {
		t.Errorf("revocation: %v allocations", allocs)
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, kind := range []Kind{DLR, Inbound} {
		b.Run(kind.String(), func(b *testing.B) {
			record, _ := golden(b, kind)
			b.SetBytes(int64(len(record)))
			b.ReportAllocs()
			var m Message
			for b.Loop() {
				if err := Decode(kind, record, &m); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAppendBody(b *testing.B) {
	for _, kind := range []Kind{DLR, Inbound} {
		b.Run(kind.String(), func(b *testing.B) {
			record, body := golden(b, kind)
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			var m Message
			if err := Decode(kind, record, &m); err != nil {
				b.Fatal(err)
			}
			dst := make([]byte, 0, 4096)
			for b.Loop() {
				dst = m.AppendBody(dst[:0], record)
			}
		})
	}
}
