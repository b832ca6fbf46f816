package app

import (
	"container/list"
	"net"
	"net/http"
	"sync"

	"github.com/smshooks/smshooks/internal/api/limit"
)

// limitedListener holds at most so many connections. When all are taken, a connection without a request gives way to a new
// one: the oldest of the client that has the most. If all carry requests, new ones wait, unless one client has more than
// half of them: then its oldest gives way.
type limitedListener struct {
	net.Listener
	most int

	mu     sync.Mutex
	room   sync.Cond  // a connection was closed, or the listener
	conns  *list.List // of *limitedConn, in the order of their last change between waiting and busy
	of     map[string]*clientConns
	closed bool
}

// clientConns counts a client's connections.
type clientConns struct{ waiting, busy int }

// limitedConn is a connection of a limitedListener.
type limitedConn struct {
	net.Conn
	of     *limitedListener
	client string
	place  *list.Element // nil = closed
	busy   bool
}

func limitListener(l net.Listener, most int) *limitedListener {
	limited := &limitedListener{Listener: l, most: max(1, most), conns: list.New(), of: map[string]*clientConns{}}
	limited.room.L = &limited.mu
	return limited
}

// Accept implements net.Listener.
func (l *limitedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.conns.Len() >= l.most && !l.closed {
		if victim := l.victim(clientOf(c)); victim != nil {
			l.drop(victim)
			_ = victim.Conn.Close()
			continue
		}
		l.room.Wait()
	}
	if l.closed {
		_ = c.Close()
		return nil, net.ErrClosed
	}
	held := &limitedConn{Conn: c, of: l, client: clientOf(c)}
	held.place = l.conns.PushBack(held)
	l.count(held, 1)
	return held, nil
}

// clientOf is whom c counts for: an address, or a /64 network of IPv6, all of whose addresses one client may have.
func clientOf(c net.Conn) string { return limit.Peer(c.RemoteAddr().String()) }

// victim is the connection that gives way to one of newcomer, nil if none does.
func (l *limitedListener) victim(newcomer string) *limitedConn {
	var greedy string
	most := 0
	for client, n := range l.of {
		if n.waiting > most {
			greedy, most = client, n.waiting
		}
	}
	if most == 0 {
		for client, n := range l.of {
			if n.busy > l.most/2 && client != newcomer {
				greedy, most = client, n.busy
			}
		}
	}
	if most == 0 {
		return nil
	}
	busy := l.of[greedy].waiting == 0
	for e := l.conns.Front(); e != nil; e = e.Next() {
		if c := e.Value.(*limitedConn); c.client == greedy && c.busy == busy {
			return c
		}
	}
	return nil
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
		of.waiting += n
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
	l.closed = true
	l.room.Broadcast()
	l.mu.Unlock()
	return l.Listener.Close()
}

// changed is for http.Server.ConnState.
func (l *limitedListener) changed(conn net.Conn, state http.ConnState) {
	c, ok := conn.(*limitedConn)
	if !ok {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if busy := state == http.StateActive; c.place != nil && busy != c.busy {
		l.count(c, -1)
		c.busy = busy
		l.count(c, 1)
		l.conns.MoveToBack(c.place)
		if !busy {
			l.room.Signal() // it may give way now
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
