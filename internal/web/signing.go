package web

import (
	"net/http"
	"time"
)

// signingView describes the signing of requests.
type signingView struct {
	Signing bool
	Secret  string    // a new one; no other page shows it
	Until   time.Time // until when the one before is valid; zero: there is none
}

// graces are how long the previous secret stays valid, the first if nothing else is chosen.
var graces = []struct {
	value, label string
	length       time.Duration
}{
	{"24h", "for 24 hours", 24 * time.Hour}, {"1h", "for 1 hour", time.Hour}, {"72h", "for 3 days", 72 * time.Hour},
	{"168h", "for 7 days", 168 * time.Hour}, {"0s", "no longer: it is known to others", 0},
}

// Graces returns the choices.
func (v *signingView) Graces() []option {
	var all []option
	for i, g := range graces {
		all = append(all, option{g.value, g.label, i == 0})
	}
	return all
}

// rotateSecret creates a signing secret and shows it. There is no redirect, since no other page may show the secret.
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
	secret, until, err := p.service.RotateSecret(r.Context(), s.userID, grace)
	if err != nil {
		p.views.message(w, http.StatusServiceUnavailable, textUnavailable)
		return
	}
	v := &signingView{Signing: true, Secret: secret}
	if until != nil {
		v.Until, _ = time.Parse(time.RFC3339, *until) // the service has formatted it
	}
	p.edit(w, r, &s, http.StatusOK, settingsView{frame: frame{Notice: textSecret}, Signing: v})
}

// clearSecret ends signing.
func (p *Page) clearSecret(w http.ResponseWriter, r *http.Request) {
	s, ok := p.own(w, r, func(status int, text string) { p.views.message(w, status, text) })
	if !ok {
		return
	}
	if err := p.service.ClearSecret(r.Context(), s.userID); err != nil {
		p.views.message(w, http.StatusServiceUnavailable, textUnavailable)
		return
	}
	http.Redirect(w, r, settingsPath+"?done=unsigned#signing", http.StatusSeeOther)
}
