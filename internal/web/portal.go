package web

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
)

// reserved is the lifetime of the mark of a token until its use is confirmed. So a token is not used up if Redis fails.
const reserved = 3 * time.Second

// markScript lets the mark at KEYS[1] last ARGV[2] milliseconds if ARGV[1] is still its value.
var markScript = redis.NewScript(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])`)

// maxTokenAge is the longest time from now to the expiry of a token.
const maxTokenAge = 10 * time.Minute

// Reasons why a token is refused, as logged. None of them contains a part of the token.
var (
	errNoPortal      = errors.New("portal.secret is not set")
	errNotValid      = errors.New("malformed, expired, or not signed with portal.secret as HS256")
	errExpiry        = errors.New("exp is more than 10 minutes ahead")
	errSubject       = errors.New("sub is not a user id above 0 in decimal, as a string")
	errNoTokenID     = errors.New("jti is missing")
	errTokenUsed     = errors.New("used before")
	errUnknownHeader = errors.New("the header has crit")
)

// portal signs in users who come from the platform's own site, with a token signed by that site.
type portal struct {
	secret []byte // empty = off
	rdb    redis.UniversalClient
	prefix string // of the keys in Redis that mark used tokens
	marks  *marks // of the tokens that were used
	parser *jwt.Parser
}

func newPortal(secret []byte, m *marks, prefix string) *portal {
	return &portal{secret: secret, rdb: m.rdb, prefix: prefix + "web:token:", marks: m,
		parser: jwt.NewParser(jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}), jwt.WithExpirationRequired(),
			jwt.WithStrictDecoding())}
}

// mark stands for the hash of an API key in the sessions that a token has started. It depends on the secret, so they
// end when the secret is changed.
func (p *portal) mark() [hashBytes]byte {
	mac := hmac.New(sha256.New, p.secret)
	mac.Write([]byte("smshooks session from a token"))
	return [hashBytes]byte(mac.Sum(nil))
}

// started reports whether a token has started the session.
func (p *portal) started(s *session) bool { return len(p.secret) > 0 && s.keyHash == p.mark() }

// tokenClaims are the claims of a token that count.
type tokenClaims struct{ jwt.RegisteredClaims }

// UnmarshalJSON takes claims by their exact names, since encoding/json takes "Sub" for "sub", too: a site that lets
// others add claims would let them choose the user. A time is a number (RFC 7519); the library accepts a text, too.
func (c *tokenClaims) UnmarshalJSON(text []byte) error {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(text, &all); err != nil {
		return err
	}
	for name, to := range map[string]any{"sub": &c.Subject, "jti": &c.ID, "exp": &c.ExpiresAt, "nbf": &c.NotBefore} {
		value, given := all[name]
		if !given {
			continue
		}
		if _, isTime := to.(**jwt.NumericDate); isTime && value[0] == '"' {
			return fmt.Errorf("%s is not a number", name)
		}
		if err := json.Unmarshal(value, to); err != nil {
			return err
		}
	}
	return nil
}

// read checks a token and returns its user, its jti and its expiry.
func (p *portal) read(token string, now time.Time) (userID int64, claims *tokenClaims, err error) {
	if len(p.secret) == 0 {
		return 0, nil, errNoPortal
	}
	claims = &tokenClaims{}
	parsed, err := p.parser.ParseWithClaims(token, claims, func(*jwt.Token) (any, error) { return p.secret, nil })
	if err != nil {
		return 0, nil, errNotValid // its text could contain parts of the token
	}
	if _, critical := parsed.Header["crit"]; critical {
		return 0, nil, errUnknownHeader
	}
	if claims.ExpiresAt.Sub(now) > maxTokenAge {
		return 0, nil, errExpiry
	}
	userID, err = strconv.ParseInt(claims.Subject, 10, 64)
	if err != nil || userID < 1 || strconv.FormatInt(userID, 10) != claims.Subject {
		return 0, nil, errSubject
	}
	if claims.ID == "" {
		return 0, nil, errNoTokenID
	}
	return userID, claims, nil
}

// use marks a token as used, on every instance. It returns errTokenUsed if it was, and other errors from Redis.
func (p *portal) use(ctx context.Context, claims *tokenClaims, now time.Time) error {
	hash := sha256.Sum256([]byte(claims.ID))
	name := p.prefix + hex.EncodeToString(hash[:])
	if p.marks.has(name) {
		return errTokenUsed
	}
	// Not SETNX, which the Redis user may not be allowed to run.
	own := rand.Text() // the client asks twice if Redis is slow
	by, err := p.rdb.SetArgs(ctx, name, own, redis.SetArgs{Mode: "NX", Get: true, TTL: reserved}).Result()
	if err == nil && by != own {
		return errTokenUsed
	}
	if err != nil && !errors.Is(err, redis.Nil) {
		return fmt.Errorf("reserve a token in Redis: %w", err) // if Redis has stored the mark, it expires
	}
	lastsUntil := claims.ExpiresAt.Add(time.Minute) // for instances whose clocks are behind
	marked, err := markScript.Run(ctx, p.rdb, []string{name}, own, lastsUntil.Sub(now).Milliseconds()).Int()
	if err == nil && marked == 0 {
		err = errors.New("it took too long")
	}
	if err != nil {
		return fmt.Errorf("mark a token as used in Redis: %w", err)
	}
	p.marks.remember(name, lastsUntil)
	return nil
}

// signInByToken starts a session for the user of a token. The redirect takes the token out of the address bar.
func (p *Page) signInByToken(w http.ResponseWriter, r *http.Request, token string) {
	now := time.Now()
	userID, claims, err := p.portal.read(token, now)
	if err == nil {
		s := session{userID: userID, keyHash: p.portal.mark(), expires: now.Add(sessionLasts)}
		_, _ = rand.Read(s.token[:]) // never fails
		var cookie string
		// First, so that a failure does not use the token up.
		if cookie, err = p.sessions.seal(r.Context(), s.append(nil), associated); err == nil {
			err = p.portal.use(r.Context(), claims, now)
		}
		if err == nil {
			p.unstored.Recover()
			setCookie(w, r, cookie, http.SameSiteLaxMode) // Strict is not sent with the redirect if the link is on another site
			http.Redirect(w, r, base, http.StatusSeeOther)
			return
		}
		if !errors.Is(err, errTokenUsed) {
			report(p.unstored, r, err)
			p.views.signIn(w, http.StatusServiceUnavailable, signInView{Alert: textUnavailable})
			return
		}
	}
	p.log.Debug("sign-in with a token refused", zap.Error(err))
	p.views.signIn(w, http.StatusUnauthorized, signInView{Alert: textLink})
}
