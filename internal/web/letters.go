package web

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/smshooks/smshooks/internal/api"
	"github.com/smshooks/smshooks/internal/api/limit"
	"github.com/smshooks/smshooks/internal/deadletter"
	"github.com/smshooks/smshooks/internal/deliverylog"
	"github.com/smshooks/smshooks/pkg/webhook"
)

const (
	lettersShown = 50
	valueShown   = 4096 // bytes of a dead letter's value
)

// lettersView is the list of dead letters: of the log, or those of a period.
type lettersView struct {
	Alert   string
	Periods []option
	Period  string
	Since   string // where a resend searches
	Rows    []letterRow
	Full    bool // there may be more
}

type letterRow struct {
	ID, Link, Kind, Message string
	Reason                  string
	At                      time.Time
	Value                   string // "" if Link shows it
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

// letters lists the dead letters among events, or reads those of the period that the query has.
func (p *Page) letters(w http.ResponseWriter, r *http.Request, userID int64, events []deliverylog.Event) *lettersView {
	v := &lettersView{Periods: []option{{"", "the latest deliveries", false}}, Period: period(r.URL.Query())}
	var since time.Time
	for _, period := range periods {
		v.Periods = append(v.Periods, option{period.value, period.label, period.value == v.Period})
		if period.value == v.Period {
			since = time.Now().Add(-period.length)
		}
	}
	if v.Period == "" {
		v.fromLog(events)
		return v
	}
	if !p.afford(w, userID) {
		v.Alert = textMany
		return v
	}
	letters, err := p.service.ListDeadLetters(r.Context(), userID, deadletter.Filter{Since: since}, lettersShown)
	if tooMany, is := errors.AsType[*api.TooManyError](err); is {
		limit.SetRetryAfter(w, tooMany.After)
		v.Alert = textMany
		return v
	}
	if err != nil {
		v.Alert = "Events that were given up are temporarily unavailable. Please try again in a moment."
		return v
	}
	v.Since, v.Full = machineTime(since), len(letters) == lettersShown
	for i := range letters {
		if letters[i].CanReplay() { // the others were not valid events, and the user cannot change that
			v.Rows = append(v.Rows, letterOf(&letters[i]))
		}
	}
	return v
}

// fromLog lists the dead letters among events, the latest first.
func (v *lettersView) fromLog(events []deliverylog.Event) {
	var oldest time.Time
	for i := range events {
		e := &events[i]
		if e.Fate != webhook.Dead {
			continue
		}
		row := rowOf(e)
		v.Rows = append(v.Rows, letterRow{ID: e.ID, Link: row.Link, Kind: row.Kind, Message: e.Message, At: row.Changed,
			Reason: reasonOf("", row.Attempts, row.Result)})
		if oldest.IsZero() || row.Changed.Before(oldest) {
			oldest = row.Changed
		}
	}
	slices.SortStableFunc(v.Rows, func(a, b letterRow) int { return b.At.Compare(a.At) })
	if v.Full = len(v.Rows) > lettersShown; v.Full {
		v.Rows = v.Rows[:lettersShown]
	}
	if !oldest.IsZero() {
		v.Since = machineTime(oldest.Add(-time.Minute)) // the log has the attempt, which was earlier
	}
}

func letterOf(l *deadletter.Letter) letterRow {
	row := letterRow{ID: l.ID, Kind: l.Kind, At: l.Time, Value: readable(l.Value)}
	if kind, err := webhook.ParseKind(l.Kind); err == nil {
		row.Kind = kinds[kind].One
	}
	why := l.Reason
	switch webhook.Reason(l.Reason) {
	case webhook.AttemptsExhausted:
		why = ""
	case webhook.WindowExpired:
		why = "too old to be sent"
	}
	row.Reason = reasonOf(why, l.Attempts, failure(l.Error))
	return row
}

// reasonOf joins the reason why an event was given up ("" if all attempts failed), the number of attempts and the last
// result.
func reasonOf(why string, attempts int, result string) string {
	if attempts > 0 {
		if why != "" {
			why += " after "
		}
		why += plural(attempts, "attempt")
	}
	if result != "" {
		if why != "" {
			why += ": "
		}
		why += result
	}
	return why
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

// replay resends the event whose button was pressed, or else those that are ticked.
func (p *Page) replay(w http.ResponseWriter, r *http.Request) {
	s, ok := p.own(w, r, func(status int, text string) { p.views.message(w, status, text) })
	if !ok {
		return
	}
	back, to := base, url.Values{}
	f := deadletter.Filter{IDs: r.PostForm["ids"]}
	if only := r.PostForm.Get("only"); only != "" {
		f.IDs = []string{only}
	}
	if id := r.PostForm.Get("event"); id != "" {
		f.IDs, back = []string{id}, eventPath(id)
	}
	f.Since, _ = time.Parse(time.RFC3339, r.PostForm.Get("since")) // zero = all dead letters are read
	if v := period(r.PostForm); v != "" {
		to.Set("period", v)
	}
	if len(f.IDs) == 0 {
		r.URL.RawQuery = to.Encode()
		p.overview(w, r, &s, http.StatusUnprocessableEntity, frame{Alert: "Please select at least one event."})
		return
	}
	n, err := p.service.Replay(r.Context(), s.userID, f)
	if tooMany, is := errors.AsType[*api.TooManyError](err); is {
		limit.SetRetryAfter(w, tooMany.After)
		p.views.message(w, http.StatusTooManyRequests, textReplays)
		return
	}
	if errors.Is(err, api.ErrUnavailable) {
		text := textUnsent
		if n > 0 {
			text = "Only " + plural(n, "event") + " resent. Please look at Deliveries before you resend the others."
		}
		p.views.message(w, http.StatusServiceUnavailable, text)
		return
	}
	to.Set("done", "resent")
	to.Set("n", strconv.Itoa(n))
	http.Redirect(w, r, back+"?"+to.Encode(), http.StatusSeeOther)
}
