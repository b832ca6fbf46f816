package real_test

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/smshooks/smshooks/test/real/harness"
)

// rowsShown is the script for the number of events in the list.
const rowsShown = `document.querySelectorAll("#deliveries tbody tr").length + " rows"`

// history delivers real events or lets them fail, checks the views, and resends one. It returns the id of the one that
// was given up.
func history(t *testing.T, b *tab, e *env, page string) (id string) {
	t.Helper()
	harness.Settle() // until the last change has taken effect everywhere
	e.recv.On("/inbound/42", harness.Status(500))
	for sms := range int64(30) {
		e.emit(t, e.dlr(42, sms))
	}
	inbound := e.emit(t, harness.Event(e.topics.Inbound, 42, harness.InboundValue(42, 77)))[0]
	id = identity(inbound)
	e.recv.WaitCount(t, "/dlr/42", 30, harness.Patience)
	e.dead(t, 42, 1, harness.Patience)

	list := page + "/deliveries"
	b.openUntil(list+"?state=dead", text("deliveries"), id)
	b.see(rowsShown, "1 rows")
	b.see(text("deliveries"), "given up")
	b.see(text("deliveries"), "HTTP 500")
	b.openUntil(list, text("deliveries"), "1–25 of 31")
	b.leave(`#deliveries [rel="next"]`)
	b.see(text("deliveries"), "26–31 of 31")
	b.see(rowsShown, "6 rows")
	b.leave(`#deliveries [rel="prev"]`)
	b.fill("message_id", "77")
	b.leave("#deliveries form button")
	b.see(rowsShown, "1 rows")
	b.fill("message_id", "")
	b.choose("kind", "dlr")
	b.choose("state", "delivered")
	b.choose("age", "1h")
	b.fill("http_code", "200")
	b.leave("#deliveries form button")
	b.see(text("deliveries"), "1–25 of 30")
	b.fill("http_code", "x")
	b.leave("#deliveries form button")
	b.see(text("http_code-error"), "Must be an HTTP status")
	b.accessible("a filter that is wrong")
	b.leave("#deliveries .filters a")
	b.see(text("deliveries"), "1–25 of 31")

	b.openUntil(page, text("state-inbound"), "failing")
	b.see(text("state-inbound"), "HTTP 500")
	b.see(text("content"), "30 of 33 attempts succeeded (90 %)")
	b.see(text("dead-letters"), id)
	b.choose("period", "1d")
	b.leave("#show-letters")
	b.see(text("dead-letters"), "3 attempts: HTTP 500")
	b.press("#dead-letters summary")
	b.see(text("dead-letters"), `"user_id": 42`)
	b.accessible("overview with a failure")

	b.open(list + "?state=dead")
	b.leave("#deliveries tbody a")
	b.see(text("event"), id)
	b.see(text("event"), "Attempt 3")
	b.see(text("request"), `"id": 77`)
	e.recv.On("/inbound/42", harness.Status(200))
	b.leave("#resend")
	b.see(text("messages"), "1 event resent.")
	again := e.recv.WaitCount(t, "/inbound/42", 4, harness.Patience)[3]
	if got, n := again.Header.Get("Webhook-Id"), again.Header.Get("Webhook-Attempt"); got != id || n != "1" {
		t.Errorf("resent as %s, attempt %s; want %s, attempt 1", got, n, id)
	}
	b.see(text("event-state"), "delivered") // the view is updated
	b.accessible("an event that was resent")
	b.openUntil(page, text("state-inbound"), "ok")
	return id
}

// pictures shows the views in light, dark and on a phone.
func pictures(t *testing.T, b *tab, e *env, page string) {
	t.Helper()
	failed := ""
	if os.Getenv("SMSHOOKS_TEST_SCREENSHOTS") != "" {
		failed = traffic(t, b, e, page)
	}
	for _, view := range []struct{ name, path string }{{"overview", ""}, {"deliveries", "/deliveries"}, {"settings", "/settings"}, {"event", failed}} {
		b.open(page + view.path)
		b.see("document.readyState", "complete")
		b.accessible(view.name)
		b.picture("account-" + view.name + ".png")
		b.media("dark", "none")
		b.picture("account-" + view.name + "-dark.png")
		b.media("light", "none")
		b.size(390, 844)
		b.see("document.documentElement.scrollWidth <= document.documentElement.clientWidth", "true")
		b.picture("account-" + view.name + "-phone.png")
		b.size(1100, 800)
	}
	b.open(page + "/receivers")
	b.accessible("the receivers' guide")
	b.size(320, 800)
	b.see("document.documentElement.scrollWidth <= document.documentElement.clientWidth", "true")
	b.size(1100, 800)
	b.open(page)
}

// traffic creates events over a while, a few of which fail. It returns the path of one.
func traffic(t *testing.T, b *tab, e *env, page string) string {
	t.Helper()
	b.open(page + "/settings")
	b.fill("click_url", e.recv.URL("/click/42"))
	b.fill("revoke_click_url", e.recv.URL("/revoke_click/42"))
	b.save()
	b.see(text("messages"), "Saved.")
	harness.Settle()
	e.recv.On("/click/42", func(w http.ResponseWriter, _ *http.Request, r harness.Request) {
		harness.Pass(time.Duration(20+r.N*7%90) * time.Millisecond)
	})
	e.recv.On("/dlr/42", func(w http.ResponseWriter, _ *http.Request, r harness.Request) {
		if r.N%7 == 3 {
			w.WriteHeader(http.StatusBadGateway)
		}
	})
	for sms := int64(100); sms < 180; sms++ {
		e.emit(t, e.dlr(42, sms))
		if sms%5 == 0 {
			e.emit(t, e.click(42, sms), e.revocation(42, []int64{sms}, nil))
		}
		harness.Pass(time.Duration(200+sms%9*100) * time.Millisecond)
	}
	e.recv.On("/dlr/42", func(w http.ResponseWriter, _ *http.Request, _ harness.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = w.Write([]byte(`{"error":"database is down","request":"c1f07b"}`))
	})
	var ids []string
	for sms := int64(200); sms < 204; sms++ {
		ids = append(ids, identity(e.emit(t, e.dlr(42, sms))[0]))
	}
	path := "/events/" + url.PathEscape(ids[0])
	b.openUntil(page+path, text("content"), "database is down")
	return path
}

// withoutScripts checks that reading, saving, testing and resending work without JavaScript.
func withoutScripts(t *testing.T, b *tab, e *env, page, key, id string) {
	t.Helper()
	e.recv.On("/dlr/42", harness.Status(200))
	before := e.recv.Count("/inbound/42")
	b.scripts(false)
	defer b.scripts(true)
	b.press("header button")
	b.see("document.body.innerText", "You have signed out.")
	b.fill("key", key)
	b.press("form button")
	b.see(text("endpoints"), "Delivery receipts")
	b.press(`nav a[href$="/settings"]`)
	b.see("document.title", "Settings")
	b.see(value("dlr_url"), e.recv.URL("/dlr/42"))
	b.fill("revoke_click_url", e.recv.URL("/revoke/42"))
	b.save()
	b.see(text("messages"), "Saved.")
	b.press("#test-button")
	b.see(text("messages"), "Test events were sent")
	b.see(text("result-revoke_click"), "HTTP 200 in ")
	b.press("#status-Pending")
	b.press("#save-options")
	b.see(text("messages"), "The options apply from now on.")
	b.press("#rotate")
	b.see(value("secret"), "whsec_")
	harness.Secret(b.eval(value("secret")))
	b.press("#signing summary")
	b.press("#clear-secret")
	b.see(text("messages"), "Requests are not signed any more.")
	b.press(`nav a[href$="/deliveries"]`)
	b.see("document.title", "Deliveries")
	b.choose("kind", "inbound")
	b.press("#deliveries form button")
	b.see(rowsShown, "1 rows")
	b.see(text("deliveries"), " UTC")
	b.open(page + "?period=1d")
	b.press(fmt.Sprintf(`#dead-letters [name="ids"][value=%q]`, id))
	b.press(`#dead-letters .actions button`)
	b.see(text("messages"), "resent.")
	e.recv.WaitCount(t, "/inbound/42", before+2, harness.Patience) // the test's and this one
}

// rareStates checks views that no other step shows: what is paused, no longer stored, or not found.
func rareStates(t *testing.T, b *tab, e *env, page string) {
	t.Helper()
	pause := func() {
		b.open(page + "/settings")
		b.press("#inbound_paused")
		b.saveOptions()
		b.see(text("messages"), "The options apply from now on.")
	}
	before := e.recv.Count("/inbound/42")
	pause()
	harness.Settle()
	record := e.emit(t, harness.Event(e.topics.Inbound, 42, harness.InboundValue(42, 78)))[0]
	b.openUntil(page+"/deliveries?state=paused", rowsShown, "1 rows")
	b.leave("#deliveries tbody a")
	b.see(text("event"), "Held back while inbound messages are paused.")
	b.accessible("a paused event")
	b.open(page)
	b.see(text("state-inbound"), "paused")
	b.accessible("a paused endpoint")
	pause() // ends it
	e.recv.WaitCount(t, "/inbound/42", before+1, harness.Patience)

	var offsets kadm.Offsets
	offsets.Add(kadm.Offset{Topic: record.Topic, Partition: record.Partition, At: record.Offset + 1})
	if resp, err := kadm.NewClient(harness.Client(t, e.kafka.Addr)).DeleteRecords(t.Context(), offsets); err != nil || resp.Error() != nil {
		t.Fatalf("delete records: %v, %v", err, resp.Error())
	}
	b.openUntil(page+"/events/"+url.PathEscape(identity(record)), text("request"), "not stored any more")
	b.accessible("an event whose request is not stored any more")
	b.open(page + "/deliveries?message_id=nothing")
	b.see(text("deliveries"), "No event matches.")
	b.accessible("a filter without a match")
	b.open(page + "/events/nothing")
	b.see("document.body.innerText", "Your latest deliveries do not have this event.")
	b.accessible("an event that is not found")
}

// reach moves the focus with the tab key to an element that matches the CSS selector, and checks that the focus is
// visible.
func (b *tab) reach(selector string) {
	b.t.Helper()
	for range 120 {
		b.do(chromedp.KeyEvent(kb.Tab))
		if b.eval(fmt.Sprintf("document.activeElement.matches(%q)", selector)) == "true" {
			if outline := b.eval("getComputedStyle(document.activeElement).outlineStyle"); outline == "none" {
				b.t.Errorf("the focus on %s is not visible", selector)
			}
			return
		}
	}
	b.t.Fatalf("the tab key does not reach %s", selector)
}

// enter presses the enter key on a link to another page.
func (b *tab) enter(selector string) {
	b.t.Helper()
	b.reach(selector)
	b.do(chromedp.Evaluate[chromedp.Void]("window.before = true"), chromedp.KeyEvent(kb.Enter))
	b.arrive()
}

// use presses the space key on a button or a box of the page.
func (b *tab) use(selector string) {
	b.t.Helper()
	b.reach(selector)
	b.do(chromedp.KeyEvent(" "))
}

// TestCustomersPath acts as a customer: sees that the endpoint fails, opens an event, reads the server's reply, repairs
// the server, recovers the event and then the others, finds one that was delivered and resends it, resends one that was given up, and
// changes the settings.
func TestCustomersPath(t *testing.T) {
	t.Run("keyboard", func(t *testing.T) {
		t.Parallel()
		b := newTab(t)
		customersPath(t, customer{b, b.enter, b.use, b.accessible})
	})
	t.Run("phone", func(t *testing.T) {
		t.Parallel()
		b := newTabOf(t, 390, 844)
		customersPath(t, customer{b, b.leave, b.press, func(state string) {
			b.t.Helper()
			b.see("document.documentElement.scrollWidth <= document.documentElement.clientWidth", "true")
		}})
	})
}

// customer uses a tab in one way: the keyboard alone, or by touch.
type customer struct {
	*tab
	follow func(selector string) // a link or a button to another page
	push   func(selector string) // a button or a box of the page
	check  func(state string)    // the present state of the page
}

func customersPath(t *testing.T, c customer) {
	t.Helper()
	e := newEnv(t, "--retry.schedule=6h,6h")
	p := e.serve(t)
	key := e.newKey(t, 42)
	e.configure(t, map[int64]harness.Webhook{42: {DLR: e.recv.URL("/dlr/42")}})
	harness.Settle()
	e.recv.On("/dlr/42", func(w http.ResponseWriter, _ *http.Request, _ harness.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = w.Write([]byte("database is down"))
	})
	e.emit(t, e.dlr(42, 1), e.dlr(42, 2))
	e.recv.WaitCount(t, "/dlr/42", 2, harness.Patience)

	page := "http://" + p.Addr + pagePath
	c.open(page)
	c.see("document.activeElement.id", "key")
	c.do(chromedp.KeyEvent(key))
	c.follow("form button")
	c.see(text("endpoints"), "Delivery receipts")
	c.openUntil(page, text("banner"), "2 events wait")
	c.see(text("banner"), "Delivery receipts: failing")
	c.see(text("state-dlr"), "HTTP 503")
	c.check("an endpoint that fails")

	c.follow("#banner a")
	c.see(rowsShown, "2 rows")
	c.follow("#deliveries tbody a")
	c.see(text("event-state"), "waiting")
	c.see(text("event"), "database is down")
	c.see(text("request"), "sms=")
	c.check("an event that waits")
	if at := c.eval(`document.querySelector("#event time").title`); !strings.HasSuffix(at, " UTC") {
		t.Errorf("the time's title is %q", at)
	}
	id := c.eval(text("event-id"))

	e.recv.On("/dlr/42", harness.Status(200))
	c.follow("#recover") // this event only
	c.see(text("messages"), "are sent now")
	c.see(text("event-state"), "delivered, HTTP 200")
	c.see(text("event-heading"), "delivered")
	c.see(text("event"), "1 event released, ended")
	c.see(text("event"), "Attempt 2")
	c.check("an event that was recovered")
	c.follow(`nav a[href="` + pagePath + `"]`)
	c.openUntil(page, text("banner"), "1 event waits")
	c.follow("#recover")
	c.see(text("messages"), "are sent now")
	for i, r := range e.recv.WaitCount(t, "/dlr/42", 4, harness.Patience)[2:] {
		if n := r.Header.Get("Webhook-Attempt"); n != "2" || (r.Header.Get("Webhook-Id") == id) != (i == 0) {
			t.Errorf("attempt %s of %s after the recovery, want 2, of %s first", n, r.Header.Get("Webhook-Id"), id)
		}
	}
	c.see(text("recovery"), "1 event released, ended")
	c.openUntil(page, text("state-dlr"), "ok")
	c.follow(`nav a[href$="/deliveries"]`)
	c.openUntil(page+"/deliveries?state=delivered", rowsShown, "2 rows")
	c.fill("message_id", "1")
	c.follow("#deliveries form button")
	c.see(rowsShown, "1 rows")
	c.follow("#deliveries tbody a")
	c.see(text("event-state"), "delivered, HTTP 200")
	c.follow("#resend")
	c.see(text("messages"), "1 event resent.")
	if n := e.recv.WaitCount(t, "/dlr/42", 5, harness.Patience)[4].Header.Get("Webhook-Attempt"); n != "1" {
		t.Errorf("attempt %s after the resend, want 1", n)
	}
	old := e.dlr(42, 3)
	old.Timestamp = time.Now().Add(-48 * time.Hour)
	e.emit(t, old)
	c.openUntil(page, text("dead-letters"), identity(old))
	c.follow("#dead-letters .do button")
	c.see(text("messages"), "1 event resent.")
	e.recv.WaitCount(t, "/dlr/42", 6, harness.Patience)
	c.settle(t, e, p, key)
	c.clean()
}

// settle changes the settings, creates a signing secret, and signs out.
func (c customer) settle(t *testing.T, e *env, p *harness.Proc, key string) {
	t.Helper()
	c.follow(`nav a[href$="/settings"]`)
	c.push("#result-dlr button")
	c.see(text("result-dlr"), "succeeded")
	c.check("a test event that succeeded")
	c.push("#rotate")
	c.see(value("secret"), "whsec_")
	harness.Secret(c.eval(value("secret")))
	c.push("#dlr_paused")
	c.push("#save-options")
	c.see(text("messages"), "The options apply from now on.")
	c.fill("click_url", "ftp://example.com/")
	c.follow("#settings button")
	c.see(text("click_url-error"), "Must be an absolute http or https URL.")
	c.fill("click_url", e.recv.URL("/click/42"))
	c.follow("#settings button")
	c.see(text("messages"), "Saved.")
	if got, want := webhooks(t, p.Addr, key), fmt.Sprint(e.recv.URL("/dlr/42 "), e.recv.URL("/click/42"), " <nil> <nil> false"); got != want {
		t.Errorf("the API returns %s, want %s", got, want)
	}
	if got := furtherSettings(t, p, key); got != "<nil> true all <nil> true" {
		t.Errorf("the API returns %s", got)
	}
	c.follow("header button")
	c.see("document.body.innerText", "You have signed out.")
	c.check("signed out")
	c.open("http://" + p.Addr + pagePath + "?token=x")
	c.see("document.querySelector('main [role=alert]').innerText", "This sign-in link is not valid")
	c.check("a token that is refused")
}
