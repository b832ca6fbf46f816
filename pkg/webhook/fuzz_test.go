package webhook

import (
	"bytes"
	"encoding/json"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

// depth returns the nesting depth of a valid JSON text.
func depth(value []byte) (deepest int) {
	d := json.NewDecoder(bytes.NewReader(value))
	for open := 0; ; {
		token, err := d.Token()
		if err != nil {
			return deepest
		}
		switch token {
		case json.Delim('{'), json.Delim('['):
			open++
		case json.Delim('}'), json.Delim(']'):
			open--
		}
		deepest = max(deepest, open)
	}
}

// parse decodes value with encoding/json. ok is false unless value is a JSON object that this package accepts. A map
// keeps the last value of a repeated key and distinguishes upper and lower case.
func parse(value []byte) (object map[string]any, ok bool) {
	if !utf8.Valid(value) || !json.Valid(value) || depth(value) > maxDepth {
		return nil, false
	}
	d := json.NewDecoder(bytes.NewReader(value))
	d.UseNumber()
	err := d.Decode(&object)
	return object, err == nil && object != nil
}

// user returns user_id and whether it is valid.
func user(object map[string]any) (int64, bool) {
	number, ok := object["user_id"].(json.Number)
	if !ok || strings.ContainsAny(number.String(), ".eE") {
		return 0, false
	}
	n, err := number.Int64()
	return n, err == nil && n > 0
}

// sms returns the fields to send, and whether the record is valid.
func sms(kind Kind, object map[string]any) (map[string]any, bool) {
	fields, ok := object["sms"].(map[string]any)
	if !ok {
		return nil, false
	}
	switch fields["id"].(type) {
	case json.Number, string:
	default:
		return nil, false
	}
	out := map[string]any{}
	for _, name := range fieldNames(kind) {
		switch v := fields[name].(type) {
		case map[string]any, []any:
			return nil, false
		default:
			out[name] = v
		}
	}
	if kind == Click {
		out["clicked"] = true
		for _, name := range []string{"bot", "preview"} {
			v, there := object[name]
			if _, isBool := v.(bool); there && !isBool {
				return nil, false
			}
		}
	}
	return out, true
}

// plainBody encodes the body with the standard library.
func plainBody(t *testing.T, kind Kind, fields map[string]any) string {
	var text bytes.Buffer
	for i, name := range fieldNames(kind) {
		text.WriteString(map[bool]string{true: `{"`, false: `,"`}[i == 0] + name + `":`)
		var one bytes.Buffer
		e := json.NewEncoder(&one)
		e.SetEscapeHTML(false)
		if err := e.Encode(fields[name]); err != nil {
			t.Fatal(err)
		}
		text.Write(bytes.TrimSuffix(one.Bytes(), []byte("\n")))
	}
	return "sms=" + url.QueryEscape(text.String()+"}")
}

func seeds(f *testing.F) {
	for _, kind := range Kinds() {
		record, _ := golden(f, kind)
		f.Add(uint8(kind), record)
	}
	for _, value := range []string{
		`{"user_id":7,"sms":{"id":"a\u0000\b\f\n\r\t\"\\\/\u0026<>&\u2028\u2029\u007f","text":"é 😀 \ud83d\ude00 \ud83d \ude00 \ud83d\n` + "\u2028\u2029\u2027\x7f\ufffd" + `"}}`,
		`{"user_id":7,"sms":{"id":-0.5E+10,"from":null,"to":true,"clicked":0}, "bot":false, "preview":true}`,
		`{"user_id":7,"sms":{"id":1},"sms":{"id":2,"id":"3"},"user_id":8,"us\u0065r_id":9}`,
		`{"user_id":7,"api_sms_ids":5,"campaign_sms_ids":[1,-2,3.5,"x"],"campaign_sms_ids":null}`,
		`[[{"a":[]}]]`,
	} {
		f.Add(uint8(Click), []byte(value))
		f.Add(uint8(RevokeClick), []byte(value))
	}
}

func FuzzDecode(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, k uint8, value []byte) {
		kind := Kind(k % NumKinds)
		if kind == RevokeClick {
			compareRevocation(t, value)
			return
		}
		compareMessage(t, kind, value)
	})
}

func compareMessage(t *testing.T, kind Kind, value []byte) {
	object, good := parse(value)
	var wantUser int64
	var fields map[string]any
	if good {
		if wantUser, good = user(object); good {
			fields, good = sms(kind, object)
		}
	}
	var m Message
	err := Decode(kind, value, &m)
	if (err == nil) != good {
		t.Fatalf("Decode: %v, want valid = %v", err, good)
	}
	if err != nil {
		return
	}
	bot, _ := object["bot"].(bool)
	preview, _ := object["preview"].(bool)
	if kind != Click {
		bot, preview = false, false
	}
	if m.UserID != wantUser || m.Bot != bot || m.Preview != preview {
		t.Fatalf("Decode = %d %v %v, want %d %v %v", m.UserID, m.Bot, m.Preview, wantUser, bot, preview)
	}
	body := string(m.AppendBody(nil, value))
	form, err := url.ParseQuery(body)
	if err != nil || len(form) != 1 || len(form["sms"]) != 1 {
		t.Fatalf("the body is not a form: %v\n%s", err, body)
	}
	text := form.Get("sms")
	if body != "sms="+url.QueryEscape(text) {
		t.Fatalf("the body is escaped differently\n%s", body)
	}
	var back map[string]any
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&back); err != nil || !reflect.DeepEqual(back, fields) {
		t.Fatalf("the body holds %v (%v), want %v", back, err, fields)
	}
	id, isText := fields["id"].(string)
	if !isText {
		id = fields["id"].(json.Number).String()
	}
	// encoding/json replaces a lone surrogate with U+FFFD; this package keeps it.
	if got := m.ID(value); utf8.ValidString(got) && got != id {
		t.Fatalf("id %q, want %q", got, id)
	}
	if want := plainBody(t, kind, fields); !strings.Contains(want, "%EF%BF%BD") && body != want {
		t.Fatalf("body\n%s\nwant\n%s", body, want)
	}
}

func compareRevocation(t *testing.T, value []byte) {
	object, good := parse(value)
	var want [2][]string
	var wantUser int64
	if good {
		wantUser, good = user(object)
	}
	for i, name := range []string{"api_sms_ids", "campaign_sms_ids"} {
		list, isList := object[name].([]any)
		if !isList && object[name] != nil {
			list = []any{object[name]}
		}
		for _, v := range list {
			n, isNumber := v.(json.Number)
			good = good && isNumber && !strings.ContainsAny(n.String(), ".eE")
			want[i] = append(want[i], n.String())
		}
	}
	var r Revocation
	err := DecodeRevocation(value, &r)
	if (err == nil) != good {
		t.Fatalf("DecodeRevocation: %v, want valid = %v", err, good)
	}
	if err != nil {
		return
	}
	record := r.AppendRecord(nil)
	for i, ids := range [][][]byte{r.APISMSIDs, r.CampaignSMSIDs} {
		if got := string(bytes.Join(ids, []byte(","))); got != strings.Join(want[i], ",") || len(ids) != len(want[i]) {
			t.Fatalf("ids %s, want %v", got, want[i])
		}
	}
	var again Revocation
	if err := DecodeRevocation(record, &again); err != nil || again.UserID != wantUser ||
		!bytes.Equal(again.AppendRecord(nil), record) {
		t.Fatalf("cannot read %s back: %v", record, err)
	}
	if body := r.AppendBody(nil); !json.Valid(body) {
		t.Fatalf("the body is not JSON: %s", body)
	}
}

// TestStrings compares the escaping of every rune, raw and escaped, with encoding/json and net/url.
func TestStrings(t *testing.T) {
	check := func(literal string) {
		t.Helper()
		value := []byte(`{"user_id":1,"sms":{"id":1,"message":"` + literal + `"}}`)
		var m Message
		if err := Decode(Inbound, value, &m); err != nil {
			t.Fatalf("%q: %v", literal, err)
		}
		object, _ := parse(value)
		fields, _ := sms(Inbound, object)
		if got, want := string(m.AppendBody(nil, value)), plainBody(t, Inbound, fields); got != want {
			t.Fatalf("%q: %s, want %s", literal, got, want)
		}
	}
	escape := func(r rune) string {
		const hex = "0123456789aBcDeF"
		return `\u` + string([]byte{hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15]})
	}
	var raw, escaped strings.Builder // a block of runes at a time
	for r := rune(0); r <= utf8.MaxRune; r++ {
		switch {
		case r >= 0xD800 && r <= 0xDFFF:
		case r > 0xFFFF && r%251 != 0: // a sample
		case r > 0xFFFF:
			raw.WriteRune(r)
			escaped.WriteString(escape(0xD800+(r-0x10000)>>10) + escape(0xDC00+(r-0x10000)&0x3FF))
		default:
			escaped.WriteString(escape(r))
			if r >= ' ' && r != '"' && r != '\\' {
				raw.WriteRune(r)
			}
		}
		if r&0xFF == 0xFF {
			check(raw.String())
			check("x" + escaped.String() + "y")
			raw.Reset()
			escaped.Reset()
		}
	}
	check(`\"\\\/\b\f\n\r\t`)
}

// A lone surrogate is not a character. Its escape is passed on unchanged, so that no text is lost.
func TestLoneSurrogates(t *testing.T) {
	for _, literal := range []string{`\ud800`, `\uDFFF`, `a\ud83d b`, `\ud83d\ud83dx`, `\ud83dx\ude00`, `\ud83d\n`, `\ude00\ud83d`} {
		value := []byte(`{"user_id":1,"sms":{"id":1,"message":"` + literal + `"}}`)
		var m Message
		if err := Decode(Inbound, value, &m); err != nil {
			t.Fatalf("%s: %v", literal, err)
		}
		want := "sms=" + url.QueryEscape(`{"id":1,"from":null,"to":null,"message":"`+literal+`","received":null}`)
		if got := string(m.AppendBody(nil, value)); got != want {
			t.Errorf("%s: %s, want %s", literal, got, want)
		}
	}
}
