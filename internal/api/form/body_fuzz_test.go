package form

import (
	"bytes"
	"encoding/json"
	"mime/multipart"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzJSON compares the parser with encoding/json.
func FuzzJSON(f *testing.F) {
	for _, s := range []string{
		`{"dlr_url":"http://a","auth":null}`, `{"a":1,"a":"x"}`, `{"a":["x",null]}`, `[]`, `{}`, ` `, `{"a":"\ud800"}`, `{"\u0061":""}`, "{\"a\":\"\xff\"}", `{"a":{}}x`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		p, err := Parse("application/json", body)
		var want map[string]any
		good := json.Unmarshal(body, &want) == nil && want != nil && utf8.Valid(body) || len(bytes.TrimSpace(body)) == 0
		if (err == nil) != good {
			t.Fatalf("%q: %v, want good = %v", body, err, good)
		}
		if err == nil && len(p) != len(want) {
			t.Fatalf("%q: %v, want %v", body, p, want)
		}
		for name, v := range want {
			if err != nil {
				break
			}
			text, problem := p.Text(name)
			switch v := v.(type) {
			case string:
				if p[name].Half && strings.ContainsRune(v, utf8.RuneError) {
					continue // the decoder replaced half of a surrogate pair
				}
				if problem != "" || text == nil || *text != v {
					t.Fatalf("%q of %q: %v %q", name, body, text, problem)
				}
			case nil:
				if problem != "" || text == nil || *text != "" {
					t.Fatalf("%q of %q: %v %q, want it empty", name, body, text, problem)
				}
			default:
				if problem == "" {
					t.Fatalf("%q of %q is read as a text", name, body)
				}
			}
		}
	})
}

// FuzzMultipart checks that the two fields written to a form are read back unchanged.
func FuzzMultipart(f *testing.F) {
	f.Add("http://a;b&c=d", "user:pass", "XX")
	f.Add("--XX--", "\r\n--XX\r\n", "XX")
	f.Add("", "\xff\x00", "a'b")
	f.Fuzz(func(t *testing.T, url, auth, boundary string) {
		var body bytes.Buffer
		w := multipart.NewWriter(&body)
		if w.SetBoundary(boundary) != nil || bytes.Contains([]byte(url+"\n"+auth), []byte(boundary)) {
			return
		}
		for _, field := range [][2]string{{"dlr_url", url}, {"auth", auth}} {
			if err := w.WriteField(field[0], field[1]); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		p, err := Parse(w.FormDataContentType(), body.Bytes())
		if want := (map[string][]string{"dlr_url": {url}, "auth": {auth}}); err != nil || !reflect.DeepEqual(texts(p), want) {
			t.Fatalf("%v, %v; want %v", texts(p), err, want)
		}
	})
}
