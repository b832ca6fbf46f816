package web

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/smshooks/smshooks/internal/api"
)

// signingView describes the signing of requests.
type signingView struct {
	Signing bool
	Secret  string    // a new one; no other page shows it
	Until   time.Time // until when the previous one is valid; zero: there is none
	Offer   string    // a sealed offer for the form
}

// graces holds the choices for how long the previous secret stays valid; the first is the default.
var graces = []struct {
	value, label string
	length       time.Duration
}{
	{"24h", "for 24 hours", 24 * time.Hour}, {"1h", "for 1 hour", time.Hour}, {"72h", "for 3 days", 72 * time.Hour},
	{"168h", "for 7 days", 168 * time.Hour}, {"0s", "do not keep it: it was leaked", 0},
}

// Graces returns the choices.
func (v *signingView) Graces() []option {
	var all []option
	for i, g := range graces {
		all = append(all, option{g.value, g.label, i == 0})
	}
	return all
}

// rotateSecret creates a signing secret and redirects to the page that shows it, once. Until then a sealed cookie holds
// it, so that a reload does not create another secret.
func (p *Page) rotateSecret(w http.ResponseWriter, r *http.Request) {
	s, ok := p.own(w, r, func(status int, text string) { p.views.message(w, status, text) })
	if !ok {
		return
	}
	grace := graces[0].length
	for _, g := range graces {
		if g.value == r.PostForm.Get("grace") {
			grace = g.length
		}
	}
	secret, until, err := p.rotate(r, s.userID, grace)
	if err != nil {
		p.views.message(w, http.StatusServiceUnavailable, textUnsaved)
		return
	}
	n := newSecret{UserID: s.userID, Secret: secret, Expires: time.Now().Add(secretLasts)}
	if until != nil {
		n.Until, _ = time.Parse(time.RFC3339, *until) // formatted by the service
	}
	plain, _ := json.Marshal(n) // never fails
	sealed, err := p.sessions.seal(r.Context(), plain, secretPurpose)
	if err != nil { // the secret is stored, and must be shown
		p.edit(w, r, &s, http.StatusOK, settingsView{frame: frame{Notice: textSecret}, Signing: n.view()})
		return
	}
	writeCookie(w, r, secretCookie(sealed))
	http.Redirect(w, r, settingsPath+"#signing", http.StatusSeeOther)
}

// rotate creates a signing secret: the one that the form offered, or another one.
func (p *Page) rotate(r *http.Request, userID int64, grace time.Duration) (secret string, until *string, err error) {
	var o ownOffer
	plain, err := p.sessions.open(r.Context(), r.PostForm.Get("offer"), offerPurpose)
	if err != nil || json.Unmarshal(plain, &o) != nil || o.UserID != userID {
		return p.service.RotateSecret(r.Context(), userID, grace)
	}
	return p.service.TakeOffer(r.Context(), userID, o.Offer, grace)
}

// ownOffer is an offer in a user's form.
type ownOffer struct {
	UserID int64
	api.Offer
}

// offerPurpose is the associated data of sealed offers.
var offerPurpose = []byte("smshooks offered secret 1")

// offer adds an offer to a form. Without one, a form that is sent twice makes two rotations.
func (p *Page) offer(r *http.Request, userID int64, v *signingView, f *api.Further) {
	plain, _ := json.Marshal(ownOffer{userID, f.Offer()}) // never fails
	v.Offer, _ = p.sessions.seal(r.Context(), plain, offerPurpose)
}

// newSecret is a signing secret on its way from the form to the page that shows it.
type newSecret struct {
	UserID  int64
	Secret  string
	Until   time.Time
	Expires time.Time
}

// secretLasts is the time within which a new secret can be shown.
const secretLasts = time.Minute

// secretPurpose is the associated data of sealed secrets.
var secretPurpose = []byte("smshooks new secret 1")

// secretCookie returns the cookie that holds a sealed secret, and with "" the one that deletes it.
func secretCookie(sealed string) *http.Cookie {
	return &http.Cookie{Name: "smshooks_secret", Value: sealed, Path: settingsPath, MaxAge: int(secretLasts.Seconds()),
		SameSite: http.SameSiteStrictMode}
}

func (n *newSecret) view() *signingView {
	return &signingView{Signing: true, Secret: n.Secret, Until: n.Until}
}

// takeSecret returns the view of a new secret and makes the browser forget it. It returns nil if there is none.
func (p *Page) takeSecret(w http.ResponseWriter, r *http.Request, userID int64) *signingView {
	c, err := r.Cookie(secretCookie("").Name)
	if err != nil {
		return nil
	}
	writeCookie(w, r, secretCookie(""))
	plain, err := p.sessions.open(r.Context(), c.Value, secretPurpose)
	var n newSecret
	if err != nil || json.Unmarshal(plain, &n) != nil || n.UserID != userID || !time.Now().Before(n.Expires) {
		return nil
	}
	return n.view()
}

// clearSecret ends signing.
func (p *Page) clearSecret(w http.ResponseWriter, r *http.Request) {
	s, ok := p.own(w, r, func(status int, text string) { p.views.message(w, status, text) })
	if !ok {
		return
	}
	if err := p.service.ClearSecret(r.Context(), s.userID); err != nil {
		p.views.message(w, http.StatusServiceUnavailable, textUnsaved)
		return
	}
	http.Redirect(w, r, settingsPath+"?done=unsigned#signing", http.StatusSeeOther)
}
