package api

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/smshooks/smshooks/internal/api/form"
	"github.com/smshooks/smshooks/internal/settings"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// Further holds a user's further settings, without secrets.
type Further struct {
	FailoverURLs [webhook.NumKinds]*string // nil = not set
	Paused       [webhook.NumKinds]bool
	Order        string
	Statuses     []string // nil = all
	Signing      bool

	newest string // fingerprint of the newest signing secret
}

func furtherOf(d *settings.Document) Further {
	f := Further{Order: settings.OrderAll, Statuses: d.StatusNames(), Signing: d.Signing(time.Now()),
		newest: fingerprint(d.NewestSecret())}
	for _, kind := range webhook.Kinds() {
		if url := d.FailoverURLs[kind]; url != nil && *url != "" {
			f.FailoverURLs[kind] = url
		}
		f.Paused[kind] = d.IsPaused(kind)
	}
	if d.Order != nil && *d.Order != "" {
		f.Order = *d.Order
	}
	return f
}

// FurtherChange holds new values for SetFurther, by the names of the document's fields; nil resets a field.
type FurtherChange map[string]*string

func (c FurtherChange) apply(d settings.Document) settings.Document {
	for name, value := range c {
		d.Set(name, value)
	}
	return d
}

// Further returns a user's further settings. They include every change that SetFurther has confirmed.
func (s *Service) Further(ctx context.Context, userID int64) (Further, error) {
	d, err := s.document(ctx, userID)
	if err != nil {
		return Further{}, err
	}
	return furtherOf(&d), nil
}

// SetFurther applies all of c to a user's further settings or nothing, and returns the result.
func (s *Service) SetFurther(ctx context.Context, userID int64, c FurtherChange) (Further, error) {
	if len(c) == 0 {
		return s.Further(ctx, userID)
	}
	d, err := s.update(ctx, userID, c.apply)
	if err != nil {
		return Further{}, err
	}
	return furtherOf(&d), nil
}

func (h *handler) getFurther(r *request) (any, error) {
	f, err := h.service.Further(r.quick, r.userID)
	if err != nil {
		return nil, err
	}
	return newFurtherReply(f), nil
}

func (h *handler) setFurther(r *request) (any, error) {
	change, err := ParseFurther(r.params)
	if err != nil {
		return nil, err
	}
	f, err := h.service.SetFurther(r.quick, r.userID, change)
	if err != nil {
		return nil, err
	}
	return newFurtherReply(f), nil
}

// ParseFurther parses the changes in p, by the names of the settings. An error is an *InvalidError.
func ParseFurther(p form.Values) (FurtherChange, error) {
	var invalid InvalidError
	change := FurtherChange{}
	read := func(name string, parse func(form.Value) (*string, string)) {
		v, given := p[name]
		if !given {
			return
		}
		value, problem := parse(v)
		if problem != "" {
			invalid.Fields = append(invalid.Fields, FieldError{name, problem})
		}
		change[name] = value
	}
	for _, kind := range webhook.Kinds() {
		read(kind.String()+"_failover_url", parseFailoverURL)
	}
	for _, kind := range webhook.Kinds() {
		read(kind.String()+"_paused", parsePaused)
	}
	read("dlr_order", parseOrder)
	read("dlr_statuses", parseStatuses)
	if len(invalid.Fields) > 0 {
		return nil, &invalid
	}
	return change, nil
}

func parseFailoverURL(v form.Value) (value *string, problem string) {
	text, problem := v.Text()
	if problem != "" || text == "" {
		return nil, problem
	}
	if err := webhook.ValidateURL(text); err != nil {
		return nil, err.Error()
	}
	return &text, ""
}

func parsePaused(v form.Value) (value *string, problem string) {
	if v.Flag {
		v.Wrong = false
	}
	switch text, _ := v.Text(); {
	case v.Wrong, v.List:
	case text == "", text == "false":
		return nil, ""
	case text == "true":
		return &text, ""
	}
	return nil, "must be true or false"
}

func parseOrder(v form.Value) (value *string, problem string) {
	switch text, problem := v.Text(); {
	case problem != "":
		return nil, problem
	case text == "", text == settings.OrderAll:
		return nil, ""
	case text == settings.OrderLatest:
		return &text, ""
	}
	return nil, "must be all or latest"
}

// parseStatuses parses a JSON array or a comma-separated text. The last of several values counts.
func parseStatuses(v form.Value) (value *string, problem string) {
	names := v.Texts
	if v.Wrong {
		return nil, "must be a list of strings, a string or null"
	}
	if !v.List {
		text, _ := v.Text()
		if text == "" {
			return nil, ""
		}
		names = nil
		for name := range strings.SplitSeq(text, ",") {
			names = append(names, strings.TrimSpace(name))
		}
	}
	var unique []string
	for _, name := range names {
		if !slices.Contains(unique, name) {
			unique = append(unique, name)
		}
	}
	value, err := settings.NewStatuses(unique)
	if err != nil {
		return nil, err.Error()
	}
	return value, ""
}
