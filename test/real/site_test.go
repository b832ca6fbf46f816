package real_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/smshooks/smshooks/test/real/harness"
)

// TestSite builds the documentation's site and checks each page on a phone and on a desktop, light and dark. Nothing
// may be wider than the screen or loaded from elsewhere, and the search must find a failure.
func TestSite(t *testing.T) {
	t.Parallel()
	harness.Need(t)
	build := exec.Command("make", "site")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("make site: %v\n%s", err, out)
	}
	root := "../../dist/site"
	server := httptest.NewServer(http.FileServer(http.Dir(root)))
	t.Cleanup(server.Close)
	pages, err := filepath.Glob(root + "/*/index.html")
	if err != nil || len(pages) < 15 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	decisions, err := filepath.Glob(root + "/adr/*/index.html")
	if err != nil || len(decisions) < 15 {
		t.Fatalf("%d decisions, %v", len(decisions), err)
	}
	pages = append(pages, decisions...)
	b := newTab(t)
	for _, page := range append(pages, root+"/index.html") {
		path := strings.TrimSuffix(strings.TrimPrefix(filepath.ToSlash(page), root), "index.html")
		name := "site-" + strings.ReplaceAll(strings.Trim(path, "/"), "/", "-")
		for width, scheme := range map[int64]string{390: "dark", 1300: "light"} {
			b.size(width, 900)
			b.media(scheme, "none")
			b.open(server.URL + path)
			b.see("document.querySelector('main h1') !== null", "true")
			if wide := b.eval("document.documentElement.scrollWidth <= window.innerWidth"); wide != "true" {
				t.Errorf("%s is wider than %d pixels", path, width)
			}
			b.picture(name + "-" + scheme + ".png")
		}
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), `src="http`) || strings.Contains(string(text), `rel="stylesheet" href="http`) {
			t.Errorf("%s loads something from another site", path)
		}
	}
	b.open(server.URL + "/")
	b.search("blocked address", "Failures")
	b.picture("site-search.png")
	b.clean()
}

// search types a query into the site's search once its index is loaded, until a result contains text. The page moves the
// focus while it opens the search, which loses keys on a slow machine, so the query is typed until the field has it.
func (b *tab) search(query, text string) {
	b.t.Helper()
	const field = "input.md-search__input"
	b.press(field)
	b.see("document.querySelector('.md-search-result__meta').innerText", "Type to start searching")
	harness.Eventually(b.t, browserTakes, func() bool {
		b.do(chromedp.Evaluate[chromedp.Void]("document.querySelector('"+field+"').select()"), chromedp.KeyEvent(query))
		return b.eval("document.querySelector('"+field+"').value") == query
	}, "the search field holds %q", query)
	b.see("document.querySelector('.md-search-result__list').innerText", text)
}
