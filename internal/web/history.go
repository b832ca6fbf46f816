package web

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/smshooks/smshooks/internal/api"
	"github.com/smshooks/smshooks/internal/api/limit"
	"github.com/smshooks/smshooks/internal/deadletter"
	"github.com/smshooks/smshooks/internal/deliverylog"
	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/pkg/webhook"
)

const (
	attemptsShown = "10"
	lettersShown  = 50
	valueShown    = 4096 // bytes of a dead letter's value
)

// deliveriesView is the list of attempts and the chart above it.
type deliveriesView struct {
	Alert    string
	Kinds    []option
	Statuses []option
	Rows     []deliveryView
	Older    string // link to the next page, "" if this one is not full
	Newest   string // link to the first page, "" if this is it
	Filtered bool
	Chart    *chart
	Period   string

	waits bool // an event waits for its next attempt
}

type option struct {
	Value, Label string
	Selected     bool
}

type deliveryView struct {
	Time, Machine        string
	Kind, ID, Host       string
	Attempt              int
	Failover             bool // it is the request to the failover URL
	Status, Result, Took string
}

var statusLabels = [webhook.NumResults]string{
	webhook.OK: "succeeded", webhook.Failed: "failed", webhook.TimedOut: "timed out", webhook.Errored: "no connection",
	webhook.Blocked: "URL not allowed",
}

// deliveries reads the user's attempts that match q.
func (p *Page) deliveries(ctx context.Context, userID int64, q url.Values) *deliveriesView {
	v := &deliveriesView{Kinds: []option{{"", "all events", false}}, Statuses: []option{{"", "all results", false}},
		Period: period(q)}
	for _, k := range kinds {
		v.Kinds = append(v.Kinds, option{k.Name, k.Label, q.Get("kind") == k.Name})
	}
	for _, r := range webhook.Results() {
		v.Statuses = append(v.Statuses, option{r.String(), statusLabels[r], q.Get("status") == r.String()})
	}
	f, err := api.ParseDeliveryFilter(func(name string) string {
		if name == "limit" {
			return attemptsShown
		}
		return q.Get(name)
	})
	if err != nil {
		v.Alert = "This filter is not valid: " + err.Error() + "."
		return v
	}
	v.Filtered = f.Kind != nil || f.Result != nil || !f.Before.IsZero()
	all, err := p.service.Attempts(ctx, userID, deliverylog.Filter{})
	if err != nil {
		v.Alert = "Recent deliveries are temporarily unavailable. Please try again in a moment."
		return v
	}
	attempts := all
	if v.Filtered || len(all) > f.Limit {
		if attempts, err = p.service.Attempts(ctx, userID, f); err != nil {
			v.Alert = "Recent deliveries are temporarily unavailable. Please try again in a moment."
			return v
		}
	}
	now := time.Now()
	v.Chart, v.waits = newChart(all, now), waits(all, now)
	for i := range attempts {
		v.Rows = append(v.Rows, deliveryOf(&attempts[i]))
	}
	if !f.Before.IsZero() {
		v.Newest = v.address(q, "")
	}
	if len(attempts) == f.Limit {
		v.Older = v.address(q, event.FormatTime(attempts[len(attempts)-1].Time))
	}
	return v
}

func (v *deliveriesView) address(q url.Values, before string) string {
	to := url.Values{}
	for name, value := range map[string]string{"kind": q.Get("kind"), "status": q.Get("status"), "period": v.Period,
		"before": before} {
		if value != "" {
			to.Set(name, value)
		}
	}
	return base + "?" + to.Encode() + "#deliveries"
}

func deliveryOf(a *event.Attempt) deliveryView {
	v := deliveryView{
		Time: shortTime(a.Time), Machine: event.FormatTime(a.Time), Kind: kinds[a.Kind].Label, ID: a.ID, Host: a.Host,
		Attempt: a.Number, Failover: a.Failover,
		Status: a.Failure.Result().String(), Took: took(a.Took), Result: string(a.Failure),
	}
	switch a.Failure {
	case "":
		v.Result = "http " + strconv.Itoa(a.Status)
	case webhook.Timeout, webhook.BlockedAddress:
		v.Result = "" // the status says the same
	}
	return v
}

// lettersView is the list of dead letters.
type lettersView struct {
	Alert   string
	Shown   bool // a period was chosen
	Periods []option
	Since   string // of the period shown
	Period  string
	Rows    []letterView
	Full    bool // there may be more
	Any     bool // at least one can be replayed
	Kind    string
	Status  string
}

type letterView struct {
	ID, Kind, Reason, Error string
	Time, Machine           string
	Attempts                int
	Value                   string
	CanReplay               bool
}

// periods are the periods to choose from. Longer ones take longer to read.
var periods = []struct {
	value, label string
	length       time.Duration
}{{"1d", "the last 24 hours", 24 * time.Hour}, {"7d", "the last 7 days", 7 * 24 * time.Hour},
	{"30d", "the last 30 days", 30 * 24 * time.Hour}}

// period returns the chosen period, or "".
func period(q url.Values) string {
	for _, p := range periods {
		if p.value == q.Get("period") {
			return p.value
		}
	}
	return ""
}

// letters reads the user's dead letters if q contains a period.
func (p *Page) letters(w http.ResponseWriter, r *http.Request, userID int64, q url.Values) *lettersView {
	v := &lettersView{Kind: q.Get("kind"), Status: q.Get("status"), Period: period(q)}
	var since time.Time
	for _, period := range periods {
		v.Periods = append(v.Periods, option{period.value, period.label, period.value == v.Period})
		if period.value == v.Period {
			since = time.Now().Add(-period.length)
		}
	}
	if v.Period == "" {
		return v
	}
	if !p.afford(w, userID) {
		v.Alert = "Too many requests. Please wait a moment and try again."
		return v
	}
	letters, err := p.service.ListDeadLetters(r.Context(), userID, deadletter.Filter{Since: since}, lettersShown)
	if tooMany, is := errors.AsType[*api.TooManyError](err); is {
		limit.SetRetryAfter(w, tooMany.After)
		v.Alert = "Too many requests. Please wait a moment and try again."
		return v
	}
	if err != nil {
		v.Alert = "Failed events are temporarily unavailable. Please try again in a moment."
		return v
	}
	v.Shown, v.Since, v.Full = true, event.FormatTime(since), len(letters) == lettersShown
	for i := range letters {
		row := letterOf(&letters[i])
		v.Rows, v.Any = append(v.Rows, row), v.Any || row.CanReplay
	}
	return v
}

func letterOf(l *deadletter.Letter) letterView {
	v := letterView{ID: l.ID, Kind: l.Kind, Reason: l.Reason, Error: l.Error, Attempts: l.Attempts,
		Time: shortTime(l.Time), Machine: event.FormatTime(l.Time), CanReplay: l.CanReplay()}
	if kind, err := webhook.ParseKind(l.Kind); err == nil {
		v.Kind = kinds[kind].Label
	}
	switch webhook.Reason(l.Reason) {
	case webhook.AttemptsExhausted:
		v.Reason = "every attempt failed"
	case webhook.WindowExpired:
		v.Reason = "too old to be sent"
	case webhook.InvalidRecord:
		v.Reason = "unreadable"
	}
	v.Value = readable(l.Value)
	return v
}

// readable indents JSON and cuts long values.
func readable(value []byte) string {
	if !utf8.Valid(value) {
		return "(binary data)"
	}
	var b bytes.Buffer
	if len(value) > valueShown || json.Indent(&b, value, "", "  ") != nil {
		b.Reset()
		b.Write(value[:min(len(value), valueShown)])
	}
	text := string(bytes.ToValidUTF8(b.Bytes(), nil))
	if len(value) > valueShown {
		text += "…"
	}
	return text
}

// replay replays the dead letter whose button was pressed, or else those that are ticked.
func (p *Page) replay(w http.ResponseWriter, r *http.Request) {
	s, ok := p.own(w, r, func(status int, text string) { p.views.message(w, status, text) })
	if !ok {
		return
	}
	f := deadletter.Filter{IDs: r.PostForm["ids"]}
	if only := r.PostForm.Get("only"); only != "" {
		f.IDs = []string{only}
	}
	f.Since, _ = time.Parse(time.RFC3339, r.PostForm.Get("since")) // zero = the whole topic is read
	to := url.Values{}
	if v := period(r.PostForm); v != "" {
		to.Set("period", v)
	}
	if len(f.IDs) == 0 {
		r.URL.RawQuery = to.Encode()
		p.account(w, r, &s, http.StatusUnprocessableEntity, accountView{Alert: "Please select at least one event."})
		return
	}
	n, err := p.service.Replay(r.Context(), s.userID, f)
	if tooMany, is := errors.AsType[*api.TooManyError](err); is {
		limit.SetRetryAfter(w, tooMany.After)
		p.views.message(w, http.StatusTooManyRequests, textReplays)
		return
	}
	if errors.Is(err, api.ErrUnavailable) {
		text := textUnavailable
		if n > 0 {
			text = "Only " + strconv.Itoa(n) + " of the events are being sent again. " +
				"Please check Recent deliveries before you try the others."
		}
		p.views.message(w, http.StatusServiceUnavailable, text)
		return
	}
	to.Set("done", "replayed")
	to.Set("n", strconv.Itoa(n))
	http.Redirect(w, r, base+"?"+to.Encode(), http.StatusSeeOther)
}
