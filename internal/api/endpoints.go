package api

import (
	"strconv"
	"strings"
	"time"

	"github.com/smshooks/smshooks/internal/api/form"
	"github.com/smshooks/smshooks/internal/deadletter"
	"github.com/smshooks/smshooks/internal/deliverylog"
	"github.com/smshooks/smshooks/pkg/webhook"
)

const (
	defaultLimit = 20
	maxLimit     = 100
)

func (h *handler) setWebhook(r *request) (any, error) {
	var (
		change  Change
		invalid InvalidError
	)
	for i, name := range settingsFields {
		text, problem := r.params.Text(name)
		*change.field(i) = text
		if problem == "" {
			problem = change.problem(i)
		}
		if problem != "" {
			invalid.Fields = append(invalid.Fields, FieldError{name, problem})
		}
	}
	if len(invalid.Fields) > 0 {
		return nil, &invalid
	}
	w, err := h.service.SetWebhook(r.quick, r.userID, change)
	if err != nil {
		return nil, err
	}
	return newWebhooksReply(w), nil
}

func (h *handler) getWebhook(r *request) (any, error) {
	w, err := h.service.Settings(r.quick, r.userID)
	if err != nil {
		return nil, err
	}
	return newWebhooksReply(w), nil
}

func (h *handler) testWebhook(r *request) (any, error) {
	results, err := h.service.Test(r.ctx, r.userID, nil, nil)
	if err != nil {
		return nil, err
	}
	return testsReply{
		newTestReply(results[webhook.DLR]), newTestReply(results[webhook.Click]),
		newTestReply(results[webhook.Inbound]), newTestReply(results[webhook.RevokeClick]),
	}, nil
}

func (h *handler) deliveries(r *request) (any, error) {
	f, err := ParseDeliveryFilter(func(name string) string {
		text, _ := r.params.Text(name) // a query contains only texts
		if text == nil {
			return ""
		}
		return *text
	})
	if err != nil {
		return nil, err
	}
	attempts, err := h.service.Attempts(r.quick, r.userID, f)
	if err != nil {
		return nil, err
	}
	list := make([]deliveryReply, len(attempts))
	for i := range attempts {
		list[i] = newDeliveryReply(&attempts[i])
	}
	return list, nil
}

// ParseDeliveryFilter reads the parameters kind, status, limit (1 to 100, default 20), before (RFC 3339), message_id
// and http_code. get returns a parameter, or "" if it is absent. An error is an *InvalidError.
func ParseDeliveryFilter(get func(name string) string) (deliverylog.Filter, error) {
	var (
		f       = deliverylog.Filter{Limit: defaultLimit}
		invalid InvalidError
	)
	refuse := func(field, problem string) { invalid.Fields = append(invalid.Fields, FieldError{field, problem}) }
	if text := get("kind"); text != "" {
		if kind, err := webhook.ParseKind(text); err == nil {
			f.Kind = &kind
		} else {
			refuse("kind", mustBeKind)
		}
	}
	if text := get("status"); text != "" {
		for _, result := range webhook.Results() {
			if result.String() == text {
				f.Result = &result
			}
		}
		if f.Result == nil {
			refuse("status", "must be ok, failed, timeout, error or blocked")
		}
	}
	if text := get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > maxLimit {
			refuse("limit", "must be a whole number from 1 to 100")
		}
		f.Limit = n
	}
	if text := get("before"); text != "" {
		var err error
		if f.Before, err = parseTime(text); err != nil {
			refuse("before", mustBeTime)
		}
	}
	f.Message = get("message_id")
	if text := get("http_code"); text != "" {
		if f.Status = parseCode(text); f.Status == 0 {
			refuse("http_code", "must be a status code such as 503")
		}
	}
	if len(invalid.Fields) > 0 {
		return deliverylog.Filter{}, &invalid
	}
	return f, nil
}

const (
	mustBeKind = "must be dlr, click, inbound or revoke_click"
	mustBeTime = "must be an RFC 3339 time such as 2026-02-27T14:30:00.000Z"
)

// parseTime parses RFC 3339. An unescaped '+' of the zone arrives as a space. The result is never the zero time, which
// would mean no bound: Go programs send 0001-01-01T00:00:00Z for a time that they did not set.
func parseTime(text string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, strings.Replace(text, " ", "+", 1))
	if t.IsZero() {
		t = t.Add(1)
	}
	return t, err
}

func (h *handler) replay(r *request) (any, error) {
	f, wanted, err := parseReplay(r.params)
	if err != nil {
		return nil, err
	}
	var n int
	if wanted {
		if n, err = h.service.Replay(r.ctx, r.userID, f); err != nil {
			return nil, err
		}
	}
	return replayReply{n}, nil
}

// parseReplay reads ids, since, until and kind, which all narrow the selection. wanted is false if no field is given or
// ids is empty. An error is an *InvalidError.
func parseReplay(p form.Values) (f deadletter.Filter, wanted bool, err error) {
	s, err := parseSelection(p, "ids", "since", "until", "kind")
	f = deadletter.Filter{IDs: s.ids, Since: s.since, Until: s.until}
	if s.kind != nil {
		f.Kind = s.kind.String()
	}
	return f, s.given, err
}

// listOf reads a list of event ids: a JSON array, or texts with commas between the ids. empty is true if a list without
// ids is given: an empty array, or a text without ids, which is what a script with an empty variable sends.
func listOf(v form.Value) (ids []string, empty bool) {
	for _, text := range v.Texts {
		if v.List {
			ids = append(ids, text)
			continue
		}
		for id := range strings.SplitSeq(text, ",") {
			if id = strings.TrimSpace(id); id != "" {
				ids = append(ids, id)
			}
		}
	}
	return ids, len(ids) == 0 && !v.Null && (v.List || len(v.Texts) > 0)
}
