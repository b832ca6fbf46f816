// Package sender makes one delivery attempt at an endpoint: it builds the request, checks the address at every dial,
// and classifies the outcome. It knows no event and keeps no order.
package sender

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"

	"github.com/smshooks/smshooks/internal/dnscache"
	"github.com/smshooks/smshooks/internal/http1"
	"github.com/smshooks/smshooks/pkg/webhook"
)

const (
	maxReplyBody = 64 << 10
	maxReplyHead = 16 << 10
	maxPooled    = 64 << 10
	// maxDNSAge bounds the delay until a changed DNS answer has an effect. A connection may be opened with a cached
	// answer.
	maxDNSAge        = 5 * time.Minute
	maxConnectionAge = maxDNSAge - dnscache.MaxAge
)

// Config of a Sender.
type Config struct {
	Timeout     time.Duration // from dial to the last body byte
	Any2xx      bool          // success is any 2xx, not only 200
	Addresses   Addresses     // that webhooks may reach
	MaxInFlight int           // requests at a time; bounds the idle connections
	MaxConns    int           // connections, idle ones included; a new one closes the longest idle one; 0 = no bound
	Version     string        // for User-Agent
	// Dial replaces the dialler and with it the address policy; for tests in virtual time.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Sender makes HTTP attempts. It uses no proxy, follows no redirect and retries nothing. It checks the address at
// every dial, and bounds each attempt by one deadline and by the bytes that it reads.
type Sender struct {
	timeout   time.Duration
	any2xx    bool
	userAgent string
	policy    addressPolicy
	client    *http1.Client
	scratches sync.Pool
}

// Blocks reports whether every request to an endpoint would fail as [webhook.BlockedAddress], as far as can be known
// without resolving its host.
func (s *Sender) Blocks(e *webhook.Endpoint) bool { return s.policy.blocks(e.Address) }

// Request is one request of an attempt.
type Request struct {
	Kind      webhook.Kind
	Endpoint  *webhook.Endpoint
	ID        string    // Webhook-Id
	Attempt   int       // from 1
	Time      time.Time // of the attempt: Webhook-Timestamp
	EventTime time.Time // of the event: Webhook-Event-Time
	// Failover is the failure of the preceding request, to the first URL: Webhook-Failover. "" = this is the first one.
	Failover webhook.Failure
	Body     Body
}

// Body is the body of a request.
type Body interface {
	// AppendBody appends the body to dst.
	AppendBody(dst []byte) []byte
}

// Bytes are a Body.
type Bytes []byte

// AppendBody implements Body.
func (b Bytes) AppendBody(dst []byte) []byte { return append(dst, b...) }

// scratch holds the buffers for building a request.
type scratch struct {
	body, message []byte
	signer        webhook.Signer
	reply         http1.Beginning
}

// Outcome is the outcome of a request.
type Outcome struct {
	Failure webhook.Failure // "" = success
	Status  int             // HTTP status; 0 = no reply
	Took    time.Duration
	// Reply is the beginning of the body of a reply that is a failure: text of at most 1,024 bytes.
	Reply   string
	Aborted bool   // the context ended: the request does not count
	Local   string // what the process ran out of, see http1.Exhausted: the request does not count
}

// New returns a Sender with its own connection pool.
func New(cfg Config) *Sender {
	dial, policy := cfg.Dial, newAddressPolicy(cfg.Addresses)
	if dial == nil {
		warmUp()
		// No keep-alive probes: a request has a deadline, and an idle connection is checked.
		dial = (&net.Dialer{Timeout: cfg.Timeout, KeepAlive: -1, Resolver: dnscache.New(net.DefaultResolver),
			ControlContext: policy.control}).DialContext
	}
	return &Sender{
		timeout:   cfg.Timeout,
		any2xx:    cfg.Any2xx,
		userAgent: "smshooks/" + cfg.Version,
		policy:    policy,
		client: http1.New(http1.Config{
			Dial: dial,
			TLS: &tls.Config{MinVersion: tls.VersionTLS12, ClientSessionCache: newSessions(maxSessions),
				DynamicRecordSizingDisabled: true}, // a request is one record
			MaxAge:   maxConnectionAge,
			MaxIdle:  4 * cfg.MaxInFlight,
			MaxConns: cfg.MaxConns,
			MaxHead:  maxReplyHead,
			MaxBody:  maxReplyBody,
		}),
		scratches: sync.Pool{New: func() any {
			return &scratch{body: make([]byte, 0, 2<<10), message: make([]byte, 0, 3<<10)}
		}},
	}
}

// warmUp loads the certificate authorities of the system and the names of the local host. They are read from files
// once, at their first use, and would be missing for good if the process had no descriptor left at that moment.
func warmUp() {
	_, _ = x509.SystemCertPool()
	_, _ = net.LookupHost("localhost")
}

// Send makes one request.
func (s *Sender) Send(ctx context.Context, r Request) Outcome {
	started := time.Now()
	if r.Endpoint.Address == "" || !httpguts.ValidHeaderFieldValue(r.ID) {
		return Outcome{Failure: webhook.Network} // not a valid request
	}
	p := s.scratches.Get().(*scratch)
	p.body = r.Body.AppendBody(p.body[:0])
	p.message = s.appendMessage(p.message[:0], &r, p)
	deadline := started.Add(s.timeout)
	host := http1.Host{Address: r.Endpoint.Address, ServerName: r.Endpoint.ServerName}
	status, err := s.client.Post(ctx, deadline, host, p.message, &p.reply)
	failure, reply := s.failure(status, err, deadline), ""
	if failure != "" {
		reply = maskCredentials(replyText(p.reply.Bytes()), r.Endpoint)
	}
	if cap(p.message) <= maxPooled {
		s.scratches.Put(p)
	}
	if status == 0 && ctx.Err() == nil {
		if reason := http1.Exhausted(err); reason != "" {
			return Outcome{Failure: webhook.Network, Took: time.Since(started), Local: reason}
		}
	}
	return Outcome{Failure: failure, Status: status, Took: time.Since(started), Reply: reply,
		Aborted: failure != "" && ctx.Err() != nil}
}

// replyText returns the beginning of a body as text of at most as many bytes. It replaces invalid UTF-8, and omits a
// character that is cut off at the end.
func replyText(data []byte, cut bool) string {
	if last := len(data) - 1; cut {
		for i := last; i >= 0 && i > last-utf8.UTFMax; i-- {
			if utf8.RuneStart(data[i]) {
				if !utf8.FullRune(data[i:]) {
					data = data[:i]
				}
				break
			}
		}
	}
	text := strings.ToValidUTF8(string(data), string(utf8.RuneError))
	for len(text) > http1.MaxBeginning {
		_, size := utf8.DecodeLastRuneInString(text)
		text = text[:len(text)-size]
	}
	return text
}

// failure classifies an attempt by its status, 0 if there was no reply, and the error of the connection.
func (s *Sender) failure(status int, err error, deadline time.Time) webhook.Failure {
	switch {
	case status == 0:
		return classify(err, deadline)
	case status != http.StatusOK && (!s.any2xx || status/100 != 2):
		return webhook.HTTPFailure(status) // even if reading its body failed
	case err != nil:
		return classify(err, deadline)
	}
	return ""
}

// appendMessage appends the whole request to b. Its body is p.body.
func (s *Sender) appendMessage(b []byte, r *Request, p *scratch) []byte {
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
	b = strconv.AppendInt(b, int64(len(p.body)), 10)
	b = append(b, "\r\nWebhook-Id: "...)
	b = append(b, r.ID...)
	b = append(b, "\r\nWebhook-Timestamp: "...)
	b = strconv.AppendInt(b, r.Time.Unix(), 10)
	b = append(b, "\r\nWebhook-Attempt: "...)
	b = strconv.AppendInt(b, int64(r.Attempt), 10)
	b = append(b, "\r\nWebhook-Event-Time: "...)
	b = webhook.AppendTime(b, r.EventTime)
	if r.Failover != "" {
		b = append(b, "\r\nWebhook-Failover: "...)
		b = append(b, r.Failover...)
	}
	if secrets := r.Endpoint.Secrets; secrets != nil {
		before := len(b)
		b = append(b, "\r\nWebhook-Signature: "...)
		name := len(b)
		if b = p.signer.AppendSignatures(b, *secrets, r.ID, r.Time, p.body); len(b) == name {
			b = b[:before] // no secret is valid
		}
	}
	b = append(b, "\r\n\r\n"...)
	return append(b, p.body...)
}

// Close closes the idle connections.
func (s *Sender) Close() { s.client.Close() }
