package settings

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// sealPrefix starts every sealed text; what follows is base64 (standard, padded)
// of a 12-byte nonce, the ciphertext and a 16-byte tag.
const sealPrefix = "enc:v1:"

// sealOverhead is the length of nonce and tag.
const sealOverhead = 12 + 16

// errSealed is the error of a sealed text that cannot be opened.
var errSealed = errors.New("a sealed text cannot be opened: check secrets.key and secrets.previous_keys")

// Sealer encrypts auth and signing secrets at rest with AES-256-GCM. A sealed text belongs to one
// user: copied into another user's document it cannot be opened. A key can be
// replaced: a Sealer opens what its previous keys sealed, too.
type Sealer struct {
	aead     cipher.AEAD
	previous []cipher.AEAD
}

// NewSealer returns a Sealer for keys of 32 bytes each.
func NewSealer(key []byte, previous ...[]byte) (*Sealer, error) {
	s := &Sealer{}
	var err error
	if s.aead, err = newAEAD(key); err != nil {
		return nil, fmt.Errorf("secrets.key: %w", err)
	}
	for _, key := range previous {
		aead, err := newAEAD(key)
		if err != nil {
			return nil, fmt.Errorf("secrets.previous_keys: %w", err)
		}
		s.previous = append(s.previous, aead)
	}
	return s, nil
}

func newAEAD(key []byte) (cipher.AEAD, error) {
	if len(key) != 32 {
		return nil, fmt.Errorf("%d bytes, must be 32", len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// Seal returns plain as enc:v1:<base64> under a random nonce.
func (s *Sealer) Seal(userID int64, plain string) string {
	sealed := s.aead.Seal(nil, nil, []byte(plain), userData(userID))
	return sealPrefix + base64.StdEncoding.EncodeToString(sealed)
}

// Open is the inverse of Seal. A text that is not a sealed one was written by a program that does not seal; Open
// returns it unchanged, even if it starts with enc:v1:. A nil Sealer opens only such text.
func (s *Sealer) Open(userID int64, text string) (string, error) {
	plain, _, err := s.open(userID, text)
	return plain, err
}

// open is Open. current reports whether the text was sealed with the current key.
func (s *Sealer) open(userID int64, text string) (plain string, current bool, err error) {
	encoded, sealed := strings.CutPrefix(text, sealPrefix)
	if !sealed {
		return text, false, nil
	}
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(raw) <= sealOverhead {
		return text, false, nil
	}
	if s == nil {
		return "", false, errSealed
	}
	if opened, err := s.aead.Open(nil, nil, raw, userData(userID)); err == nil {
		return string(opened), true, nil
	}
	for _, aead := range s.previous {
		if opened, err := aead.Open(nil, nil, raw, userData(userID)); err == nil {
			return string(opened), false, nil
		}
	}
	return "", false, errSealed
}

// userData binds a sealed text to its user.
func userData(userID int64) []byte { return strconv.AppendInt(nil, userID, 10) }

// randomHex returns 2n characters of fresh randomness.
func randomHex(n int) string {
	b := make([]byte, n)
	rand.Read(b) // never fails: see crypto/rand
	return fmt.Sprintf("%x", b)
}
