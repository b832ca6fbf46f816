package harness

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"
)

// Request is a request that a Receiver received.
type Request struct {
	Path   string // with the query, if there is one
	Method string
	Header http.Header
	Body   []byte
	Length int64     // Content-Length; -1 = chunked
	N      int       // number of the request on its path, from 1
	Wide   int       // requests of its path in flight, this one included
	Start  time.Time // when its body was read
	End    time.Time // when it was answered; zero until then
}

// Behaviour answers a request whose body has been read (req.Body). It may block: r's context ends when the client
// disconnects or the Receiver stops.
type Behaviour func(w http.ResponseWriter, r *http.Request, req Request)

// Status answers at once with a code.
func Status(code int) Behaviour {
	return func(w http.ResponseWriter, _ *http.Request, _ Request) { w.WriteHeader(code) }
}

// Codes answers the first requests of a path with the codes in turn, and all later ones with the last.
func Codes(codes ...int) Behaviour {
	return func(w http.ResponseWriter, _ *http.Request, req Request) {
		w.WriteHeader(codes[min(req.N, len(codes))-1])
	}
}

// Slow answers with a code after a delay.
func Slow(d time.Duration, code int) Behaviour {
	return func(w http.ResponseWriter, r *http.Request, _ Request) {
		select {
		case <-time.After(d):
			w.WriteHeader(code)
		case <-r.Context().Done():
		}
	}
}

// Hang never answers.
func Hang() Behaviour {
	return func(_ http.ResponseWriter, r *http.Request, _ Request) { <-r.Context().Done() }
}

// Receiver is a user's web server on loopback. Paths without a behaviour answer 200.
type Receiver struct {
	addr string

	mu         sync.Mutex
	srv        *http.Server // nil while stopped
	stop       context.CancelFunc
	behaviours map[string]Behaviour
	requests   []*Request // in the order of Start
	count      map[string]int
	flying     map[string]int
	widest     map[string]int
	changed    chan struct{} // closed and replaced at every request and every answer
}

// NewReceiver starts a receiver. It stops when the test ends.
func NewReceiver(t testing.TB) *Receiver {
	t.Helper()
	r := &Receiver{
		addr: FreeAddr(t), behaviours: map[string]Behaviour{}, changed: make(chan struct{}),
		count: map[string]int{}, flying: map[string]int{}, widest: map[string]int{},
	}
	r.Start(t)
	t.Cleanup(r.Stop)
	return r
}

// Addr returns the receiver's address, 127.0.0.1:port. It is the same across Stop and Start.
func (r *Receiver) Addr() string { return r.addr }

// URL returns the URL of a path ("/dlr").
func (r *Receiver) URL(path string) string { return "http://" + r.addr + path }

// On sets the behaviour of a path from the next request on.
func (r *Receiver) On(path string, b Behaviour) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.behaviours[path] = b
}

// Stop closes the listener and all connections. New ones are refused. Recorded requests are kept.
func (r *Receiver) Stop() {
	r.mu.Lock()
	srv, stop := r.srv, r.stop
	r.srv = nil
	r.mu.Unlock()
	if srv != nil {
		stop()
		_ = srv.Close()
	}
}

// Start listens again after Stop.
func (r *Receiver) Start(t testing.TB) {
	t.Helper()
	l, err := net.Listen("tcp", r.addr)
	if err != nil {
		t.Fatalf("receiver: %v", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	srv := &http.Server{
		Handler: http.HandlerFunc(r.serve), ReadHeaderTimeout: 10 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	r.mu.Lock()
	r.srv, r.stop = srv, stop
	r.mu.Unlock()
	go func() {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("receiver: %v", err)
		}
	}()
}

func (r *Receiver) serve(w http.ResponseWriter, in *http.Request) {
	body, err := io.ReadAll(in.Body)
	if err != nil {
		return // cut off before it was complete: not received
	}
	req, behave := r.begin(in, body)
	defer r.end(req)
	if behave == nil {
		behave = Status(http.StatusOK)
	}
	behave(w, in, *req)
}

func (r *Receiver) begin(in *http.Request, body []byte) (*Request, Behaviour) {
	r.mu.Lock()
	defer r.mu.Unlock()
	path := in.URL.Path
	r.count[path]++
	r.flying[path]++
	r.widest[path] = max(r.widest[path], r.flying[path])
	req := &Request{
		Path: in.URL.RequestURI(), Method: in.Method, Header: in.Header.Clone(), Body: body, Length: in.ContentLength,
		N: r.count[path], Wide: r.flying[path], Start: time.Now(),
	}
	r.requests = append(r.requests, req)
	r.tell()
	return req, r.behaviours[path]
}

func (r *Receiver) end(req *Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	req.End = time.Now()
	r.flying[pathOf(req)]--
	r.tell()
}

func (r *Receiver) tell() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// Requests returns the requests of a path in the order of their arrival, or of all paths for "".
func (r *Receiver) Requests(path string) []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []Request
	for _, req := range r.requests {
		if path == "" || pathOf(req) == path {
			list = append(list, *req)
		}
	}
	return list
}

// Count returns the number of requests of a path, or of all paths for "".
func (r *Receiver) Count(path string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if path == "" {
		return len(r.requests)
	}
	return r.count[path]
}

// Widest returns the largest number of requests of a path that were in flight at once.
func (r *Receiver) Widest(path string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.widest[path]
}

// Forget discards the recorded requests, but not the behaviours. Requests in flight still count.
func (r *Receiver) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = nil
	clear(r.count)
	clear(r.widest)
}

// WaitCount waits until a path ("" = all) has at least n requests, answered or not, and returns them.
func (r *Receiver) WaitCount(t testing.TB, path string, n int, timeout time.Duration) []Request {
	t.Helper()
	Eventually(t, timeout, func() bool { return r.Count(path) >= n }, "%d requests at %q; there were %v", n, path,
		printed(func() string { return strconv.Itoa(r.Count(path)) }))
	return r.Requests(path)
}

// Quiet waits until no request has arrived on any path for d. It fails after timeout. Tests use it to look for surplus
// requests.
func (r *Receiver) Quiet(t testing.TB, d, timeout time.Duration) {
	t.Helper()
	late := time.After(timeout)
	for {
		r.mu.Lock()
		changed := r.changed
		r.mu.Unlock()
		select {
		case <-changed:
		case <-time.After(d):
			return
		case <-late:
			t.Fatalf("requests still arrive after %v", timeout)
		}
	}
}

func pathOf(req *Request) string {
	for i := range len(req.Path) {
		if req.Path[i] == '?' {
			return req.Path[:i]
		}
	}
	return req.Path
}
