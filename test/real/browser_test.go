package real_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/smshooks/smshooks/test/real/harness"
)

// browserTakes is how long a step in the browser may take; machines of CI are slow.
const browserTakes = 15 * time.Second

// tab is one tab of a Chromium of its own.
type tab struct {
	t   testing.TB
	ctx context.Context

	mu     sync.Mutex
	faults []string // what the page did wrong, by the browser's judgement
}

// newTab starts Chromium. Without one the test fails: make test-real installs it on Debian.
func newTab(t testing.TB) *tab {
	t.Helper()
	names := []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"}
	at := slices.IndexFunc(names, func(name string) bool { _, err := exec.LookPath(name); return err == nil })
	if at < 0 {
		t.Fatalf("the page's test needs a browser: install one of %s", strings.Join(names, ", "))
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:len(chromedp.DefaultExecAllocatorOptions):len(chromedp.DefaultExecAllocatorOptions)],
		chromedp.ExecPath(names[at]), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true))
	ctx, end := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(end)
	ctx, closeTab := chromedp.NewContext(ctx)
	t.Cleanup(closeTab)
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	t.Cleanup(cancel)
	b := &tab{t: t, ctx: ctx}
	if err := chromedp.Listen(ctx, b.hear); err != nil {
		t.Fatalf("start Chromium: %v", err)
	}
	b.size(1100, 800)
	return b
}

// hear notes exceptions and what the content policy blocked. Answers of 4xx are logged too, and are no fault.
func (b *tab) hear(event any) {
	fault := ""
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		fault = "exception: " + e.ExceptionDetails.Text
	case *log.EventEntryAdded:
		if e.Entry.Level == log.EntryLevelError && e.Entry.Source != log.EntrySourceNetwork {
			fault = e.Entry.Text
		}
	}
	if fault != "" {
		b.mu.Lock()
		b.faults = append(b.faults, fault)
		b.mu.Unlock()
	}
}

// clean fails the test if the browser had anything to complain about.
func (b *tab) clean() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, fault := range b.faults {
		b.t.Errorf("the browser says: %s", fault)
	}
}

func (b *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, browserTakes)
	defer cancel()
	err := chromedp.Do(ctx, steps...)
	for err != nil && ctx.Err() == nil && strings.Contains(err.Error(), "Could not find node") {
		err = chromedp.Do(ctx, steps...) // the page put a new element in its place between finding and using it
	}
	if err != nil {
		b.t.Fatalf("browser: %v\nthe page says: %s", err, b.eval(`document.querySelector("main").innerText`))
	}
}

// eval gives the value of a script as text, "" while there is none.
func (b *tab) eval(script string) string {
	ctx, cancel := context.WithTimeout(b.ctx, browserTakes)
	defer cancel()
	text, err := chromedp.Run(ctx, chromedp.Evaluate[string](`String(`+script+`)`))
	if err != nil {
		return "" // a page is on its way
	}
	return text
}

// see waits until a script's value contains text.
func (b *tab) see(script, text string) {
	b.t.Helper()
	got := ""
	defer func() {
		if b.t.Failed() {
			b.t.Logf("%s is %q", script, got)
		}
	}()
	harness.Eventually(b.t, browserTakes, func() bool { got = b.eval(script); return strings.Contains(got, text) }, "%s shows %q", script, text)
}

// text is the script for what an element shows, by id.
func text(id string) string { return fmt.Sprintf("document.getElementById(%q).innerText", id) }

// value is the script for what a field holds, by id.
func value(id string) string { return fmt.Sprintf("document.getElementById(%q).value", id) }

func (b *tab) open(url string) { b.t.Helper(); b.do(chromedp.Navigate(url)) }

// press clicks on the first element of a CSS selector.
func (b *tab) press(selector string) {
	b.t.Helper()
	b.do(chromedp.Click(chromedp.CSS(selector)))
}

// save presses Save and waits for the page that answers: the one before may show the same.
func (b *tab) save() {
	b.t.Helper()
	b.do(chromedp.Evaluate[chromedp.Void]("window.before = true"))
	b.press("#settings button")
	b.see("window.before", "undefined")
	b.see("document.readyState", "complete")
}

// pressUntil presses again and again until a script's value contains text: what is asked for may be on its way.
func (b *tab) pressUntil(selector, script, text string) {
	b.t.Helper()
	last := time.Time{}
	harness.Eventually(b.t, browserTakes, func() bool {
		if strings.Contains(b.eval(script), text) {
			return true
		}
		if time.Since(last) > time.Second {
			last = time.Now()
			b.press(selector)
		}
		return false
	}, "%s shows %q", script, text)
}

// fill replaces what a field holds, as if typed.
func (b *tab) fill(id, with string) {
	b.t.Helper()
	field := chromedp.CSS("#" + id)
	b.do(chromedp.WaitVisible(field), chromedp.Focus(field))
	b.do(chromedp.Evaluate[chromedp.Void](fmt.Sprintf("document.getElementById(%q).select()", id)), chromedp.KeyEvent(kb.Backspace))
	if with != "" {
		b.do(chromedp.KeyEvent(with))
	}
	b.see(value(id)+" + '.'", with+".")
}

func (b *tab) choose(id, option string) {
	b.t.Helper()
	b.do(chromedp.Evaluate[chromedp.Void](fmt.Sprintf("document.getElementById(%q).value = %q", id, option)))
}

func (b *tab) size(width, height int64) {
	b.t.Helper()
	b.do(chromedp.EmulateViewport(width, height))
}

func (b *tab) scheme(name string) {
	b.t.Helper()
	features := []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}}
	if _, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: features}); err != nil {
		b.t.Fatalf("colour scheme: %v", err)
	}
}

func (b *tab) scripts(on bool) {
	b.t.Helper()
	if _, err := chromedp.Call(b.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: !on}); err != nil {
		b.t.Fatalf("scripts: %v", err)
	}
}

// picture keeps a picture of the whole page, if SMSHOOKS_TEST_SCREENSHOTS names a folder (from the repository's root).
func (b *tab) picture(name string) {
	b.t.Helper()
	folder := os.Getenv("SMSHOOKS_TEST_SCREENSHOTS")
	if folder == "" {
		return
	}
	if !filepath.IsAbs(folder) {
		folder = filepath.Join("..", "..", folder)
	}
	b.do(chromedp.Evaluate[chromedp.Void](tidy))
	picture, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
	b.do(chromedp.Evaluate[chromedp.Void]("window.untidy()"))
	if err == nil {
		err = os.WriteFile(filepath.Join(folder, name), picture, 0o644)
	}
	if err != nil {
		b.t.Fatalf("picture %s: %v", name, err)
	}
}

// tidy gives a picture the names of a real installation instead of the test's own; untidy takes them back.
const tidy = `{
	document.activeElement.blur();
	window.scrollTo(0, 0);
	const names = [[/http:\/\/127\.0\.0\.1:\d+/g, "https://hooks.example.com"], [/127\.0\.0\.1(:\d+)?/g, "hooks.example.com"], [/AccountPage-\w+-/g, ""]];
	const undo = [];
	const better = (node, property) => {
		const old = node[property];
		undo.push(() => { node[property] = old; });
		node[property] = names.reduce((text, [from, to]) => text.replace(from, to), old);
	};
	document.querySelectorAll("input[type=url]").forEach((field) => better(field, "value"));
	const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	while (texts.nextNode()) better(texts.currentNode, "nodeValue");
	window.untidy = () => undo.forEach((step) => step());
}`

const pagePath = "/account/webhooks"

// newKey makes an API key of a user, which works within a second.
func (e *env) newKey(t testing.TB, user int64) string {
	t.Helper()
	out, stderr, code := harness.Run(t, e.options(), "keys", "create", "--user", fmt.Sprint(user))
	if code != 0 {
		t.Fatalf("keys create: exit code %d\n%s", code, stderr)
	}
	return strings.TrimSpace(out)
}

// webhooks asks the API for a user's settings, as one text.
func webhooks(t testing.TB, addr, key string) string {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, "http://"+addr+"/v1/user/get-webhook", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-API-KEY", key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var reply struct{ Data map[string]any }
	if err := json.NewDecoder(resp.Body).Decode(&reply); err != nil {
		t.Fatalf("get-webhook: %v", err)
	}
	d := reply.Data
	return fmt.Sprint(d["dlr_url"], " ", d["click_url"], " ", d["inbound_url"], " ", d["revoke_click_url"], " ", d["auth"])
}

// TestAccountPage goes through the page as a user does, in a real browser.
func TestAccountPage(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	p := e.serve(t)
	key := e.newKey(t, 42)
	b := newTab(t)
	page := "http://" + p.Addr + pagePath

	signIn(t, b, page, key)
	b.fill("dlr_url", e.recv.URL("/dlr/42"))
	b.fill("click_url", e.recv.URL("/click/42"))
	b.fill("inbound_url", e.recv.URL("/inbound/42"))
	b.fill("auth", "me:secret")
	b.save()
	b.see(text("messages"), "Saved.")
	b.see(text("auth-state"), "set")
	if got, want := webhooks(t, p.Addr, key), fmt.Sprint(e.recv.URL("/dlr/42 "), e.recv.URL("/click/42 "), e.recv.URL("/inbound/42"), " <nil> true"); got != want {
		t.Errorf("the API says %s, want %s", got, want)
	}

	badAddress(b, e)
	clearing(t, b, e, p.Addr, key)
	options(t, b, p, key)
	signing(t, b, p, page, key)
	testEvents(t, b, e)
	history(t, b, e)
	pictures(t, b, e)
	withoutScripts(t, b, e, page, key)
	b.clean()

	if out, _, code := harness.Run(t, e.options(), "keys", "revoke", key); code != 0 {
		t.Fatalf("keys revoke: %d %s", code, out)
	}
	harness.Eventually(t, changeTakes+time.Second, func() bool {
		b.open(page)
		return strings.Contains(b.eval("document.body.innerText"), "Your session has ended")
	}, "a revoked key is signed out")
	if logged := p.Log(); strings.Contains(logged, key) || strings.Contains(logged, "secret") {
		t.Error("the log tells a key or credentials")
	}
}

func signIn(t *testing.T, b *tab, page, key string) {
	t.Helper()
	b.open(page)
	b.fill("key", "smsh_wrong")
	b.press("form button")
	b.see(text("key-error"), "unknown or revoked")
	b.see("document.activeElement.id", "key")
	b.accessible("sign-in")
	b.picture("account-sign-in.png")
	b.fill("key", key)
	b.press("form button")
	b.see(text("deliveries"), "No deliveries yet")
	if got := b.eval("document.cookie + JSON.stringify(localStorage) + JSON.stringify(sessionStorage)"); got != "{}{}" {
		t.Errorf("scripts can read %s", got)
	}
}

// badAddress: the error stands next to its field, which has the focus, and nothing that was entered is lost.
func badAddress(b *tab, e *env) {
	b.t.Helper()
	b.fill("click_url", e.recv.URL("/other"))
	b.fill("inbound_url", "ftp://example.com/")
	b.save()
	b.see(text("inbound_url-error"), "Must be an absolute http or https URL.")
	b.see("document.activeElement.id", "inbound_url")
	b.see(`document.activeElement.getAttribute("aria-describedby")`, "inbound_url-error")
	b.see(value("click_url"), "/other")
	b.see(value("inbound_url"), "ftp://example.com/")
	b.accessible("errors")
	b.picture("account-error.png")
}

// clearing takes two addresses and the credentials away; what was not saved before is not there.
func clearing(t *testing.T, b *tab, e *env, addr, key string) {
	t.Helper()
	b.fill("click_url", "")
	b.fill("inbound_url", "")
	b.press("#auth_clear")
	b.save()
	b.see(text("messages"), "Saved.")
	b.see(text("auth-state"), "not set")
	b.see("'.' + "+value("click_url")+" + '.'", "..")
	if got, want := webhooks(t, addr, key), e.recv.URL("/dlr/42")+" <nil> <nil> <nil> false"; got != want {
		t.Errorf("the API says %s, want %s", got, want)
	}
	b.fill("inbound_url", e.recv.URL("/inbound/42"))
	b.save()
	b.see(text("messages"), "Saved.")
}

// testEvents: each result is shown when it is there, without waiting for the slowest.
func testEvents(t *testing.T, b *tab, e *env) {
	t.Helper()
	answer := make(chan struct{})
	e.recv.On("/inbound/42", func(w httpWriter, r *httpRequest, _ harness.Request) {
		select {
		case <-answer:
			w.WriteHeader(http.StatusServiceUnavailable)
		case <-r.Context().Done():
		}
	})
	b.press("#test-button")
	b.see(text("result-dlr"), "HTTP 200 in ")
	b.see(text("result-click"), "not configured")
	b.see(text("result-inbound"), "waiting for the response")
	close(answer)
	b.see(text("result-inbound"), "HTTP 503 in ")
	b.see(text("test-status"), "1 of 2 succeeded.")
	if got := e.recv.Requests("/dlr/42"); len(got) != 1 || !strings.HasPrefix(got[0].Header.Get("Webhook-Id"), "test_dlr_") {
		t.Errorf("%d requests", len(got))
	}
	e.recv.Forget()
}

// history: real events are delivered or given up, the page shows them, and one is sent again.
func history(t *testing.T, b *tab, e *env) {
	t.Helper()
	settle(t) // until the last change counts everywhere
	e.recv.On("/inbound/42", harness.Status(500))
	for sms := range int64(12) {
		e.emit(t, e.dlr(42, sms))
	}
	inbound := e.emit(t, harness.Event(e.topics.Inbound, 42, harness.InboundValue(42, 1)))[0]
	e.recv.WaitCount(t, "/dlr/42", 12, 10*time.Second)
	e.dead(t, 42, 1, 15*time.Second)

	b.fill("click_url", "https://not.saved.example/") // stays while the lists are read
	b.choose("status", "failed")
	b.pressUntil("#deliveries .filters button", `document.querySelectorAll("#deliveries tbody tr").length`, "3")
	b.see(text("state-inbound"), "failing")
	b.see(text("state-inbound"), "http 500")
	b.see(text("deliveries"), identity(inbound))
	b.see(text("deliveries"), "attempt 3")
	b.see(text("deliveries"), "12 of the latest 15 attempts succeeded (80 %)")
	b.choose("status", "")
	b.pressUntil("#deliveries .filters button", `document.querySelectorAll("#deliveries tbody tr").length`, "10")
	b.press(`#deliveries .pages a`)
	b.see(`document.querySelectorAll("#deliveries tbody tr").length`, "5")

	b.press("#show-letters")
	b.see(text("dead-letters"), "every attempt failed")
	b.see(text("dead-letters"), identity(inbound))
	e.recv.On("/inbound/42", harness.Status(200))
	b.press(`#dead-letters [name="only"]`)
	b.see(text("messages"), "1 event is being sent again.")
	b.see(value("click_url"), "https://not.saved.example/")
	again := e.recv.WaitCount(t, "/inbound/42", 4, 10*time.Second)[3]
	if id, n := again.Header.Get("Webhook-Id"), again.Header.Get("Webhook-Attempt"); id != identity(inbound) || n != "1" {
		t.Errorf("sent again as %s, attempt %s; want %s, attempt 1", id, n, identity(inbound))
	}
	b.pressUntil("#deliveries .filters button", text("state-inbound"), "ok")
	b.fill("click_url", "")
}

// pictures shows the page in light, dark and on a phone.
func pictures(t *testing.T, b *tab, e *env) {
	t.Helper()
	if os.Getenv("SMSHOOKS_TEST_SCREENSHOTS") != "" {
		traffic(t, b, e)
	}
	b.choose("status", "")
	b.press("#deliveries .filters button")
	b.see(`document.querySelector("[aria-busy]")`, "null")
	b.see(`document.querySelectorAll("#deliveries tbody tr").length`, "10")
	b.accessible("deliveries and failed events")
	b.picture("account-light.png")
	b.scheme("dark")
	b.picture("account-dark.png")
	b.scheme("light")
	b.size(390, 844)
	b.see("document.documentElement.scrollWidth <= document.documentElement.clientWidth", "true")
	b.picture("account-phone.png")
	b.size(1100, 800)
}

// traffic makes something to look at: events over a while, a few of which fail at first.
func traffic(t *testing.T, b *tab, e *env) {
	t.Helper()
	b.fill("click_url", e.recv.URL("/click/42"))
	b.fill("revoke_click_url", e.recv.URL("/revoke_click/42"))
	b.fill("auth", "me:secret")
	b.save()
	b.see(text("messages"), "Saved.")
	e.recv.On("/dlr/42", func(w httpWriter, _ *httpRequest, r harness.Request) {
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
	e.recv.On("/dlr/42", harness.Status(200))
	b.press("#test-button")
	b.see(text("test-status"), "4 of 4 succeeded.")
	b.press("#show-letters")
	b.see(text("dead-letters"), "every attempt failed")
}

// withoutScripts: reading, saving, testing and sending again work without any.
func withoutScripts(t *testing.T, b *tab, e *env, page, key string) {
	t.Helper()
	before := e.recv.Count("/inbound/42")
	b.scripts(false)
	defer b.scripts(true)
	b.press("header button")
	b.see("document.body.innerText", "You have signed out.")
	b.fill("key", key)
	b.press("form button")
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
	b.open(page + "?kind=inbound&status=failed&period=1d")
	b.see(`document.querySelectorAll("#deliveries tbody tr").length`, "3")
	b.press(`#dead-letters [name="ids"]`)
	b.press(`#dead-letters .actions button`)
	b.see(text("messages"), "1 event is being sent again.")
	e.recv.WaitCount(t, "/inbound/42", before+2, 10*time.Second) // the test's and this one
}
