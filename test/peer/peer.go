// Package peer is a web server for tests that sends exactly the bytes it is given, valid HTTP or not.
package peer

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
)

// Answer writes the reply to a request, which has been read. Requests are counted from 1 across all connections. If it
// returns false, the connection is closed.
type Answer func(c net.Conn, request int32) bool

// Peer listens on loopback.
type Peer struct {
	Addr, URL             string // host:port, and the URL of a path there
	Connections, Requests atomic.Int32
}

// New returns a peer that reads requests and calls answer for each. It stops listening when t ends.
func New(t testing.TB, answer Answer) *Peer { return start(t, "http", nil, answer) }

// NewTLS returns the same with TLS.
func NewTLS(t testing.TB, cfg *tls.Config, answer Answer) *Peer {
	return start(t, "https", cfg, answer)
}

func start(t testing.TB, scheme string, cfg *tls.Config, answer Answer) *Peer {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	p := &Peer{Addr: l.Addr().String(), URL: scheme + "://" + l.Addr().String() + "/hook"}
	if cfg != nil {
		l = tls.NewListener(l, cfg)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.Connections.Add(1)
			go p.Serve(c, answer)
		}
	}()
	return p
}

// Serve answers the requests of one connection, of any network.
func (p *Peer) Serve(c net.Conn, answer Answer) {
	defer c.Close()
	r := bufio.NewReader(c)
	for {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			return
		}
		if !answer(c, p.Requests.Add(1)) {
			return
		}
	}
}

// Says replies with text and keeps the connection.
func Says(text string) Answer {
	return func(c net.Conn, _ int32) bool {
		_, err := io.WriteString(c, text)
		return err == nil
	}
}

// SaysAndCloses replies with text and closes the connection.
func SaysAndCloses(text string) Answer {
	return func(c net.Conn, _ int32) bool {
		_, _ = io.WriteString(c, text)
		return false
	}
}

// Hangs replies with text, then sends nothing until the other side disconnects.
func Hangs(text string) Answer {
	return func(c net.Conn, _ int32) bool {
		_, _ = io.WriteString(c, text)
		_, _ = io.Copy(io.Discard, c)
		return false
	}
}
