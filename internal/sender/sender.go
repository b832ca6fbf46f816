// Package sender makes one delivery attempt at an endpoint: it builds the request, checks the address at every dial, and
// classifies the outcome. It knows no event and keeps no order.
package sender

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/smshooks/smshooks/internal/http1"
	"github.com/smshooks/smshooks/pkg/webhook"
)

const (
	maxReplyBody = 64 << 10
	maxReplyHead = 16 << 10
	maxPooled    = 64 << 10
	// A connection is replaced by then, so that a changed DNS answer takes effect.
	maxConnectionAge = 5 * time.Minute
)

// Config says how requests are sent.
type Config struct {
	Timeout     time.Duration // from dial to the last body byte
	Any2xx      bool          // success is any 2xx, not only 200
	Addresses   Addresses     // which may be reached
	MaxInFlight int
	MaxConns    int    // connections, idle ones included, beyond which the longest idle one is closed for a new one; 0 = any number
	Version     string // for User-Agent
	// Dial replaces the dialler and with it the address policy; for tests in virtual time.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Sender makes HTTP attempts: no proxy, no redirect, no retry of its own, addresses checked at every dial, one
// deadline over everything, bounded reading.
type Sender struct {
	timeout   time.Duration
	any2xx    bool
	userAgent string
	client    *http1.Client
	scratches sync.Pool
}

// Request is one attempt.
type Request struct {
	Kind     webhook.Kind
	Endpoint *webhook.Endpoint
	ID       string    // Webhook-Id
	Attempt  int       // from 1
	Time     time.Time // of the attempt: Webhook-Timestamp
	Body     Body
}

// Body is what a request carries.
type Body interface {
	// AppendBody appends it to dst.
	AppendBody(dst []byte) []byte
}

// Bytes are a Body as they are.
type Bytes []byte

// AppendBody implements Body.
func (b Bytes) AppendBody(dst []byte) []byte { return append(dst, b...) }

// scratch is what one request is put together in.
type scratch struct{ body, message []byte }

// Outcome is how an attempt went.
type Outcome struct {
	Failure webhook.Failure // "" = success
	Status  int             // HTTP status, 0 if no reply came
	Took    time.Duration
	Aborted bool   // cut off because the context ended: not an attempt
	Local   string // what this process had run out of, by http1.Exhausted: not an attempt
}

// New builds a Sender with a connection pool of its own.
func New(cfg Config) *Sender {
	dial := cfg.Dial
	if dial == nil {
		warmUp()
		dial = (&net.Dialer{Timeout: cfg.Timeout, ControlContext: newAddressPolicy(cfg.Addresses).control}).DialContext
	}
	return &Sender{
		timeout:   cfg.Timeout,
		any2xx:    cfg.Any2xx,
		userAgent: "smshooks/" + cfg.Version,
		client: http1.New(http1.Config{
			Dial:     dial,
			TLS:      &tls.Config{MinVersion: tls.VersionTLS12, ClientSessionCache: sessions{tls.NewLRUClientSessionCache(maxSessions)}},
			MaxAge:   maxConnectionAge,
			MaxIdle:  4 * cfg.MaxInFlight,
			MaxConns: cfg.MaxConns,
			MaxHead:  maxReplyHead,
			MaxBody:  maxReplyBody,
		}),
		scratches: sync.Pool{New: func() any { return &scratch{make([]byte, 0, 2<<10), make([]byte, 0, 3<<10)} }},
	}
}

// warmUp reads what is read from files once, at its first use, and would be missing for long if it met a process that has
// run out of descriptors then: the system's certificate authorities, and names and addresses of the local host.
func warmUp() {
	_, _ = x509.SystemCertPool()
	_, _ = net.LookupHost("localhost")
}

// Send makes one attempt.
func (s *Sender) Send(ctx context.Context, r Request) Outcome {
	started := time.Now()
	if r.Endpoint.Address == "" || !httpguts.ValidHeaderFieldValue(r.ID) {
		return Outcome{Failure: webhook.Network} // no request can be made of it
	}
	p := s.scratches.Get().(*scratch)
	p.body = r.Body.AppendBody(p.body[:0])
	p.message = s.appendMessage(p.message[:0], &r, p.body)
	deadline := started.Add(s.timeout)
	status, err := s.client.Post(ctx, deadline, http1.Host{Address: r.Endpoint.Address, ServerName: r.Endpoint.ServerName}, p.message)
	if cap(p.message) <= maxPooled {
		s.scratches.Put(p)
	}
	if status == 0 && ctx.Err() == nil {
		if reason := http1.Exhausted(err); reason != "" {
			return Outcome{Failure: webhook.Network, Took: time.Since(started), Local: reason}
		}
	}
	failure := s.failure(status, err, deadline)
	return Outcome{Failure: failure, Status: status, Took: time.Since(started), Aborted: failure != "" && ctx.Err() != nil}
}

// failure says how an attempt went by its status, 0 if there was none, and what became of the connection.
func (s *Sender) failure(status int, err error, deadline time.Time) webhook.Failure {
	switch {
	case status == 0:
		return classify(err, deadline)
	case status != http.StatusOK && (!s.any2xx || status/100 != 2):
		return webhook.HTTPFailure(status) // whatever became of its body
	case err != nil:
		return classify(err, deadline)
	}
	return ""
}

// appendMessage appends the whole request.
func (s *Sender) appendMessage(b []byte, r *Request, body []byte) []byte {
	b = append(b, "POST "...)
	b = append(b, r.Endpoint.Target...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, r.Endpoint.Host...)
	b = append(b, "\r\nUser-Agent: "...)
	b = append(b, s.userAgent...)
	if r.Endpoint.Authorization != "" {
		b = append(b, "\r\nAuthorization: "...)
		b = append(b, r.Endpoint.Authorization...)
	}
	b = append(b, "\r\nContent-Type: "...)
	b = append(b, r.Kind.ContentType()...)
	b = append(b, "\r\nContent-Length: "...)
	b = strconv.AppendInt(b, int64(len(body)), 10)
	b = append(b, "\r\nWebhook-Id: "...)
	b = append(b, r.ID...)
	b = append(b, "\r\nWebhook-Timestamp: "...)
	b = strconv.AppendInt(b, r.Time.Unix(), 10)
	b = append(b, "\r\nWebhook-Attempt: "...)
	b = strconv.AppendInt(b, int64(r.Attempt), 10)
	b = append(b, "\r\n\r\n"...)
	return append(b, body...)
}

// Close closes the idle connections.
func (s *Sender) Close() { s.client.Close() }
