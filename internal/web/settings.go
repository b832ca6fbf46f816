package web

import (
	"cmp"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/smshooks/smshooks/internal/api"
	"github.com/smshooks/smshooks/pkg/webhook"
)

const settingsPath = base + "/settings"

// settingsView is where a user changes and tests the settings.
type settingsView struct {
	frame
	Form    *form // nil if the settings could not be read
	Options *optionsForm
	Signing *signingView
	Tests   []testView
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
	Error, Warning    string
	Focus             bool
}

// describedBy returns the ids of the texts about a field.
func (f field) describedBy() string {
	var ids []string
	for _, text := range []struct{ text, id string }{{f.Error, "-error"}, {f.Warning, "-warning"}, {f.Hint, "-hint"}} {
		if text.text != "" {
			ids = append(ids, f.Name+text.id)
		}
	}
	return strings.Join(ids, " ")
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

// settings writes the settings.
func (p *Page) settings(w http.ResponseWriter, r *http.Request, s *session, status int, f frame) {
	if v := p.takeSecret(w, r, s.userID); v != nil {
		f.Notice = textSecret
		p.edit(w, r, s, status, settingsView{frame: f, Signing: v})
		return
	}
	p.edit(w, r, s, status, settingsView{frame: f})
}

// edit writes the settings. It reads the parts that v lacks.
func (p *Page) edit(w http.ResponseWriter, r *http.Request, s *session, status int, v settingsView) {
	v.of(s, "settings")
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
			p.offer(r, s.userID, v.Signing, &further)
		} else {
			status, v.Alert = http.StatusServiceUnavailable, textSettings
		}
	}
	if v.Tests == nil {
		v.Tests = untried()
	}
	p.warn(&v)
	p.views.render(w, status, "settings.html", &v)
}

// warn marks the stored URLs that no request will reach, or to which credentials are sent in the clear.
func (p *Page) warn(v *settingsView) {
	check := func(f *field, credentials bool) {
		switch {
		case f.Value == "" || f.Error != "":
		case p.service.Blocks(f.Value):
			f.Warning = "No request will reach this URL: its address is private, or its port is not allowed."
		case credentials && strings.HasPrefix(strings.ToLower(f.Value), "http:"):
			f.Warning = "Your credentials are sent to this URL without encryption. Use https."
		}
	}
	auth := v.Form != nil && v.Form.AuthSet
	if v.Form != nil {
		for kind := range v.Form.URLs {
			check(&v.Form.URLs[kind], auth && webhook.Kind(kind) == webhook.DLR)
		}
	}
	if v.Options != nil {
		for kind := range v.Options.Kinds {
			check(&v.Options.Kinds[kind].Failover, auth && webhook.Kind(kind) == webhook.DLR)
		}
	}
}

// onlyForm writes the form that the user sent. The view can show nothing else without the store, but the user must not
// lose what they entered (except secrets).
func (p *Page) onlyForm(w http.ResponseWriter, r *http.Request, status int, v settingsView) {
	v.View = "settings"
	v.UserID, _ = strconv.ParseInt(r.PostForm.Get("user"), 10, 64)
	v.Token = r.PostForm.Get("token")
	p.views.render(w, status, "settings.html", &v)
}

// save stores what the user changed.
func (p *Page) save(w http.ResponseWriter, r *http.Request) {
	f := sentForm(r.PostForm)
	onlyForm := func(status int, alert string) {
		p.onlyForm(w, r, status, settingsView{frame: frame{Alert: alert}, Form: f.forget()})
	}
	s, ok := p.own(w, r, onlyForm)
	if !ok {
		return
	}
	if f.AuthCleared && f.Auth.Value != "" {
		f.refuse(&api.InvalidError{Fields: []api.FieldError{{Field: "auth",
			Message: "must be empty to remove the stored credentials"}}})
		p.edit(w, r, &s, http.StatusUnprocessableEntity, settingsView{Form: f.forget()})
		return
	}
	_, err := p.service.SetWebhook(r.Context(), s.userID, f.change())
	var invalid *api.InvalidError
	switch {
	case errors.As(err, &invalid):
		f.refuse(invalid)
		p.edit(w, r, &s, http.StatusUnprocessableEntity, settingsView{Form: f.forget()})
	case err != nil:
		onlyForm(http.StatusServiceUnavailable, textUnsaved)
	default:
		http.Redirect(w, r, settingsPath+"?done=saved", http.StatusSeeOther)
	}
}
