package webhook

import (
	"math"
	"unicode/utf8"
)

// InvalidError is the error for a record that can never be delivered.
type InvalidError struct {
	// Reason is short, names the field, and does not contain the value.
	Reason string
}

func (e *InvalidError) Error() string { return "invalid record: " + e.Reason }

func invalid(reason string) *InvalidError { return &InvalidError{Reason: reason} }

// Message is a decoded dlr, click or inbound record. It holds positions in the value that it was decoded from, and its
// methods need that value again. The zero Message is ready for [Decode]. A Message can be reused.
type Message struct {
	UserID       int64
	Bot, Preview bool // set in clicks only
	kind         Kind
	fields       [maxFields]span // in the order of fieldNames(kind)
}

// state is what Decode has collected before the end of a record. If a key is repeated, its last value counts, so
// nothing can be validated earlier.
type state struct {
	scanner
	user, sms, bot, preview span
	compound                uint32 // bit i: field i is an object or an array
	keyBuf                  [longestName]byte
}

// Decode decodes the value of a dlr, click or inbound record into m. It allocates only if it fails. The error is an
// [*InvalidError]; m.UserID is then the user's id if that could be read, else 0.
func Decode(kind Kind, value []byte, m *Message) error {
	*m = Message{kind: kind}
	if kind >= RevokeClick {
		return invalid("a record of kind " + kind.String() + " has no sms")
	}
	if !utf8.Valid(value) {
		return invalid("not UTF-8")
	}
	s := state{scanner: scanner{data: value}}
	if s.peek() != '{' {
		if _, ok := s.value(0); !ok || !s.atEnd() {
			return s.fault()
		}
		return invalid("not a JSON object")
	}
	s.pos++
	if !s.record(m) || !s.atEnd() {
		return s.fault()
	}
	return s.validate(m)
}

// record scans the members of the outermost object.
func (s *state) record(m *Message) bool {
	for first := true; ; first = false {
		key, more, ok := s.key(first)
		if !more || !ok {
			return ok
		}
		into := &span{}
		switch string(plainKey(key, s.keyBuf[:])) {
		case "user_id":
			into = &s.user
		case "sms":
			if s.peek() == '{' {
				s.sms.lo = int32(s.pos)
				if !s.message(m) {
					return false
				}
				s.sms.hi = int32(s.pos)
				continue
			}
			into = &s.sms
		case "bot":
			into = &s.bot
		case "preview":
			into = &s.preview
		}
		if *into, ok = s.value(1); !ok {
			return false
		}
	}
}

// message scans the sms object at pos and replaces all fields of m.
func (s *state) message(m *Message) bool {
	m.fields = [maxFields]span{}
	s.compound = 0
	names := fieldNames(m.kind)
	s.pos++
	next := 0 // the gateway keeps the order, so the next key is usually the next name
	for first := true; ; first = false {
		key, more, ok := s.key(first)
		if !more || !ok {
			return ok
		}
		i := next
		if i >= len(names) || string(key) != names[i] {
			i = fieldIndex(names, plainKey(key, s.keyBuf[:]))
		}
		at, ok := s.value(2)
		if !ok {
			return false
		}
		if i < 0 {
			continue
		}
		m.fields[i] = at
		next = i + 1
		if c := s.data[at.lo]; c == '{' || c == '[' {
			s.compound |= 1 << i
		} else {
			s.compound &^= 1 << i
		}
	}
}

// validate checks a record that is valid JSON against the rules for records.
func (s *state) validate(m *Message) error {
	if reason := readUser(s.data, s.user, &m.UserID); reason != "" {
		return invalid(reason)
	}
	if s.sms == (span{}) {
		return invalid("sms is missing")
	}
	if s.data[s.sms.lo] != '{' {
		return invalid("sms is not an object")
	}
	if m.fields[fieldID] == (span{}) {
		return invalid("sms.id is missing")
	}
	if c := s.data[m.fields[fieldID].lo]; c != '"' && c != '-' && c-'0' > 9 {
		return invalid("sms.id is neither a number nor a string")
	}
	if s.compound != 0 {
		for i, name := range fieldNames(m.kind) {
			if s.compound&(1<<i) != 0 {
				return invalid("sms." + name + " is an object or an array")
			}
		}
	}
	if m.kind != Click {
		return nil
	}
	if !readFlag(s.data, s.bot, &m.Bot) {
		return invalid("bot is not a boolean")
	}
	if !readFlag(s.data, s.preview, &m.Preview) {
		return invalid("preview is not a boolean")
	}
	return nil
}

// readUser reads an integer from 1 to 2^63-1. It returns the reason if it cannot.
func readUser(value []byte, at span, user *int64) (reason string) {
	if at == (span{}) {
		return "user_id is missing"
	}
	var n uint64
	for _, c := range at.of(value) {
		// The bound keeps n*10+9 from overflowing.
		if c-'0' > 9 || n > math.MaxInt64/10 {
			n = 0
			break
		}
		n = n*10 + uint64(c-'0')
	}
	if n == 0 || n > math.MaxInt64 {
		return "user_id is not an integer from 1 to 9223372036854775807"
	}
	*user = int64(n)
	return ""
}

// readFlag reads a boolean into flag; an absent one is false. It reports whether the value is a boolean.
func readFlag(value []byte, at span, flag *bool) bool {
	if at == (span{}) {
		return true
	}
	c := value[at.lo]
	*flag = c == 't'
	return c == 't' || c == 'f'
}

// id returns the text of sms.id, still escaped if it is a string.
func (m *Message) id(value []byte) []byte { return m.text(value, fieldID) }

// text returns the text of a field, still escaped if it is a string. A value that is neither a string nor a number has
// no text.
func (m *Message) text(value []byte, field int) []byte {
	text := m.fields[field].of(value)
	switch {
	case len(text) == 0:
		return nil
	case text[0] == '"':
		return text[1 : len(text)-1]
	case text[0] == '-', text[0]-'0' <= 9:
		return text
	}
	return nil
}

// ID returns the text of sms.id: the value of a string or the digits of a number, "" for any other value, which only an
// invalid record has. value must be the one that m was decoded from.
func (m *Message) ID(value []byte) string { return string(m.AppendID(nil, value)) }

// AppendID appends [Message.ID] to dst.
func (m *Message) AppendID(dst, value []byte) []byte { return appendText(dst, m.id(value)) }

// Numbers returns the texts of sms.from and sms.to: phone numbers, or the name of a sender. Each is "" unless the value
// is a string or a number. value must be the one that m was decoded from.
func (m *Message) Numbers(value []byte) (from, to string) {
	names := fieldNames(m.kind)
	read := func(name string) string {
		return string(appendText(nil, m.text(value, fieldIndex(names, []byte(name)))))
	}
	return read("from"), read("to")
}

// FNV-1a, 64 bits.
const (
	hashStart = 14695981039346656037
	hashPrime = 1099511628211
)

// AppendRecipient appends the text of sms.to, as [Message.Numbers] returns it.
func (m *Message) AppendRecipient(dst, value []byte) []byte {
	field := fieldTo
	if m.kind == Inbound {
		field = inboundTo
	}
	return appendText(dst, m.text(value, field))
}

// Key returns a hash of [Message.ID] that is the same in every process. It allocates only if the id is a long string
// with escapes.
func (m *Message) Key(value []byte) uint64 {
	var buf [64]byte
	id := m.id(value)
	for _, c := range id {
		if c == '\\' {
			id = appendText(buf[:0], id)
			break
		}
	}
	h := uint64(hashStart)
	for _, c := range id {
		h = (h ^ uint64(c)) * hashPrime
	}
	return h
}
