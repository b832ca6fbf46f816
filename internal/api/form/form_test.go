package form

import (
	"net/url"
	"reflect"
	"strings"
	"testing"
)

const formType = "application/x-www-form-urlencoded"

func texts(p Values) map[string][]string {
	all := map[string][]string{}
	for name, v := range p {
		all[name] = v.Texts
	}
	return all
}

const multipartBody = "--XX\r\nContent-Disposition: form-data; name=\"dlr_url\"\r\n\r\nhttp://a;b&c=d\r\n" +
	"--XX\r\nContent-Disposition: form-data; name=\"auth\"\r\n\r\n\r\n--XX--\r\n"

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		name, contentType, body string
		want                    map[string][]string
	}{
		{"form", formType, "a=1&b=+%2B&a=2&&c&d=&=x", map[string][]string{"a": {"1", "2"}, "b": {" +"}, "c": {""}, "d": {""}, "": {"x"}}},
		{"semicolon", formType, "auth=u;x:p;y&b=1;c=2", map[string][]string{"auth": {"u;x:p;y"}, "b": {"1;c=2"}}},
		{"no Content-Type", "", "a=1", map[string][]string{"a": {"1"}}},
		{"unknown Content-Type", "text/plain", "a=1", map[string][]string{"a": {"1"}}},
		{"broken Content-Type", ";;;", "a=1", map[string][]string{"a": {"1"}}},
		{"empty", formType, "", map[string][]string{}},
		{"JSON", "Application/JSON ; charset=utf-8", `{"a":"x","a":"y","b":null,"c":["1","2"]}`, map[string][]string{"a": {"y"}, "b": {""}, "c": {"1", "2"}}},
		{"no JSON", "application/json", " \n", map[string][]string{}},
		{"multipart", "multipart/form-data; boundary=XX", multipartBody, map[string][]string{"dlr_url": {"http://a;b&c=d"}, "auth": {""}}},
		{"no multipart", "multipart/form-data; boundary=XX", "", map[string][]string{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, err := Parse(tc.contentType, []byte(tc.body))
			if err != nil || !reflect.DeepEqual(texts(p), tc.want) {
				t.Errorf("%v, %v; want %v", texts(p), err, tc.want)
			}
		})
	}
}

func TestParseRejects(t *testing.T) {
	for contentType, bodies := range map[string][]string{
		formType:                           {"a=%", "a=%4", "a=%zz", "%=a", "a=1&b=%u1234"},
		"application/json":                 {"{", "[]", `"a"`, "null", "1", `{"a":1}x`, "{\"a\":\"\xff\"}", `{"a":"` + "\n" + `"}`},
		"multipart/form-data; boundary=XX": {"x", "--XX\r\n", strings.TrimSuffix(multipartBody, "--XX--\r\n")},
		"multipart/form-data":              {multipartBody},
	} {
		for _, body := range bodies {
			if p, err := Parse(contentType, []byte(body)); err == nil {
				t.Errorf("%s: %q is accepted as %v", contentType, body, texts(p))
			}
		}
	}
}

func TestText(t *testing.T) {
	p, err := parseJSON([]byte(`{"text":"x","null":null,"number":1,"list":["x"],"object":{},"flag":true}`))
	if err != nil {
		t.Fatal(err)
	}
	p["file"] = Value{Wrong: true}
	for name, wanted := range map[string]string{"text": "x", "null": "", "absent": "-", "number": "!", "list": "!", "object": "!", "flag": "!", "file": "!"} {
		text, problem := p.Text(name)
		got := "-"
		switch {
		case problem != "":
			got = "!"
		case text != nil:
			got = *text
		}
		if got != wanted {
			t.Errorf("%s: %q, want %q", name, got, wanted)
		}
	}
}

// TestHalfPair checks that half of a surrogate pair is reported and not stored as U+FFFD.
func TestHalfPair(t *testing.T) {
	for raw, half := range map[string]bool{
		`"\ud800"`: true, `"u:\udfff"`: true, `"\ud83dx"`: true, `"\ud83d\n\ude00"`: true, `"\ude00\ud83d"`: true, `"\ud83d\ud83d\ude00"`: true,
		`"\ud83d\ude00"`: false, `"\\ud800"`: false, `"\\\ud800"`: true, `"\uFFFD�"`: false, `"\u00e9"`: false,
	} {
		p, err := parseJSON([]byte(`{"text":` + raw + `,"list":["x",` + raw + `]}`))
		if err != nil {
			t.Fatal(err)
		}
		if text, problem := p.Text("text"); (text == nil) != half || (problem == "must be valid UTF-8") != half {
			t.Errorf("%s: %v, %q; refused: want %v", raw, text, problem, half)
		}
		if p["list"].Wrong != half {
			t.Errorf("%s in a list is wrong: %v, want %v", raw, p["list"].Wrong, half)
		}
	}
}

// FuzzParsePairs compares the parser with that of net/url, on input that the latter accepts.
func FuzzParsePairs(f *testing.F) {
	for _, s := range []string{"", "a=1&b=2", "a=%41+%2b&a", "&&=&=", "a=b;c", "%zz=1", "ids=a,b&ids=c", "\xff=\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePairs(s)
		wanted, wantedErr := url.ParseQuery(s)
		if strings.Contains(s, ";") || wantedErr != nil {
			return
		}
		if err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		if got := texts(p); !reflect.DeepEqual(got, map[string][]string(wanted)) {
			t.Fatalf("%q: %v, want %v", s, got, wanted)
		}
	})
}

// FuzzParse looks for bodies on which the parser panics.
func FuzzParse(f *testing.F) {
	f.Add("application/json", `{"a":[1,null]}`)
	f.Add("multipart/form-data; boundary=XX", multipartBody)
	f.Add("multipart/form-data; boundary=\"", "--\"")
	f.Fuzz(func(t *testing.T, contentType, body string) {
		p, err := Parse(contentType, []byte(body))
		if err != nil {
			return
		}
		for name := range p {
			if text, problem := p.Text(name); (text == nil) != (problem != "") {
				t.Errorf("%q of %q: %v, %q", name, body, text, problem)
			}
		}
	})
}
