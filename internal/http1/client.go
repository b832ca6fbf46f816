// Package http1 makes HTTP/1.1 POST requests on pooled connections. It needs one goroutine per request and per dial,
// and none per idle connection. It uses no proxy and follows no redirect.
//
// A request is made once, with one exception. If a reused connection fails before the first byte of a reply, the
// request is repeated once on a new connection (docs/adr/0009).
//
// The caller's goroutine writes the request and then waits for the reply. A common reply (the first read returns the
// whole head, which has a Content-Length) is parsed in place. All others (chunked, 1xx, delimited by the end of the
// connection, unusual heads) are left to net/http's reader. docs/adr/0006 has the measurements.
package http1

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Config configures a Client. There are no defaults; all fields except TLS and MaxConns are required.
type Config struct {
	// Dial opens a connection.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// TLS is the configuration for https. Its ServerName is set for each connection.
	TLS *tls.Config
	// MaxAge is the age at which a connection is replaced, so that a changed DNS answer takes effect.
	MaxAge time.Duration
	// MaxIdle is the number of idle connections to all hosts together.
	MaxIdle int
	// MaxConns is the number of connections to all hosts together, dials included, beyond which each new connection
	// closes the longest idle one. 0 means no bound.
	MaxConns int
	// MaxHead is the number of bytes of a reply's head, interim replies included.
	MaxHead int
	// MaxBody is the number of bytes of a reply's body that are read before the connection is closed.
	MaxBody int
}

// Host is the destination of a connection. It is comparable.
type Host struct {
	// Address is the host:port to dial.
	Address string
	// ServerName is the name that the TLS certificate must have. It is "" for plain HTTP.
	ServerName string
}

// ErrHeadTooLarge is returned if a reply's head is larger than [Config.MaxHead].
var ErrHeadTooLarge = errors.New("the reply's head is too large")

// Client makes requests on pooled connections. It is safe for concurrent use.
type Client struct {
	cfg     Config
	buffers sync.Pool
	open    atomic.Int64 // connections and dials
	pool    pool

	refusals   refusals
	interrupts interrupts
}

// New returns a Client without connections.
func New(cfg Config) *Client {
	c := &Client{cfg: cfg, buffers: sync.Pool{New: func() any { return new(buffer) }}}
	c.pool.init(cfg.MaxIdle, cfg.MaxConns)
	c.refusals.addresses = map[string]refusal{}
	c.interrupts.watched = map[context.Context]*watch{}
	return c
}

// Post sends message to host and reads the reply. message is a whole request: head, and body of known length.
//
// At the deadline Post returns [os.ErrDeadlineExceeded] or a [net.Error] with Timeout() true. If ctx ends first, it
// returns any error; check ctx.Err().
//
// status is that of the reply, or 0 if none arrived. If both a status and an error are returned, the body was
// incomplete. The beginning of the body is stored in body, unless that is nil.
func (c *Client) Post(
	ctx context.Context, deadline time.Time, host Host, message []byte, body *Beginning,
) (status int, err error) {
	body.reset()
	for {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		cn, err := c.connect(ctx, deadline, host)
		if err != nil {
			return 0, err
		}
		status, lost, err := c.request(ctx, deadline, cn, message, body)
		if !lost || ctx.Err() != nil {
			return status, err
		}
		c.pool.closedByPeer(cn)
		body.reset() // a 408 of the lost connection is not the reply
		if !errors.Is(err, errStale) {
			break // the peer may have received it, so repeat it only once
		}
	}
	cn, _, err := c.dial(ctx, deadline, host)
	if err != nil {
		return 0, err
	}
	status, _, err = c.request(ctx, deadline, cn, message, body)
	return status, err
}

// request makes one request on cn, then pools or closes cn. It also returns the result of conn.lost.
func (c *Client) request(
	ctx context.Context, deadline time.Time, cn *conn, message []byte, body *Beginning,
) (status int, lost bool, err error) {
	if err := cn.prepare(deadline, len(message)); err != nil {
		_ = cn.Close()
		return 0, cn.lost(0, err), err
	}
	w := c.interrupts.begin(ctx, cn)
	buf := c.buffers.Get().(*buffer)
	x := exchange{conn: cn, buf: buf, begins: body, maxHead: c.cfg.MaxHead, maxBody: c.cfg.MaxBody}
	status, reusable, err := x.do(message)
	c.buffers.Put(buf)
	cn.reusable = reusable && err == nil
	lost = cn.lost(status, err) // before another request can take the connection from the pool
	if c.interrupts.end(w, cn) && cn.reusable {
		c.pool.put(cn, time.Now())
	} else {
		_ = cn.Close()
	}
	return status, lost, err
}

// connect returns a connection to host: an idle one, a new one, or one that another request returns.
func (c *Client) connect(ctx context.Context, deadline time.Time, host Host) (*conn, error) {
	if cn := c.pool.take(host, time.Now()); cn != nil {
		return cn, nil
	}
	if err := c.refusals.share(host.Address); err != nil {
		return nil, &dialError{err}
	}
	w := &waiter{ready: make(chan connResult, 1)}
	w.dial = func() {
		var own context.Context
		own, w.cancel = context.WithCancel(ctx)
		go c.dialFor(own, deadline, host, w)
	}
	cn, patience := c.pool.wait(host, w)
	if cn != nil {
		return cn, nil
	}
	timer := time.NewTimer(min(patience, time.Until(deadline)))
	defer timer.Stop()
	var r connResult
	select {
	case r = <-w.ready:
	case <-timer.C:
		c.pool.waitedInVain(host, w)
		r = <-w.ready
	case <-ctx.Done():
		if c.pool.leave(host, w) {
			return nil, ctx.Err()
		}
		r = <-w.ready
	}
	if r.cn != nil && ctx.Err() != nil {
		c.pool.put(r.cn, time.Now())
		return nil, ctx.Err()
	}
	return r.cn, r.err
}

// dialFor dials for w.
func (c *Client) dialFor(ctx context.Context, deadline time.Time, host Host, w *waiter) {
	cn, shared, err := c.dial(ctx, deadline, host)
	c.pool.dialled(host, w, connResult{cn, err}, shared)
	w.cancel()
}

// dial opens a connection, with TLS if host has a ServerName. If descriptors are exhausted, it closes idle connections
// and tries again. It also returns the result of refusals.ended.
func (c *Client) dial(ctx context.Context, deadline time.Time, host Host) (cn *conn, shared time.Time, err error) {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	// A dial that hangs also holds a descriptor.
	if open := c.open.Add(1); c.cfg.MaxConns > 0 && open > int64(c.cfg.MaxConns) {
		c.pool.closeOldest(1)
	}
	plain, err := c.cfg.Dial(ctx, "tcp", host.Address)
	if reason := Exhausted(err); reason != "" && reason != portsExhausted && c.pool.closeOldest(freedForDial) > 0 {
		plain, err = c.cfg.Dial(ctx, "tcp", host.Address)
	}
	shared = c.refusals.ended(host.Address, err)
	if err != nil {
		c.open.Add(-1)
		return nil, shared, &dialError{err}
	}
	now := time.Now()
	cn = newConn(host, plain, &c.open, &c.buffers)
	// Spread the replacement of connections that were opened at the same moment.
	cn.replaceAt = now.Add(c.cfg.MaxAge - rand.N(c.cfg.MaxAge/5+1))
	if host.ServerName == "" {
		return cn, shared, nil
	}
	if err := cn.secure(ctx, deadline, c.cfg.TLS); err != nil {
		_ = cn.Close()
		return nil, shared, fmt.Errorf("handshake: %w", err)
	}
	return cn, shared, nil
}

// dialError is the error of a dial. Its text is needed far less often than its cause.
type dialError struct{ cause error }

func (e *dialError) Error() string { return "dial: " + e.cause.Error() }
func (e *dialError) Unwrap() error { return e.cause }

// freedForDial is the number of idle connections that are closed when a dial fails for lack of descriptors.
const freedForDial = 16

// Close closes the idle connections. Those in use are closed when their request ends.
func (c *Client) Close() { c.pool.close() }
