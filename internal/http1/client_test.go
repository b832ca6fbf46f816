//go:build unix

package http1

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/smshooks/smshooks/test/peer"
)

const (
	fine    = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	request = "POST / HTTP/1.1\r\nHost: peer\r\nContent-Length: 2\r\n\r\nhi"
)

func newClient(t *testing.T, change func(*Config)) *Client {
	t.Helper()
	cfg := Config{Dial: (&net.Dialer{}).DialContext, MaxAge: 5 * time.Minute, MaxIdle: 10, MaxHead: 16 << 10, MaxBody: 64 << 10}
	if change != nil {
		change(&cfg)
	}
	c := New(cfg)
	t.Cleanup(c.Close)
	return c
}

func soon() time.Time { return time.Now().Add(10 * time.Second) }

func TestReuse(t *testing.T) {
	tests := map[string]struct {
		answer      func(net.Conn, int32) bool
		connections int32 // of three requests
	}{
		"kept":                {peer.Says(fine), 1},
		"204":                 {peer.Says("HTTP/1.1 204 No Content\r\n\r\n"), 1},
		"204, length 0":       {peer.Says("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"), 1},
		"204 with a length":   {peer.Says("HTTP/1.1 204 No Content\r\nContent-Length: 9\r\n\r\n"), 3},
		"204 in chunks":       {peer.Says("HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n"), 3},
		"304 with a length":   {peer.Says("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"), 3},
		"chunks kept":         {peer.Says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"), 1},
		"after an interim":    {peer.Says("HTTP/1.1 103 Early\r\n\r\n" + fine), 1},
		"announced close":     {peer.Says("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"), 3},
		"HTTP/1.0":            {peer.Says("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"), 3},
		"more than announced": {peer.Says("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxHTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"), 3},
		"more than the chunk": {peer.Says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + fine), 3},
		"too long a body":     {peer.Says("HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n" + strings.Repeat("x", 70000)), 3},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p, c := peer.New(t, test.answer), newClient(t, nil)
			for range 3 {
				if status, err := c.Post(t.Context(), soon(), Host{Address: p.Addr}, []byte(request), nil); status < 200 || err != nil {
					t.Fatalf("%d, %v", status, err)
				}
			}
			if n := p.Connections.Load(); n != test.connections {
				t.Errorf("%d connections, want %d", n, test.connections)
			}
		})
	}
}

// TestStaleConnections checks that no request fails because the peer closed an idle connection or sent unexpected data
// on it.
func TestStaleConnections(t *testing.T) {
	for name, then := range map[string]func(net.Conn){
		"closed": func(c net.Conn) { _ = c.Close() },
		"reset":  func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0); _ = c.Close() },
		"spoke":  func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n") },
	} {
		for _, size := range []int{2, 100_000} {
			t.Run(fmt.Sprintf("%s, %d bytes", name, size), func(t *testing.T) {
				act := make(chan struct{})
				p := peer.New(t, func(c net.Conn, n int32) bool {
					_, _ = io.WriteString(c, fine)
					if n == 1 {
						<-act
						then(c)
					}
					return true
				})
				c := newClient(t, nil)
				message := []byte(fmt.Sprintf("POST / HTTP/1.1\r\nHost: peer\r\nContent-Length: %d\r\n\r\n%s", size, strings.Repeat("x", size)))
				post := func() {
					if status, err := c.Post(t.Context(), soon(), Host{Address: p.Addr}, message, nil); status != 200 || err != nil {
						t.Fatalf("%d, %v", status, err)
					}
				}
				post()
				close(act)
				waitFor(t, func() bool { return arrived(t, c, Host{Address: p.Addr}) })
				post()
				if p.Connections.Load() != 2 || p.Requests.Load() != 2 {
					t.Errorf("%d requests on %d connections, want 2 on 2", p.Requests.Load(), p.Connections.Load())
				}
			})
		}
	}
}

// arrived reports whether the peer's action has reached the idle connection.
func arrived(t *testing.T, c *Client, host Host) bool {
	t.Helper()
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	h := c.pool.hosts[host]
	if h == nil || len(h.idle) == 0 {
		t.Fatal("the connection was not kept")
	}
	pending := false
	err := h.idle[0].raw.Control(func(fd uintptr) { pending = peek(fd, make([]byte, 1)) })
	return err != nil || pending
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatal("the condition did not become true in time")
		}
		time.Sleep(time.Millisecond)
	}
}

// TestEarlyReply checks that the reply to a long message counts even if the peer does not read all of the message.
func TestEarlyReply(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.ReadFull(c, make([]byte, 10))
			_, _ = io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
			defer c.Close() // stops reading and keeps the connection open
		}
	}()
	size := 64 << 20 // more than all buffers on the way
	message := append([]byte(fmt.Sprintf("POST / HTTP/1.1\r\nHost: peer\r\nContent-Length: %d\r\n\r\n", size)), make([]byte, size)...)
	status, err := newClient(t, nil).Post(t.Context(), soon(), Host{Address: l.Addr().String()}, message, nil)
	if status != 413 || err != nil {
		t.Errorf("%d, %v, want 413", status, err)
	}
}

func TestDeadlineAndCancel(t *testing.T) {
	silent := peer.New(t, func(c net.Conn, _ int32) bool { _, _ = io.Copy(io.Discard, c); return false })
	c := newClient(t, nil)
	if _, err := c.Post(t.Context(), time.Now().Add(50*time.Millisecond), Host{Address: silent.Addr}, []byte(request), nil); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v, want the deadline exceeded", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	begun := time.Now()
	if _, err := c.Post(ctx, soon(), Host{Address: silent.Addr}, []byte(request), nil); err == nil || time.Since(begun) > 5*time.Second {
		t.Errorf("%v after %v, want cancellation", err, time.Since(begun))
	}
}

// TestIdleConnections checks that idle connections are bounded and closed in time without further requests.
func TestIdleConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var open atomic.Int32
		p := &peer.Peer{}
		c := newClient(t, func(cfg *Config) {
			cfg.MaxIdle = 3
			cfg.Dial = func(context.Context, string, string) (net.Conn, error) {
				near, far := net.Pipe()
				open.Add(1)
				go func() {
					p.Serve(far, func(c net.Conn, _ int32) bool { time.Sleep(time.Second); return peer.Says(fine)(c, 0) })
					open.Add(-1)
				}()
				return near, nil
			}
		})
		var all sync.WaitGroup
		for i := range 5 {
			all.Go(func() {
				host := Host{Address: fmt.Sprintf("peer%d:80", i%2)}
				if status, err := c.Post(t.Context(), soon(), host, []byte(request), nil); status != 200 || err != nil {
					t.Errorf("%d, %v", status, err)
				}
			})
		}
		all.Wait()
		synctest.Wait()
		if n := open.Load(); n != 3 {
			t.Errorf("%d connections are open after the requests, want 3", n)
		}
		time.Sleep(6 * time.Second)
		synctest.Wait()
		if n := open.Load(); n != 0 || c.pool.count != 0 || len(c.pool.hosts) != 0 || c.pool.reaper != nil || c.open.Load() != 0 {
			t.Errorf("%d connections are open (counted: %d idle, %d in total), %d hosts remembered, want none", n, c.pool.count, c.open.Load(), len(c.pool.hosts))
		}
	})
}

func TestConcurrentRequests(t *testing.T) {
	p := peer.New(t, peer.Says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
	c := newClient(t, func(cfg *Config) { cfg.MaxIdle = 64 })
	var all sync.WaitGroup
	for range 32 {
		all.Go(func() {
			for range 50 {
				if status, err := c.Post(t.Context(), soon(), Host{Address: p.Addr}, []byte(request), nil); status != 200 || err != nil {
					t.Errorf("%d, %v", status, err)
					return
				}
			}
		})
	}
	all.Wait()
	if n := p.Requests.Load(); n != 32*50 {
		t.Errorf("%d requests, want %d", n, 32*50)
	}
	if n := p.Connections.Load(); n > 64 { // some dials end after their request has taken another connection
		t.Errorf("%d connections for 32 concurrent requests", n)
	}
}
