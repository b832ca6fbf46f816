package web

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

// TestGuidePages follows every link of the guide: to a heading, to a file that the page serves, or to another site.
func TestGuidePages(t *testing.T) {
	s := newSite(t)
	get := func(path string) string {
		w := serve(s.page, httptest.NewRequest(http.MethodGet, path, nil))
		want(t, w, http.StatusOK)
		return w.Body.String()
	}
	for _, d := range guide {
		body := get(base + "/" + d.Name)
		for _, text := range []string{"<h1 id=", "<h2 id=", "<table>", "<pre><code", `aria-current="page">` + strings.ReplaceAll(d.Label, "'", "&#39;")} {
			if !strings.Contains(body, text) {
				t.Errorf("%s: no %s", d.Name, text)
			}
		}
		if strings.Contains(body, ".md") || strings.Contains(body, "](") || strings.Contains(body, "\n## ") {
			t.Errorf("%s contains or mentions Markdown", d.Name)
		}
		for _, found := range regexp.MustCompile(`href="([^"]+)"`).FindAllStringSubmatch(body, -1) {
			path, anchor, _ := strings.Cut(found[1], "#")
			target := body
			switch {
			case strings.HasPrefix(path, "https://"):
				continue
			case path != "":
				target = get(path)
			}
			if anchor != "" && !strings.Contains(target, `id="`+anchor+`"`) {
				t.Errorf("%s: no heading for %s", d.Name, found[1])
			}
		}
	}
}

func TestToHTML(t *testing.T) {
	got := string(toHTML([]byte("# A_b: c\n\na <script>x</script> [b](errors.md) [c](../examples/receiver) [d](javascript:x) [e](bodies.md#f) `<g>`\n")))
	const want = "<h1 id=\"a_b-c\">A_b: c</h1>\n<p>a <!-- raw HTML omitted -->x<!-- raw HTML omitted --> b <a href=\"" + base + "/receiver.go\">c</a> d <a href=\"" + base +
		"/bodies#f\">e</a> <code>&lt;g&gt;</code></p>\n"
	if got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}
