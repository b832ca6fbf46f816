package web

import (
	"cmp"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/smshooks/smshooks/internal/api"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// accountView is the page of a signed-in user.
type accountView struct {
	UserID     int64
	Token      string
	Alert      string // what failed
	Notice     string // what was done
	Endpoints  *endpointsView
	Recovery   *recoveryView
	Form       *form // nil if the settings could not be read
	Options    *optionsForm
	Signing    *signingView
	Tests      []testView
	Deliveries *deliveriesView
	Letters    *lettersView
}

// kinds are the names of the kinds on the page.
var kinds = [webhook.NumKinds]struct{ Name, Label, Hint string }{
	webhook.DLR:     {"dlr", "Delivery reports", "Called when a message is delivered, fails or expires."},
	webhook.Click:   {"click", "Clicks", "Called when someone opens the link in a message for the first time."},
	webhook.Inbound: {"inbound", "Inbound messages", "Called when someone sends a message to one of your numbers."},
	webhook.RevokeClick: {"revoke_click", "Click revocations",
		"Called when earlier clicks turn out to be from bots, at most once a minute."},
}

// form contains the settings being edited.
type form struct {
	URLs        []field
	Auth        field
	AuthSet     bool
	AuthCleared bool // the box to remove them is ticked
	Invalid     bool
}

// field is one input of the form. Was is the value when the page was loaded: only changed fields are saved, so that two
// pages, or the page and the API, do not undo each other's changes.
type field struct {
	Name, Label, Hint string
	Value, Was        string
	Error             string
	Focus             bool
}

func newForm() *form {
	f := &form{Auth: field{Name: "auth"}}
	for _, kind := range webhook.Kinds() {
		f.URLs = append(f.URLs, field{Name: kinds[kind].Name + "_url", Label: kinds[kind].Label, Hint: kinds[kind].Hint})
	}
	return f
}

// formOf returns a form with the stored settings.
func formOf(w *api.Webhooks) *form {
	f := newForm()
	for kind, url := range w.URLs {
		if url != nil {
			f.URLs[kind].Value, f.URLs[kind].Was = *url, *url
		}
	}
	f.AuthSet = w.Auth
	return f
}

// sentForm returns a form with what the user sent. Call forget before it is shown.
func sentForm(sent url.Values) *form {
	f := newForm()
	for i := range f.URLs {
		u := &f.URLs[i]
		u.Value, u.Was = strings.TrimSpace(sent.Get(u.Name)), sent.Get("was_"+u.Name)
	}
	f.Auth.Value = sent.Get("auth")
	f.AuthSet, f.AuthCleared = sent.Get("auth_set") != "", sent.Get("auth_clear") != ""
	return f
}

// change returns what the user changed.
func (f *form) change() api.Change {
	var c api.Change
	for i := range f.URLs {
		if u := &f.URLs[i]; u.Value != u.Was {
			c.URLs[i] = &u.Value
		}
	}
	switch {
	case f.Auth.Value != "":
		c.Auth = &f.Auth.Value
	case f.AuthCleared:
		c.Auth = new(string)
	}
	return c
}

// refuse shows the errors at their fields and focuses the first.
func (f *form) refuse(invalid *api.InvalidError) {
	fields := append(make([]*field, 0, len(f.URLs)+1), &f.Auth)
	for i := range f.URLs {
		fields = append(fields, &f.URLs[i])
	}
	f.Invalid = refuse(fields, invalid)
}

// refuse shows the errors at their fields and focuses the first. It reports whether there was one.
func refuse(fields []*field, invalid *api.InvalidError) (any bool) {
	for _, e := range invalid.Fields {
		for _, field := range fields {
			if field.Name == e.Field {
				field.Error, field.Focus, any = sentence(e.Message), !any, true
			}
		}
	}
	return any
}

// forget drops the entered credentials, which no page shows, and asks the user to enter them again.
func (f *form) forget() *form {
	if f.Auth.Value != "" && f.Auth.Error == "" {
		f.Auth.Error = "These credentials were not saved. Please enter them again."
	}
	f.Auth.Value = ""
	return f
}

// notice returns the text for a redirect back to the page. A link cannot inject text: the texts are fixed and n is a
// number.
func notice(q url.Values) string {
	switch n, err := strconv.Atoi(q.Get("n")); q.Get("done") {
	case "saved":
		return "Saved. Events are sent to the new URLs from now on."
	case "options":
		return "Saved. The options apply from now on."
	case "recovering":
		return "Events that were waiting to be sent again are sent now. See Recent deliveries for the results."
	case "unsigned":
		return "Requests are not signed any more."
	case "signed-out":
		return "You have signed out."
	case "replayed":
		if err != nil || n < 1 {
			return "No event was sent again: the events are no longer stored, or they are already being sent again."
		}
		if n == 1 {
			return "1 event is being sent again. See Recent deliveries for the result."
		}
		return strconv.Itoa(n) + " events are being sent again. See Recent deliveries for the results."
	}
	return ""
}

// show writes the page, or the sign-in form.
func (p *Page) show(w http.ResponseWriter, r *http.Request) {
	if q := r.URL.Query(); q.Has("token") && r.Method == http.MethodGet {
		p.signInByToken(w, r, q.Get("token"))
		return
	}
	s, err := p.who(r)
	switch {
	case errors.Is(err, errUnavailable):
		p.views.message(w, http.StatusServiceUnavailable, textUnavailable)
	case err != nil:
		if _, absent := r.Cookie(cookieName); absent == nil {
			p.signedOut(w, r)
			return
		}
		p.views.signIn(w, http.StatusOK, signInView{Notice: notice(r.URL.Query())})
	default:
		p.account(w, r, &s, http.StatusOK, accountView{Notice: notice(r.URL.Query())})
	}
}

// account writes the page. It reads the parts that v lacks.
func (p *Page) account(w http.ResponseWriter, r *http.Request, s *session, status int, v accountView) {
	v.UserID, v.Token = s.userID, s.formToken()
	if v.Form == nil {
		if settings, err := p.service.Settings(r.Context(), s.userID); err == nil {
			v.Form = formOf(&settings)
		} else {
			status, v.Alert = http.StatusServiceUnavailable, textSettings
		}
	}
	if v.Options == nil || v.Signing == nil {
		if further, err := p.service.Further(r.Context(), s.userID); err == nil {
			v.Options = cmp.Or(v.Options, optionsOf(&further))
			v.Signing = cmp.Or(v.Signing, &signingView{Signing: further.Signing})
		} else {
			status, v.Alert = http.StatusServiceUnavailable, textSettings
		}
	}
	if v.Tests == nil {
		v.Tests = untried()
	}
	v.Endpoints = p.endpoints(r.Context(), s.userID)
	q := r.URL.Query()
	v.Deliveries = p.deliveries(r.Context(), s.userID, q)
	v.Letters = p.letters(w, r, s.userID, q)
	v.Recovery = p.recovery(r, s.userID, v.Endpoints.failing || v.Deliveries.waits)
	p.views.render(w, status, "account.html", v)
}

// onlyForm writes the form that the user sent. The page can show nothing else without the store, but the user must not
// lose what they entered (except secrets).
func (p *Page) onlyForm(w http.ResponseWriter, r *http.Request, status int, v accountView) {
	v.UserID, _ = strconv.ParseInt(r.PostForm.Get("user"), 10, 64)
	v.Token = r.PostForm.Get("token")
	p.views.render(w, status, "account.html", v)
}

// save stores what the user changed.
func (p *Page) save(w http.ResponseWriter, r *http.Request) {
	f := sentForm(r.PostForm)
	onlyForm := func(status int, alert string) { p.onlyForm(w, r, status, accountView{Form: f.forget(), Alert: alert}) }
	s, ok := p.own(w, r, onlyForm)
	if !ok {
		return
	}
	if f.AuthCleared && f.Auth.Value != "" {
		f.refuse(&api.InvalidError{Fields: []api.FieldError{{Field: "auth",
			Message: "must be empty to remove the stored credentials"}}})
		p.account(w, r, &s, http.StatusUnprocessableEntity, accountView{Form: f.forget()})
		return
	}
	_, err := p.service.SetWebhook(r.Context(), s.userID, f.change())
	var invalid *api.InvalidError
	switch {
	case errors.As(err, &invalid):
		f.refuse(invalid)
		p.account(w, r, &s, http.StatusUnprocessableEntity, accountView{Form: f.forget()})
	case err != nil:
		onlyForm(http.StatusServiceUnavailable, textUnavailable)
	default:
		http.Redirect(w, r, base+"?done=saved", http.StatusSeeOther)
	}
}

func shortTime(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") }
