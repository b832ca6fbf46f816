// Package web serves the account page, on which users see and change their webhooks in a browser.
//
// The page is HTML from the server: everything works without JavaScript, which only spares reloads. It stands on
// api.Service, so that the page and the JSON API cannot disagree. A user signs in with an API key; the browser keeps
// a sealed session instead of the key, and the key's hash is looked up again for every request.
package web

import (
	"embed"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/api"
	"github.com/smshooks/smshooks/internal/api/limit"
)

const (
	base    = api.PagePath
	maxBody = 64 << 10

	// A user's requests that cost more than a look at memory and Redis: so many at once, and so many per second.
	userBurst, userRate = 30, 1
)

// policy is the page's Content-Security-Policy: nothing but the page's own files.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; form-action 'self'; " +
	"connect-src 'self'; frame-ancestors 'none'; base-uri 'none'"

//go:embed assets
var assets embed.FS

// Options of a Page. All are needed.
type Options struct {
	Service   *api.Service
	Redis     redis.UniversalClient // keeps the key that seals sessions
	KeyPrefix string
	Log       *zap.Logger
}

// Page serves api.PagePath and all below it. It is safe for concurrent use.
type Page struct {
	service  *api.Service
	sessions *sessions
	log      *zap.Logger
	origins  *http.CrossOriginProtection
	views    *views
	files    map[string]file
	costly   *limit.Limiter // by user
	routes   map[string]route
}

// route is what one path does. A path without get leads back to the page, since the browser shows the path of a form
// that was sent and may be told to load it again.
type route struct {
	get  http.HandlerFunc
	post http.HandlerFunc
}

// New returns the page.
func New(o Options) *Page {
	p := &Page{
		service: o.Service, log: o.Log, origins: http.NewCrossOriginProtection(),
		sessions: &sessions{rdb: o.Redis, name: o.KeyPrefix + "web:session-key"},
		costly:   limit.New(userRate, userBurst),
	}
	p.files = loadFiles()
	p.views = loadViews(p.files)
	p.routes = map[string]route{
		"":          {get: p.show, post: p.save},
		"/sign-in":  {post: p.signIn},
		"/sign-out": {post: p.signOut},
		"/test":     {post: p.test},
		"/replay":   {post: p.replay},
	}
	return p
}

// ServeHTTP implements http.Handler.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Security-Policy", policy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "same-origin") // no-referrer would take the Origin from the page's own forms
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	header.Set("Cache-Control", "no-store")
	path := strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, base), "/")
	if f, ok := p.files[strings.TrimPrefix(path, "/")]; ok {
		f.serve(w, r)
		return
	}
	to, ok := p.routes[path]
	switch {
	case !ok:
		p.views.message(w, http.StatusNotFound, "There is no such page.")
	case r.Method == http.MethodPost && to.post != nil:
		p.guarded(to.post)(w, r)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		header.Set("Allow", to.allow())
		p.views.message(w, http.StatusMethodNotAllowed, "This page cannot do that.")
	case to.get == nil:
		http.Redirect(w, r, base, http.StatusSeeOther)
	default:
		to.get(w, r)
	}
}

func (to route) allow() string {
	if to.post == nil {
		return "GET, HEAD"
	}
	return "GET, HEAD, POST"
}

// guarded lets only the page's own forms through, and reads them.
func (p *Page) guarded(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if p.origins.Check(r) != nil {
			p.views.message(w, http.StatusForbidden, "This form was sent from another site. Nothing was changed.")
			return
		}
		if kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); !strings.EqualFold(strings.TrimSpace(kind), "application/x-www-form-urlencoded") {
			p.views.message(w, http.StatusUnsupportedMediaType, "This is no form of the page. Nothing was changed.")
			return
		}
		if r.ContentLength > maxBody {
			w.Header().Set("Connection", "close") // the rest is not read
			p.views.message(w, http.StatusRequestEntityTooLarge, "The form is too large. Nothing was changed.")
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		if err := r.ParseForm(); err != nil {
			p.views.message(w, http.StatusBadRequest, "The form could not be read. Nothing was changed.")
			return
		}
		next(w, r)
	}
}

// afford takes one of the user's costly requests.
func (p *Page) afford(w http.ResponseWriter, userID int64) bool {
	wait := p.costly.Take(strconv.FormatInt(userID, 10), time.Now())
	if wait > 0 {
		limit.SetRetryAfter(w, wait)
	}
	return wait == 0
}
