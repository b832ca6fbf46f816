package web

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net/http"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/api"
	"github.com/smshooks/smshooks/internal/api/limit"
	"github.com/smshooks/smshooks/internal/apikey"
)

const (
	textBusy     = "Too many tests are under way at once. Please try again in a moment."
	textReplays  = "Another request of yours is still at work, or too many events were sent again within the last hour. Nothing was sent. Please try again later."
	textAway     = "This cannot be done just now, so nothing was changed. Please try again in a moment."
	textSignedIn = "You could not be signed out just now. Please try again in a moment."
	textEnded    = "Your session has ended. Please sign in again."
	textMany     = "Too many requests. Please wait a moment and try again; nothing was changed."
)

// signIn starts a session for a right key.
func (p *Page) signIn(w http.ResponseWriter, r *http.Request) {
	key := strings.TrimSpace(r.PostForm.Get("key"))
	if key == "" {
		p.views.signIn(w, http.StatusUnauthorized, signInView{KeyError: "Please enter an API key."})
		return
	}
	userID, ok, err := p.service.Authenticate(r.Context(), r, key)
	if tooMany, is := errors.AsType[*api.TooManyError](err); is {
		limit.SetRetryAfter(w, tooMany.After)
		p.views.signIn(w, http.StatusTooManyRequests, signInView{KeyError: "This API key is unknown or was revoked, and too many wrong keys were tried. Please wait a moment and try again."})
		return
	}
	if err != nil {
		p.views.signIn(w, http.StatusServiceUnavailable, signInView{Alert: textAway})
		return
	}
	if !ok {
		p.views.signIn(w, http.StatusUnauthorized, signInView{KeyError: "This API key is unknown or was revoked."})
		return
	}
	s := session{userID: userID, expires: time.Now().Add(sessionLasts)}
	hash, _ := hex.DecodeString(apikey.Hash(key))
	copy(s.keyHash[:], hash)
	_, _ = rand.Read(s.token[:]) // never fails
	cookie, err := p.sessions.seal(r.Context(), &s)
	if err != nil {
		p.log.Warn("cannot start a session", zap.Int64("user_id", userID), zap.Error(err))
		p.views.signIn(w, http.StatusServiceUnavailable, signInView{Alert: textAway})
		return
	}
	setCookie(w, r, cookie)
	http.Redirect(w, r, base, http.StatusSeeOther)
}

// signOut ends the session, so that nobody who has a copy of the cookie can use it.
func (p *Page) signOut(w http.ResponseWriter, r *http.Request) {
	if c, err := r.Cookie(cookieName); err == nil {
		s, err := p.sessions.open(r.Context(), c.Value, time.Now())
		if err == nil && !s.owns(r) {
			p.foreign(w)
			return
		}
		if err == nil {
			err = p.sessions.end(r.Context(), &s)
		}
		if err != nil && !errors.Is(err, errNoSession) {
			p.log.Warn("cannot end a session", zap.Error(err))
			p.views.message(w, http.StatusServiceUnavailable, textSignedIn)
			return
		}
	}
	setCookie(w, r, "")
	http.Redirect(w, r, base+"?done=signed-out", http.StatusSeeOther)
}

func (p *Page) foreign(w http.ResponseWriter) {
	p.views.message(w, http.StatusForbidden, "This form is not of your session. Nothing was changed.")
}

// errAway says that it cannot be told now whether a session's key is still good.
var errAway = errors.New("session cannot be checked now")

// who finds who is signed in, and looks the session's key up again. An error is errNoSession or errAway.
func (p *Page) who(r *http.Request) (session, error) {
	c, err := r.Cookie(cookieName)
	if err != nil {
		return session{}, errNoSession
	}
	s, err := p.sessions.open(r.Context(), c.Value, time.Now())
	if err != nil && !errors.Is(err, errNoSession) {
		p.log.Warn("cannot read a session", zap.Error(err))
		return session{}, errAway
	}
	if err != nil {
		return session{}, err
	}
	switch ended, err := p.sessions.hasEnded(r.Context(), &s); {
	case err != nil:
		p.log.Warn("cannot read whether a session was signed out", zap.Error(err))
		return session{}, errAway
	case ended:
		return session{}, errNoSession
	}
	userID, ok, err := p.service.AuthenticateHash(r.Context(), hex.EncodeToString(s.keyHash[:]))
	switch {
	case err != nil:
		return session{}, errAway
	case !ok || userID != s.userID:
		return session{}, errNoSession
	}
	return s, nil
}

// own lets a costly form of a signed-in user through; otherwise it answers, with refuse where it cannot be told who
// that is, or where the user has sent too many.
func (p *Page) own(w http.ResponseWriter, r *http.Request, refuse func(status int, text string)) (session, bool) {
	s, err := p.who(r)
	switch {
	case errors.Is(err, errAway):
		refuse(http.StatusServiceUnavailable, textAway)
	case err != nil:
		p.signedOut(w, r)
	case !s.owns(r):
		p.foreign(w)
	case !p.afford(w, s.userID):
		refuse(http.StatusTooManyRequests, textMany)
	default:
		return s, true
	}
	return s, false
}

// signedOut asks to sign in again.
func (p *Page) signedOut(w http.ResponseWriter, r *http.Request) {
	setCookie(w, r, "")
	p.views.signIn(w, http.StatusUnauthorized, signInView{Alert: textEnded})
}
