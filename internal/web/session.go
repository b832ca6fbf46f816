package web

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	cookieName   = "smshooks_session"
	cookiePath   = "/account"
	sessionLasts = 12 * time.Hour

	keyBytes   = 32
	hashBytes  = 32
	tokenBytes = 16
	plainBytes = 8 + hashBytes + tokenBytes + 8
	maxCookie  = 512

	// The key in Redis is read again when it is this old: always, and if a session cannot be opened.
	rereadAfter, rereadIfWrong = 10 * time.Second, time.Second
)

// associated is the associated data of sealed sessions: their purpose and version.
var associated = []byte("smshooks session 1")

var errNoSession = errors.New("no valid session")

// session identifies the signed-in user. It does not contain the API key.
type session struct {
	userID  int64
	keyHash [hashBytes]byte  // or the portal's mark
	token   [tokenBytes]byte // in every form of the session
	expires time.Time        // whole seconds
}

// formToken returns the token in forms.
func (s *session) formToken() string { return hex.EncodeToString(s.token[:]) }

// owns reports whether a form belongs to the session.
func (s *session) owns(r *http.Request) bool {
	return subtle.ConstantTimeCompare([]byte(r.PostForm.Get("token")), []byte(s.formToken())) == 1
}

func (s *session) append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(s.userID))
	dst = append(append(dst, s.keyHash[:]...), s.token[:]...)
	return binary.BigEndian.AppendUint64(dst, uint64(s.expires.Unix()))
}

func parseSession(plain []byte) (s session, ok bool) {
	if len(plain) != plainBytes {
		return s, false
	}
	s.userID = int64(binary.BigEndian.Uint64(plain))
	copy(s.keyHash[:], plain[8:])
	copy(s.token[:], plain[8+hashBytes:])
	s.expires = time.Unix(int64(binary.BigEndian.Uint64(plain[plainBytes-8:])), 0)
	return s, true
}

// sessions seals and opens sessions. The key is in Redis, where the first instance that needs it creates it, so that
// every instance can open every session. Each instance caches it: sessions survive an outage of Redis, and a Redis
// that was emptied receives the key again.
type sessions struct {
	rdb   redis.UniversalClient
	name  string
	marks *marks // of the sessions that were signed out

	mu     sync.Mutex // not held during calls to Redis
	key    []byte
	aead   cipher.AEAD
	readAt time.Time // last attempt
}

// signedOut returns the key in Redis that marks a session as signed out.
func (s *sessions) signedOut(in *session) string {
	hash := sha256.Sum256(in.token[:])
	return s.name + ":ended:" + hex.EncodeToString(hash[:])
}

// end ends a session on every instance. After an error it has ended on this one only, until Page.Run can store it.
func (s *sessions) end(ctx context.Context, in *session) error {
	name := s.signedOut(in)
	s.marks.remember(name, in.expires)
	return s.marks.store(ctx, map[string]time.Time{name: in.expires})
}

// hasEnded reports whether a session was signed out at any instance. Errors are from Redis.
func (s *sessions) hasEnded(ctx context.Context, in *session) (bool, error) {
	name := s.signedOut(in)
	if s.marks.has(name) {
		return true, nil
	}
	n, err := s.rdb.Exists(ctx, name).Result()
	return n > 0, err
}

// seal encrypts plain into a text that only open with the same purpose can read. Errors are from Redis.
func (s *sessions) seal(ctx context.Context, plain, purpose []byte) (string, error) {
	aead, err := s.current(ctx, 0)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(aead.Seal(nil, nil, plain, purpose)), nil
}

// open decrypts a text of seal. Errors are errNoSession or from Redis.
func (s *sessions) open(ctx context.Context, text string, purpose []byte) ([]byte, error) {
	sealed, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(text) > maxCookie {
		return nil, errNoSession
	}
	for _, age := range []time.Duration{rereadAfter, rereadIfWrong} {
		aead, err := s.current(ctx, age)
		if err != nil {
			return nil, err
		}
		if plain, err := aead.Open(nil, nil, sealed, purpose); err == nil {
			return plain, nil
		} // else it may have been sealed with a newer key
	}
	return nil, errNoSession
}

// openSession reads a session's cookie. Errors are errNoSession or from Redis.
func (s *sessions) openSession(ctx context.Context, cookie string, now time.Time) (session, error) {
	plain, err := s.open(ctx, cookie, associated)
	if err != nil {
		return session{}, err
	}
	if in, ok := parseSession(plain); ok && now.Before(in.expires) {
		return in, nil
	}
	return session{}, errNoSession
}

// current returns the cipher. If Redis answers, its key was read at most age ago.
func (s *sessions) current(ctx context.Context, age time.Duration) (cipher.AEAD, error) {
	s.mu.Lock()
	key, aead, fresh := s.key, s.aead, time.Since(s.readAt) < age
	if !fresh {
		s.readAt = time.Now() // so that other requests do not read it, too
	}
	s.mu.Unlock()
	if fresh && aead != nil {
		return aead, nil
	}
	read, err := s.read(ctx, key)
	if err != nil && aead != nil {
		return aead, nil
	}
	if err != nil {
		return nil, fmt.Errorf("session key in Redis: %w", err)
	}
	if string(read) == string(key) {
		return aead, nil
	}
	if aead, err = newAEAD(read); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.key, s.aead = read, aead
	return aead, nil
}

// read returns the key in Redis. If there is none, it stores known or a new key.
func (s *sessions) read(ctx context.Context, known []byte) ([]byte, error) {
	key, err := s.rdb.Get(ctx, s.name).Bytes()
	if errors.Is(err, redis.Nil) {
		if known == nil {
			known = make([]byte, keyBytes)
			_, _ = rand.Read(known) // never fails
		}
		// Not SETNX, which the Redis user may not be allowed to run.
		if err := s.rdb.SetArgs(ctx, s.name, known, redis.SetArgs{Mode: "NX"}).Err(); err != nil &&
			!errors.Is(err, redis.Nil) {
			return nil, err
		}
		key, err = s.rdb.Get(ctx, s.name).Bytes() // another instance may have been first
	}
	if err == nil && len(key) != keyBytes {
		err = fmt.Errorf("read session key %s from Redis: %d bytes, want %d: delete it", s.name, len(key), keyBytes)
	}
	return key, err
}

func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// setCookie sets the session cookie, or deletes it if value is "".
func setCookie(w http.ResponseWriter, r *http.Request, value string, site http.SameSite) {
	writeCookie(w, r, &http.Cookie{Name: cookieName, Value: value, Path: cookiePath, SameSite: site})
}

// writeCookie sets a cookie that scripts cannot read, or deletes it if its value is "".
func writeCookie(w http.ResponseWriter, r *http.Request, c *http.Cookie) {
	if c.HttpOnly, c.Secure = true, secure(r); c.Value == "" {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}

// secure reports whether the browser's connection is encrypted.
func secure(r *http.Request) bool {
	proto, _, _ := strings.Cut(r.Header.Get("X-Forwarded-Proto"), ",")
	return r.TLS != nil || strings.EqualFold(strings.TrimSpace(proto), "https")
}
