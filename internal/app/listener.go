package app

import (
	"container/list"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/smshooks/smshooks/internal/api/limit"
	"github.com/smshooks/smshooks/internal/outage"
)

// busyAtLeast is the time for which a connection must have been busy to give way. Nearly all requests take far less, so
// a burst of them from one address, such as that of a proxy, ends in peace. Slow bodies and hung requests do not.
const busyAtLeast = 5 * time.Second

// acceptPause and acceptPauseMost are the first and the longest pause after an error of Accept.
const acceptPause, acceptPauseMost = 5 * time.Millisecond, time.Second

// limitedListener limits the number of open connections. A new connection above the limit closes an idle one: the
// oldest of the client that has the most. If all are busy, it waits, unless another client has more than an eighth of
// them, and more than its own client would have: then the oldest of the client that has the most is closed, as soon as
// that has been busy for busyAtLeast.
type limitedListener struct {
	net.Listener
	most    int
	failing *outage.Outage
	closing chan struct{} // closed by Close

	mu     sync.Mutex
	room   sync.Cond  // signalled when a connection or the listener was closed
	conns  *list.List // of *limitedConn, by their last change between idle and busy
	of     map[string]*clientConns
	closed bool
}

// clientConns counts a client's connections.
type clientConns struct{ idle, busy int }

// limitedConn is a connection of a limitedListener.
type limitedConn struct {
	net.Conn
	of     *limitedListener
	client string
	place  *list.Element // in conns; nil = closed
	busy   bool
	since  time.Time // when busy changed
}

func limitListener(l net.Listener, most int, failing *outage.Outage) *limitedListener {
	limited := &limitedListener{
		Listener: l, most: max(1, most), failing: failing, closing: make(chan struct{}),
		conns: list.New(), of: map[string]*clientConns{},
	}
	limited.room.L = &limited.mu
	return limited
}

// Accept implements net.Listener.
func (l *limitedListener) Accept() (net.Conn, error) {
	c, err := l.accept()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.conns.Len() >= l.most && !l.closed {
		evicted, after := l.evict(clientOf(c))
		switch {
		case evicted == nil:
			l.room.Wait()
		case after > 0:
			l.waitFor(after)
		default:
			l.drop(evicted)
			_ = evicted.Conn.Close()
		}
	}
	if l.closed {
		_ = c.Close()
		return nil, net.ErrClosed
	}
	limited := &limitedConn{Conn: c, of: l, client: clientOf(c), since: time.Now()}
	limited.place = l.conns.PushBack(limited)
	l.count(limited, 1)
	return limited, nil
}

// accept returns the next connection, or an error after Close. It retries after all other errors, because net/http
// retries only after temporary ones, and otherwise stops serving.
func (l *limitedListener) accept() (net.Conn, error) {
	for pause := acceptPause; ; pause = min(2*pause, acceptPauseMost) {
		c, err := l.Listener.Accept()
		if err == nil {
			l.failing.Recover()
			return c, nil
		}
		if errors.Is(err, net.ErrClosed) {
			return nil, err
		}
		select {
		case <-l.closing: // err may be due to it
			return nil, net.ErrClosed
		default:
		}
		l.failing.Fail(err)
		select {
		case <-l.closing:
			return nil, net.ErrClosed
		case <-time.After(pause):
		}
	}
}

// clientOf returns the client of c: an IPv4 address, or an IPv6 /64 network, which one client may own.
func clientOf(c net.Conn) string { return limit.Peer(c.RemoteAddr().String()) }

// waitFor waits for room, for at most d.
func (l *limitedListener) waitFor(d time.Duration) {
	timer := time.AfterFunc(d, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.room.Broadcast()
	})
	defer timer.Stop()
	l.room.Wait()
}

// evict returns the connection to close for one of newcomer, and how long to wait before; or nil.
func (l *limitedListener) evict(newcomer string) (c *limitedConn, after time.Duration) {
	var greedy string
	most := 0
	for client, n := range l.of {
		if n.idle > most {
			greedy, most = client, n.idle
		}
	}
	if most == 0 {
		for client, n := range l.of {
			if n.busy > most && client != newcomer {
				greedy, most = client, n.busy
			}
		}
		own := 1
		if n := l.of[newcomer]; n != nil {
			own += n.busy
		}
		if most <= own || most <= l.most/8 {
			return nil, 0
		}
	}
	busy := l.of[greedy].idle == 0
	for e := l.conns.Front(); e != nil; e = e.Next() {
		c := e.Value.(*limitedConn)
		if c.client != greedy || c.busy != busy {
			continue
		}
		if busy {
			after = busyAtLeast - time.Since(c.since)
		}
		return c, after
	}
	return nil, 0
}

func (l *limitedListener) count(c *limitedConn, n int) {
	of := l.of[c.client]
	if of == nil {
		of = &clientConns{}
		l.of[c.client] = of
	}
	if c.busy {
		of.busy += n
	} else {
		of.idle += n
	}
	if *of == (clientConns{}) {
		delete(l.of, c.client)
	}
}

func (l *limitedListener) drop(c *limitedConn) {
	if c.place == nil {
		return
	}
	l.conns.Remove(c.place)
	c.place = nil
	l.count(c, -1)
	l.room.Signal()
}

// Close implements net.Listener.
func (l *limitedListener) Close() error {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.closing)
	}
	l.room.Broadcast()
	l.mu.Unlock()
	return l.Listener.Close()
}

// changed implements http.Server.ConnState.
func (l *limitedListener) changed(conn net.Conn, state http.ConnState) {
	c, ok := conn.(*limitedConn)
	if !ok {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if busy := state == http.StateActive; c.place != nil && busy != c.busy {
		l.count(c, -1)
		c.busy, c.since = busy, time.Now()
		l.count(c, 1)
		l.conns.MoveToBack(c.place)
		if !busy {
			l.room.Signal() // it may be closed now
		}
	}
}

// Close implements net.Conn.
func (c *limitedConn) Close() error {
	c.of.mu.Lock()
	c.of.drop(c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}
