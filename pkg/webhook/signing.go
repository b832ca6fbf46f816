package webhook

import (
	"crypto/sha256"
	"encoding"
	"encoding/base64"
	"errors"
	"hash"
	"strconv"
	"strings"
	"time"
)

const (
	secretPrefix  = "whsec_"
	minSecret     = 24 // bytes
	maxSecret     = 64 // bytes
	sha256Block   = 64 // bytes; no secret is longer, so none has to be hashed first (RFC 2104)
	signatureName = "v1,"
)

// Secret signs requests according to Standard Webhooks 1.0.0: HMAC-SHA256 over "id.timestamp.body". It holds the states
// of the two hashes after the secret's block, so that a signature costs two blocks less and allocates nothing.
type Secret struct {
	inner, outer []byte
	until        time.Time // when the secret expires; zero = never
}

// Secrets are the secrets of one user, the newest first.
type Secrets []Secret

// ParseSecret parses a secret: whsec_ and the base64 of 24 to 64 bytes. The error does not contain text.
func ParseSecret(text string, until time.Time) (Secret, error) {
	encoded, ok := strings.CutPrefix(text, secretPrefix)
	key, err := base64.StdEncoding.DecodeString(encoded)
	if !ok || err != nil || len(key) < minSecret || len(key) > maxSecret {
		return Secret{}, errors.New("must be whsec_ and the base64 of 24 to 64 bytes")
	}
	return Secret{inner: stateAfter(key, 0x36), outer: stateAfter(key, 0x5c), until: until}, nil
}

// NewSecret returns key in the form that ParseSecret reads.
func NewSecret(key []byte) string { return secretPrefix + base64.StdEncoding.EncodeToString(key) }

// stateAfter returns the state of SHA-256 after the key, padded to a block, with each byte xor pad.
func stateAfter(key []byte, pad byte) []byte {
	var block [sha256Block]byte
	copy(block[:], key)
	for i := range block {
		block[i] ^= pad
	}
	h := sha256.New()
	h.Write(block[:])
	state, err := h.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil {
		panic("SHA-256 has no state to keep: " + err.Error()) // crypto/sha256 documents that it has
	}
	return state
}

// Valid reports whether the secret is valid at the given time.
func (s *Secret) Valid(at time.Time) bool { return s.until.IsZero() || at.Before(s.until) }

// Signer signs requests, one at a time. The zero Signer is ready for use.
type Signer struct {
	hash hash.Hash
	text []byte
}

// AppendSignatures appends the value of Webhook-Signature: a signature for each secret that is valid at the time of the
// attempt, separated by spaces. It appends nothing if there is none.
func (g *Signer) AppendSignatures(dst []byte, secrets []Secret, id string, at time.Time, body []byte) []byte {
	start := len(dst)
	for i := range secrets {
		s := &secrets[i]
		if !s.Valid(at) {
			continue
		}
		if len(dst) > start {
			dst = append(dst, ' ')
		}
		dst = g.append(append(dst, signatureName...), s, id, at.Unix(), body)
	}
	return dst
}

func (g *Signer) append(dst []byte, s *Secret, id string, seconds int64, body []byte) []byte {
	if g.hash == nil {
		g.hash = sha256.New()
	}
	g.resume(s.inner)
	g.text = append(g.text[:0], id...)
	g.text = append(g.text, '.')
	g.text = strconv.AppendInt(g.text, seconds, 10)
	g.hash.Write(append(g.text, '.'))
	g.hash.Write(body)
	g.text = g.hash.Sum(g.text[:0])
	g.resume(s.outer)
	g.hash.Write(g.text)
	g.text = g.hash.Sum(g.text[:0])
	return base64.StdEncoding.AppendEncode(dst, g.text)
}

// resume continues from a state that stateAfter returned.
func (g *Signer) resume(state []byte) {
	if err := g.hash.(encoding.BinaryUnmarshaler).UnmarshalBinary(state); err != nil {
		panic("a state of SHA-256 cannot be restored: " + err.Error())
	}
}
