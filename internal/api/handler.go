package api

import (
	"context"
	_ "embed"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/smshooks/smshooks/internal/api/form"
	"github.com/smshooks/smshooks/internal/api/limit"
	"github.com/smshooks/smshooks/internal/apikey"
)

const (
	maxBody     = 64 << 10
	bodyTimeout = 10 * time.Second // for reading the body
	keyName     = "X-API-KEY"
	// PagePath is the path of the account page and the prefix of its other paths.
	PagePath = "/account/webhooks"
)

//go:embed openapi.yaml
var specification []byte

// Options configure a Handler. All fields may be zero.
type Options struct {
	Rate int          // requests per key and second; 0 = no limit
	Page http.Handler // serves PagePath and all paths below; nil = not found
}

// handler serves the API.
type handler struct {
	service *Service
	options Options
	limit   *limit.Limiter // by key
	routes  map[string]route
}

// route describes one path.
type route struct {
	allow []string
	// serve handles a request with a known key; nil serves the specification. If a path can be read and written,
	// write handles the writes.
	serve, write func(*handler, *request) (data any, err error)
}

// request is a request with a known key and readable parameters.
type request struct {
	ctx    context.Context // of the whole request
	quick  context.Context // ends when the response is due
	userID int64
	params form.Values
	// argument is the last part of the path, where the route ends with one.
	argument string
}

// Handler serves the paths of the API and answers 404 for all others.
func Handler(service *Service, options Options) http.Handler {
	get, post := []string{http.MethodGet, http.MethodHead}, []string{http.MethodPost}
	return &handler{service: service, options: options, limit: limit.New(float64(options.Rate), options.Rate),
		routes: map[string]route{
			"/v1/user/set-webhook":           {allow: post, serve: (*handler).setWebhook},
			"/v1/user/get-webhook":           {allow: get, serve: (*handler).getWebhook},
			"/v1/user/test-webhook":          {allow: post, serve: (*handler).testWebhook},
			"/v1/user/deliveries":            {allow: get, serve: (*handler).deliveries},
			"/v1/user/events/{id}":           {allow: get, serve: (*handler).event},
			"/v1/user/messages/{sms_id}":     {allow: get, serve: (*handler).message},
			"/v1/user/endpoints":             {allow: get, serve: (*handler).endpoints},
			"/v1/user/replay":                {allow: post, serve: (*handler).replay},
			"/v1/user/recover":               {append(get, http.MethodPost), (*handler).getRecovery, (*handler).recover},
			"/v1/user/webhook-settings":      {append(get, http.MethodPatch), (*handler).getFurther, (*handler).setFurther},
			"/v1/user/webhook-secret/rotate": {allow: post, serve: (*handler).rotateSecret},
			"/v1/user/webhook-secret/clear":  {allow: post, serve: (*handler).clearSecret},
			"/openapi.yaml":                  {allow: get},
		}}
}

// ServeHTTP checks in this order: path and method (404, 405), key (401), size of the body (413), rate (429), encoding
// and syntax (415, 400), values (422).
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if page := h.options.Page; page != nil && (r.URL.Path == PagePath || strings.HasPrefix(r.URL.Path, PagePath+"/")) {
		page.ServeHTTP(w, r)
		return
	}
	to, ok := h.routes[r.URL.Path]
	argument := ""
	if !ok || strings.Contains(r.URL.Path, "{") {
		to, argument, ok = h.argumentOf(r.URL.EscapedPath())
	}
	if !ok {
		fail(w, http.StatusNotFound, "path: not found")
		return
	}
	if !slices.Contains(to.allow, r.Method) {
		w.Header().Set("Allow", strings.Join(to.allow, ", "))
		fail(w, http.StatusMethodNotAllowed, "method: must be "+strings.Join(to.allow, " or "))
		return
	}
	if to.serve == nil {
		w.Header().Set("Content-Type", "application/yaml")
		w.Write(specification)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	data, err := h.answer(w, r, to, argument)
	if err != nil {
		refuse(w, err)
		return
	}
	succeed(w, data)
}

// answer checks a request and serves it.
func (h *handler) answer(w http.ResponseWriter, r *http.Request, to route, argument string) (any, error) {
	quick, cancel := context.WithTimeout(r.Context(), answerTime)
	defer cancel()
	key := r.Header.Get(keyName)
	userID, ok, err := h.service.Authenticate(quick, r, key)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, &statusError{http.StatusUnauthorized, keyName + ": the key is missing or unknown"}
	}
	var body []byte
	hasBody, serve := r.Method == http.MethodPost || r.Method == http.MethodPatch, to.serve
	if hasBody && to.write != nil {
		serve = to.write
	}
	if hasBody {
		if body, err = readBody(w, r); err != nil {
			return nil, err
		}
	}
	if wait := h.limit.Take(apikey.Hash(key), time.Now()); wait > 0 {
		return nil, &TooManyError{keyName + ": too many requests; the limit is " + strconv.Itoa(h.options.Rate) +
			" per second", wait}
	}
	req := &request{ctx: r.Context(), quick: quick, userID: userID, argument: argument}
	if hasBody {
		if encoding := r.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
			return nil, &statusError{http.StatusUnsupportedMediaType, "Content-Encoding: must be identity"}
		}
		req.params, err = form.Parse(r.Header.Get("Content-Type"), body)
	} else {
		req.params, err = form.ParsePairs(r.URL.RawQuery)
	}
	switch {
	case errors.Is(err, form.ErrNotObject):
		return nil, &statusError{http.StatusUnprocessableEntity, err.Error()}
	case err != nil:
		return nil, &statusError{http.StatusBadRequest, err.Error()}
	}
	return serve(h, req)
}

// readBody reads a body that is not too large and arrives in time.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	tooLarge := &statusError{http.StatusRequestEntityTooLarge, "body: must be at most 65536 bytes"}
	if r.ContentLength > maxBody {
		w.Header().Set("Connection", "close") // the rest is not read
		return nil, tooLarge
	}
	// Only the ResponseWriters of tests have no deadlines.
	deadline := http.NewResponseController(w)
	_ = deadline.SetReadDeadline(time.Now().Add(bodyTimeout))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err == nil {
		// The server keeps reading to notice when the client disconnects: a deadline would cancel the request's
		// context.
		_ = deadline.SetReadDeadline(time.Time{})
		return body, nil
	}
	w.Header().Set("Connection", "close") // the response does not wait for the rest
	var limit *http.MaxBytesError
	if errors.As(err, &limit) {
		return nil, tooLarge
	}
	return nil, &statusError{http.StatusBadRequest, "body: incomplete or too slow"}
}
