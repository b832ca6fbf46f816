package web

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/smshooks/smshooks/internal/api"
	apiform "github.com/smshooks/smshooks/internal/api/form"
	"github.com/smshooks/smshooks/internal/settings"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// optionsForm contains the further settings being edited.
type optionsForm struct {
	Kinds    []kindOptions
	Order    field
	Statuses field // with commas between them
	Invalid  bool
}

// kindOptions are the options of one kind.
type kindOptions struct {
	Label    string
	Failover field
	Paused   field // true or false
}

func newOptions() *optionsForm {
	f := &optionsForm{Order: field{Name: "dlr_order"}, Statuses: field{Name: "dlr_statuses"}}
	for _, k := range kinds {
		f.Kinds = append(f.Kinds, kindOptions{k.Label,
			field{Name: k.Name + "_failover_url", Label: "Failover URL"}, field{Name: k.Name + "_paused"}})
	}
	return f
}

// fields returns all fields, in the order of the page.
func (f *optionsForm) fields() []*field {
	var all []*field
	for i := range f.Kinds {
		all = append(all, &f.Kinds[i].Failover, &f.Kinds[i].Paused)
	}
	return append(all, &f.Order, &f.Statuses)
}

// optionsOf returns a form with the stored settings.
func optionsOf(stored *api.Further) *optionsForm {
	f := newOptions()
	for kind := range f.Kinds {
		if url := stored.FailoverURLs[kind]; url != nil {
			f.Kinds[kind].Failover.Value = *url
		}
		f.Kinds[kind].Paused.Value = strconv.FormatBool(stored.Paused[kind])
	}
	f.Order.Value, f.Statuses.Value = stored.Order, inOrder(stored.Statuses)
	for _, field := range f.fields() {
		field.Was = field.Value
	}
	return f
}

// inOrder returns the statuses in the order of the page, which is the order in which a browser sends them. nil is all.
func inOrder(statuses []string) string {
	names := webhook.StatusNames()
	if statuses != nil {
		names = slices.DeleteFunc(names, func(name string) bool { return !slices.Contains(statuses, name) })
	}
	return strings.Join(names, ",")
}

// sentOptions returns a form with what the user sent.
func sentOptions(sent url.Values) *optionsForm {
	f := newOptions()
	for _, field := range f.fields() {
		field.Value, field.Was = strings.TrimSpace(sent.Get(field.Name)), sent.Get("was_"+field.Name)
	}
	for i := range f.Kinds { // a box that is not ticked is not sent
		f.Kinds[i].Paused.Value = strconv.FormatBool(f.Kinds[i].Paused.Value == "true")
	}
	f.Statuses.Value = strings.Join(sent["dlr_statuses"], ",")
	return f
}

// change returns what the user changed.
func (f *optionsForm) change() apiform.Values {
	values := apiform.Values{}
	for _, field := range f.fields() {
		if field.Value != field.Was {
			values[field.Name] = apiform.Value{Texts: []string{field.Value}}
		}
	}
	if _, changed := values["dlr_statuses"]; !changed {
		return values
	}
	switch names := strings.Split(f.Statuses.Value, ","); {
	case f.Statuses.Value == "":
		values["dlr_statuses"] = apiform.Value{List: true} // not the text "", which would reset it
	case slices.Equal(names, webhook.StatusNames()):
		values["dlr_statuses"] = apiform.Value{Texts: []string{""}}
	}
	return values
}

// Orders returns the choices of dlr_order.
func (f *optionsForm) Orders() []option {
	latest := f.Order.Value == settings.OrderLatest
	return []option{
		{settings.OrderAll, "Send every receipt", !latest},
		{settings.OrderLatest, "Skip a receipt if a later one of the message was delivered", latest},
	}
}

// Boxes returns the statuses, those that are sent selected.
func (f *optionsForm) Boxes() []option {
	var all []option
	sent := strings.Split(f.Statuses.Value, ",")
	for _, name := range webhook.StatusNames() {
		all = append(all, option{name, name, slices.Contains(sent, name)})
	}
	return all
}

// saveOptions stores what the user changed.
func (p *Page) saveOptions(w http.ResponseWriter, r *http.Request) {
	f := sentOptions(r.PostForm)
	onlyForm := func(status int, alert string) {
		p.onlyForm(w, r, status, settingsView{frame: frame{Alert: alert}, Options: f})
	}
	s, ok := p.own(w, r, onlyForm)
	if !ok {
		return
	}
	change, err := api.ParseFurther(f.change())
	if err == nil {
		_, err = p.service.SetFurther(r.Context(), s.userID, change)
	}
	var invalid *api.InvalidError
	switch {
	case errors.As(err, &invalid):
		f.Invalid = refuse(f.fields(), invalid)
		if f.Statuses.Error != "" && f.Statuses.Value == "" {
			f.Statuses.Error = "Select at least one status."
		}
		p.edit(w, r, &s, http.StatusUnprocessableEntity, settingsView{Options: f})
	case err != nil:
		onlyForm(http.StatusServiceUnavailable, textUnsaved)
	default:
		http.Redirect(w, r, settingsPath+"?done=options#options", http.StatusSeeOther)
	}
}
