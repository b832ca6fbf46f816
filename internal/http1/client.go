// Package http1 makes HTTP/1.1 POST requests on pooled connections: one goroutine per request and none per idle
// connection, no proxy, no redirect, no second try once a byte has been sent.
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
	"net"
	"sync"
	"time"
)

// Config of a Client.
type Config struct {
	Dial        func(ctx context.Context, network, address string) (net.Conn, error)
	TLS         *tls.Config   // for https; its ServerName is set for each connection
	IdleTimeout time.Duration // a connection that was idle for so long is not used again
	MaxIdle     int           // idle connections of all hosts together
	MaxHead     int           // bytes of a reply's head, interim replies included
	MaxBody     int           // bytes of a reply's body that are read; then the connection is closed
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

	mu     sync.Mutex
	idle   map[Host][]*conn // each in the order of their return
	count  int              // of all idle connections
	reaper *time.Timer      // runs while there are any
	closed bool
}

// New gives a Client without connections.
func New(cfg Config) *Client {
	return &Client{cfg: cfg, idle: map[Host][]*conn{}, buffers: sync.Pool{New: func() any { return new(buffer) }}}
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
		cn := c.take(host)
		if cn == nil {
			if cn, err = c.dial(ctx, deadline, host); err != nil {
				return 0, err
			}
		}
		status, err = c.request(ctx, deadline, cn, message)
		if !errors.Is(err, errStale) {
			return status, err
		}
	}
}

// request makes one request on cn and keeps or closes it.
func (c *Client) request(ctx context.Context, deadline time.Time, cn *conn, message []byte) (int, error) {
	if err := cn.prepare(deadline, len(message)); err != nil {
		_ = cn.Close()
		return 0, err
	}
	stop := context.AfterFunc(ctx, cn.interrupt)
	buf := c.buffers.Get().(*buffer)
	x := exchange{conn: cn, buf: buf, maxHead: c.cfg.MaxHead, maxBody: c.cfg.MaxBody}
	status, reusable, err := x.do(message)
	c.buffers.Put(buf)
	if stop() && reusable && err == nil {
		c.put(cn)
	} else {
		_ = cn.Close()
	}
	return status, err
}

// dial opens a connection, with TLS if host asks for it.
func (c *Client) dial(ctx context.Context, deadline time.Time, host Host) (*conn, error) {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	plain, err := c.cfg.Dial(ctx, "tcp", host.Address)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	if host.ServerName == "" {
		return newConn(host, plain, plain), nil
	}
	cfg := c.cfg.TLS.Clone()
	cfg.ServerName = host.ServerName
	secured := tls.Client(plain, cfg)
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = plain.Close()
		return nil, fmt.Errorf("handshake: %w", err)
	}
	return newConn(host, secured, plain), nil
}

// take gives an idle connection to host, the last one used; nil if there is none.
func (c *Client) take(host Host) *conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := c.idle[host]
	if len(list) == 0 {
		return nil
	}
	cn := list[len(list)-1]
	if time.Since(cn.since) >= c.cfg.IdleTimeout { // then the others are older still
		c.drop(host, len(list))
		return nil
	}
	list[len(list)-1] = nil
	c.idle[host] = list[:len(list)-1]
	c.count--
	return cn
}

// put keeps a connection for the next request.
func (c *Client) put(cn *conn) {
	cn.since = time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	// Where a socket cannot be looked at, a reply that came unasked would be taken for that to the next request.
	if !rawIO || c.closed || c.count >= c.cfg.MaxIdle {
		_ = cn.Close()
		return
	}
	c.idle[cn.host] = append(c.idle[cn.host], cn)
	c.count++
	if c.reaper == nil {
		c.reaper = time.AfterFunc(c.cfg.IdleTimeout, c.reap)
	}
}

// reap closes what has been idle for too long.
func (c *Client) reap() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for host, list := range c.idle {
		n := 0
		for n < len(list) && time.Since(list[n].since) >= c.cfg.IdleTimeout {
			n++
		}
		c.drop(host, n)
	}
	if c.reaper = nil; c.count > 0 {
		c.reaper = time.AfterFunc(c.cfg.IdleTimeout/4, c.reap)
	}
}

// drop closes the n oldest idle connections of host.
func (c *Client) drop(host Host, n int) {
	list := c.idle[host]
	for _, cn := range list[:n] {
		_ = cn.Close()
	}
	c.count -= n
	if rest := copy(list, list[n:]); rest > 0 {
		clear(list[rest:])
		c.idle[host] = list[:rest]
	} else {
		delete(c.idle, host)
	}
}

// Close closes the idle connections; those in use are closed when their request ends.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for host, list := range c.idle {
		c.drop(host, len(list))
	}
	if c.reaper != nil {
		c.reaper.Stop()
		c.reaper = nil
	}
}
