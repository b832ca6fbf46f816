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
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/smshooks/smshooks/test/real/harness"
)

// browserTakes limits a step in the browser; CI machines are slow.
const browserTakes = harness.Patience

// tab is a tab in its own Chromium.
type tab struct {
	t   testing.TB
	ctx context.Context

	width, height int64 // between the steps of a test

	mu     sync.Mutex
	faults []string // problems that the browser reported
	asked  int      // how often the browser asked whether to leave the page
}

// newTab starts Chromium. The test fails if it is not installed; make test-real installs it on Debian.
func newTab(t testing.TB) *tab { t.Helper(); return newTabOf(t, 1100, 800) }

// newTabOf starts Chromium with a window of this size.
func newTabOf(t testing.TB, width, height int64) *tab {
	t.Helper()
	names := []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"}
	at := slices.IndexFunc(names, func(name string) bool { _, err := exec.LookPath(name); return err == nil })
	if at < 0 {
		t.Fatalf("this test needs a browser: install one of %s", strings.Join(names, ", "))
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
	b := &tab{t: t, ctx: ctx, width: width, height: height}
	if err := chromedp.Listen(ctx, b.hear); err != nil {
		t.Fatalf("start Chromium: %v", err)
	}
	b.size(width, height)
	return b
}

// hear records exceptions and violations of the content security policy. It ignores logged replies of 4xx. It stays on
// the page when the browser asks.
func (b *tab) hear(event any) {
	fault := ""
	switch e := event.(type) {
	case *page.EventJavascriptDialogOpening:
		b.mu.Lock()
		b.asked++
		b.mu.Unlock()
		go func() { // the test ends the browser
			_, _ = chromedp.Call(b.ctx, page.HandleJavaScriptDialog, page.HandleJavaScriptDialogParams{Accept: false})
		}()
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

// clean fails the test if the browser has reported a problem.
func (b *tab) clean() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, fault := range b.faults {
		b.t.Errorf("the browser reports: %s", fault)
	}
}

func (b *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, browserTakes)
	defer cancel()
	err := chromedp.Do(ctx, steps...)
	for err != nil && ctx.Err() == nil && strings.Contains(err.Error(), "Could not find node") {
		err = chromedp.Do(ctx, steps...) // the page replaced the element between finding and using it
	}
	if err != nil {
		b.t.Fatalf("browser: %v\nthe page shows: %s", err, b.eval(`document.querySelector("main").innerText`))
	}
}

// eval returns the value of a script as text, "" while there is none.
func (b *tab) eval(script string) string {
	ctx, cancel := context.WithTimeout(b.ctx, browserTakes)
	defer cancel()
	text, err := chromedp.Run(ctx, chromedp.Evaluate[string](`String(`+script+`)`))
	if err != nil {
		return "" // a page is loading
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

// text is the script for the text of an element, by id.
func text(id string) string { return fmt.Sprintf("document.getElementById(%q).innerText", id) }

// value is the script for the value of a field, by id.
func value(id string) string { return fmt.Sprintf("document.getElementById(%q).value", id) }

func (b *tab) open(url string) { b.t.Helper(); b.do(chromedp.Navigate(url)) }

// press clicks on the first element of a CSS selector.
func (b *tab) press(selector string) {
	b.t.Helper()
	b.do(chromedp.Click(chromedp.CSS(selector)))
}

// save presses Save.
func (b *tab) save() {
	b.t.Helper()
	b.leave("#settings button")
}

// stay presses Save on a form and stays on the page when the browser asks.
func (b *tab) stay(selector string) {
	b.t.Helper()
	asked := func() int {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.asked
	}
	before := asked()
	b.press(selector)
	harness.Eventually(b.t, browserTakes, func() bool { return asked() > before }, "the browser asks")
	b.see(`document.querySelector("[aria-busy]")`, "null")
}

// openUntil opens a page repeatedly until a script's value contains text.
func (b *tab) openUntil(url, script, text string) {
	b.t.Helper()
	got := ""
	harness.Eventually(b.t, browserTakes, func() bool {
		b.open(url)
		got = b.eval(script)
		return strings.Contains(got, text)
	}, "%s: %s shows %q", url, script, text)
}

// leave presses a link to another page and waits for that page, which may look the same.
func (b *tab) leave(selector string) {
	b.t.Helper()
	b.do(chromedp.Evaluate[chromedp.Void]("window.before = true"))
	b.press(selector)
	b.arrive()
}

func (b *tab) arrive() {
	b.t.Helper()
	b.see("window.before", "undefined")
	b.see("document.readyState", "complete")
}

// fill replaces the value of a field, as if typed.
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

// media emulates the user's preferences: light or dark, and forced colours.
func (b *tab) media(scheme, forced string) {
	b.t.Helper()
	features := []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}, {Name: "forced-colors", Value: forced}}
	if _, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: features}); err != nil {
		b.t.Fatalf("colours: %v", err)
	}
}

func (b *tab) scripts(on bool) {
	b.t.Helper()
	if _, err := chromedp.Call(b.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: !on}); err != nil {
		b.t.Fatalf("scripts: %v", err)
	}
}

// picture saves a screenshot of the whole page if SMSHOOKS_TEST_SCREENSHOTS is a folder (relative to the repository's
// root).
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

// tidy shows the names of a real installation instead of the test's own; untidy restores them.
const tidy = `{
	document.activeElement.blur();
	window.scrollTo(0, 0);
	const scheme = document.querySelector(".warning") ? "http" : "https"; // a warning is about http
	const names = [[/http:\/\/127\.0\.0\.1:\d+/g, scheme + "://hooks.example.com"], [/127\.0\.0\.1(:\d+)?/g, "hooks.example.com"], [/AccountPage-\w+-/g, ""]];
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

// newKey creates an API key of a user, which works within a second.
func (e *env) newKey(t testing.TB, user int64) string {
	t.Helper()
	out, stderr, code := harness.Run(t, e.options(), "keys", "create", "--user", fmt.Sprint(user))
	if code != 0 {
		t.Fatalf("keys create: exit code %d\n%s", code, stderr)
	}
	return strings.TrimSpace(out)
}

// webhooks reads a user's settings from the API, as one text.
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

// TestAccountPage uses the page like a user, in a real browser.
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
	b.see(text("dlr_url-warning"), "without encryption")
	if got, want := webhooks(t, p.Addr, key), fmt.Sprint(e.recv.URL("/dlr/42 "), e.recv.URL("/click/42 "), e.recv.URL("/inbound/42"), " <nil> true"); got != want {
		t.Errorf("the API returns %s, want %s", got, want)
	}

	badAddress(b, e)
	clearing(t, b, e, p.Addr, key)
	options(t, b, p, key)
	signing(t, b, p, page, key)
	testEvents(t, b, e)
	id := history(t, b, e, page)
	pictures(t, b, e, page)
	withoutScripts(t, b, e, page, key, id)
	rareStates(t, b, e, page)
	b.clean()

	if out, _, code := harness.Run(t, e.options(), "keys", "revoke", key); code != 0 {
		t.Fatalf("keys revoke: %d %s", code, out)
	}
	harness.Eventually(t, harness.Patience, func() bool {
		b.open(page)
		return strings.Contains(b.eval("document.body.innerText"), "Your session has ended")
	}, "a revoked key is signed out")
	b.accessible("a session that has ended")
	if logged := p.Log(); strings.Contains(logged, key) || strings.Contains(logged, "secret") {
		t.Error("the log contains a key or credentials")
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
	b.see(text("content"), "No URL is set yet")
	b.accessible("overview of a new user")
	b.open(page + "/deliveries")
	b.see(text("deliveries"), "No deliveries yet")
	b.accessible("no deliveries")
	b.open(page)
	if got := b.eval("document.cookie + JSON.stringify(localStorage) + JSON.stringify(sessionStorage)"); got != "{}{}" {
		t.Errorf("scripts can read %s", got)
	}
}

// badAddress checks that the error is next to its field, which has the focus, and that no input is lost.
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

// clearing removes two addresses and the credentials. Earlier unsaved input must not appear.
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
		t.Errorf("the API returns %s, want %s", got, want)
	}
	b.fill("inbound_url", e.recv.URL("/inbound/42"))
	b.save()
	b.see(text("messages"), "Saved.")
}

// testEvents checks that each result is shown as soon as it arrives, without waiting for the slowest.
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
	b.see(text("result-click"), "not set")
	b.see(text("result-inbound"), "waiting for the response")
	close(answer)
	b.see(text("result-inbound"), "HTTP 503 in ")
	b.see(text("test-status"), "1 of 2 succeeded.")
	b.accessible("results of test events")
	if got := e.recv.Requests("/dlr/42"); len(got) != 1 || !strings.HasPrefix(got[0].Header.Get("Webhook-Id"), "test_dlr_") {
		t.Errorf("%d requests", len(got))
	}
	b.press(`#result-dlr button`)
	b.see(text("test-status"), "1 of 1 succeeded.")
	if n := e.recv.Count("/dlr/42"); n != 2 || e.recv.Count("/inbound/42") != 1 {
		t.Errorf("%d test events to the endpoint of the button, want 2 with the one before, and none to others", n)
	}
	e.recv.Forget()
}
