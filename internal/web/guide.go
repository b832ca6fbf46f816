package web

import (
	"bytes"
	"html/template"
	"io/fs"
	"net/url"
	"path"
	"strings"
	"unicode"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/parser"
	"github.com/yuin/goldmark/text"

	"github.com/smshooks/smshooks"
)

// document is a file of the repository that the page shows or offers.
type document struct{ path, Name, Label string }

// guide holds the documents that are shown as pages, samples the programs to download.
var (
	guide = []document{
		{"docs/receivers.md", "receivers", "Receivers' guide"},
		{"docs/bodies.md", "bodies", "Fields of every event"},
	}
	samples = []document{
		{"examples/receivers/php/receiver.php", "receiver.php", "PHP"},
		{"examples/receivers/node/receiver.mjs", "receiver.mjs", "Node"},
		{"examples/receivers/python/receiver.py", "receiver.py", "Python"},
		{"examples/receivers/java/Receiver.java", "Receiver.java", "Java"},
		{"examples/receiver/main.go", "receiver.go", "Go"},
	}
)

// guideView is the page of a document.
type guideView struct {
	Label string
	Text  template.HTML
}

// loadGuide renders the documents and adds them to files.
func loadGuide(files map[string]file, views *views) {
	for _, d := range guide {
		source, err := fs.ReadFile(smshooks.Guide, d.path)
		if err != nil {
			panic(err) // the files are part of the program
		}
		page := views.page("guide.html", guideView{d.Label, toHTML(source)})
		files[d.Name] = newFile(page, "text/html; charset=utf-8")
	}
}

// toHTML renders Markdown without the HTML in it.
func toHTML(source []byte) template.HTML {
	markdown := goldmark.New(goldmark.WithExtensions(extension.Table),
		goldmark.WithParserOptions(parser.WithAutoHeadingID()))
	root := markdown.Parser().Parse(text.NewReader(source),
		parser.WithContext(parser.NewContext(parser.WithIDs(headings{}))))
	var links []*ast.Link
	_ = ast.Walk(root, func(n ast.Node, entering bool) (ast.WalkStatus, error) { // the function returns no error
		if link, is := n.(*ast.Link); is && entering {
			links = append(links, link)
		}
		return ast.WalkContinue, nil
	})
	for _, link := range links {
		if to := offered(string(link.Destination)); to != "" {
			link.Destination = []byte(to)
			continue
		}
		for n := link.FirstChild(); n != nil; n = link.FirstChild() { // keep its text
			link.Parent().InsertBefore(link.Parent(), link, n)
		}
		link.Parent().RemoveChild(link.Parent(), link)
	}
	var b bytes.Buffer
	if err := markdown.Renderer().Render(&b, source, root); err != nil {
		panic(err) // a buffer returns no error
	}
	return template.HTML(b.String())
}

// headings gives headings the same ids as GitHub, so that links work on both.
type headings struct{}

// Generate implements parser.IDs.
func (headings) Generate(heading []byte, _ ast.NodeKind) []byte {
	return []byte(strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-', r == '_', unicode.IsLetter(r), unicode.IsDigit(r):
			return unicode.ToLower(r)
		}
		return -1
	}, string(heading)))
}

// Put implements parser.IDs.
func (headings) Put([]byte) {}

// offered returns the page's path for the target of a link in docs, or "" if the page does not have it.
func offered(target string) string {
	u, err := url.Parse(target)
	switch {
	case err != nil:
		return ""
	case u.Scheme == "https", u.Scheme == "" && u.Path == "":
		return target
	case u.Scheme != "":
		return ""
	}
	for _, list := range [][]document{guide, samples} {
		for _, d := range list {
			if at := path.Join("docs", u.Path); at == d.path || at == path.Dir(d.path) {
				u.Path = base + "/" + d.Name
				return u.String()
			}
		}
	}
	return ""
}
