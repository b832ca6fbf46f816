package http1

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// errStale means that an idle connection was found closed before a byte of the request was sent.
var errStale = errors.New("the idle connection was closed")

// longAgo is a deadline that ends pending reads and writes at once.
var longAgo = time.Unix(1, 0)

// conn is a pooled connection and the state of the request that it carries.
type conn struct {
	net.Conn
	host      Host
	replaceAt time.Time     // not reused from then on
	since     time.Time     // when it became idle
	keep      time.Duration // idle time that the peer announced
	announced bool          // keep is set
	used      bool          // it has carried a request or was idle, so the peer may have closed it

	reused   bool // it was used before the current request
	tickets  bool // TLS can receive session tickets, because no reply was read
	answered bool // a byte of the reply has arrived
	reusable bool // it can carry another request after the reply

	before, after *conn // neighbours in the idle list
	open          *atomic.Int64
	buffers       *sync.Pool
	closed        atomic.Bool

	plain     net.Conn // the connection below TLS
	wire      *wire    // the connection below TLS; nil without TLS
	raw       syscall.RawConn
	trip      trip
	step      func(fd uintptr) bool // trip.step, bound once
	interrupt func()                // ends the current request
	watched   int                   // its index in watch.conns
}

// newConn wraps c, which counts in open until it is closed.
func newConn(host Host, c net.Conn, open *atomic.Int64, buffers *sync.Pool) *conn {
	cn := &conn{Conn: c, host: host, plain: c, open: open, buffers: buffers}
	cn.interrupt = func() { _ = c.SetDeadline(longAgo) }
	if s, ok := c.(syscall.Conn); ok && rawIO {
		cn.raw, _ = s.SyscallConn()
		cn.step = cn.trip.step
	}
	return cn
}

// Close closes the connection without TLS's close_notify, which could block.
func (c *conn) Close() error {
	if c.closed.CompareAndSwap(false, true) {
		c.open.Add(-1)
	}
	return c.plain.Close()
}

// lost reports whether a request that ended with status and err hit a connection that the peer was closing: a reused
// connection without a byte of a reply, or with a 408 that was meant for its idle time.
func (c *conn) lost(status int, err error) bool {
	switch {
	case !c.reused:
		return false
	case errors.Is(err, errStale):
		return true
	case status == http.StatusRequestTimeout:
		return !c.reusable
	}
	return err != nil && !c.answered && !isTimeout(err)
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}

// alive reports whether an idle connection can carry a request.
func (c *conn) alive() bool { return c.SetReadDeadline(time.Time{}) == nil && c.check() == nil }

// direct reports whether the connection has no TLS.
func (c *conn) direct() bool { return c.Conn == c.plain }

// prepare prepares the connection for a message of size bytes. It returns errStale if an idle connection is closed.
func (c *conn) prepare(deadline time.Time, size int) error {
	c.reused, c.answered, c.reusable = c.used, false, false
	err := c.SetDeadline(deadline)
	if err == nil && c.used && (size > maxInlineWrite || c.raw == nil) { // otherwise writeRead checks it
		err = c.check()
	}
	if err != nil && c.used && !errors.Is(err, os.ErrDeadlineExceeded) {
		return errStale
	}
	return err
}

// check returns errStale unless a used connection can carry a request: the peer has neither closed it nor sent
// unexpected data.
func (c *conn) check() error {
	switch {
	case !c.direct():
		return c.checkTLS()
	case c.raw == nil:
		return nil
	}
	c.trip = trip{}
	err := c.raw.Read(c.step)
	if err == nil && c.trip.stale {
		err = errStale
	}
	return err
}

// checkTLS is check for a connection with TLS. Data that TLS has buffered is unexpected, too. Before the first reply,
// session tickets are expected.
func (c *conn) checkTLS() error {
	var one [1]byte
	c.wire.polls = true
	_, err := c.Read(one[:])
	c.wire.polls = false
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return errStale
	}
	return nil
}

// poll reads what has arrived into p. It returns [os.ErrDeadlineExceeded] if nothing has.
func (c *conn) poll(p []byte) (n int, err error) {
	if c.raw == nil {
		return 0, os.ErrDeadlineExceeded
	}
	c.trip = trip{poll: true, in: p}
	err = c.raw.Read(c.step)
	t := c.trip
	c.trip = trip{}
	switch {
	case err != nil:
	case !t.stale:
		err = os.ErrDeadlineExceeded
	case t.err != nil:
		err = t.err
	case t.n == 0:
		err = io.EOF
	case !c.tickets:
		err = errStale
	}
	return t.n, err
}

// writeRead sends message and reads the first part of the reply into p. If it sends only part of message, it reads
// nothing and err is nil. It returns errStale if it sent nothing.
func (c *conn) writeRead(message, p []byte) (sent, n int, err error) {
	fresh := !c.used
	switch {
	case c.raw != nil && c.direct():
		sent, n, err = c.roundTrip(message, p)
	case c.raw != nil:
		sent, n, err = c.secureTrip(message, p)
	default:
		sent, err = c.Write(message)
		if err == nil {
			n, err = c.Read(p)
		}
	}
	c.used, c.answered = true, n > 0
	c.tickets = c.tickets && n == 0
	if err != nil && sent == 0 && !fresh && !errors.Is(err, os.ErrDeadlineExceeded) {
		err = errStale // the peer received nothing
	}
	return sent, n, err
}

func (c *conn) roundTrip(message, p []byte) (sent, n int, err error) {
	c.trip = trip{checked: !c.used || !c.direct(), out: message, in: p}
	err = c.raw.Read(c.step)
	t := c.trip
	c.trip = trip{} // releases the buffers
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

// secureTrip is roundTrip for a connection with TLS. The whole message counts as sent if a part of it was.
func (c *conn) secureTrip(message, p []byte) (sent, n int, err error) {
	if c.used {
		if err := c.checkTLS(); err != nil {
			return 0, 0, err
		}
	}
	buf := c.buffers.Get().(*buffer)
	defer c.buffers.Put(buf)
	defer c.wire.drop() // buf is another request's from then on
	c.wire.hold(buf[:0])
	if _, err := c.Write(message); err != nil {
		return 0, 0, err
	}
	if n, err = c.Read(p); err == nil {
		err = c.wire.flush() // TLS returned data that came with the handshake
	}
	if c.wire.sent {
		sent = len(message)
	}
	return sent, n, err
}
