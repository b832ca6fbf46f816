package webhook

import (
	"bytes"
	"unicode/utf16"
	"unicode/utf8"
)

// unescape decodes the escape at the start of src, which a scanner has validated. It returns the rune and the length of
// the escape in bytes: 2, 6, or 12 for a surrogate pair. A lone surrogate is returned unchanged.
func unescape(src []byte) (r rune, n int) {
	switch c := src[1]; c {
	case 'b':
		return '\b', 2
	case 'f':
		return '\f', 2
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	case 'u':
	default: // " \ /
		return rune(c), 2
	}
	r = hex4(src[2:])
	if utf16.IsSurrogate(r) && len(src) >= 12 && src[6] == '\\' && src[7] == 'u' {
		if pair := utf16.DecodeRune(r, hex4(src[8:])); pair != utf8.RuneError {
			return pair, 12
		}
	}
	return r, 6
}

func hex4(b []byte) rune {
	return unhex(b[0])<<12 | unhex(b[1])<<8 | unhex(b[2])<<4 | unhex(b[3])
}

// appendText appends the text of the escaped string src. A lone surrogate has no UTF-8 encoding. It is appended as
// three bytes in the same pattern, so that different strings never have the same text.
func appendText(dst, src []byte) []byte {
	for {
		i := bytes.IndexByte(src, '\\')
		if i < 0 {
			return append(dst, src...)
		}
		dst = append(dst, src[:i]...)
		r, n := unescape(src[i:])
		if utf16.IsSurrogate(r) {
			dst = append(dst, 0xE0|byte(r>>12), 0x80|byte(r>>6)&0x3F, 0x80|byte(r)&0x3F)
		} else {
			dst = utf8.AppendRune(dst, r)
		}
		src = src[i+n:]
	}
}

// longestName is longer than any known key with every byte escaped.
const longestName = 6 * 24

// plainKey returns the key without escapes. buf is used if it has any. A key too long to be a known one is returned
// unchanged.
func plainKey(key, buf []byte) []byte {
	if len(key) > longestName || bytes.IndexByte(key, '\\') < 0 {
		return key
	}
	return appendText(buf[:0], key)
}
