package settings

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/smshooks/smshooks/pkg/webhook"
)

// Document is one user's settings as a record of the config topic holds them.
// nil stands for null, that is, not set. Auth is in clear and is a secret.
type Document struct {
	UserID                                       int64
	DLRURL, ClickURL, InboundURL, RevokeClickURL *string
	Auth                                         *string

	// unknown holds the members that this version doesn't know, as they stood in
	// the record, each with a comma before it. Every write keeps them.
	unknown string
	// sealed says that auth stood in the record as this instance would write it:
	// sealed with the current key.
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

// parseDocument reads the value of a record of the config topic that is no
// tombstone; it must agree with the key's user. Keys that the document doesn't
// know are kept as they are, of a doubled one the last counts. Errors name what is wrong
// without repeating a value.
func parseDocument(userID int64, value []byte, sealer *Sealer) (Document, error) {
	var room [8]member
	object, err := parseObject(value, room[:])
	if err != nil {
		return Document{}, err
	}
	if id, err := parseUserID(object); err != nil {
		return Document{}, err
	} else if id != userID {
		return Document{}, errors.New("user_id differs from the record's key")
	}
	d := Document{UserID: userID}
	for _, f := range d.fields() {
		if *f.value, err = textOrNull(object.get(f.name)); err != nil {
			return Document{}, fmt.Errorf("%s: %w", f.name, err)
		}
	}
	d.unknown = d.unknownMembers(object)
	if d.Auth != nil {
		plain, current, err := sealer.open(userID, *d.Auth)
		if err != nil {
			return Document{}, fmt.Errorf("auth: %w", err)
		}
		d.Auth, d.sealed = &plain, current
	}
	return d, nil
}

// unknownMembers returns the text of the members that are not fields of d, in
// their order, of a doubled one the last.
func (d *Document) unknownMembers(o object) string {
	var keep []member
	var seen map[string]bool
	for _, m := range slices.Backward(o) {
		if d.knows(m.name) || seen[m.name] {
			continue
		}
		if seen == nil {
			seen = map[string]bool{}
		}
		seen[m.name] = true
		keep = append(keep, m)
	}
	var text []byte
	for _, m := range slices.Backward(keep) {
		text = append(append(append(append(text, ','), m.text...), ':'), m.value...)
	}
	return string(text)
}

// knows says whether name is a key of the document that this version knows.
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
// the members that this version doesn't know. With a sealer, auth is sealed.
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

// equal says whether both documents say the same.
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

// clone copies the document, so that nobody holds on to a shared string.
func (d Document) clone() Document {
	for _, f := range d.fields() {
		if *f.value != nil {
			s := strings.Clone(**f.value)
			*f.value = &s
		}
	}
	return d
}
