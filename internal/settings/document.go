package settings

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/smshooks/smshooks/pkg/webhook"
)

// Document is one user's settings as a record of the config topic holds them.
// nil stands for null: not set. Auth is a secret in clear text.
type Document struct {
	UserID                                       int64
	DLRURL, ClickURL, InboundURL, RevokeClickURL *string
	Auth                                         *string

	// unknown holds the members that this version does not know, as they were in
	// the record, each with a comma before it. Every write keeps them.
	unknown string
	// sealed: auth was sealed with the current key in the record.
	sealed bool
}

// fields lists the document's fields in the contract's order.
func (d *Document) fields() [5]struct {
	name  string
	value **string
} {
	return [5]struct {
		name  string
		value **string
	}{
		{"dlr_url", &d.DLRURL}, {"click_url", &d.ClickURL}, {"inbound_url", &d.InboundURL},
		{"revoke_click_url", &d.RevokeClickURL}, {"auth", &d.Auth},
	}
}

// parseDocument reads the value of a record of the config topic that is not a
// tombstone; it must agree with the key's user. Unknown
// members are kept; of a repeated one the last counts. Errors name what is wrong
// without repeating a value.
func parseDocument(userID int64, value []byte, sealer *Sealer) (Document, error) {
	var room [8]webhook.Member
	members, err := webhook.AppendMembers(room[:0], value)
	if err != nil {
		return Document{}, err
	}
	if id, err := parseUserID(last(members, "user_id")); err != nil {
		return Document{}, err
	} else if id != userID {
		return Document{}, errors.New("user_id differs from the record's key")
	}
	d := Document{UserID: userID}
	for _, f := range d.fields() {
		if *f.value, err = textOrNull(last(members, f.name)); err != nil {
			return Document{}, fmt.Errorf("%s: %w", f.name, err)
		}
	}
	d.unknown = d.unknownMembers(members)
	if d.Auth != nil {
		plain, current, err := sealer.open(userID, *d.Auth)
		if err != nil {
			return Document{}, fmt.Errorf("auth: %w", err)
		}
		d.Auth, d.sealed = &plain, current
	}
	return d, nil
}

// last returns the value of a member, of a repeated one the last, nil if there is none.
func last(members []webhook.Member, name string) []byte {
	for _, m := range slices.Backward(members) {
		if m.Name == name {
			return m.Value
		}
	}
	return nil
}

// unknownMembers returns the text of the members that are not fields of d, in
// their order, of a repeated one the last.
func (d *Document) unknownMembers(members []webhook.Member) string {
	var keep []webhook.Member
	var seen map[string]bool
	for _, m := range slices.Backward(members) {
		if d.knows(m.Name) || seen[m.Name] {
			continue
		}
		if seen == nil {
			seen = map[string]bool{}
		}
		seen[m.Name] = true
		keep = append(keep, m)
	}
	var text []byte
	for _, m := range slices.Backward(keep) {
		text = append(append(append(append(text, `,"`...), m.Raw...), `":`...), m.Value...)
	}
	return string(text)
}

// knows reports whether name is a key of the document that this version knows.
func (d *Document) knows(name string) bool {
	for _, f := range d.fields() {
		if f.name == name {
			return true
		}
	}
	return name == "user_id"
}

func parseUserKey(key []byte) (int64, error) {
	id, err := strconv.ParseInt(string(key), 10, 64)
	if err != nil || id < 1 || strconv.FormatInt(id, 10) != string(key) {
		return 0, errors.New("the key is not a user id in decimal")
	}
	return id, nil
}

// AppendJSON appends the whole document in compact JSON: every key, in the
// contract's order, null for what is not set, no HTML characters escaped, then
// the unknown members. With a sealer, auth is sealed.
func (d Document) AppendJSON(dst []byte, sealer *Sealer) []byte {
	dst = strconv.AppendInt(append(dst, `{"user_id":`...), d.UserID, 10)
	for _, f := range d.fields() {
		dst = append(append(append(dst, ',', '"'), f.name...), '"', ':')
		text := *f.value
		switch {
		case text == nil:
			dst = append(dst, "null"...)
		case f.name == "auth" && *text != "" && sealer != nil: // "" counts as not set
			dst = appendString(dst, sealer.Seal(d.UserID, *text))
		default:
			dst = appendString(dst, *text)
		}
	}
	return append(append(dst, d.unknown...), '}')
}

// Settings prepares the document for use; "" counts as not set.
func (d Document) Settings() *webhook.Settings {
	var urls [webhook.NumKinds]string
	urls[webhook.DLR] = value(d.DLRURL)
	urls[webhook.Click] = value(d.ClickURL)
	urls[webhook.Inbound] = value(d.InboundURL)
	urls[webhook.RevokeClick] = value(d.RevokeClickURL)
	return webhook.NewSettings(d.UserID, urls, value(d.Auth))
}

func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// equal reports whether both documents have the same content.
func (d Document) equal(o Document) bool {
	a, b := d.fields(), o.fields()
	for i := range a {
		if !same(*a[i].value, *b[i].value) {
			return false
		}
	}
	return d.UserID == o.UserID && d.unknown == o.unknown
}

func same(x, y *string) bool { return (x == nil) == (y == nil) && value(x) == value(y) }

// clone returns a copy that shares no string with d.
func (d Document) clone() Document {
	for _, f := range d.fields() {
		if *f.value != nil {
			s := strings.Clone(**f.value)
			*f.value = &s
		}
	}
	return d
}

// textOrNull reads a member that must be a string, null or absent.
func textOrNull(raw []byte) (*string, error) {
	if raw == nil || bytes.Equal(raw, []byte("null")) {
		return nil, nil
	}
	if raw[0] == '"' && bytes.IndexByte(raw, '\\') < 0 {
		s := string(raw[1 : len(raw)-1])
		return &s, nil
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, errors.New("neither a string nor null")
	}
	return &s, nil
}

func parseUserID(raw []byte) (int64, error) {
	id, err := strconv.ParseInt(string(raw), 10, 64)
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
