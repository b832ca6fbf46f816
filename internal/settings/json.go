package settings

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"unicode/utf8"
)

// object is a JSON object's members as they stand in the text.
type object []member

type member struct {
	name  string
	text  []byte // the name as it stands in the text, quotes included
	value json.RawMessage
}

// get returns the value of name, of a doubled one the last; nil if it's absent.
func (o object) get(name string) json.RawMessage {
	for i := len(o) - 1; i >= 0; i-- {
		if o[i].name == name {
			return o[i].value
		}
	}
	return nil
}

// parseObject takes apart a JSON object, with into's room if it suffices.
func parseObject(text []byte, into object) (object, error) {
	if !utf8.Valid(text) {
		return nil, errors.New("not UTF-8")
	}
	if o, ok := parseFlat(text, into[:0]); ok {
		return o, nil
	}
	return parseAny(text, into[:0])
}

// parseAny takes apart any JSON object, its members in their order.
func parseAny(text []byte, o object) (object, error) {
	// The parser's own messages may quote a value.
	failed := errors.New("not a JSON object")
	if !json.Valid(text) || space(text)[0] != '{' {
		return nil, failed
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	if _, err := dec.Token(); err != nil {
		return nil, failed
	}
	for dec.More() {
		from := dec.InputOffset()
		name, err := dec.Token()
		if err != nil {
			return nil, failed
		}
		m := member{name: name.(string), text: text[from:dec.InputOffset()]}
		m.text = m.text[bytes.IndexByte(m.text, '"'):] // a comma and blanks may stand before it
		if err := dec.Decode(&m.value); err != nil {
			return nil, failed
		}
		o = append(o, m)
	}
	return o, nil
}

// parseFlat reads the form in which documents are written: an object of
// strings without escapes, whole numbers and nulls. It's here for the speed of
// reading a million of them. false means that the text is something else, valid
// or not. The text must be UTF-8.
func parseFlat(text []byte, o object) (object, bool) {
	rest, ok := bytes.CutPrefix(space(text), []byte{'{'})
	for first := true; ok; first = false {
		rest = space(rest)
		if len(rest) > 0 && rest[0] == '}' && first {
			return o, len(space(rest[1:])) == 0
		}
		n := flatString(rest)
		if n == 0 {
			return nil, false
		}
		name, quoted := rest[1:n-1], rest[:n]
		if rest, ok = bytes.CutPrefix(space(rest[n:]), []byte{':'}); !ok {
			return nil, false
		}
		rest = space(rest)
		if n = flatValue(rest); n == 0 {
			return nil, false
		}
		o = append(o, member{string(name), quoted, rest[:n]})
		if rest = space(rest[n:]); len(rest) > 0 && rest[0] == '}' {
			return o, len(space(rest[1:])) == 0
		}
		rest, ok = bytes.CutPrefix(rest, []byte{','})
	}
	return nil, false
}

func space(text []byte) []byte {
	for len(text) > 0 && (text[0] == ' ' || text[0] == '\n' || text[0] == '\t' || text[0] == '\r') {
		text = text[1:]
	}
	return text
}

// flatValue returns the length of the value that text starts with, 0 if it is
// none of those that parseFlat knows.
func flatValue(text []byte) int {
	if bytes.HasPrefix(text, []byte("null")) {
		return len("null")
	}
	n := 0
	for n < len(text) && text[n] >= '0' && text[n] <= '9' {
		n++
	}
	switch {
	case n == 0:
		return flatString(text)
	case text[0] == '0', n < len(text) && bytes.IndexByte([]byte(".eE"), text[n]) >= 0:
		return 0
	}
	return n
}

// flatString returns the length of the string that text starts with, quotes
// included, 0 if there is none or one with escapes.
func flatString(text []byte) int {
	if len(text) == 0 || text[0] != '"' {
		return 0
	}
	for i := 1; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"':
			return i + 1
		case c == '\\' || c < ' ':
			return 0
		}
	}
	return 0
}

// textOrNull reads a member that must be a string, null or absent.
func textOrNull(raw json.RawMessage) (*string, error) {
	if raw == nil || bytes.Equal(raw, []byte("null")) {
		return nil, nil
	}
	if flatString(raw) == len(raw) {
		s := string(raw[1 : len(raw)-1])
		return &s, nil
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, errors.New("neither a string nor null")
	}
	return &s, nil
}

func parseUserID(o object) (int64, error) {
	id, err := strconv.ParseInt(string(o.get("user_id")), 10, 64)
	if err != nil || id < 1 {
		return 0, errors.New("user_id is not an integer from 1 to 2^63-1")
	}
	return id, nil
}

// appendString appends s as a JSON string, no HTML characters escaped.
func appendString(dst []byte, s string) []byte {
	plain := true
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			plain = false
			break
		}
	}
	if plain {
		return append(append(append(dst, '"'), s...), '"')
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string always encodes
	return append(dst, bytes.TrimSuffix(b.Bytes(), []byte("\n"))...)
}
