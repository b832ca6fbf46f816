// Package http1 makes HTTP/1.1 POST requests on pooled connections: one goroutine per request and none per idle
// connection, no proxy, no redirect. A request is made once. Only if a connection that was used before fails without a
// byte of a reply is it made once more, on a new connection (docs/adr/0009).
//
// A request's bytes are written at once by the caller's goroutine, which then waits for the reply. A reply in the
// usual form (a head that came with the first read, a Content-Length) is read in place; everything else (chunks, 1xx,
// bodies until the end of the connection, odd heads) is left to net/http's own reader. docs/adr/0006 has the figures.
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

// Config of a Client.
type Config struct {
	Dial     func(ctx context.Context, network, address string) (net.Conn, error)
	TLS      *tls.Config   // for https; its ServerName is set for each connection
	MaxAge   time.Duration // a connection is replaced before it is so old, so that a changed DNS answer takes effect
	MaxIdle  int           // idle connections of all hosts together
	MaxConns int           // connections of all hosts together, those being dialled included, beyond which the longest idle one is closed for a new one; 0 = any number
	MaxHead  int           // bytes of a reply's head, interim replies included
	MaxBody  int           // bytes of a reply's body that are read; then the connection is closed
}

// Host is where a connection goes. It is comparable.
type Host struct {
	Address    string // host:port, as it is dialled
	ServerName string // whose certificate is asked for; "" = plain HTTP
}

// ErrHeadTooLarge says that a reply's head is larger than Config.MaxHead.
var ErrHeadTooLarge = errors.New("the reply's head is too large")

// Client holds the connections. It is safe for concurrent use.
type Client struct {
	cfg     Config
	buffers sync.Pool
	open    atomic.Int64 // connections, idle or not, and those being dialled
	pool    pool
}

// New returns a Client without connections.
func New(cfg Config) *Client {
	c := &Client{cfg: cfg, buffers: sync.Pool{New: func() any { return new(buffer) }}}
	c.pool.init(cfg.MaxIdle)
	return c
}

// Post sends message, a whole request with its head and a body of known length, to host and reads the reply. It ends
// at the deadline (os.ErrDeadlineExceeded, or a net.Error that is a Timeout), or when ctx ends (ctx.Err() is then set,
// the error is of any kind).
//
// status is the reply's, 0 if none came. An error besides a status says that the reply's body did not come to its end.
func (c *Client) Post(ctx context.Context, deadline time.Time, host Host, message []byte) (status int, err error) {
	for {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		cn := c.pool.take(host, time.Now())
		if cn == nil {
			break
		}
		var lost bool
		status, lost, err = c.request(ctx, deadline, cn, message)
		if !lost || ctx.Err() != nil {
			return status, err
		}
		c.pool.closedByPeer(cn)
		if !errors.Is(err, errStale) {
			break // it may have been sent: once more on a new connection, and no more
		}
	}
	cn, err := c.dial(ctx, deadline, host)
	if err != nil {
		return 0, err
	}
	status, _, err = c.request(ctx, deadline, cn, message)
	return status, err
}

// request makes one request on cn and keeps or closes it. lost is the answer of conn.lost.
func (c *Client) request(ctx context.Context, deadline time.Time, cn *conn, message []byte) (status int, lost bool, err error) {
	if err := cn.prepare(deadline, len(message)); err != nil {
		_ = cn.Close()
		return 0, cn.lost(0, err), err
	}
	stop := context.AfterFunc(ctx, cn.interrupt)
	buf := c.buffers.Get().(*buffer)
	x := exchange{conn: cn, buf: buf, maxHead: c.cfg.MaxHead, maxBody: c.cfg.MaxBody}
	status, reusable, err := x.do(message)
	c.buffers.Put(buf)
	cn.kept = reusable && err == nil
	lost = cn.lost(status, err) // once the connection is in the pool it is another request's
	if stop() && cn.kept {
		c.pool.put(cn, time.Now())
	} else {
		_ = cn.Close()
	}
	return status, lost, err
}

// dial opens a connection, with TLS if host asks for it. When descriptors run short, idle connections are given up first.
func (c *Client) dial(ctx context.Context, deadline time.Time, host Host) (*conn, error) {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	// A dial that hangs holds a descriptor, too.
	if open := c.open.Add(1); c.cfg.MaxConns > 0 && open > int64(c.cfg.MaxConns) {
		c.pool.giveUp(1)
	}
	plain, err := c.cfg.Dial(ctx, "tcp", host.Address)
	if reason := Exhausted(err); reason != "" && reason != portsExhausted && c.pool.giveUp(givenUp) > 0 {
		plain, err = c.cfg.Dial(ctx, "tcp", host.Address)
	}
	if err != nil {
		c.open.Add(-1)
		return nil, fmt.Errorf("dial: %w", err)
	}
	now := time.Now()
	cn := newConn(host, plain, &c.open)
	// Not all at the same moment, if they were opened at the same moment.
	cn.replaceAt = now.Add(c.cfg.MaxAge - rand.N(c.cfg.MaxAge/5+1))
	if host.ServerName == "" {
		return cn, nil
	}
	cfg := c.cfg.TLS.Clone()
	cfg.ServerName = host.ServerName
	secured := tls.Client(plain, cfg)
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = cn.Close()
		return nil, fmt.Errorf("handshake: %w", err)
	}
	cn.Conn = secured
	return cn, nil
}

// givenUp is how many idle connections are closed when a dial meets a process without descriptors.
const givenUp = 16

// Close closes the idle connections; those in use are closed when their request ends.
func (c *Client) Close() { c.pool.close() }
