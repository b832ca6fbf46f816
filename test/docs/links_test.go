package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"
)

var (
	fence = regexp.MustCompile("(?ms)^ *```.*?^ *```$")
	code  = regexp.MustCompile("`[^`\n]*`")
	// link matches [text](target), and the target of a picture inside a link.
	link    = regexp.MustCompile(`\]\(([^()\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#{1,6} +(.*)$`)
)

// TestLinks checks the links between the pages of the repository: the file exists, and so does the heading after a "#".
// `make site` checks those of the site once more, as its generator sees them.
func TestLinks(t *testing.T) {
	pages, err := filepath.Glob(filepath.Join(root, "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{"docs/*.md", "docs/adr/*.md", "examples/*/README.md", "test/stack/README.md", "deploy/helm/*/README.md"} {
		more, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, more...)
	}
	checked := 0
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range link.FindAllStringSubmatch(code.ReplaceAllString(fence.ReplaceAllString(string(text), ""), "`"), -1) {
			if wrong := broken(page, match[1]); wrong != "" {
				t.Errorf("%s: link %s: %s", page, match[1], wrong)
			}
			checked++
		}
	}
	if checked < 120 {
		t.Errorf("only %d links were found", checked)
	}
}

// broken returns what is wrong with a link of a page, or "". Of the links to other sites, it checks only those to this
// repository's files.
func broken(page, target string) string {
	if own, ok := strings.CutPrefix(target, "https://github.com/smshooks/smshooks/"); ok {
		if _, path, ok := strings.Cut(own, "/main/"); ok { // blob/main/…, tree/main/…
			return broken(filepath.Join(root, "README.md"), path)
		}
		return ""
	}
	if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
		return ""
	}
	path, anchor, hasAnchor := strings.Cut(target, "#")
	file := page
	if path != "" {
		file = filepath.Join(filepath.Dir(page), path)
	}
	info, err := os.Stat(file)
	if err != nil {
		return "no such file"
	}
	if !hasAnchor || info.IsDir() || filepath.Ext(file) != ".md" {
		return ""
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	for _, match := range heading.FindAllStringSubmatch(fence.ReplaceAllString(string(text), ""), -1) {
		if slug(match[1]) == anchor {
			return ""
		}
	}
	return "no such heading"
}

// slug returns the anchor of a heading, as GitHub makes it.
func slug(heading string) string {
	heading = regexp.MustCompile(`\[([^]]*)\]\([^)]*\)`).ReplaceAllString(heading, "$1")
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-', r == '_', unicode.IsLetter(r), unicode.IsDigit(r):
			return unicode.ToLower(r)
		}
		return -1
	}, strings.TrimSpace(heading))
}

func TestSlug(t *testing.T) {
	for heading, want := range map[string]string{
		"5. API (default `127.0.0.1:8080`)": "5-api-default-1270018080", "revoke_click: clicks of bots": "revoke_click-clicks-of-bots",
		"A [link](x.md) & more": "a-link--more",
	} {
		if got := slug(heading); got != want {
			t.Errorf("%q: %q, want %q", heading, got, want)
		}
	}
}

// TestBrokenLinks checks that a broken link is reported.
func TestBrokenLinks(t *testing.T) {
	for target, wrong := range map[string]bool{
		"docs/contract.md#2-what-is-sent": false, "docs/contract.md#nothing": true, "docs/nothing.md": true, "https://example.com/x": false,
		"https://github.com/smshooks/smshooks/blob/main/docs/contract.md#1-topics": false,
		"https://github.com/smshooks/smshooks/blob/main/docs/gone.md":              true,
	} {
		if got := broken(filepath.Join(root, "README.md"), target); (got != "") != wrong {
			t.Errorf("%s: %q", target, got)
		}
	}
}
