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

// Document is one user's settings in a record of the config topic.
// nil stands for null: not set. Auth is a secret in clear text.
type Document struct {
	UserID                                       int64
	DLRURL, ClickURL, InboundURL, RevokeClickURL *string
	Auth                                         *string

	// The further settings. All but URLs and Order are in JSON.
	FailoverURLs [webhook.NumKinds]*string
	Paused       [webhook.NumKinds]*string // true or false
	Order        *string                   // of receipts: "all" or "latest"
	Statuses     *string                   // a list of the receipts' statuses that are sent
	// SigningSecrets is a list in JSON, in clear, and a secret.
	SigningSecrets *string

	// unknown holds the members that this version does not know, as they were in
	// the record, each with a comma before it. Every write keeps them.
	unknown string
	// outdated: in the record, auth or a signing secret was not sealed with the
	// current key.
	outdated bool
}

// field is one member of a document.
type field struct {
	name  string
	value **string
	form  form
}

// form is the JSON form of a field. A field that is null is absent from the record, unless it is a text.
type form uint8

const (
	asText     form = iota // a string. Null is written as such
	asFurther              // a string
	asFlag                 // a boolean
	asOrder                // "all" or "latest"
	asStatuses             // a list of statuses
	asSecrets              // a list of signing secrets
)

const numFields = 5 + 2*webhook.NumKinds + 3

// fields lists the document's fields in the contract's order.
func (d *Document) fields() [numFields]field {
	return [...]field{
		{"dlr_url", &d.DLRURL, asText},
		{"click_url", &d.ClickURL, asText},
		{"inbound_url", &d.InboundURL, asText},
		{"revoke_click_url", &d.RevokeClickURL, asText},
		{"auth", &d.Auth, asText},
		{"dlr_failover_url", &d.FailoverURLs[webhook.DLR], asFurther},
		{"click_failover_url", &d.FailoverURLs[webhook.Click], asFurther},
		{"inbound_failover_url", &d.FailoverURLs[webhook.Inbound], asFurther},
		{"revoke_click_failover_url", &d.FailoverURLs[webhook.RevokeClick], asFurther},
		{"dlr_paused", &d.Paused[webhook.DLR], asFlag},
		{"click_paused", &d.Paused[webhook.Click], asFlag},
		{"inbound_paused", &d.Paused[webhook.Inbound], asFlag},
		{"revoke_click_paused", &d.Paused[webhook.RevokeClick], asFlag},
		{"dlr_order", &d.Order, asOrder},
		{"dlr_statuses", &d.Statuses, asStatuses},
		{"signing_secrets", &d.SigningSecrets, asSecrets},
	}
}

// parse parses the value of a field, nil if it is absent. For secrets see parseSecrets.
func (f form) parse(raw []byte) (*string, error) {
	switch f {
	case asFlag:
		switch string(raw) {
		case "", "null":
			return nil, nil
		case "true", "false":
			s := string(raw)
			return &s, nil
		}
		return nil, errors.New("neither a boolean nor null")
	case asOrder:
		s, err := textOrNull(raw)
		if err == nil && value(s) != "" && *s != OrderAll && *s != OrderLatest {
			err = errors.New("neither all nor latest")
		}
		return s, err
	case asStatuses:
		if len(raw) == 0 || string(raw) == "null" {
			return nil, nil
		}
		var names []string
		if json.Unmarshal(raw, &names) != nil {
			return nil, errors.New("neither a list of strings nor null")
		}
		return NewStatuses(names)
	}
	return textOrNull(raw)
}

// The values of Document.Order.
const (
	OrderAll    = "all"
	OrderLatest = "latest"
)

// NewStatuses returns names as the value of Document.Statuses.
func NewStatuses(names []string) (*string, error) {
	if _, err := webhook.ParseStatuses(names); err != nil {
		return nil, err
	}
	text := []byte{'['}
	for i, name := range names {
		if i > 0 {
			text = append(text, ',')
		}
		text = appendString(text, name)
	}
	s := string(append(text, ']'))
	return &s, nil
}

// StatusNames returns the statuses that are sent, nil for all.
func (d *Document) StatusNames() (names []string) {
	if d.Statuses != nil {
		_ = json.Unmarshal([]byte(*d.Statuses), &names) // it was validated before
	}
	return names
}

// Set changes the field with this name; nil stands for null.
func (d *Document) Set(name string, to *string) {
	for _, f := range d.fields() {
		if f.name == name {
			*f.value = to
		}
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
	d, err := parseSealed(userID, members)
	if err != nil {
		return Document{}, err
	}
	d.unknown = unknownMembers(members, d.knows)
	if d.Auth != nil {
		plain, current, err := sealer.open(userID, *d.Auth)
		if err != nil {
			return Document{}, fmt.Errorf("auth: %w", err)
		}
		d.Auth, d.outdated = &plain, !current && plain != ""
	}
	secrets, outdated, err := parseSecrets(userID, last(members, "signing_secrets"), sealer)
	if err != nil {
		return Document{}, fmt.Errorf("signing_secrets: %w", err)
	}
	if len(secrets) > 0 {
		text := secretsText(secrets, inClear)
		d.SigningSecrets, d.outdated = &text, d.outdated || outdated
	}
	return d, nil
}

// parseSealed reads the members of a document, except its signing secrets, and leaves auth as it is stored.
func parseSealed(userID int64, members []webhook.Member) (d Document, err error) {
	if id, err := parseUserID(last(members, "user_id")); err != nil {
		return d, err
	} else if id != userID {
		return d, errors.New("user_id differs from the record's key")
	}
	d.UserID = userID
	for _, f := range d.fields() {
		if f.form == asSecrets {
			continue
		}
		if *f.value, err = f.form.parse(last(members, f.name)); err != nil {
			return d, fmt.Errorf("%s: %w", f.name, err)
		}
	}
	return d, nil
}

// last returns the last value of a member, nil if there is none.
func last(members []webhook.Member, name string) []byte {
	for _, m := range slices.Backward(members) {
		if m.Name == name {
			return m.Value
		}
	}
	return nil
}

// unknownMembers returns the text of the members that are not known, in their
// order, of a repeated one the last.
func unknownMembers(members []webhook.Member, known func(name string) bool) string {
	var keep []webhook.Member
	var seen map[string]bool
	for _, m := range slices.Backward(members) {
		if known(m.Name) || seen[m.Name] {
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

// AppendJSON appends the whole document in compact JSON: the fields in the
// contract's order, no HTML characters escaped, then the unknown
// members. URLs and auth are null if they are not set, the further
// settings absent. With a sealer, auth and the signing secrets are sealed.
func (d Document) AppendJSON(dst []byte, sealer *Sealer) []byte {
	dst = strconv.AppendInt(append(dst, `{"user_id":`...), d.UserID, 10)
	for _, f := range d.fields() {
		to := *f.value
		if to == nil && f.form != asText {
			continue
		}
		dst = append(append(append(dst, ',', '"'), f.name...), '"', ':')
		switch {
		case to == nil:
			dst = append(dst, "null"...)
		case f.value == &d.Auth && *to != "" && sealer != nil: // "" counts as not set
			dst = appendString(dst, sealer.Seal(d.UserID, *to))
		case f.form == asSecrets:
			dst = append(dst, sealSecrets(d.UserID, *to, sealer)...)
		case f.form == asFlag || f.form == asStatuses:
			dst = append(dst, *to...)
		default:
			dst = appendString(dst, *to)
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
	s := webhook.NewSettings(d.UserID, urls, value(d.Auth))
	if usable, _ := d.usable(); len(usable) > 0 {
		s.Sign(&usable)
	}
	for kind, endpoint := range s.Endpoints {
		if endpoint != nil {
			endpoint.Paused = d.IsPaused(webhook.Kind(kind))
			if url := value(d.FailoverURLs[kind]); url != "" {
				endpoint.FailOver(url)
			}
		}
	}
	if dlr := s.Endpoints[webhook.DLR]; dlr != nil {
		dlr.Latest = value(d.Order) == OrderLatest
		dlr.Statuses, _ = webhook.ParseStatuses(d.StatusNames()) // no list means all
	}
	return s
}

// IsPaused reports whether the user has paused a kind.
func (d *Document) IsPaused(kind webhook.Kind) bool { return value(d.Paused[kind]) == "true" }

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
