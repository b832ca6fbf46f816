package http1

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

// errStale says that an idle connection turned out to be closed before a byte of the request was sent on it.
var errStale = errors.New("the idle connection was closed")

// longAgo is a deadline that ends everything at once.
var longAgo = time.Unix(1, 0)

// conn is a connection with what is used again for each of its requests.
type conn struct {
	net.Conn
	host      Host
	replaceAt time.Time     // not used again from then on
	since     time.Time     // when it became idle
	keep      time.Duration // for how long it may be idle, if the peer said so
	said      bool
	used      bool // by a former request

	again    bool // the request that is on it is not its first
	answered bool // a byte of the reply has come
	kept     bool // after its reply the connection can carry another request

	before, after *conn // in the list of idle connections
	open          *atomic.Int64
	closed        atomic.Bool

	under     net.Conn // beneath TLS
	raw       syscall.RawConn
	turn      turn
	step      func(fd uintptr) bool
	interrupt func() // ends the request that is on it
}

// newConn wraps c, which is counted in open until it is closed. TLS may be put on top of it.
func newConn(host Host, c net.Conn, open *atomic.Int64) *conn {
	cn := &conn{Conn: c, host: host, under: c, open: open}
	cn.interrupt = func() { _ = cn.SetDeadline(longAgo) }
	if s, ok := c.(syscall.Conn); ok && rawIO {
		cn.raw, _ = s.SyscallConn()
		cn.step = cn.turn.step
	}
	return cn
}

// Close closes the connection without a word: TLS's goodbye could block.
func (c *conn) Close() error {
	if c.closed.CompareAndSwap(false, true) {
		c.open.Add(-1)
	}
	return c.under.Close()
}

// lost reports whether the request that ended so has met a connection that the peer was closing: it was used before,
// and no byte of a reply came, or only that the peer had waited for a request for too long.
func (c *conn) lost(status int, err error) bool {
	switch {
	case !c.again:
		return false
	case errors.Is(err, errStale):
		return true
	case status == http.StatusRequestTimeout:
		return !c.kept
	}
	return err != nil && !c.answered && !isTimeout(err)
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}

// alive reports whether an idle connection could carry a request.
func (c *conn) alive() bool { return c.SetReadDeadline(time.Time{}) == nil && c.check() == nil }

// direct: requests need not go through TLS.
func (c *conn) direct() bool { return c.Conn == c.under }

// prepare readies the connection for a message of so many bytes. errStale: it is closed.
func (c *conn) prepare(deadline time.Time, size int) error {
	c.again, c.answered, c.kept = c.used, false, false
	err := c.SetDeadline(deadline)
	if err == nil && c.used && (size > atOnce || !c.direct()) { // else converse looks by itself
		if err = c.check(); err == nil {
			err = c.SetReadDeadline(deadline)
		}
	}
	if err != nil && c.used {
		return errStale
	}
	return err
}

// check tells whether a connection that was used before can carry a request: the peer has neither closed it nor said
// anything unasked. errStale: it cannot. The deadline for reading is lost.
func (c *conn) check() error {
	if c.raw != nil {
		c.turn = turn{}
		if err := c.raw.Read(c.step); err != nil || c.turn.stale {
			return errStale
		}
	}
	if c.direct() {
		return nil
	}
	// What TLS has read already, and would give as the next reply.
	var one [1]byte
	if err := c.SetReadDeadline(longAgo); err != nil {
		return errStale
	}
	if _, err := c.Read(one[:]); !errors.Is(err, os.ErrDeadlineExceeded) {
		return errStale
	}
	return nil
}

// converse sends message and reads the first part of the reply into p. It may send a part of message only: then
// nothing was read and err is nil. errStale: nothing was sent.
func (c *conn) converse(message, p []byte) (sent, n int, err error) {
	fresh := !c.used
	if c.raw != nil && c.direct() {
		sent, n, err = c.takeTurn(message, p)
	} else {
		sent, err = c.Write(message)
		if err == nil {
			n, err = c.Read(p)
		}
	}
	c.used, c.answered = true, n > 0
	if err != nil && sent == 0 && !fresh && !errors.Is(err, os.ErrDeadlineExceeded) {
		err = errStale // it was refused as a whole
	}
	return sent, n, err
}

func (c *conn) takeTurn(message, p []byte) (sent, n int, err error) {
	c.turn = turn{fresh: !c.used, out: message, in: p}
	err = c.raw.Read(c.step)
	t := c.turn
	c.turn = turn{} // lets go of the buffers
	switch {
	case err != nil:
	case t.stale:
		err = errStale
	case t.err != nil:
		err = &net.OpError{Op: t.op, Net: "tcp", Addr: c.RemoteAddr(), Err: t.err}
	case t.sent == len(message) && t.n == 0:
		err = io.EOF
	}
	return t.sent, t.n, err
}
