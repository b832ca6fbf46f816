package webhook

import (
	"errors"
	"unicode/utf8"
)

// Member is one member of a JSON object.
type Member struct {
	// Name is the name without escapes.
	Name string
	// Raw is the name as written in the text, with escapes and without its quotes.
	Raw []byte
	// Value is the value as written in the text.
	Value []byte
}

// AppendMembers appends the members of text, which must be a JSON object in UTF-8, in their order. They share memory
// with text. The error does not contain any part of text.
func AppendMembers(dst []Member, text []byte) ([]Member, error) {
	if !utf8.Valid(text) {
		return nil, errors.New("not UTF-8")
	}
	failed := errors.New("not a JSON object")
	s := scanner{data: text}
	if s.peek() != '{' {
		return nil, failed
	}
	s.pos++
	var buf [64]byte
	for first := true; ; first = false {
		raw, more, ok := s.key(first)
		switch {
		case !ok:
			return nil, failed
		case !more && s.atEnd():
			return dst, nil
		case !more:
			return nil, failed
		}
		at, ok := s.value(1)
		if !ok {
			return nil, failed
		}
		dst = append(dst, Member{string(appendText(buf[:0], raw)), raw, at.of(text)})
	}
}
