package webhook

import (
	"encoding/binary"
	"math/bits"
	"strconv"
)

// maxDepth bounds nesting, so that a malicious record cannot exhaust the stack.
const maxDepth = 1000

// span is a range of bytes in a record's value. The zero span stands for an absent value: byte 0 of a record is the
// brace of its object.
type span struct{ lo, hi int32 }

func (s span) of(value []byte) []byte { return value[s.lo:s.hi] }

// scanner steps through one JSON text and checks it against RFC 8259. Its methods return false at the first error, with
// pos at the offending byte.
type scanner struct {
	data []byte
	pos  int
	why  string // the error, if it is not an unexpected byte
}

// fault returns the error at which a method returned false.
func (s *scanner) fault() *InvalidError {
	switch {
	case s.why != "":
		return invalid("not JSON: " + s.why)
	case s.pos >= len(s.data):
		return invalid("not JSON: ends early")
	}
	return invalid("not JSON: unexpected byte at " + strconv.Itoa(s.pos))
}

// peek skips white space and returns the next byte, or 0 at the end. A NUL byte is not valid in JSON either, so 0 is
// unambiguous.
func (s *scanner) peek() byte {
	for s.pos < len(s.data) {
		c := s.data[s.pos]
		if c > ' ' {
			return c
		}
		if c != ' ' && c != '\n' && c != '\t' && c != '\r' {
			return 0
		}
		s.pos++
	}
	return 0
}

// atEnd reports whether only white space is left.
func (s *scanner) atEnd() bool {
	return s.peek() == 0 && s.pos == len(s.data)
}

// key steps to the next member of an object whose '{' has been consumed. It returns the key without its quotes, still
// escaped, and leaves pos before the value. more is false at the end of the object.
func (s *scanner) key(first bool) (key []byte, more, ok bool) {
	c := s.peek()
	if c == '}' {
		s.pos++
		return nil, false, true
	}
	if !first {
		if c != ',' {
			return nil, false, false
		}
		s.pos++
		c = s.peek()
	}
	if c != '"' {
		return nil, false, false
	}
	lo := s.pos + 1
	if !s.str() {
		return nil, false, false
	}
	key = s.data[lo : s.pos-1]
	if s.peek() != ':' {
		return nil, false, false
	}
	s.pos++
	return key, true, true
}

// elem steps to the next element of an array whose '[' has been consumed.
func (s *scanner) elem(first bool) (more, ok bool) {
	c := s.peek()
	if c == ']' {
		s.pos++
		return false, true
	}
	if first {
		return true, true
	}
	if c != ',' {
		return false, false
	}
	s.pos++
	if s.peek() == ']' { // a trailing comma
		return false, false
	}
	return true, true
}

// value steps over any value and returns its position. depth is the number of objects and arrays around it.
func (s *scanner) value(depth int) (span, bool) {
	c := s.peek()
	lo := s.pos
	ok := false
	switch {
	case c == '"':
		ok = s.str()
	case c == '-' || c-'0' <= 9:
		ok = s.number()
	case c == '{' || c == '[':
		ok = s.compound(c, depth)
	case c == 't':
		ok = s.literal("true")
	case c == 'f':
		ok = s.literal("false")
	case c == 'n':
		ok = s.literal("null")
	}
	return span{int32(lo), int32(s.pos)}, ok
}

func (s *scanner) compound(c byte, depth int) bool {
	if depth >= maxDepth {
		s.why = "nested too deeply"
		return false
	}
	s.pos++
	for first := true; ; first = false {
		var more, ok bool
		if c == '{' {
			_, more, ok = s.key(first)
		} else {
			more, ok = s.elem(first)
		}
		if !more || !ok {
			return ok
		}
		if _, ok = s.value(depth + 1); !ok {
			return false
		}
	}
}

func (s *scanner) literal(text string) bool {
	for i := range len(text) {
		if s.pos >= len(s.data) || s.data[s.pos] != text[i] {
			return false
		}
		s.pos++
	}
	return true
}

func (s *scanner) digits() bool {
	lo := s.pos
	for s.pos < len(s.data) && s.data[s.pos]-'0' <= 9 {
		s.pos++
	}
	return s.pos > lo
}

func (s *scanner) at(c byte) bool {
	return s.pos < len(s.data) && s.data[s.pos] == c
}

func (s *scanner) number() bool {
	if s.at('-') {
		s.pos++
	}
	if s.at('0') {
		s.pos++
	} else if !s.digits() {
		return false
	}
	if s.at('.') {
		s.pos++
		if !s.digits() {
			return false
		}
	}
	if s.at('e') || s.at('E') {
		s.pos++
		if s.at('+') || s.at('-') {
			s.pos++
		}
		return s.digits()
	}
	return true
}

const (
	low  = 0x0101010101010101
	high = 0x8080808080808080
)

// special marks the bytes of w that are '"', '\' or below 0x20. Only the lowest mark is exact: those above it may be
// wrong because the subtractions borrow.
func special(w uint64) uint64 {
	quote := w ^ low*'"'
	slash := w ^ low*'\\'
	return ((w-low*' ')&^w | (quote-low)&^quote | (slash-low)&^slash) & high
}

// str steps over the string whose opening quote is at pos.
func (s *scanner) str() bool {
	d, i := s.data, s.pos+1
	for {
		for i+8 <= len(d) {
			m := special(binary.LittleEndian.Uint64(d[i:]))
			if m == 0 {
				i += 8
				continue
			}
			i += bits.TrailingZeros64(m) >> 3
			break
		}
		if i >= len(d) {
			s.pos = i
			return false
		}
		switch c := d[i]; {
		case c == '"':
			s.pos = i + 1
			return true
		case c == '\\':
			s.pos = i
			if !s.escape() {
				return false
			}
			i = s.pos
		case c < ' ':
			s.pos = i
			return false
		default:
			i++
		}
	}
}

// escape steps over the escape whose backslash is at pos.
func (s *scanner) escape() bool {
	s.pos++
	if s.pos >= len(s.data) {
		return false
	}
	switch s.data[s.pos] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.pos++
		return true
	case 'u':
		s.pos++
		for range 4 {
			if s.pos >= len(s.data) || unhex(s.data[s.pos]) > 15 {
				return false
			}
			s.pos++
		}
		return true
	}
	return false
}

// unhex returns the value of a hexadecimal digit. It returns more than 15 if c is not one.
func unhex(c byte) rune {
	switch {
	case c-'0' <= 9:
		return rune(c - '0')
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return rune(c|0x20-'a') + 10
	}
	return 16
}
