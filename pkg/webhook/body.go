package webhook

import (
	"encoding/binary"
	"net/url"
	"slices"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	maxFields    = 24
	fieldID      = 0  // the index of "id", the same in every kind
	fieldTo      = 4  // the index of "to" in smsFields
	inboundTo    = 2  // the index of "to" in inboundFields
	fieldClicked = 16 // the index of "clicked" in smsFields

	fieldDLRStatus = 23 // the index of "dlr_status" in smsFields
)

// The keys of the sms object in the order in which they are sent.
var (
	smsFields = []string{"id", "created", "updated", "from", "to", "verify_local", "shorten_url", "list_id",
		"reference", "transactional", "preferred_route_id", "campaign_id", "delay_time", "country_id",
		"country_name", "country_iso", "clicked", "cost", "parts", "original_url", "shortened_url", "text",
		"status", "dlr_status"}
	inboundFields = []string{"id", "from", "to", "message", "received"}
)

func fieldNames(kind Kind) []string {
	if kind == Inbound {
		return inboundFields
	}
	return smsFields
}

func fieldIndex(names []string, key []byte) int {
	for i, name := range names {
		if string(key) == name {
			return i
		}
	}
	return -1
}

// The text before each field's value, escaped for the form: the comma or brace, the key and the colon.
var (
	smsPrefixes     = prefixes(smsFields)
	inboundPrefixes = prefixes(inboundFields)
)

const (
	bodyEnd  = "%7D"
	nullText = "null"
	trueText = "true"
)

func prefixes(names []string) []string {
	out := make([]string, len(names))
	for i, name := range names {
		out[i] = url.QueryEscape(`,"` + name + `":`)
	}
	out[0] = "sms=" + url.QueryEscape(`{"`+names[0]+`":`)
	return out
}

// AppendBody appends the form body of m's request: "sms=" and the escaped JSON of its fields. value must be the one
// that m was decoded from. It allocates only to grow dst, when less than three times a field's length is free.
func (m *Message) AppendBody(dst, value []byte) []byte {
	texts := smsPrefixes
	if m.kind == Inbound {
		texts = inboundPrefixes
	}
	for i, text := range texts {
		dst = append(dst, text...)
		switch at := m.fields[i]; {
		case m.kind == Click && i == fieldClicked:
			dst = append(dst, trueText...)
		case at == (span{}):
			dst = append(dst, nullText...)
		default:
			dst = appendValue(dst, at.of(value))
		}
	}
	return append(dst, bodyEnd...)
}

// formEscapes holds the form encoding of each byte: up to three bytes, the first in the lowest bits, and their number
// in the highest byte. It is 0 for bytes whose encoding depends on the bytes after them.
var formEscapes = newFormEscapes()

func newFormEscapes() (table [256]uint32) {
	for c := range table {
		text := url.QueryEscape(string([]byte{byte(c)}))
		for i := range len(text) {
			table[c] |= uint32(text[i]) << (8 * i)
		}
		table[c] |= uint32(len(text)) << 24
	}
	table['\\'] = 0
	table[lineSeparator[0]] = 0
	return table
}

// lineSeparator begins with the same bytes as the paragraph separator, U+2029. Go's encoder escapes both, since they
// end a line in JavaScript.
const lineSeparator = "\u2028"

// appendValue appends a scalar JSON value as Go's encoder writes it without HTML escaping. It also escapes it for the
// form, in the same pass.
func appendValue(dst, src []byte) []byte {
	// Escaping at most triples the length. The store below always writes four bytes.
	dst = slices.Grow(dst, 3*len(src)+4)
	n := len(dst)
	out := dst[:cap(dst)]
	for i := 0; i < len(src); {
		c := src[i]
		if e := formEscapes[c]; e != 0 {
			binary.LittleEndian.PutUint32(out[n:], e)
			n += int(e >> 24)
			i++
			continue
		}
		if c == '\\' {
			r, size := unescape(src[i:])
			n = putRune(out, n, r, src[i:i+size])
			i += size
			continue
		}
		// The scanner has checked the string, so three bytes follow.
		if r, size := utf8.DecodeRune(src[i:]); r == '\u2028' || r == '\u2029' {
			n = putRune(out, n, r, nil)
			i += size
			continue
		}
		n = putByte(out, n, c)
		i++
	}
	return dst[:n]
}

func putByte(out []byte, n int, c byte) int {
	const hex = "0123456789ABCDEF"
	if e := formEscapes[c]; e != 0 {
		binary.LittleEndian.PutUint32(out[n:], e)
		return n + int(e>>24)
	}
	out[n], out[n+1], out[n+2] = '%', hex[c>>4], hex[c&15]
	return n + 3
}

// putRune writes r at out[n:] and returns the new n. old is the escape that r had in the JSON string.
func putRune(out []byte, n int, r rune, old []byte) int {
	const hex = "0123456789abcdef"
	short := byte(0)
	switch r {
	case '"', '\\':
		short = byte(r)
	case '\b':
		short = 'b'
	case '\f':
		short = 'f'
	case '\n':
		short = 'n'
	case '\r':
		short = 'r'
	case '\t':
		short = 't'
	}
	var buf [8]byte
	text := buf[:0]
	switch {
	case short != 0:
		text = append(text, '\\', short)
	case r < ' ' || r == '\u2028' || r == '\u2029':
		text = append(text, '\\', 'u', hex[r>>12], hex[r>>8&15], hex[r>>4&15], hex[r&15])
	case utf16.IsSurrogate(r): // not a character: keep the escape
		text = append(text, old...)
	default:
		text = utf8.AppendRune(text, r)
	}
	for _, c := range text {
		n = putByte(out, n, c)
	}
	return n
}
