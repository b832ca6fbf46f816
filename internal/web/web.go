// Package web serves the account page, where users see and change their webhooks in a browser. It has three views: the
// overview, the deliveries with a view of each event, and the settings.
//
// The HTML is rendered on the server. Everything works without JavaScript, which only avoids reloads. The page uses
// api.Service, so it always agrees with the JSON API. A user signs in with an API key, or with a token of the
// platform's own site. The browser stores a sealed session instead of the key, and the hash of the key is looked up
// again for every request.
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
	"github.com/smshooks/smshooks/internal/outage"
)

const (
	base    = api.PagePath
	maxBody = 64 << 10

	// Limits of a user's costly requests, which need more than memory and Redis: at once, and per second.
	userBurst, userRate = 30, 1
)

// policy is the page's Content-Security-Policy: nothing but the page's own files.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; form-action 'self'; " +
	"connect-src 'self'; frame-ancestors 'none'; base-uri 'none'"

//go:embed assets
var assets embed.FS

// Options configure a Page. All fields but PortalSecret are required.
type Options struct {
	Service      *api.Service
	Redis        redis.UniversalClient // stores the key that seals sessions, and which tokens were used
	KeyPrefix    string
	PortalSecret []byte // what the platform's own site signs tokens with, at least 32 bytes; nil = it cannot
	Log          *zap.Logger
}

// Page serves api.PagePath and all paths below. It is safe for concurrent use.
type Page struct {
	service  *api.Service
	marks    *marks
	sessions *sessions
	portal   *portal
	log      *zap.Logger
	unread   *outage.Outage // of sessions: each request reads them
	unstored *outage.Outage // of sign-ins and sign-outs
	origins  *http.CrossOriginProtection
	views    *views
	files    map[string]file
	costly   *limit.Limiter // by user
	routes   map[string]route
}

// route describes one path. A GET of a path without get redirects to a view: after a form was sent, the browser shows
// its path, and the user may reload it.
type route struct {
	get  http.HandlerFunc
	post http.HandlerFunc
	view string // to redirect to
}

// New returns the page.
func New(o Options) *Page {
	m := &marks{rdb: o.Redis, expiry: map[string]time.Time{}}
	p := &Page{
		service: o.Service, log: o.Log,
		unread: outage.New(o.Log, "cannot check sessions of the account page; it answers 503",
			"sessions of the account page are checked again"),
		unstored: outage.New(o.Log, "cannot store sign-ins and sign-outs of the account page; it answers 503",
			"sign-ins and sign-outs of the account page are stored again"),
		origins:  http.NewCrossOriginProtection(),
		marks:    m,
		sessions: &sessions{rdb: o.Redis, name: o.KeyPrefix + "web:session-key", marks: m},
		portal:   newPortal(o.PortalSecret, m, o.KeyPrefix),
		costly:   limit.New(userRate, userBurst),
	}
	p.files = loadFiles()
	p.views = loadViews(p.files)
	loadGuide(p.files, p.views)
	p.routes = map[string]route{
		"":               {get: p.view(p.overview), post: p.save},
		"/deliveries":    {get: p.view(p.deliveries)},
		"/settings":      {get: p.view(p.settings), post: p.save},
		"/options":       {post: p.saveOptions, view: settingsPath},
		"/secret/rotate": {post: p.rotateSecret, view: settingsPath},
		"/secret/clear":  {post: p.clearSecret, view: settingsPath},
		"/test":          {post: p.test, view: settingsPath},
		"/recover":       {post: p.recover, view: base},
		"/replay":        {post: p.replay, view: base},
		"/sign-in":       {post: p.signIn, view: base},
		"/sign-out":      {post: p.signOut, view: base},
	}
	return p
}

// ServeHTTP implements http.Handler.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Security-Policy", policy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "same-origin") // with no-referrer the page's own forms have no Origin
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	header.Set("Cache-Control", "no-store")
	path := strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, base), "/")
	if f, ok := p.files[strings.TrimPrefix(path, "/")]; ok {
		f.serve(w, r)
		return
	}
	to, ok := p.routes[path]
	if id, is := strings.CutPrefix(r.URL.Path, eventsPath); is && id != "" {
		to, ok = route{get: p.view(p.event(id))}, true
	}
	switch {
	case !ok:
		p.views.message(w, http.StatusNotFound, "This page does not exist.")
	case r.Method == http.MethodPost && to.post != nil:
		p.guarded(to.post)(w, r)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		header.Set("Allow", to.allow())
		p.views.message(w, http.StatusMethodNotAllowed, "This page does not support this request.")
	case to.get == nil:
		http.Redirect(w, r, to.view, http.StatusSeeOther)
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

// guarded parses forms, and refuses those that the page itself did not send.
func (p *Page) guarded(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if p.origins.Check(r) != nil {
			p.views.message(w, http.StatusForbidden, "This form was sent from another site. Nothing was changed.")
			return
		}
		kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
		if !strings.EqualFold(strings.TrimSpace(kind), "application/x-www-form-urlencoded") {
			p.views.message(w, http.StatusUnsupportedMediaType, "This is not a form of this page. Nothing was changed.")
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

// afford counts a costly request of the user. It returns false if there were too many.
func (p *Page) afford(w http.ResponseWriter, userID int64) bool {
	wait := p.costly.Take(strconv.FormatInt(userID, 10), time.Now())
	if wait > 0 {
		limit.SetRetryAfter(w, wait)
	}
	return wait == 0
}
