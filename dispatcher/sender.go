package dispatcher

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/smshooks/smshooks/pkg/webhook"
)

const (
	maxReplyBody   = 64 << 10
	maxReplyHeader = 16 << 10
	// Common servers close a connection that was idle for 5 s. A request that meets the closing would fail and
	// come back in six hours, so idle connections are closed before that.
	idleTimeout = 4 * time.Second
)

// SenderConfig says how requests are sent.
type SenderConfig struct {
	Timeout       time.Duration  // from dial to the last body byte
	Any2xx        bool           // success is any 2xx, not only 200
	AllowNetworks []netip.Prefix // opened although blocked by default
	MaxInFlight   int
	Version       string // for User-Agent
	// Dial replaces the dialler and with it the address policy; for tests in virtual time.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Sender makes HTTP attempts: no proxy, no redirect, no retry of its own, addresses checked at every dial, one
// deadline over everything, bounded reading.
type Sender struct {
	timeout   time.Duration
	any2xx    bool
	userAgent []string
	transport *http.Transport
	buffers   sync.Pool
}

// Request is one attempt.
type Request struct {
	Kind     webhook.Kind
	Endpoint *webhook.Endpoint
	ID       string // Webhook-Id
	Attempt  int    // from 1
	Body     []byte // not changed or used again by the caller
}

// Outcome is how an attempt went.
type Outcome struct {
	Failure webhook.Failure // "" = success
	Status  int             // HTTP status, 0 if no reply came
	Took    time.Duration
	Aborted bool // cut off because the context ended: not an attempt
}

// NewSender builds a Sender with a connection pool of its own.
func NewSender(cfg SenderConfig) *Sender {
	dial := cfg.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: cfg.Timeout, ControlContext: newAddressPolicy(cfg.AllowNetworks).control}).DialContext
	}
	return &Sender{
		timeout:   cfg.Timeout,
		any2xx:    cfg.Any2xx,
		userAgent: []string{"smshooks/" + cfg.Version},
		transport: &http.Transport{
			DialContext:         dial,
			DisableCompression:  true,
			MaxIdleConns:        4 * cfg.MaxInFlight,
			MaxIdleConnsPerHost: cfg.MaxInFlight, // many users may share a host
			IdleConnTimeout:     idleTimeout,
			// A handshake outlives its request's context. The request's own deadline comes first.
			TLSHandshakeTimeout:    cfg.Timeout + time.Second,
			MaxResponseHeaderBytes: maxReplyHeader,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(4096)},
			TLSNextProto:           map[string]func(string, *tls.Conn) http.RoundTripper{}, // HTTP/1.1 only
		},
		buffers: sync.Pool{New: func() any { b := make([]byte, 4<<10); return &b }},
	}
}

var contentTypes = func() (t [webhook.NumKinds][]string) {
	for _, k := range webhook.Kinds() {
		t[k] = []string{k.ContentType()}
	}
	return t
}()

// Send makes one attempt.
func (s *Sender) Send(ctx context.Context, r Request) Outcome {
	started := time.Now()
	limited, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	failure, status := s.post(limited, r, started)
	return Outcome{Failure: failure, Status: status, Took: time.Since(started), Aborted: failure != "" && ctx.Err() != nil}
}

func (s *Sender) post(ctx context.Context, r Request, now time.Time) (webhook.Failure, int) {
	if r.Endpoint.URL == nil {
		return webhook.Network, 0 // the configured text is no URL that can be called
	}
	header := http.Header{
		"Content-Type":      contentTypes[r.Kind],
		"User-Agent":        s.userAgent,
		"Webhook-Id":        {r.ID},
		"Webhook-Timestamp": {strconv.FormatInt(now.Unix(), 10)},
		"Webhook-Attempt":   {strconv.Itoa(r.Attempt)},
	}
	if r.Endpoint.Authorization != "" {
		header["Authorization"] = []string{r.Endpoint.Authorization}
	}
	body := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(r.Body)), nil }
	first, _ := body()
	req := (&http.Request{
		Method: http.MethodPost, URL: r.Endpoint.URL, Host: r.Endpoint.URL.Host, Header: header,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Body: first, ContentLength: int64(len(r.Body)),
		// Lets the transport take another connection when the one it chose turned out to be closed before
		// a byte was written; it never sends a request twice.
		GetBody: body,
	}).WithContext(ctx)
	// The transport itself, not http.Client: no redirects, no cookies, no credentials out of the URL.
	resp, err := s.transport.RoundTrip(req)
	if err != nil {
		return classify(ctx, err), 0
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return webhook.HTTPFailure(resp.StatusCode), resp.StatusCode // what follows is no body
	}
	err = s.drain(resp)
	if resp.StatusCode != http.StatusOK && (!s.any2xx || resp.StatusCode/100 != 2) {
		return webhook.HTTPFailure(resp.StatusCode), resp.StatusCode // whatever became of its body
	}
	if err != nil {
		return classify(ctx, err), resp.StatusCode
	}
	return "", resp.StatusCode
}

// drain reads the reply's body to its end, so that the connection can be used again, or to the limit.
func (s *Sender) drain(resp *http.Response) error {
	if resp.ContentLength == 0 {
		return nil
	}
	buf := s.buffers.Get().(*[]byte)
	defer s.buffers.Put(buf)
	for read := 0; read < maxReplyBody; {
		n, err := resp.Body.Read((*buf)[:min(len(*buf), maxReplyBody-read)])
		read += n
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Close closes the idle connections.
func (s *Sender) Close() { s.transport.CloseIdleConnections() }
