package web

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/smshooks/smshooks/internal/api"
	"github.com/smshooks/smshooks/internal/api/limit"
	"github.com/smshooks/smshooks/internal/apikey"
	"github.com/smshooks/smshooks/internal/outage"
)

const (
	textBusy    = "Too many tests are running at the same time. Please try again in a moment."
	textReplays = "Nothing was sent: another request of yours is in progress, or you have reached the hourly limit. " +
		"Please try again later."
	textRecovering  = "Your waiting events are being sent already. Please try again when that has ended."
	textUnavailable = "The service is temporarily unavailable. Nothing was changed. Please try again in a moment."
	textSettings    = "Your settings are temporarily unavailable. Please try again in a moment."
	textDeliveries  = "Your deliveries are temporarily unavailable. Please try again in a moment."
	textSignOut     = "Signing out failed. Please try again in a moment."
	textLink        = "This sign-in link is not valid, or it was used before. Please open it again where you found it, " +
		"or enter your API key."
	textSecret = "This is your new signing secret. Copy it now: it is not shown again."
	textEnded  = "Your session has ended. Please sign in again."
	textMany   = "Too many requests. Nothing was changed. Please wait a moment and try again."

	// After a failure in the middle of a change, or of sending events again.
	textUnsaved = "The service is temporarily unavailable. Your change may or may not have been saved. " +
		"Please look at your settings in a moment, and try again if it was not."
	textUnsent = "The service is temporarily unavailable. Some events may have been sent. " +
		"Please look at Deliveries before you try again."
)

// signIn starts a session for a valid key.
func (p *Page) signIn(w http.ResponseWriter, r *http.Request) {
	key, next := strings.TrimSpace(r.PostForm.Get("key")), r.PostForm.Get("next")
	refuse := func(status int, v signInView) { v.Next = next; p.views.signIn(w, status, v) }
	if key == "" {
		refuse(http.StatusUnauthorized, signInView{KeyError: "Please enter an API key."})
		return
	}
	userID, ok, err := p.service.Authenticate(r.Context(), r, key)
	if tooMany, is := errors.AsType[*api.TooManyError](err); is {
		limit.SetRetryAfter(w, tooMany.After)
		refuse(http.StatusTooManyRequests,
			signInView{KeyError: "This API key is unknown or revoked. " +
				"There were too many attempts with unknown keys: please wait a moment and try again."})
		return
	}
	if err != nil {
		refuse(http.StatusServiceUnavailable, signInView{Alert: textUnavailable})
		return
	}
	if !ok {
		refuse(http.StatusUnauthorized, signInView{KeyError: "This API key is unknown or revoked."})
		return
	}
	s := session{userID: userID, expires: time.Now().Add(sessionLasts)}
	hash, _ := hex.DecodeString(apikey.Hash(key))
	copy(s.keyHash[:], hash)
	_, _ = rand.Read(s.token[:]) // never fails
	cookie, err := p.sessions.seal(r.Context(), s.append(nil), associated)
	if err != nil {
		report(p.unread, r, err)
		refuse(http.StatusServiceUnavailable, signInView{Alert: textUnavailable})
		return
	}
	setCookie(w, r, cookie, http.SameSiteStrictMode)
	http.Redirect(w, r, within(next), http.StatusSeeOther)
}

// within returns next if it is an address below the page's own, also after a browser and [http.Redirect] have resolved
// its dots. Otherwise it returns the page's address. Browsers read a backslash as a slash.
func within(next string) string {
	route, _, _ := strings.Cut(next, "?")
	route = path.Clean(strings.NewReplacer("%2e", ".", "%2E", ".").Replace(route))
	if !strings.HasPrefix(next, base+"/") || !strings.HasPrefix(route, base+"/") || strings.Contains(route, `\`) {
		return base
	}
	return next
}

// signOut ends the session, so that a copy of the cookie is useless.
func (p *Page) signOut(w http.ResponseWriter, r *http.Request) {
	if c, err := r.Cookie(cookieName); err == nil {
		s, err := p.sessions.openSession(r.Context(), c.Value, time.Now())
		about := p.unread
		if err == nil && !s.owns(r) {
			p.otherSession(w)
			return
		}
		if err == nil {
			about, err = p.unstored, p.sessions.end(r.Context(), &s)
		}
		switch {
		case err == nil:
			about.Recover()
		case !errors.Is(err, errNoSession):
			report(about, r, err)
			p.views.message(w, http.StatusServiceUnavailable, textSignOut)
			return
		}
	}
	setCookie(w, r, "", http.SameSiteStrictMode)
	http.Redirect(w, r, base+"?done=signed-out", http.StatusSeeOther)
}

// report records a failure, unless the request has failed because the client has left.
func report(o *outage.Outage, r *http.Request, err error) {
	if r.Context().Err() == nil {
		o.Fail(err)
	}
}

// otherSession answers a form that belongs to another session.
func (p *Page) otherSession(w http.ResponseWriter) {
	p.views.message(w, http.StatusForbidden,
		"This form belongs to another session. Nothing was changed. Reload the page and try again.")
}

// errUnavailable means that the session cannot be checked now.
var errUnavailable = errors.New("session cannot be checked now")

// who returns the session, after another lookup of its key if it was started with one. Errors are errNoSession or
// errUnavailable.
func (p *Page) who(r *http.Request) (session, error) {
	c, err := r.Cookie(cookieName)
	if err != nil {
		return session{}, errNoSession
	}
	s, err := p.sessions.openSession(r.Context(), c.Value, time.Now())
	if err != nil && !errors.Is(err, errNoSession) {
		report(p.unread, r, err)
		return session{}, errUnavailable
	}
	if err != nil {
		return session{}, err
	}
	ended, err := p.sessions.hasEnded(r.Context(), &s)
	if err != nil {
		report(p.unread, r, err)
		return session{}, errUnavailable
	}
	p.unread.Recover()
	if ended {
		return session{}, errNoSession
	}
	if p.portal.started(&s) {
		return s, nil
	}
	userID, ok, err := p.service.AuthenticateHash(r.Context(), hex.EncodeToString(s.keyHash[:]))
	switch {
	case err != nil:
		return session{}, errUnavailable
	case !ok || userID != s.userID:
		return session{}, errNoSession
	}
	return s, nil
}

// own returns the session of a form. If ok is false, it has answered the request: with refuse if the session cannot be
// checked or the user has sent too many requests.
func (p *Page) own(w http.ResponseWriter, r *http.Request, refuse func(status int, text string)) (session, bool) {
	s, err := p.who(r)
	switch {
	case errors.Is(err, errUnavailable):
		refuse(http.StatusServiceUnavailable, textUnavailable)
	case err != nil:
		p.signedOut(w, r)
	case !s.owns(r):
		p.otherSession(w)
	case !p.afford(w, s.userID):
		refuse(http.StatusTooManyRequests, textMany)
	default:
		return s, true
	}
	return s, false
}

// next returns where a user goes after signing in: to the view that was asked for.
func next(r *http.Request) string {
	if r.Method != http.MethodGet {
		return ""
	}
	return r.URL.RequestURI()
}

// signedOut shows the sign-in form to a user whose session has ended.
func (p *Page) signedOut(w http.ResponseWriter, r *http.Request) {
	setCookie(w, r, "", http.SameSiteStrictMode)
	p.views.signIn(w, http.StatusUnauthorized, signInView{Alert: textEnded, Next: next(r)})
}
