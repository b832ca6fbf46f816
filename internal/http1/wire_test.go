//go:build unix

package http1

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/smshooks/smshooks/test/certs"
	"github.com/smshooks/smshooks/test/peer"
)

// counted counts the calls of a connection that are not made on its descriptor.
type counted struct {
	*net.TCPConn
	calls *atomic.Int32
}

func (c counted) Read(p []byte) (int, error) {
	c.calls.Add(1)
	return c.TCPConn.Read(p)
}

func (c counted) Write(p []byte) (int, error) {
	c.calls.Add(1)
	return c.TCPConn.Write(p)
}

// overTLS returns a client of a peer with TLS, and a counter of the calls of its connections.
func overTLS(t *testing.T, answer func(net.Conn, int32) bool) (c *Client, p *peer.Peer, host Host, calls *atomic.Int32) {
	t.Helper()
	p = peer.NewTLS(t, &tls.Config{Certificates: []tls.Certificate{certs.SelfSigned(t, nil)}}, answer)
	calls = new(atomic.Int32)
	c = newClient(t, func(cfg *Config) {
		cfg.TLS = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // the test's own server
		cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			var d net.Dialer
			conn, err := d.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return counted{conn.(*net.TCPConn), calls}, nil
		}
	})
	return c, p, Host{Address: p.Addr, ServerName: "localhost"}, calls
}

// TestTripOverTLS checks that a request on a kept connection with TLS is one round trip on its descriptor, as one
// without TLS is.
func TestTripOverTLS(t *testing.T) {
	c, p, host, calls := overTLS(t, peer.Says(fine))
	mustPost(t, c, host)
	handshake := calls.Load()
	for range 5 {
		mustPost(t, c, host)
	}
	if n := calls.Load() - handshake; n != 0 || p.Connections.Load() != 1 {
		t.Errorf("%d other reads and writes in 5 requests on %d connections", n, p.Connections.Load())
	}
}

// TestLargeMessagesOverTLS checks messages just below and above the sizes at which the way of sending changes.
func TestLargeMessagesOverTLS(t *testing.T) {
	c, p, host, _ := overTLS(t, peer.Says(fine))
	for _, size := range []int{bufferSize, 16 << 10, maxInlineWrite - 200, maxInlineWrite, 100_000, 2} {
		body := strings.Repeat("x", size)
		message := fmt.Appendf(nil, "POST / HTTP/1.1\r\nHost: peer\r\nContent-Length: %d\r\n\r\n%s", size, body)
		if status, err := c.Post(t.Context(), soon(), host, message, nil); status != 200 || err != nil {
			t.Fatalf("%d bytes: %d, %v", size, status, err)
		}
	}
	if n := p.Connections.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// bundle is a connection whose writes can be sent as one.
type bundle struct {
	net.Conn
	data  []byte
	holds bool
}

func (b *bundle) Write(p []byte) (int, error) {
	if b.holds {
		b.data = append(b.data, p...)
		return len(p), nil
	}
	return b.Conn.Write(p)
}

// TestUnaskedReplyOverTLS checks that an unexpected reply, which TLS has read together with the one before it, is not
// taken for the reply to the next request.
func TestUnaskedReplyOverTLS(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var (
		p           peer.Peer
		connections atomic.Int32
	)
	server := &tls.Config{Certificates: []tls.Certificate{certs.SelfSigned(t, nil)}}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			connections.Add(1)
			b := &bundle{Conn: conn}
			go p.Serve(tls.Server(b, server), func(conn net.Conn, n int32) bool {
				b.holds = true
				_, err := io.WriteString(conn, fine)
				if n == 1 && err == nil { // in a record of its own
					_, err = io.WriteString(conn, "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")
				}
				b.holds = false
				_, failed := b.Conn.Write(b.data)
				b.data = nil
				return err == nil && failed == nil
			})
		}
	}()
	c := newClient(t, func(cfg *Config) { cfg.TLS = &tls.Config{InsecureSkipVerify: true} }) //nolint:gosec // the test's own server
	host := Host{Address: l.Addr().String(), ServerName: "localhost"}
	mustPost(t, c, host)
	mustPost(t, c, host)
	if n := connections.Load(); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
}

// TestReplyBeforeRequestOverTLS checks that the request is sent once to a server whose reply arrives with the end of the
// handshake. TLS returns that reply without reading from the connection.
func TestReplyBeforeRequestOverTLS(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cert := certs.SelfSigned(t, nil)
	received := make(chan string, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		b := &bundle{Conn: conn}
		server := tls.Server(b, &tls.Config{ //nolint:gosec // in TLS 1.2 the handshake ends with a message of the server
			Certificates: []tls.Certificate{cert}, MaxVersion: tls.VersionTLS12,
			VerifyConnection: func(tls.ConnectionState) error { b.holds = true; return nil },
		})
		_, err = io.WriteString(server, fine)
		b.holds = false
		_, failed := conn.Write(b.data)
		if err != nil || failed != nil {
			t.Error(err, failed)
		}
		all, _ := io.ReadAll(server) // until the client closes the connection
		received <- string(all)
	}()
	c := newClient(t, func(cfg *Config) { cfg.TLS = &tls.Config{InsecureSkipVerify: true} }) //nolint:gosec // the test's own server
	mustPost(t, c, Host{Address: l.Addr().String(), ServerName: "localhost"})
	c.Close()
	if got := <-received; strings.Count(got, "POST ") != 1 {
		t.Errorf("the server received %q", got)
	}
}
