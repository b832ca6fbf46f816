package web

import (
	"html"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// rows returns the ids of the events in the list.
func rows(body string) (ids []string) {
	for _, found := range regexp.MustCompile(`<code class="detail">([^<]*)</code>`).FindAllStringSubmatch(body, -1) {
		ids = append(ids, html.UnescapeString(found[1]))
	}
	return ids
}

func TestDeliveries(t *testing.T) {
	s := newSite(t)
	b := s.signIn(t, key42)
	want(t, b.get("/deliveries"), http.StatusOK, "No deliveries yet")
	add := func(id, message string, kind webhook.Kind, number, status int, fate webhook.Fate, ago time.Duration) {
		a := event.LogEntry{UserID: 42, ID: id, Kind: kind, Message: event.NewText([]byte(message)), Number: number, Status: status, Fate: fate,
			Time: time.Now().Add(-ago), Host: "a.example"}
		if id == "a" {
			a.Recipient = event.NewText([]byte("15551234567"))
		}
		if status != http.StatusOK {
			a.Failure = webhook.HTTPFailure(status)
		}
		if fate == webhook.Retry {
			a.Next = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
		}
		s.attempts = append([]event.LogEntry{a}, s.attempts...)
	}
	add("a", "7", webhook.DLR, 1, 503, webhook.Retry, 30*time.Hour)
	add("b", "8", webhook.Click, 1, 200, webhook.Delivered, 3*time.Hour)
	add("c", "7", webhook.Inbound, 1, 500, webhook.Dead, 2*time.Hour)
	add("d", "9", webhook.DLR, 1, 404, webhook.Retry, time.Hour+time.Minute)
	add("a", "7", webhook.DLR, 2, 200, webhook.Delivered, time.Minute)
	for query, want := range map[string]string{
		"": "a d c b", "?message_id=7": "a c", "?message_id=+c+": "c", "?message_id=70": "", "?kind=dlr": "a d", "?message_id=15551234567": "", "?state=waiting": "d", "?state=dead": "c",
		"?state=delivered&kind=click": "b", "?http_code=503": "a", "?http_code=200": "a b", "?age=1h": "a", "?age=24h": "a d c b", "?kind=x&state=x&age=x&page=x": "a d c b", "?page=9": "a d c b",
	} {
		body := b.get("/deliveries" + query).Body.String()
		if got := strings.Join(rows(body), " "); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
		if want == "" && !strings.Contains(body, "No event matches") {
			t.Errorf("%s: nothing says that the list is empty", query)
		}
	}
	paused := event.LogEntry{UserID: 42, ID: "e", Kind: webhook.DLR, Message: event.NewText([]byte("10")), Fate: webhook.Paused, Time: time.Now()}
	s.attempts = append([]event.LogEntry{paused}, s.attempts...)
	if got := strings.Join(rows(b.get("/deliveries?state=paused").Body.String()), " "); got != "e" {
		t.Errorf("paused: %s, want e", got)
	}
	want(t, b.get("/events/e"), http.StatusOK, "Held back while delivery receipts are paused.", "!Attempt 1", "!Resend")
	w := b.get("/deliveries?state=waiting&kind=dlr&http_code=404")
	want(t, w, http.StatusOK, `<a href="`+base+`/events/d">Delivery receipt</a>`, `<span class="badge waiting">waiting</span> <span class="detail">HTTP 404`, `<time datetime="2030-01-02T03:04:05.000Z">2030-01-02 03:04:05 UTC</time>`,
		`<option value="waiting" selected>`, `<option value="dlr" selected>`, `value="404"`, ">Clear<", "1–1 of 1")
	want(t, b.get("/deliveries?message_id=7"), http.StatusOK, `<td role="cell" class="recipient"><span class="narrow-only">To </span>15551234567</td>`)
	want(t, b.get("/events/a"), http.StatusOK, "<dt>Recipient</dt><dd>15551234567</dd>")
	for number := 1; number <= 3; number++ {
		add("f", "11", webhook.DLR, number, 503, webhook.Dead, time.Minute)
	}
	want(t, b.get("/deliveries?message_id=f"), http.StatusOK, "HTTP 503, attempt 3")
	add("f", "11", webhook.DLR, 1, 200, webhook.Delivered, time.Second) // it was resent: attempts count from 1 again
	want(t, b.get("/deliveries?message_id=f"), http.StatusOK, `<span class="detail">HTTP 200</span>`)
	want(t, b.get("/deliveries?http_code=x"), http.StatusOK, "HTTP status: Must be an HTTP status such as 503.", `aria-invalid="true"`, "!No event matches", "!<tbody")
}

// TestPages follows the links from page to page.
func TestPages(t *testing.T) {
	s := newSite(t)
	s.fill()
	b := s.signIn(t, key42)
	seen, address := map[string]bool{}, "/deliveries?state=delivered"
	older := regexp.MustCompile(`<a class="button" href="` + base + `([^"]*)" rel="next">`)
	for page := 1; address != ""; page++ {
		body := b.get(address).Body.String()
		for _, id := range rows(body) {
			seen[id] = true
		}
		if page > 1 != strings.Contains(body, `rel="prev"`) || page > 3 {
			t.Fatalf("page %d: %s", page, body)
		}
		found := older.FindStringSubmatch(body)
		if address = ""; found != nil {
			address = html.UnescapeString(found[1])
			if !strings.Contains(address, "state=delivered") {
				t.Errorf("the filter is lost: %s", address)
			}
		}
	}
	if len(seen) != 60 {
		t.Errorf("%d events on all pages, want 60", len(seen))
	}
}

func TestEvent(t *testing.T) {
	s := newSite(t)
	at := time.Date(2026, 2, 27, 14, 30, 0, 0, time.UTC)
	attempt := event.LogEntry{UserID: 42, ID: "order:7/1", Kind: webhook.DLR, Message: event.NewText([]byte("777")), Number: 1, Time: at.Add(time.Second), EventTime: at,
		Host: "a.example", Status: 503, Failure: "http 503", Took: 1500 * time.Millisecond, Reply: "<no> route", Fate: webhook.Retry, Next: at.Add(6 * time.Hour)}
	second := attempt
	second.Failover, second.Host, second.Status, second.Failure, second.Reply = true, "b.example", 0, webhook.Timeout, ""
	s.attempts = []event.LogEntry{second, attempt}
	s.bodies = map[string][]byte{"order:7/1": []byte(`{"user_id":42,"sms":{"id":777,"dlr_status":"Delivered"}}`)}
	b := s.signIn(t, key42)
	path := "/events/order%3A7%2F1"
	want(t, b.get(path), http.StatusOK, "order:7/1", ">777</a>", "2026-02-27 14:30:00 UTC", `<span class="badge waiting">waiting</span>`, "2026-02-27 20:30:00 UTC", "Attempt 1", "HTTP 503, 1.5 s, a.example",
		"&lt;no&gt; route", "Failover of attempt 1", "timed out", "b.example", "application/x-www-form-urlencoded", "sms=%7B%22id%22%3A777", "&#34;dlr_status&#34;: &#34;Delivered&#34;", `id="recover"`, "!Resend", "!data-live")
	want(t, serve(s.page, b.form("/deliveries")), http.StatusMethodNotAllowed)

	third := attempt
	third.Number, third.Status, third.Failure, third.Reply, third.Fate, third.Next = 2, 200, "", "", webhook.Delivered, time.Time{}
	s.attempts = append([]event.LogEntry{third}, s.attempts...)
	want(t, b.get(path), http.StatusOK, `<span class="badge ok">delivered</span>`, "<dd>none</dd>", `id="resend"`, `!id="recover"`)
	s.bodies = nil
	want(t, b.get(path), http.StatusOK, "The request is not stored any more", `!id="resend"`)
	w := b.post("/replay", "event", "order:7/1", "since", "2026-02-27T14:29:01.000Z")
	if got := w.Header().Get("Location"); w.Code != http.StatusSeeOther || got != base+path2(path)+"?done=resent&n=1" || len(s.resent) != 1 {
		t.Errorf("%d %s, %v", w.Code, got, s.resent)
	}
	want(t, b.get(path+"?done=resent&n=1"), http.StatusOK, "1 event resent", `id="event-heading" data-live`, `aria-labelledby="event-title" data-live`)
	s.kafkaDown = true
	want(t, b.get(path), http.StatusOK, "The request is temporarily unavailable", "Attempt 2")
	want(t, b.get("/events/nothing"), http.StatusNotFound)
	other := s.signIn(t, key43)
	want(t, other.get(path), http.StatusNotFound, "do not have this event", "!777")
}

// path2 returns an event's path in the form of url.PathEscape.
func path2(path string) string { return strings.ReplaceAll(path, "%3A", ":") }

// TestMessageLink checks that the link to a message's events finds them, whatever the gateway has called the message.
func TestMessageLink(t *testing.T) {
	const message = "a&kind=click#b+c%20"
	w := httptest.NewRecorder()
	loadViews(loadFiles()).render(w, http.StatusOK, "event.html", &eventView{frame: frame{View: "deliveries"}, eventRow: eventRow{Message: message}})
	_, link, _ := strings.Cut(w.Body.String(), `/deliveries?`)
	link, _, _ = strings.Cut(link, `"`)
	if q, err := url.ParseQuery(html.UnescapeString(link)); err != nil || q.Get("message_id") != message || len(q) != 1 {
		t.Errorf("the link is %q", link)
	}
}
