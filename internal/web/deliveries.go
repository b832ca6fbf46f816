package web

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/smshooks/smshooks/internal/deliverylog"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// eventsShown is the number of events on a page of the list.
const eventsShown = 25

// stateWaiting is the state of an event that waits for an attempt.
var stateWaiting = webhook.Retry.State()

// states holds the page's names for the states of events in the log.
var states = []struct {
	value string
	badge badge
}{
	{webhook.Delivered.State(), badge{"ok", "delivered"}},
	{stateWaiting, badge{"waiting", "waiting"}},
	{webhook.Dead.State(), badge{"failed", "given up"}},
	{webhook.Paused.State(), badge{"waiting", "paused"}},
	{webhook.Superseded.State(), badge{"none", "superseded"}},
	{webhook.Filtered.State(), badge{"none", "filtered"}},
	{webhook.NotConfigured.State(), badge{"none", "not set"}},
}

func stateOf(fate webhook.Fate) badge {
	for _, s := range states {
		if s.value == fate.State() {
			return s.badge
		}
	}
	return badge{"none", strings.ReplaceAll(fate.State(), "_", " ")}
}

// deliveriesView is the list of events.
type deliveriesView struct {
	frame
	Missing     string // why there is no list, if the log cannot be read
	Search      string
	Code        field
	Kinds       []option
	States      []option
	Ages        []option
	Filtered    bool
	Rows        []eventRow
	First, Last int // numbers of the events shown, from 1
	All         int // how many match
	Newer       string
	Older       string
}

// eventRow is an event in a list.
type eventRow struct {
	ID, Link      string
	Kind, Message string
	Recipient     string
	State         badge
	Result        string    // of its latest attempt
	Attempts      int       // number of its latest attempt; a resend counts from 1 again
	Changed       time.Time // when its state was last known
	Last, Next    time.Time // attempts; zero if there is none
}

func rowOf(e *deliverylog.Event) eventRow {
	row := eventRow{ID: e.ID, Link: eventPath(e.ID), Kind: kinds[e.Kind].One, Message: e.Message,
		Recipient: e.Recipient, State: stateOf(e.Fate),
		Changed: e.Changed, Last: last(e), Next: e.Next}
	if n := len(e.Attempts); n > 0 {
		row.Attempts, row.Result = e.Attempts[n-1].Number, resultOf(&e.Attempts[n-1])
	}
	return row
}

// resultOf returns the result of an attempt: the HTTP status, or why there was none.
func resultOf(a *deliverylog.Attempt) string {
	if a.Status > 0 {
		return "HTTP " + strconv.Itoa(a.Status)
	}
	return failure(string(a.Failure))
}

// ages holds the choices for the time of the latest change.
var ages = []struct {
	value, label string
	age          time.Duration
}{
	{"1h", "the last hour", time.Hour}, {"24h", "the last 24 hours", 24 * time.Hour},
	{"72h", "the last 3 days", 72 * time.Hour},
}

// eventFilter selects events of the list. Zero fields select all.
type eventFilter struct {
	search, kind, state string // search is the id of a message or an event
	code                int
	since               time.Time
}

func (f *eventFilter) matches(e *deliverylog.Event) bool {
	return (f.search == "" || f.search == e.Message || f.search == e.ID) &&
		(f.kind == "" || f.kind == e.Kind.String()) && (f.state == "" || f.state == e.Fate.State()) &&
		(f.since.IsZero() || !e.Changed.Before(f.since)) &&
		(f.code == 0 || slices.ContainsFunc(e.Attempts, func(a deliverylog.Attempt) bool { return a.Status == f.code }))
}

// choose reads the filter from a query, and fills the form with it. Invalid values select all.
func (v *deliveriesView) choose(q url.Values, now time.Time) eventFilter {
	f := eventFilter{search: strings.TrimSpace(q.Get("message_id"))}
	v.Search, v.Code = f.search, field{Name: "http_code", Value: strings.TrimSpace(q.Get("http_code"))}
	choice := func(name, value, label string) option { return option{value, label, q.Get(name) == value} }
	v.Kinds, v.States = []option{{"", "all", false}}, []option{{"", "all", false}}
	for _, k := range kinds {
		if v.Kinds = append(v.Kinds, choice("kind", k.Name, k.Label)); q.Get("kind") == k.Name {
			f.kind = k.Name
		}
	}
	for _, s := range states {
		if v.States = append(v.States, choice("state", s.value, s.badge.Text)); q.Get("state") == s.value {
			f.state = s.value
		}
	}
	v.Ages = []option{{"", "the last 7 days", false}}
	for _, a := range ages {
		if v.Ages = append(v.Ages, choice("age", a.value, a.label)); q.Get("age") == a.value {
			f.since = now.Add(-a.age)
		}
	}
	if v.Code.Value != "" {
		n, err := strconv.Atoi(v.Code.Value)
		if err != nil || n < 100 || n > 999 {
			v.Code.Error = "Must be an HTTP status such as 503."
		} else {
			f.code = n
		}
	}
	v.Filtered = f != eventFilter{}
	return f
}

// deliveries writes the list of events.
func (p *Page) deliveries(w http.ResponseWriter, r *http.Request, s *session, status int, f frame) {
	v := deliveriesView{frame: f}
	v.of(s, "deliveries")
	q := r.URL.Query()
	filter := v.choose(q, time.Now())
	events, err := p.service.Events(r.Context(), s.userID)
	if err != nil {
		status, v.Missing = http.StatusServiceUnavailable, textDeliveries
	}
	if v.Code.Error == "" {
		v.fill(slices.DeleteFunc(events, func(e deliverylog.Event) bool { return !filter.matches(&e) }), q)
	}
	p.views.render(w, status, "deliveries.html", &v)
}

// fill adds a page of events, the latest change first.
func (v *deliveriesView) fill(events []deliverylog.Event, q url.Values) {
	slices.SortStableFunc(events, func(a, b deliverylog.Event) int { return b.Changed.Compare(a.Changed) })
	pages := max(1, (len(events)+eventsShown-1)/eventsShown)
	page, _ := strconv.Atoi(q.Get("page")) // 0 if it is not a number
	page = min(max(page, 1), pages)
	from, to := (page-1)*eventsShown, min(page*eventsShown, len(events))
	for i := range events[from:to] {
		v.Rows = append(v.Rows, rowOf(&events[from+i]))
	}
	v.First, v.Last, v.All = from+1, to, len(events)
	link := func(page int) string {
		other := url.Values{"page": {strconv.Itoa(page)}}
		for _, name := range []string{"message_id", "kind", "state", "http_code", "age"} {
			if value := q.Get(name); value != "" {
				other.Set(name, value)
			}
		}
		return base + "/deliveries?" + other.Encode()
	}
	if page > 1 {
		v.Newer = link(page - 1)
	}
	if page < pages {
		v.Older = link(page + 1)
	}
}
