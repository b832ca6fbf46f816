package real_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/smshooks/smshooks/test/real/harness"
)

// axe is the source of axe-core, which checks the accessibility of a page.
var axe = sync.OnceValues(func() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "smshooks-axe-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	install := exec.CommandContext(ctx, "npm", "install", "--prefix", dir, "--no-audit", "--no-fund", "--ignore-scripts", "axe-core@4.14.1")
	install.Dir = dir
	if out, err := install.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm: %w\n%s", err, out)
	}
	source, err := os.ReadFile(filepath.Join(dir, "node_modules/axe-core/axe.min.js"))
	return string(source), err
})

// accessible fails the test if axe finds a problem in the current state of the page, in light and dark at three widths
// and in forced colours at the smallest, or if the page scrolls sideways.
func (b *tab) accessible(state string) {
	b.t.Helper()
	source, err := axe()
	if err != nil {
		b.t.Fatal(err)
	}
	b.do(chromedp.Evaluate[chromedp.Void](source + "; undefined"))
	// 550 px is what remains of 1100 at a zoom of 200 %.
	for _, width := range []int64{1100, 550, 320} {
		b.size(width, 800)
		colours := [][2]string{{"light", "none"}, {"dark", "none"}}
		if width == 320 {
			colours = append(colours, [2]string{"light", "active"}, [2]string{"dark", "active"})
		}
		for _, colours := range colours {
			b.media(colours[0], colours[1])
			b.do(chromedp.Evaluate[chromedp.Void](`window.found = ""; axe.run().then((r) => { window.found = "done " + JSON.stringify(
				r.violations.map((v) => [v.id, v.nodes.map((n) => n.html + " " + n.failureSummary)])); }); undefined`))
			b.see("window.found", "done")
			if found := b.eval("window.found"); found != "done []" {
				b.t.Errorf("%s, %s, %d px wide: axe finds %s", state, colours, width, found)
			}
			b.see("document.documentElement.scrollWidth <= document.documentElement.clientWidth", "true")
		}
	}
	b.media("light", "none")
	b.size(b.width, b.height)
}

// furtherSettings reads a user's further settings from the API, as one text.
func furtherSettings(t testing.TB, p *harness.Proc, key string) string {
	t.Helper()
	var d map[string]any
	if status := ask(t, p, http.MethodGet, key, "/v1/user/webhook-settings", "", &d); status != http.StatusOK {
		t.Fatalf("webhook-settings: %d", status)
	}
	return fmt.Sprint(d["dlr_failover_url"], " ", d["dlr_paused"], " ", d["dlr_order"], " ", d["dlr_statuses"], " ", d["signing"])
}

// slowly presses a button whose request is held back until during has ended.
func (b *tab) slowly(selector string, during func()) {
	b.t.Helper()
	b.do(chromedp.Evaluate[chromedp.Void](`{
		const send = window.fetch;
		window.fetch = (...request) => new Promise((done) => { window.release = () => { window.fetch = send; done(send(...request)); }; });
	}`))
	b.press(selector)
	b.see("typeof window.release", "function")
	during()
	b.do(chromedp.Evaluate[chromedp.Void]("window.release()"))
}

// saveOptions presses Save options and waits until the page shows the result.
func (b *tab) saveOptions() {
	b.t.Helper()
	b.do(chromedp.Evaluate[chromedp.Void]("document.getElementById('options').pressed = true"))
	b.press("#save-options")
	b.see("document.getElementById('options').pressed", "undefined")
}

// options changes the further settings. The rest of the page must keep unsaved input.
func options(t *testing.T, b *tab, p *harness.Proc, key string) {
	t.Helper()
	b.fill("click_url", "https://not.saved.example/")
	b.see(leaving, "true") // the browser asks for confirmation
	b.press("#status-Pending")
	b.stay("#settings button") // because of the options
	b.press("#status-Pending")
	b.see(leaving, "true") // because of the URL
	b.press("#status-Pending")
	b.slowly("#save-options", func() {
		b.see(`document.getElementById("options").getAttribute("aria-busy")`, "true")
		b.accessible("options that are being saved")
	})
	b.see(text("messages"), "The options apply from now on.")
	b.see(value("click_url"), "https://not.saved.example/")
	b.fill("click_url", "")
	b.see(leaving, "false")
	if got := furtherSettings(t, p, key); got != "<nil> false all [Delivered Failed Rejected Expired Unknown] false" {
		t.Errorf("the API returns %s", got)
	}
	b.press("#dlr_paused")
	b.fill("dlr_failover_url", "https://spare.example.com/dlr")
	b.choose("dlr_order", "latest")
	b.saveOptions()
	b.see(text("messages"), "The options apply from now on.")
	if got := furtherSettings(t, p, key); got != "https://spare.example.com/dlr true latest [Delivered Failed Rejected Expired Unknown] false" {
		t.Errorf("the API returns %s", got)
	}
	b.press("#dlr_paused")
	b.fill("dlr_failover_url", "")
	b.choose("dlr_order", "all")
	b.saveOptions()
	b.see(text("messages"), "The options apply from now on.")
	for _, status := range []string{"Delivered", "Failed", "Rejected", "Expired", "Unknown"} {
		b.press("#status-" + status)
	}
	b.fill("dlr_failover_url", "ftp://example.com/")
	b.saveOptions()
	b.see(text("dlr_statuses-error"), "Select at least one status.")
	b.see(text("dlr_failover_url-error"), "Must be an absolute http or https URL.")
	b.see("document.activeElement.id", "dlr_failover_url")
	b.see(leaving, "true")
	b.accessible("options with errors")
	b.fill("dlr_failover_url", "")
	for _, status := range []string{"Delivered", "Pending", "Failed", "Rejected", "Expired", "Unknown"} {
		b.press("#status-" + status)
	}
	b.saveOptions()
	b.see(text("messages"), "The options apply from now on.")
	if got := furtherSettings(t, p, key); got != "<nil> false all <nil> false" {
		t.Errorf("the API returns %s", got)
	}
}

// leaving is the script that reports whether the browser asks before it leaves the page.
const leaving = `(() => { const e = new Event("beforeunload", { cancelable: true }); window.dispatchEvent(e); return e.defaultPrevented; })()`

// signing creates signing secrets and ends signing. A secret must be shown only once.
func signing(t *testing.T, b *tab, p *harness.Proc, page, key string) {
	t.Helper()
	b.press("#rotate")
	b.see(text("messages"), "This is your new signing secret.")
	first := b.eval(value("secret"))
	if !strings.HasPrefix(first, "whsec_") {
		t.Errorf("the secret is %q", first)
	}
	harness.Secret(first)
	b.press("#copy")
	b.see(text("copy"), "Copied")
	b.accessible("new secret")
	if got := furtherSettings(t, p, key); !strings.HasSuffix(got, "true") {
		t.Errorf("the API returns %s", got)
	}
	b.open(page + "/settings")
	b.see(text("signing-state"), "set")
	b.see(`document.documentElement.outerHTML.includes("whsec_")`, "false")
	b.choose("grace", "1h")
	b.press("#rotate")
	b.see(text("signing"), "stays valid until")
	second := b.eval(value("secret"))
	harness.Secret(second)
	if first == second {
		t.Error("the second secret equals the first")
	}
	b.press("#signing summary")
	b.press("#clear-secret")
	b.see(text("messages"), "Requests are not signed any more.")
	b.see(text("signing-state"), "not set")
	if got := furtherSettings(t, p, key); !strings.HasSuffix(got, "false") {
		t.Errorf("the API returns %s", got)
	}
}
