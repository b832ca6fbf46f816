package settings

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/smshooks/smshooks/pkg/webhook"
)

// countedSecrets is the number of signing secrets of a document that are used: the first ones.
const countedSecrets = 2

// signingSecret is one element of signing_secrets.
type signingSecret struct {
	text    string  // in clear, or sealed with a key that is not known; a secret
	until   *string // RFC 3339; nil: no end
	unknown string  // other members, each with a comma before it
}

// parseSecrets reads signing_secrets and opens each secret. A secret that
// cannot be opened stays sealed. outdated: one was not sealed with the current
// key.
func parseSecrets(userID int64, raw []byte, sealer *Sealer) (secrets []signingSecret, outdated bool, err error) {
	var elements []json.RawMessage
	if raw == nil || string(raw) == "null" {
		return nil, false, nil
	}
	if json.Unmarshal(raw, &elements) != nil {
		return nil, false, errors.New("neither a list nor null")
	}
	for _, element := range elements {
		members, err := webhook.AppendMembers(nil, element)
		if err != nil {
			return nil, false, errors.New("an element is not an object")
		}
		text, err := textOrNull(last(members, "secret"))
		if err != nil || text == nil {
			return nil, false, errors.New("secret is not a string")
		}
		s := signingSecret{text: *text, unknown: unknownMembers(members,
			func(name string) bool { return name == "secret" || name == "until" })}
		if s.until, err = textOrNull(last(members, "until")); err == nil && s.until != nil {
			_, err = time.Parse(time.RFC3339, *s.until)
		}
		if err != nil {
			return nil, false, errors.New("until is neither an RFC 3339 time nor null")
		}
		if plain, current, err := sealer.open(userID, s.text); err == nil {
			s.text, outdated = plain, outdated || !current
		}
		secrets = append(secrets, s)
	}
	return secrets, outdated, nil
}

// secretsText returns secrets as the value of Document.SigningSecrets. It applies
// seal to each of them.
func secretsText(secrets []signingSecret, seal func(string) string) string {
	text := []byte{'['}
	for i, s := range secrets {
		if i > 0 {
			text = append(text, ',')
		}
		text = appendString(append(text, `{"secret":`...), seal(s.text))
		text = append(text, `,"until":`...)
		if s.until == nil {
			text = append(text, "null"...)
		} else {
			text = appendString(text, *s.until)
		}
		text = append(append(text, s.unknown...), '}')
	}
	return string(append(text, ']'))
}

func inClear(s string) string { return s }

// sealSecrets returns the text of a document's secrets for a record.
func sealSecrets(userID int64, text string, sealer *Sealer) string {
	secrets, _, err := parseSecrets(userID, []byte(text), nil)
	if err != nil || sealer == nil {
		return text
	}
	return secretsText(secrets, func(s string) string {
		if _, err := (*Sealer)(nil).Open(userID, s); err != nil {
			return s // sealed with a key that is not known
		}
		return sealer.Seal(userID, s)
	})
}

// secrets returns the elements of signing_secrets.
func (d *Document) secrets() []signingSecret {
	if d.SigningSecrets == nil {
		return nil
	}
	secrets, _, _ := parseSecrets(d.UserID, []byte(*d.SigningSecrets), nil) // the text was made of parsed ones
	return secrets
}

// usable returns the secrets that sign requests. all is false if one that counts
// cannot be used: it was sealed with a key that is not known, or is not a secret.
func (d *Document) usable() (usable webhook.Secrets, all bool) {
	all = true
	secrets := d.secrets()
	for _, s := range secrets[:min(len(secrets), countedSecrets)] {
		one, err := webhook.ParseSecret(s.text, s.end())
		if err != nil {
			all = false
			continue
		}
		usable = append(usable, one)
	}
	return usable, all
}

// end returns until, zero for no end.
func (s *signingSecret) end() (end time.Time) {
	if s.until != nil {
		end, _ = time.Parse(time.RFC3339, *s.until) // it was parsed before
	}
	return end
}

// Signing reports whether requests are signed at a time.
func (d *Document) Signing(at time.Time) bool {
	usable, _ := d.usable()
	for i := range usable {
		if usable[i].Valid(at) {
			return true
		}
	}
	return false
}

// Rotate returns the document with a new signing secret. The one before it stays
// valid from now until grace has passed, or its own end if that is earlier. A
// secret that cannot be used gives way to one that can. If the document was
// rotated to this secret already, only a shorter grace changes it.
func (d Document) Rotate(secret string, now time.Time, grace time.Duration) Document {
	before := d.secrets()
	if len(before) > 0 && before[0].text == secret {
		before = before[1:]
	}
	secrets := []signingSecret{{text: secret}}
	if previous := newest(before[:min(len(before), countedSecrets)], now); previous != nil && grace > 0 {
		if until, end := now.Add(grace), previous.end(); end.IsZero() || until.Before(end) {
			text := string(webhook.AppendTime(nil, until))
			previous.until = &text
		}
		secrets = append(secrets, *previous)
	}
	text := secretsText(secrets, inClear)
	d.SigningSecrets = &text
	return d
}

// newest returns the first secret that has not ended and signs requests. If none
// signs, it returns the first that has not ended: its key may be set later.
func newest(secrets []signingSecret, now time.Time) (first *signingSecret) {
	for i := range secrets {
		s := &secrets[i]
		if end := s.end(); !end.IsZero() && !now.Before(end) {
			continue
		}
		if _, err := webhook.ParseSecret(s.text, s.end()); err == nil {
			return s
		}
		if first == nil {
			first = s
		}
	}
	return first
}

// NewestSecret returns the newest signing secret, "" if there is none.
func (d *Document) NewestSecret() string {
	if secrets := d.secrets(); len(secrets) > 0 {
		return secrets[0].text
	}
	return ""
}

// PreviousUntil returns when the secret before the newest one ends, nil if there
// is none.
func (d *Document) PreviousUntil() *string {
	if secrets := d.secrets(); len(secrets) > 1 {
		return secrets[1].until
	}
	return nil
}
