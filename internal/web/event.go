package web

import (
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/smshooks/smshooks/internal/deliverylog"
	"github.com/smshooks/smshooks/pkg/webhook"
)

const eventsPath = base + "/events/"

// eventPath returns the path of an event's view.
func eventPath(id string) string { return eventsPath + url.PathEscape(id) }

// eventView shows one event.
type eventView struct {
	frame
	eventRow
	Time       time.Time // of the event
	Timeline   []attemptView
	WaitReason string // if it does not wait for a retry
	Body       string // as it is sent
	Type       string // of the body
	Readable   string // the body for people, "" if it is readable as it is
	HasBody    bool
	NoBody     string // why the body is not shown
	CanResend  bool
	Waiting    bool // a recovery can bring the next attempt forward
	Since      string
	Live       bool // a result is on its way
	Recovery   *recoveryView
}

// attemptView is one request of an event.
type attemptView struct {
	Number       int
	Failover     bool
	At           time.Time
	Host         string
	State        badge
	Result, Took string
	Reply        string
	HasReply     bool
}

// resultBadges are the results of requests.
var resultBadges = [webhook.NumResults]badge{
	webhook.OK: {"ok", "succeeded"}, webhook.Failed: {"failed", "failed"}, webhook.TimedOut: {"failed", "timed out"},
	webhook.Errored: {"failed", "no connection"}, webhook.Blocked: {"failed", "URL not allowed"},
}

// event writes the view of one event. Its id is in the path.
func (p *Page) event(id string) func(http.ResponseWriter, *http.Request, *session, int, frame) {
	return func(w http.ResponseWriter, r *http.Request, s *session, status int, f frame) {
		e, body, found, err := p.service.Event(r.Context(), s.userID, id)
		v := eventView{frame: f}
		v.of(s, "deliveries")
		switch {
		case !found && err != nil:
			p.views.message(w, http.StatusServiceUnavailable, textDeliveries)
			return
		case !found:
			p.views.message(w, http.StatusNotFound, "Your latest deliveries do not have this event.")
			return
		case err != nil:
			v.NoBody = "The request is temporarily unavailable. Please try again in a moment."
		}
		v.fill(&e, body)
		if done := r.URL.Query().Get("done"); done != "" {
			v.Live = true
			if done == "recovering" {
				v.Recovery = p.recovery(r.Context(), s.userID)
			}
		}
		p.views.render(w, status, "event.html", &v)
	}
}

func (v *eventView) fill(e *deliverylog.Event, body []byte) {
	v.eventRow, v.Time = rowOf(e), e.Time
	v.Waiting = isWaiting(e)
	v.CanResend = !v.Waiting && e.Fate != webhook.Paused
	v.Since = machineTime(v.Changed.Add(-time.Minute)) // it was given up later
	switch {
	case e.Fate == webhook.Paused:
		v.WaitReason = "Held back while " + strings.ToLower(kinds[e.Kind].Label) + " are paused."
	case e.Fate == webhook.Overflow && !e.Next.After(e.Changed):
		v.WaitReason = "Recovered or resent: the attempt follows at once."
	case e.Fate == webhook.Overflow:
		v.WaitReason = "Queued: no attempt was possible yet."
	}
	for i := range e.Attempts {
		a := &e.Attempts[i]
		v.Timeline = append(v.Timeline, attemptView{Number: a.Number, Failover: a.Failover, At: a.Time, Host: a.Host,
			State: resultBadges[a.Failure.Result()], Result: resultOf(a), Took: took(a.Took), Reply: a.Reply,
			HasReply: a.HasReply && a.Reply != ""})
	}
	if v.HasBody = body != nil; v.HasBody {
		v.Body, v.Type = string(body), e.Kind.ContentType()
		v.Readable = readableBody(v.Body)
	} else if v.NoBody == "" {
		v.NoBody = "The request is not stored any more."
		v.CanResend = v.CanResend && e.Fate == webhook.Dead // dead letters are stored apart
	}
}

// readableBody decodes a form with one JSON field.
func readableBody(body string) string {
	if text, isForm := strings.CutPrefix(body, "sms="); isForm {
		if decoded, err := url.QueryUnescape(text); err == nil {
			return "sms=" + readable([]byte(decoded))
		}
	}
	if text := readable([]byte(body)); text != body {
		return text
	}
	return ""
}
