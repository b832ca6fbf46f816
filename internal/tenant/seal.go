package tenant

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

// errSealed says that a sealed text can't be opened. It names no secret.
var errSealed = errors.New("sealed auth can't be opened: check secrets.key")

// Sealer encrypts auth at rest with AES-256-GCM. A sealed text belongs to one
// user: copied into another one's document it can't be opened.
type Sealer struct{ aead cipher.AEAD }

// NewSealer returns a Sealer for a key of 32 bytes.
func NewSealer(key []byte) (*Sealer, error) {
	if len(key) != 32 {
		return nil, fmt.Errorf("secrets.key: %d bytes, must be 32", len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("secrets.key: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("secrets.key: %w", err)
	}
	return &Sealer{aead: aead}, nil
}

// Seal returns plain as enc:v1:<base64> under a random nonce.
func (s *Sealer) Seal(userID int64, plain string) string {
	sealed := s.aead.Seal(nil, nil, []byte(plain), userData(userID))
	return sealPrefix + base64.StdEncoding.EncodeToString(sealed)
}

// Open is the inverse of Seal. A text that can't be a sealed one was written by
// somebody who doesn't seal and is returned as it is, be it that of a user whose
// name is enc. A nil Sealer opens only such text.
func (s *Sealer) Open(userID int64, text string) (string, error) {
	encoded, sealed := strings.CutPrefix(text, sealPrefix)
	if !sealed {
		return text, nil
	}
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(raw) <= sealOverhead {
		return text, nil
	}
	if s == nil {
		return "", errSealed
	}
	plain, err := s.aead.Open(nil, nil, raw, userData(userID))
	if err != nil {
		return "", errSealed
	}
	return string(plain), nil
}

// userData binds a sealed text to its user.
func userData(userID int64) []byte { return strconv.AppendInt(nil, userID, 10) }

// randomHex returns 2n characters of fresh randomness.
func randomHex(n int) string {
	b := make([]byte, n)
	rand.Read(b) // never fails: see crypto/rand
	return fmt.Sprintf("%x", b)
}
