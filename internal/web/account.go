package web

import (
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
	Alert      string // something went wrong, with the whole page
	Notice     string // something was done
	Form       *form  // nil: the settings are not known
	Tests      []testView
	Deliveries *deliveriesView
	Letters    *lettersView
}

// kinds are the kinds of events as the page speaks of them.
var kinds = [webhook.NumKinds]struct{ Name, Label, Hint string }{
	webhook.DLR:         {"dlr", "Delivery reports", "Called when a message is delivered, fails or expires."},
	webhook.Click:       {"click", "Clicks", "Called when somebody first opens the link in a message."},
	webhook.Inbound:     {"inbound", "Inbound messages", "Called when somebody sends a message to one of your numbers."},
	webhook.RevokeClick: {"revoke_click", "Click revocations", "Called when clicks turn out to be made by bots, at most once a minute."},
}

// form is the settings as they are edited.
type form struct {
	URLs        []field
	Auth        field
	AuthSet     bool
	AuthCleared bool // the box to clear them is ticked
	Invalid     bool
}

// field is one text of the form. Was is what the page was loaded with: only what the user changed is saved, so that
// two pages, or the page and the API, don't undo each other's work.
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

// formOf shows what is stored.
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

// sentForm shows again what the user sent, but for the credentials (forget).
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

// change is what the user changed.
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

// refuse puts errors next to their fields, and the focus on the first.
func (f *form) refuse(invalid *api.InvalidError) {
	fields := append(make([]*field, 0, len(f.URLs)+1), &f.Auth)
	for i := range f.URLs {
		fields = append(fields, &f.URLs[i])
	}
	for _, e := range invalid.Fields {
		for _, field := range fields {
			if field.Name == e.Field {
				field.Error, field.Focus = sentence(e.Message), !f.Invalid
				f.Invalid = true
			}
		}
	}
}

// forget drops the credentials that were entered, since no page shows any. Who entered some is asked for them again.
func (f *form) forget() *form {
	if f.Auth.Value != "" && f.Auth.Error == "" {
		f.Auth.Error = "These were not saved and are not shown again: please enter them once more."
	}
	f.Auth.Value = ""
	return f
}

// notices are what the page says after it was told to go to itself. n is a number, the texts are fixed: an address
// cannot put words into the page's mouth.
func notice(q url.Values) string {
	switch n, err := strconv.Atoi(q.Get("n")); q.Get("done") {
	case "saved":
		return "Saved. Events are sent to the new addresses from now on."
	case "signed-out":
		return "You are signed out."
	case "replayed":
		if err != nil || n < 1 {
			return "Nothing was sent again: these events are no longer there, or are being sent again already."
		}
		if n == 1 {
			return "1 event is being sent again. It shows up under recent deliveries."
		}
		return strconv.Itoa(n) + " events are being sent again. They show up under recent deliveries."
	}
	return ""
}

// show answers with the page, or with the form to sign in.
func (p *Page) show(w http.ResponseWriter, r *http.Request) {
	s, err := p.who(r)
	switch {
	case errors.Is(err, errAway):
		p.views.message(w, http.StatusServiceUnavailable, textAway)
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

// account answers with the page, whose parts are read unless v has them.
func (p *Page) account(w http.ResponseWriter, r *http.Request, s *session, status int, v accountView) {
	v.UserID, v.Token = s.userID, s.formToken()
	if v.Form == nil {
		if settings, err := p.service.Settings(r.Context(), s.userID); err == nil {
			v.Form = formOf(&settings)
		} else {
			status, v.Alert = http.StatusServiceUnavailable, "Your settings cannot be shown just now. Please try again in a moment."
		}
	}
	if v.Tests == nil {
		v.Tests = untried()
	}
	q := r.URL.Query()
	v.Deliveries = p.deliveries(r.Context(), s.userID, q)
	v.Letters = p.letters(w, r, s.userID, q)
	p.views.render(w, status, "account.html", v)
}

// save stores what the user changed.
func (p *Page) save(w http.ResponseWriter, r *http.Request) {
	f := sentForm(r.PostForm)
	// Without the store there is nothing else to show, but what was entered must not be lost, unless it is a secret.
	onlyForm := func(status int, alert string) {
		id, _ := strconv.ParseInt(r.PostForm.Get("user"), 10, 64)
		p.views.render(w, status, "account.html", accountView{UserID: id, Token: r.PostForm.Get("token"), Form: f.forget(), Alert: alert})
	}
	s, ok := p.own(w, r, onlyForm)
	if !ok {
		return
	}
	if f.AuthCleared && f.Auth.Value != "" {
		f.refuse(&api.InvalidError{Fields: []api.FieldError{{Field: "auth", Message: "must be empty when the stored credentials are to be removed"}}})
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
		onlyForm(http.StatusServiceUnavailable, textAway)
	default:
		http.Redirect(w, r, base+"?done=saved", http.StatusSeeOther)
	}
}

func shortTime(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") }
