// Package form parses the parameters of a request: a form, a multipart form, a JSON object or a query.
package form

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Values are a request's parameters by name. An absent name is not the same as "".
type Values map[string]Value

// Value is the value of one name.
type Value struct {
	Texts []string // in order; JSON has one, unless List
	List  bool     // a JSON array of strings
	Wrong bool     // neither a text nor a list of texts
	Flag  bool     // a JSON boolean, as the text true or false; Wrong unless a boolean is expected
	Null  bool     // a JSON null, as an empty text
	Half  bool     // a JSON string with half of a surrogate pair, which UTF-8 cannot express
}

// Text returns the last text. problem is what is wrong with the value, or "".
func (v Value) Text() (text, problem string) {
	if v.Wrong || v.List {
		return "", "must be a string or null"
	}
	if v.Half {
		problem = "must be valid UTF-8"
	}
	return v.Texts[len(v.Texts)-1], problem
}

// Text returns the last text of a name, or nil if it is absent. problem is "" if it is a text.
func (p Values) Text(name string) (text *string, problem string) {
	v, ok := p[name]
	if !ok {
		return nil, ""
	}
	last, problem := v.Text()
	if problem != "" {
		return nil, problem
	}
	return &last, ""
}

// ErrNotObject is returned for a body that is JSON but not an object.
var ErrNotObject = errors.New("body: must be a JSON object")

var errBadEscape = errors.New("parameters: % must be followed by two hexadecimal digits")

// ParsePairs parses a query or a form body. Unlike net/url it treats ';' as an ordinary character.
func ParsePairs(s string) (Values, error) {
	p := Values{}
	for pair := range strings.SplitSeq(s, "&") {
		if pair == "" {
			continue
		}
		name, value, _ := strings.Cut(pair, "=")
		name, err := url.QueryUnescape(name)
		if err != nil {
			return nil, errBadEscape
		}
		if value, err = url.QueryUnescape(value); err != nil {
			return nil, errBadEscape
		}
		p.add(name, value)
	}
	return p, nil
}

func (p Values) add(name, value string) {
	v := p[name]
	v.Texts = append(v.Texts, value)
	p[name] = v
}

// Parse parses a body by its Content-Type. Anything but JSON and a multipart form is parsed as a form.
func Parse(contentType string, body []byte) (Values, error) {
	kind, _, _ := strings.Cut(contentType, ";")
	switch strings.ToLower(strings.TrimSpace(kind)) {
	case "application/json":
		return parseJSON(body)
	case "multipart/form-data":
		return parseMultipart(contentType, body)
	}
	return ParsePairs(string(body))
}

func parseMultipart(contentType string, body []byte) (Values, error) {
	p := Values{}
	if len(body) == 0 {
		return p, nil
	}
	_, attributes, err := mime.ParseMediaType(contentType)
	if err != nil || attributes["boundary"] == "" {
		return nil, errors.New("body: the Content-Type of a multipart form must have a boundary")
	}
	// The reader accepts a body without the final boundary.
	if !bytes.Contains(body, []byte("--"+attributes["boundary"]+"--")) {
		return nil, errors.New("body: is not a multipart form")
	}
	for reader := multipart.NewReader(bytes.NewReader(body), attributes["boundary"]); ; {
		part, err := reader.NextPart()
		if err == io.EOF { //nolint:errorlint // a wrapped EOF means an incomplete body
			return p, nil
		}
		if err != nil {
			return nil, errors.New("body: is not a multipart form")
		}
		value, err := io.ReadAll(part)
		if err != nil {
			return nil, errors.New("body: is not a multipart form")
		}
		name := part.FormName()
		if name == "" {
			continue
		}
		if part.FileName() != "" {
			p[name] = Value{Wrong: true}
			continue
		}
		v := p[name]
		p[name] = Value{Texts: append(v.Texts, string(value))}
	}
}

func parseJSON(body []byte) (Values, error) {
	p := Values{}
	if len(bytes.TrimSpace(body)) == 0 {
		return p, nil
	}
	if !json.Valid(body) || !utf8.Valid(body) {
		return nil, errors.New("body: is not JSON")
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(body, &object); err != nil || object == nil {
		return nil, ErrNotObject
	}
	for name, raw := range object {
		p[name] = jsonParam(raw)
	}
	return p, nil
}

func jsonParam(raw json.RawMessage) Value {
	var value any
	if err := json.Unmarshal(raw, &value); err != nil {
		return Value{Wrong: true}
	}
	switch v := value.(type) {
	case nil:
		return Value{Texts: []string{""}, Null: true}
	case string:
		return Value{Texts: []string{v}, Half: halfPair(raw)}
	case bool:
		return Value{Texts: []string{strconv.FormatBool(v)}, Wrong: true, Flag: true}
	case []any:
		p := Value{List: true, Wrong: halfPair(raw)}
		for _, item := range v {
			text, ok := item.(string)
			if !ok {
				return Value{Wrong: true}
			}
			p.Texts = append(p.Texts, text)
		}
		return p
	}
	return Value{Wrong: true}
}

// halfPair reports whether a string in valid JSON has half of a surrogate pair, such as \ud800. The decoder replaces it
// by U+FFFD, so that something else than what was sent would be stored.
func halfPair(raw []byte) bool {
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' {
			continue
		}
		first, escaped := hexEscape(raw[i:])
		if !escaped || !utf16.IsSurrogate(first) {
			i++ // the escaped character; digits are skipped like others
			continue
		}
		second, _ := hexEscape(raw[i+6:])
		if utf16.DecodeRune(first, second) == utf8.RuneError {
			return true
		}
		i += 11
	}
	return false
}

// hexEscape returns the code unit of the \uXXXX at the beginning of raw.
func hexEscape(raw []byte) (unit rune, ok bool) {
	if len(raw) < 6 || raw[0] != '\\' || raw[1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(raw[2:6]), 16, 16)
	return rune(n), err == nil
}
