package webhook

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestAppendMembers(t *testing.T) {
	members, err := AppendMembers(nil, []byte(` { "a\u0062" : "x" , "ab":[ {} ], "":null } `))
	if err != nil || len(members) != 3 {
		t.Fatalf("%v, %v", members, err)
	}
	for i, want := range []struct{ name, raw, value string }{{"ab", `a\u0062`, `"x"`}, {"ab", "ab", "[ {} ]"}, {"", "", "null"}} {
		if m := members[i]; m.Name != want.name || string(m.Raw) != want.raw || string(m.Value) != want.value {
			t.Errorf("member %d is %q %s %s", i, m.Name, m.Raw, m.Value)
		}
	}
	for _, text := range []string{"", "[]", "null", `{"a":1`, `{"a":1}x`, `{"a":1,}`, `{"a" 1}`, "{\"a\":\"\xff\"}", `{"secret":"s3cret"`} {
		if _, err := AppendMembers(nil, []byte(text)); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: error %v", text, err)
		}
	}
}

// FuzzAppendMembers compares the scanner with encoding/json.
func FuzzAppendMembers(f *testing.F) {
	for _, seed := range []string{
		`{}`, ` { "a" : "b" , "c":12, "d":null } `, `{"a":"\u0041"}`, `{"a":01}`, `{"a":1.5}`, `{"a":"b",}`, `{"a" "b"}`,
		`{"a":nullx}`, `{"a":"b"}x`, `{"a":-1}`, `{,}`, `{"a":"b"`, "{\"a\":\"\n\"}", `{"a":[{}],"a":"b"}`, `{"a":1e2}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		members, err := AppendMembers(nil, text)
		var want map[string]json.RawMessage
		valid := utf8.Valid(text) && json.Unmarshal(text, &want) == nil && want != nil
		if (err == nil) != valid {
			if depth := strings.Count(string(text), "[") + strings.Count(string(text), "{"); depth > maxDepth/2 {
				return // encoding/json allows deeper nesting
			}
			t.Fatalf("%q: error %v, valid %v", text, err, valid)
		}
		got := map[string]string{}
		for _, m := range members {
			got[m.Name] = string(m.Value)
		}
		for name, value := range want {
			if !strings.ContainsRune(name, utf8.RuneError) && got[name] != string(value) {
				t.Fatalf("%q of %q: %q, want %q", name, text, got[name], value)
			}
		}
	})
}
