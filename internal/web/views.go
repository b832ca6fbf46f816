package web

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"html/template"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"

	"github.com/smshooks/smshooks"
)

// file is a static file of the page.
type file struct {
	kind, version string
	content       []byte
}

func loadFiles() map[string]file {
	mustAddTypes()
	files := map[string]file{}
	entries, err := fs.ReadDir(assets, "assets")
	if err != nil {
		panic(err) // the files are part of the program
	}
	for _, e := range entries {
		if path.Ext(e.Name()) != ".html" {
			files[e.Name()] = load(assets, "assets/"+e.Name(), mime.TypeByExtension(path.Ext(e.Name())))
		}
	}
	for _, d := range samples {
		files[d.Name] = load(smshooks.Guide, d.path, "text/plain; charset=utf-8")
	}
	return files
}

func load(from fs.FS, name, kind string) file {
	content, err := fs.ReadFile(from, name)
	if err != nil {
		panic(err) // the files are part of the program
	}
	return newFile(content, kind)
}

func newFile(content []byte, kind string) file {
	sum := sha256.Sum256(content)
	return file{kind, hex.EncodeToString(sum[:6]), content}
}

// mustAddTypes makes content types independent of the machine's tables.
func mustAddTypes() {
	for ext, kind := range map[string]string{".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
		".svg": "image/svg+xml"} {
		if err := mime.AddExtensionType(ext, kind); err != nil {
			panic(err) // they are well-formed
		}
	}
}

func (f file) serve(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	// During an upgrade an instance may be asked for a file of the other version: that response must not be cached.
	if r.URL.Query().Get("v") == f.version {
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	w.Header().Set("Content-Type", f.kind)
	_, _ = w.Write(f.content) // the client may have disconnected
}

// views renders the templates.
type views struct{ t *template.Template }

func loadViews(files map[string]file) *views {
	t := template.New("").Funcs(template.FuncMap{
		"asset": func(name string) string { return base + "/" + name + "?v=" + files[name].version },
		"path":  func(rest string) string { return base + rest },
		"time":  timeElement, "machine": machineTime,
		"guide": func() any { return guide }, "samples": func() any { return samples },
		"describedBy": field.describedBy,
		"title":       func(view string) string { return strings.ToUpper(view[:1]) + view[1:] + " · Webhooks" },
	})
	return &views{template.Must(t.ParseFS(assets, "assets/*.html"))}
}

func (v *views) render(w http.ResponseWriter, status int, name string, data any) {
	var b bytes.Buffer
	if err := v.t.ExecuteTemplate(&b, name, data); err != nil {
		http.Error(w, "the page cannot be shown", http.StatusInternalServerError)
		return
	}
	if status == http.StatusServiceUnavailable && w.Header().Get("Retry-After") == "" {
		w.Header().Set("Retry-After", "1")
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // the client may have disconnected
}

// page returns a page that needs no request.
func (v *views) page(name string, data any) []byte {
	var b bytes.Buffer
	if err := v.t.ExecuteTemplate(&b, name, data); err != nil {
		panic(err) // the templates and the data are part of the program
	}
	return b.Bytes()
}

// signInView is the page of a user who is not signed in.
type signInView struct {
	Alert, Notice, KeyError string
	Next                    string // where to go then, "" = the overview
}

func (v *views) signIn(w http.ResponseWriter, status int, data signInView) {
	v.render(w, status, "sign-in.html", data)
}

// message renders one text instead of the page.
func (v *views) message(w http.ResponseWriter, status int, text string) {
	v.render(w, status, "message.html", struct {
		Status int
		Title  string
		Text   string
	}{status, http.StatusText(status), text})
}

// sentence turns the text of an error into a sentence.
func sentence(text string) string {
	if text == "" {
		return ""
	}
	return strings.ToUpper(text[:1]) + text[1:] + "."
}
