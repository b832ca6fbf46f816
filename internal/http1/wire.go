package http1

import (
	"context"
	"crypto/tls"
	"net"
	"time"
)

// wire is the connection below TLS. It makes a request over TLS cost as many system calls as one without: it holds back
// the records of the request until TLS reads the reply, and then sends and reads in one [trip].
type wire struct {
	net.Conn
	conn *conn

	polls   bool   // Read does not wait
	holds   bool   // Write keeps data instead of sending it
	pending []byte // written and not sent yet
	sent    bool   // at least a part of pending was sent
}

// secure puts TLS on a new connection. It fails if ctx ended before the handshake did, even if that succeeded: the
// interruption may still be under way, and would end the request of whoever gets the connection.
func (c *conn) secure(ctx context.Context, deadline time.Time, shared *tls.Config) error {
	if err := c.SetDeadline(deadline); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, c.interrupt)
	cfg := shared.Clone()
	cfg.ServerName = c.host.ServerName
	c.wire = &wire{Conn: c.plain, conn: c}
	secured := tls.Client(c.wire, cfg)
	err := secured.Handshake()
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return err
	}
	c.Conn, c.tickets = secured, true
	return nil
}

// hold makes Write keep data until the next Read, in buf if it fits.
func (w *wire) hold(buf []byte) { w.pending, w.holds, w.sent = buf, true, false }

// Write implements [net.Conn].
func (w *wire) Write(p []byte) (int, error) {
	if !w.holds {
		return w.Conn.Write(p)
	}
	w.pending = append(w.pending, p...)
	return len(p), nil
}

// Read implements [net.Conn]. It sends the pending data first.
func (w *wire) Read(p []byte) (int, error) {
	if w.polls {
		return w.conn.poll(p)
	}
	if !w.holds {
		return w.Conn.Read(p)
	}
	sent, n, err := w.conn.roundTrip(w.pending, p)
	w.sent, w.pending = sent > 0, w.pending[sent:]
	if err != nil || len(w.pending) == 0 {
		w.drop()
		return n, err
	}
	if err := w.flush(); err != nil {
		return 0, err
	}
	return w.Conn.Read(p)
}

// flush sends what is still pending.
func (w *wire) flush() error {
	if !w.holds {
		return nil
	}
	w.sent = true // perhaps, so that the request is not sent again
	_, err := w.Conn.Write(w.pending)
	w.drop()
	return err
}

// drop forgets what is still pending.
func (w *wire) drop() { w.pending, w.holds = nil, false }
