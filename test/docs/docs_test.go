// Package docs compares the pages of docs with the program, and checks the links between them.
package docs

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/smshooks/smshooks/internal/sender"
	"github.com/smshooks/smshooks/pkg/webhook"
	"github.com/smshooks/smshooks/test/peer"
)

const root = "../.."

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// section returns the text below the heading that begins with title, up to the next heading of that level.
func section(t *testing.T, page, title string) string {
	t.Helper()
	_, rest, found := strings.Cut(page, "\n## "+title)
	if !found {
		t.Fatalf("there is no section %q", title)
	}
	text, _, _ := strings.Cut(rest, "\n## ")
	return text
}

// table returns the cells of a section's first table, without its head. A cell that is code loses its backquotes.
func table(section string) (rows [][]string) {
	for line := range strings.Lines(section) {
		if !strings.HasPrefix(line, "|") {
			if len(rows) > 0 {
				break
			}
			continue
		}
		cells := strings.Split(strings.Trim(line, "| \n"), " | ")
		for i, cell := range cells {
			cells[i] = strings.Trim(strings.TrimSpace(cell), "`")
		}
		rows = append(rows, cells)
	}
	return rows[min(2, len(rows)):]
}

// jsonType returns the word of docs/bodies.md for the type of a JSON value.
func jsonType(value json.RawMessage) string {
	switch value[0] {
	case '"':
		return "text"
	case 't', 'f':
		return "boolean"
	case 'n':
		return "null"
	case '[':
		return "list"
	}
	return "number"
}

// TestBodies compares the tables and the bodies of docs/bodies.md with the bodies that pkg/webhook's tests encode.
func TestBodies(t *testing.T) {
	page := read(t, "docs/bodies.md")
	for _, kind := range webhook.Kinds() {
		if kind == webhook.Click { // refers to dlr
			continue
		}
		text := section(t, page, kind.String()+":")
		golden := read(t, "pkg/webhook/testdata/"+kind.String()+".body.txt")
		if !strings.Contains(text, "\n"+golden+"\n") {
			t.Errorf("%v: the page does not show the body %s", kind, golden)
		}
		object := golden
		if kind != webhook.RevokeClick {
			form, err := url.ParseQuery(golden)
			if err != nil {
				t.Fatal(err)
			}
			object = form.Get("sms")
		}
		if got, want := table(text), fields(t, object); !slices.EqualFunc(got, want, func(got, want []string) bool { return slices.Equal(got[:3], want) }) {
			t.Errorf("%v: the fields are\n%q\nwant\n%q", kind, got, want)
		}
	}
}

// fields returns name, type and value of each field of a JSON object, in order.
func fields(t *testing.T, object string) (all [][]string) {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader([]byte(object)))
	if _, err := dec.Token(); err != nil {
		t.Fatal(err)
	}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			t.Fatal(err)
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			t.Fatal(err)
		}
		all = append(all, []string{name.(string), jsonType(value), string(value)})
	}
	return all
}

// constants returns the texts of a file's constants of a type.
func constants(t *testing.T, path, typeName string) (texts []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, path), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if name, ok := spec.Type.(*ast.Ident); ok && name.Name == typeName {
			text, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			texts = append(texts, text)
		}
		return true
	})
	return texts
}

// TestErrors compares the lists of docs/errors.md with the program: failures and their results, reasons, statuses.
func TestErrors(t *testing.T) {
	page := read(t, "docs/errors.md")
	var named []string
	for _, row := range table(section(t, page, "Failures")) {
		failure := webhook.Failure(strings.Replace(row[0], "NNN", "503", 1))
		if row[1] != failure.Result().String() {
			t.Errorf("the result of %q is %q, want %q", row[0], row[1], failure.Result())
		}
		named = append(named, row[0])
	}
	same(t, "failures", named, append(constants(t, "pkg/webhook/outcome.go", "Failure"), "http NNN"))
	same(t, "reasons", column(section(t, page, "An event that was given up")), constants(t, "pkg/webhook/outcome.go", "Reason"))
	var statuses []string
	for _, match := range regexp.MustCompile(`(?m)^ +"([45]\d\d)":`).FindAllStringSubmatch(read(t, "internal/api/openapi.yaml"), -1) {
		statuses = append(statuses, match[1])
	}
	same(t, "statuses of the API", column(section(t, page, "Replies of the API")), statuses)
}

// TestStatuses sends a webhook to a server that answers with each status of the first table of docs/errors.md.
func TestStatuses(t *testing.T) {
	loopback := sender.Addresses{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	s := sender.New(sender.Config{Timeout: 10 * time.Second, MaxInFlight: 1, Version: "test", Addresses: loopback})
	t.Cleanup(s.Close)
	checked := 0
	for _, row := range table(section(t, read(t, "docs/errors.md"), "What your server answers")) {
		for _, status := range regexp.MustCompile(`\b[1-5]\d\d\b`).FindAllString(row[0], -1) {
			reply, want := "HTTP/1.1 "+status+" Status\r\nContent-Length: 0\r\n\r\n", webhook.Failure("http "+status)
			switch row[1] {
			case "succeeded":
				want = ""
			case "no outcome yet":
				reply, want = "HTTP/1.1 "+status+" Status\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ""
			}
			p := peer.New(t, peer.Says(reply))
			out := s.Send(t.Context(), sender.Request{Kind: webhook.DLR, Endpoint: webhook.NewEndpoint(p.URL), ID: "evt_1", Attempt: 1,
				Time: time.Now(), EventTime: time.Now(), Body: sender.Bytes("sms=%7B%7D")})
			if out.Failure != want {
				t.Errorf("status %s: %q, want %q", status, out.Failure, want)
			}
			checked++
		}
	}
	if checked < 20 {
		t.Errorf("only %d statuses were found", checked)
	}
}

// column returns the first cell of each row of a section's table.
func column(section string) (cells []string) {
	for _, row := range table(section) {
		cells = append(cells, row[0])
	}
	return cells
}

// same compares two sets.
func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	got, want = slices.Compact(slices.Sorted(slices.Values(got))), slices.Compact(slices.Sorted(slices.Values(want)))
	if !slices.Equal(got, want) {
		t.Errorf("%s: the page has\n%q\nwant\n%q", what, got, want)
	}
}

// TestCustomersWords checks that what customers read does not name the service's parts.
func TestCustomersWords(t *testing.T) {
	parts := regexp.MustCompile(`(?i)\b(kafka|redis|topics?|partitions?|offsets?)\b`)
	pages := []string{"docs/bodies.md", "docs/errors.md", "docs/receivers.md", "docs/faq.md", "docs/troubleshooting.md", "internal/api/openapi.yaml"}
	assets, err := filepath.Glob(filepath.Join(root, "internal/web/assets/*.[hj]*")) // the account page
	if err != nil || len(assets) == 0 {
		t.Fatalf("assets: %v, %v", assets, err)
	}
	for _, path := range assets {
		pages = append(pages, strings.TrimPrefix(path, root+"/"))
	}
	for _, path := range pages {
		customers, _, _ := strings.Cut(read(t, path), "\n## For operators\n")
		for i, line := range strings.Split(customers, "\n") {
			if word := parts.FindString(line); word != "" {
				t.Errorf("%s:%d names %s: %s", path, i+1, word, line)
			}
		}
	}
}
