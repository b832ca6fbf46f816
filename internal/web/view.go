package web

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/smshooks/smshooks/pkg/webhook"
)

// frame holds what all views of a signed-in user have in common.
type frame struct {
	UserID int64
	Token  string
	View   string // overview, deliveries or settings: the one that the navigation marks
	Alert  string // what failed
	Notice string // what was done
}

func (f *frame) of(s *session, view string) {
	f.UserID, f.Token, f.View = s.userID, s.formToken(), view
}

// kinds are the names of the kinds on the page: of an endpoint, and of one event.
var kinds = [webhook.NumKinds]struct{ Name, Label, One, Hint string }{
	webhook.DLR: {"dlr", "Delivery receipts", "Delivery receipt",
		"Called when a message is delivered, fails or expires."},
	webhook.Click: {"click", "Clicks", "Click", "Called when someone opens the link in a message for the first time."},
	webhook.Inbound: {"inbound", "Inbound messages", "Inbound message",
		"Called when someone sends a message to one of your numbers."},
	webhook.RevokeClick: {"revoke_click", "Click revocations", "Click revocation",
		"Called when earlier clicks turn out to be from bots, at most once a minute."},
}

// option is a choice of a form.
type option struct {
	Value, Label string
	Selected     bool
}

// view returns the handler of a view: for users who are signed in, and the sign-in form for others.
func (p *Page) view(write func(http.ResponseWriter, *http.Request, *session, int, frame)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
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
			p.views.signIn(w, http.StatusOK, signInView{Notice: notice(r.URL.Query()), Next: next(r)})
		default:
			write(w, r, &s, http.StatusOK, frame{Notice: notice(r.URL.Query())})
		}
	}
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
		return "Events that were waiting are sent now. The results appear under Deliveries."
	case "unsigned":
		return "Requests are not signed any more."
	case "signed-out":
		return "You have signed out."
	case "resent":
		if err != nil || n < 1 {
			return "No event was resent: it is no longer stored, or it is already being resent."
		}
		return plural(n, "event") + " resent. The results appear under Deliveries."
	}
	return ""
}

// plural returns a number with its noun.
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}

// took formats the duration of a request.
func took(d time.Duration) string {
	switch {
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
	case d < time.Second:
		return strconv.FormatInt(d.Milliseconds(), 10) + " ms"
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return fmt.Sprintf("%.0f s", d.Seconds())
}

// failure returns a failure, or the error of a dead letter, as the page shows it.
func failure(text string) string {
	if code, is := strings.CutPrefix(text, "http "); is {
		return "HTTP " + code
	}
	return text
}
