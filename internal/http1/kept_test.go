//go:build unix

package http1

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/smshooks/smshooks/test/certs"
	"github.com/smshooks/smshooks/test/peer"
)

// mustPost makes a request and fails the test unless the status is 200.
func mustPost(t *testing.T, c *Client, host Host) {
	t.Helper()
	if status, err := c.Post(t.Context(), soon(), host, []byte(request), nil); status != 200 || err != nil {
		t.Fatalf("%d, %v", status, err)
	}
}

// aged adds d to the idle time of all idle connections of c.
func aged(c *Client, d time.Duration) {
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	for cn := c.pool.idle.first; cn != nil; cn = cn.after {
		cn.since = cn.since.Add(-d)
	}
}

// TestRepeatOnNewConnection checks that a request is repeated once if a reused connection fails before the first byte
// of a reply, and that nothing is kept of a reply before the repeat.
func TestRepeatOnNewConnection(t *testing.T) {
	const late = "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 4\r\n\r\nlate"
	tests := map[string]struct {
		second      func(net.Conn, int32) bool // answers the second request, which is the first on a reused connection
		status      int
		requests    int32
		connections int32
	}{
		"closed":                      {peer.SaysAndCloses(""), 200, 3, 2},
		"closes idle ones with a 408": {peer.SaysAndCloses(late), 200, 3, 2},
		"a byte":                      {peer.SaysAndCloses("H"), 0, 2, 1},
		"an interim reply":            {peer.SaysAndCloses("HTTP/1.1 100 Continue\r\n\r\n"), 0, 2, 1},
		"half a head":                 {peer.SaysAndCloses("HTTP/1.1 200 OK\r\nX:"), 0, 2, 1},
		"another failure":             {peer.SaysAndCloses("HTTP/1.1 503 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"), 503, 2, 1},
		"408 of the application":      {peer.Says("HTTP/1.1 408 No\r\nContent-Length: 0\r\n\r\n"), 408, 2, 1},
	}
	for name, test := range tests {
		for _, size := range []int{2, 100_000} {
			t.Run(fmt.Sprintf("%s, %d bytes", name, size), func(t *testing.T) {
				p := peer.New(t, func(c net.Conn, n int32) bool {
					if n == 2 {
						return test.second(c, n)
					}
					return peer.Says(fine)(c, n)
				})
				c := newClient(t, nil)
				mustPost(t, c, Host{Address: p.Addr})
				message := fmt.Sprintf("POST / HTTP/1.1\r\nHost: peer\r\nContent-Length: %d\r\n\r\n%s", size, strings.Repeat("x", size))
				var body Beginning
				status, err := c.Post(t.Context(), soon(), Host{Address: p.Addr}, []byte(message), &body)
				if kept, _ := body.Bytes(); len(kept) != 0 {
					t.Errorf("the body begins with %q, want it empty", kept)
				}
				if status != test.status || (err == nil) != (status != 0) || p.Requests.Load() != test.requests || p.Connections.Load() != test.connections {
					t.Errorf("%d, %v with %d requests on %d connections, want %d with %d on %d",
						status, err, p.Requests.Load(), p.Connections.Load(), test.status, test.requests, test.connections)
				}
			})
		}
	}
}

// TestRepeatOverTLS checks the same over TLS, closed with and without close_notify.
func TestRepeatOverTLS(t *testing.T) {
	server := &tls.Config{Certificates: []tls.Certificate{certs.SelfSigned(t, nil)}}
	for name, end := range map[string]func(net.Conn){
		"goodbye": func(c net.Conn) { _ = c.Close() },
		"none":    func(c net.Conn) { _ = c.(*tls.Conn).NetConn().Close() },
	} {
		p := peer.NewTLS(t, server, func(c net.Conn, n int32) bool {
			if n == 2 {
				end(c)
				return false
			}
			return peer.Says(fine)(c, n)
		})
		c := newClient(t, func(cfg *Config) { cfg.TLS = &tls.Config{InsecureSkipVerify: true} }) //nolint:gosec // the test's own server
		host := Host{Address: p.Addr, ServerName: "localhost"}
		mustPost(t, c, host)
		mustPost(t, c, host)
		if p.Requests.Load() != 3 || p.Connections.Load() != 2 {
			t.Errorf("%s: %d requests on %d connections, want 3 on 2", name, p.Requests.Load(), p.Connections.Load())
		}
	}
}

// TestTimeoutIsNotRepeated checks that no request is repeated while the peer keeps the connection open.
func TestTimeoutIsNotRepeated(t *testing.T) {
	p := peer.New(t, func(c net.Conn, n int32) bool {
		if n == 1 {
			return peer.Says(fine)(c, n)
		}
		return peer.Hangs("")(c, n)
	})
	c := newClient(t, nil)
	mustPost(t, c, Host{Address: p.Addr})
	status, err := c.Post(t.Context(), time.Now().Add(50*time.Millisecond), Host{Address: p.Addr}, []byte(request), nil)
	if status != 0 || !errors.Is(err, os.ErrDeadlineExceeded) || p.Requests.Load() != 2 {
		t.Errorf("%d, %v with %d requests, want a timeout with 2", status, err, p.Requests.Load())
	}
}

// TestKeepAlive checks that a connection is reused for as long as the peer announces.
func TestKeepAlive(t *testing.T) {
	for _, test := range []struct {
		field       string
		idle        time.Duration
		connections int32
	}{
		{"timeout=2", 1500 * time.Millisecond, 1},
		{"timeout=2", 1700 * time.Millisecond, 2},
		{"max=9, TIMEOUT=20", 18 * time.Second, 1},
		{"timeout=20", 20 * time.Second, 2},
		{"timeout=300", 59 * time.Second, 1},
		{"timeout=300", 61 * time.Second, 2},
		{"timeout=0", 0, 2},
		{"", 3 * time.Second, 1},
		{"", 5 * time.Second, 2},
		{"timeout=x", 3 * time.Second, 1},
	} {
		for _, rest := range []string{"Content-Length: 0\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"} {
			p, c := peer.New(t, peer.Says("HTTP/1.1 200 OK\r\nKeep-Alive: "+test.field+"\r\n"+rest)), newClient(t, nil)
			mustPost(t, c, Host{Address: p.Addr})
			aged(c, test.idle)
			mustPost(t, c, Host{Address: p.Addr})
			if n := p.Connections.Load(); n != test.connections {
				t.Errorf("Keep-Alive: %s, idle for %v: %d connections, want %d", test.field, test.idle, n, test.connections)
			}
		}
	}
}

// TestKeepTimeIsLearned checks that connections are reused for as long as the host was observed to keep them, until it
// closes one early.
func TestKeepTimeIsLearned(t *testing.T) {
	conns := make(chan net.Conn, 10)
	p := peer.New(t, func(c net.Conn, n int32) bool {
		conns <- c
		return peer.Says(fine)(c, n)
	})
	c, host := newClient(t, nil), Host{Address: p.Addr}
	mustPost(t, c, host)
	aged(c, 30*time.Second)
	c.pool.reap() // observes that it is alive
	aged(c, -time.Second)
	mustPost(t, c, host)
	aged(c, 29*time.Second)
	mustPost(t, c, host)
	if n := p.Connections.Load(); n != 1 {
		t.Fatalf("%d connections to a host that keeps them, want 1", n)
	}
	aged(c, 10*time.Second)
	for range 3 {
		_ = (<-conns).Close()
	}
	waitFor(t, func() bool { return arrived(t, c, host) })
	mustPost(t, c, host) // finds the connection closed and learns from it
	aged(c, 7*time.Second)
	mustPost(t, c, host)
	aged(c, 9*time.Second)
	mustPost(t, c, host)
	if n := p.Connections.Load(); n != 3 {
		t.Errorf("%d connections, want 3: one was closed after 10 s, the next used after 7 s and not after 9 s", n)
	}
}

// watched is a connection that counts the uses of its descriptor.
type watched struct {
	*net.TCPConn
	uses *int
}

func (c watched) SyscallConn() (syscall.RawConn, error) {
	raw, err := c.TCPConn.SyscallConn()
	return watchedRaw{raw, c.uses}, err
}

type watchedRaw struct {
	syscall.RawConn
	uses *int
}

func (r watchedRaw) Read(f func(uintptr) bool) error {
	*r.uses++
	return r.RawConn.Read(f)
}

// TestKeepTimeIsLearnedInSteps checks that an idle connection is not checked each second, and that a host that never
// closes connections is known for it in the end.
func TestKeepTimeIsLearnedInSteps(t *testing.T) {
	uses := 0
	p := peer.New(t, peer.Says(fine))
	c := newClient(t, func(cfg *Config) {
		cfg.Dial = func(context.Context, string, string) (net.Conn, error) {
			plain, err := net.Dial("tcp", p.Addr)
			if err != nil {
				return nil, err
			}
			return watched{plain.(*net.TCPConn), &uses}, nil
		}
	})
	host := Host{Address: p.Addr}
	mustPost(t, c, host)
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	uses = 0
	h, since := c.pool.hosts[host], c.pool.idle.first.since
	for idle := time.Second; idle < maxKeep; idle += time.Second {
		c.pool.reapHost(h, since.Add(idle))
	}
	if h.keep != maxKeep-reapEvery || uses > 20 {
		t.Errorf("keeps connections for %v after %d checks, want %v after at most 20", h.keep, uses, maxKeep-reapEvery)
	}
}

// TestDistrust checks that a host that closes connections early is distrusted for longer each time, up to a bound.
func TestDistrust(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	h := &hostPool{keep: defaultKeep}
	for _, want := range []time.Duration{10, 20, 40, 80, 160, 300, 300} {
		h.closedEarly(5*time.Millisecond, now)
		h.closedEarly(time.Second, now) // another connection of the same host
		if h.keep != 4*time.Millisecond {
			t.Errorf("kept for %v, want 4ms", h.keep)
		}
		now = now.Add(want*time.Second - 1)
		if h.endDistrust(now); h.distrustUntil.IsZero() {
			t.Errorf("the distrust ended before %v s", int(want))
		}
		now = now.Add(1)
		if h.endDistrust(now); !h.distrustUntil.IsZero() || h.keep != defaultKeep {
			t.Errorf("after %v s: %+v, want no distrust", int(want), h)
		}
	}
	now = now.Add(maxDistrust + 1)
	if h.closedEarly(time.Second, now); h.distrustUntil.Sub(now) != minDistrust {
		t.Errorf("after a long time without distrust it lasts %v", h.distrustUntil.Sub(now))
	}
}

// TestTransferEncodingIdentity checks that "Transfer-Encoding: identity" is ignored.
func TestTransferEncodingIdentity(t *testing.T) {
	for name, test := range map[string]struct {
		answer      func(net.Conn, int32) bool
		connections int32
	}{
		"with a length": {peer.Says("HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nok"), 1},
		"odd head":      {peer.Says("HTTP/1.1 200 OK\nTransfer-encoding:  Identity \nContent-Length: 2\n\nok"), 1},
		"until the end": {peer.SaysAndCloses("HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nok"), 2},
		"after interim": {peer.Says("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nok"), 1},
	} {
		p, c := peer.New(t, test.answer), newClient(t, nil)
		for range 2 {
			if status, err := c.Post(t.Context(), soon(), Host{Address: p.Addr}, []byte(request), nil); status != 200 || err != nil {
				t.Errorf("%s: %d, %v", name, status, err)
			}
		}
		if n := p.Connections.Load(); n != test.connections {
			t.Errorf("%s: %d connections, want %d", name, n, test.connections)
		}
	}
}

// TestChangedDNSAnswer checks that a changed DNS answer takes effect within 5 minutes, whether connections are in
// continuous use or mostly idle.
func TestChangedDNSAnswer(t *testing.T) {
	for name, every := range map[string]time.Duration{"in continuous use": 100 * time.Millisecond, "now and then": 3 * time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var moved atomic.Bool
				var old, current peer.Peer
				c := newClient(t, func(cfg *Config) {
					cfg.Dial = func(context.Context, string, string) (net.Conn, error) {
						near, far := net.Pipe()
						to := &old
						if moved.Load() {
							to = &current
						}
						go to.Serve(far, peer.Says(fine))
						return near, nil
					}
				})
				defer c.Close()
				var users sync.WaitGroup
				run := func(d time.Duration) {
					for range 3 {
						users.Go(func() {
							for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(every) {
								mustPost(t, c, Host{Address: "peer:80"})
							}
						})
					}
					users.Wait()
				}
				run(time.Minute)
				moved.Store(true)
				run(5 * time.Minute)
				before := old.Requests.Load()
				run(time.Minute)
				if n := old.Requests.Load() - before; n != 0 || current.Requests.Load() == 0 {
					t.Errorf("%d requests went to the old address 5 minutes after the change", n)
				}
			})
		})
	}
}

// TestIdleConnectionsClosedForDial checks that a dial without descriptors closes idle connections and is tried again.
func TestIdleConnectionsClosedForDial(t *testing.T) {
	p, other := peer.New(t, peer.Says(fine)), peer.New(t, peer.Says(fine))
	var c *Client
	c = newClient(t, func(cfg *Config) {
		cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if c.open.Load() > 3 { // this one included
				return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("socket", syscall.EMFILE)}
			}
			return (&net.Dialer{}).DialContext(ctx, network, address)
		}
	})
	release := make(chan struct{})
	held := peer.New(t, func(c net.Conn, n int32) bool { <-release; return peer.Says(fine)(c, n) })
	var waiting sync.WaitGroup
	for range 2 {
		waiting.Go(func() { mustPost(t, c, Host{Address: held.Addr}) })
	}
	waitFor(t, func() bool { return held.Requests.Load() == 2 })
	mustPost(t, c, Host{Address: p.Addr}) // the third idle connection
	mustPost(t, c, Host{Address: other.Addr})
	close(release)
	waiting.Wait()
	c.Close()
	if n := c.open.Load(); n != 0 {
		t.Errorf("%d connections are counted as open, want none", n)
	}
	if _, err := c.cfg.Dial(t.Context(), "tcp", p.Addr); err != nil {
		t.Error(err)
	}
}

// TestMaxConns checks that beyond MaxConns a new connection closes the longest idle one, and never one in use.
func TestMaxConns(t *testing.T) {
	c := newClient(t, func(cfg *Config) { cfg.MaxConns = 3 })
	var peers []*peer.Peer
	for range 5 {
		peers = append(peers, peer.New(t, peer.Says(fine)))
	}
	for _, p := range peers {
		mustPost(t, c, Host{Address: p.Addr})
	}
	if n := c.open.Load(); n != 3 {
		t.Errorf("%d connections are open, want 3", n)
	}
	for i, p := range []*peer.Peer{peers[4], peers[3], peers[2], peers[0]} {
		was := p.Connections.Load()
		mustPost(t, c, Host{Address: p.Addr})
		if opened := p.Connections.Load() - was; opened != int32(i/3) {
			t.Errorf("peer %d of the latest: %d new connections", i, opened)
		}
	}
}

// TestMaxConnsCountsDials checks that a dial that hangs counts as a connection, since it holds a descriptor.
func TestMaxConnsCountsDials(t *testing.T) {
	p := peer.New(t, peer.Says(fine))
	hanging := make(chan struct{}, 2)
	c := newClient(t, func(cfg *Config) {
		dial := cfg.Dial
		cfg.MaxConns = 2
		cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if address == p.Addr {
				return dial(ctx, network, address)
			}
			hanging <- struct{}{}
			<-ctx.Done()
			return nil, ctx.Err()
		}
	})
	mustPost(t, c, Host{Address: p.Addr})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { _, _ = c.Post(ctx, soon(), Host{Address: "192.0.2.1:80"}, []byte(request), nil) })
		<-hanging
	}
	if n := c.open.Load(); n != 2 {
		t.Errorf("%d connections are open or dialled, want 2", n)
	}
	cancel()
	wg.Wait()
	if n := c.open.Load(); n != 0 {
		t.Errorf("%d connections are left, want none", n)
	}
}

// TestBusyConnections checks that concurrent requests pass connections on to each other.
func TestBusyConnections(t *testing.T) {
	p := peer.New(t, peer.Says(fine))
	c := newClient(t, nil)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				if status, err := c.Post(t.Context(), soon(), Host{Address: p.Addr}, []byte(request), nil); status != 200 || err != nil {
					t.Errorf("%d, %v", status, err)
				}
			}
		})
	}
	wg.Wait()
	if got := p.Requests.Load(); got != 800 {
		t.Errorf("%d requests, want 800", got)
	}
}

// TestReapDuringRequests runs reap while connections are taken and returned.
func TestReapDuringRequests(t *testing.T) {
	c := newClient(t, func(cfg *Config) { cfg.MaxIdle = 3 * reapBatch })
	var hosts []Host
	for range 4 * reapBatch {
		hosts = append(hosts, Host{Address: peer.New(t, peer.Says(fine)).Addr})
	}
	var wg sync.WaitGroup
	for part := range 2 {
		wg.Go(func() {
			for i := range hosts {
				status, err := c.Post(t.Context(), soon(), hosts[(i+part*len(hosts)/2)%len(hosts)], []byte(request), nil)
				if status != 200 || err != nil {
					t.Errorf("%d, %v", status, err)
				}
			}
		})
	}
	ended := make(chan struct{})
	go func() { wg.Wait(); close(ended) }()
	for done := false; !done; {
		select {
		case <-ended:
			done = true
		default:
			aged(c, time.Second)
			c.pool.reap()
		}
	}
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	if n := c.open.Load(); n != int64(c.pool.count) || n > 3*reapBatch {
		t.Errorf("%d connections are open, %d idle", n, c.pool.count)
	}
}
