//go:build unix

package http1

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/smshooks/smshooks/test/certs"
	"github.com/smshooks/smshooks/test/peer"
)

var there = Host{Address: "peer:80"}

// dialler opens connections to a peer in virtual time.
type dialler struct {
	peer.Peer
	answer peer.Answer
	before func(ctx context.Context, n int) error // runs in the n-th dial, from 1

	mu    sync.Mutex
	dials []time.Time
}

func (d *dialler) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	d.mu.Lock()
	d.dials = append(d.dials, time.Now())
	n := len(d.dials)
	d.mu.Unlock()
	if err := d.before(ctx, n); err != nil {
		return nil, err
	}
	near, far := net.Pipe()
	go d.Serve(far, d.answer)
	return near, nil
}

func (d *dialler) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.dials)
}

// takes waits for a time, and fails if ctx ends before.
func takes(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func hangs(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// afterReply answers after a time.
func afterReply(d time.Duration) peer.Answer {
	return func(c net.Conn, n int32) bool {
		time.Sleep(d)
		return peer.Says(fine)(c, n)
	}
}

// burst makes n requests that begin in turn, and returns how long each of them took and its error.
func burst(ctx context.Context, c *Client, n int) (took []time.Duration, errs []error) {
	took, errs = make([]time.Duration, n), make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			began := time.Now()
			_, errs[i] = c.Post(ctx, soon(), there, []byte(request), nil)
			took[i] = time.Since(began)
		})
		synctest.Wait()
	}
	all.Wait()
	return took, errs
}

// virtual runs test in virtual time with a client of d, and checks that nothing of the queue is left.
func virtual(t *testing.T, d *dialler, test func(t *testing.T, c *Client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := newClient(t, func(cfg *Config) { cfg.Dial, cfg.MaxIdle = d.dial, 1000 })
		test(t, c)
		c.Close()
		time.Sleep(time.Minute)
		c.pool.mu.Lock()
		defer c.pool.mu.Unlock()
		h := c.pool.hosts[there]
		if h != nil {
			h.dropOldDials(time.Now())
		}
		if h != nil && (len(h.waiting) > 0 || len(h.dials) > 0) || c.open.Load() != 0 {
			t.Errorf("%+v is left, and %d connections", h, c.open.Load())
		}
	})
}

// TestBurstSharesConnections checks that a burst to one host does not open a connection for each request.
func TestBurstSharesConnections(t *testing.T) {
	d := &dialler{
		answer: afterReply(time.Millisecond),
		before: func(ctx context.Context, _ int) error { return takes(ctx, 10*time.Millisecond) },
	}
	virtual(t, d, func(t *testing.T, c *Client) {
		took, errs := burst(t.Context(), c, 100)
		if err := errors.Join(errs...); err != nil {
			t.Error(err)
		}
		if slowest := slices.Max(took); d.count() > 3*maxDials || slowest > 30*time.Millisecond {
			t.Errorf("%d dials, the slowest request took %v", d.count(), slowest)
		}
	})
}

// TestReturnedConnectionIsTaken checks that requests whose dials hang, and those that wait behind them, take the one
// connection that is returned, in the order in which they began.
func TestReturnedConnectionIsTaken(t *testing.T) {
	d := &dialler{
		answer: afterReply(10 * time.Millisecond),
		before: func(ctx context.Context, n int) error {
			if n == 1 {
				return nil
			}
			return hangs(ctx)
		},
	}
	virtual(t, d, func(t *testing.T, c *Client) {
		took, errs := burst(t.Context(), c, maxDials+4)
		for i := range took {
			if want := time.Duration(i+1) * 10 * time.Millisecond; errs[i] != nil || took[i] != want {
				t.Errorf("request %d: %v after %v, want %v", i, errs[i], took[i], want)
			}
		}
		if d.count() > 1+maxDials {
			t.Errorf("%d dials, want one and %d that hang", d.count(), maxDials)
		}
	})
}

// TestHangingDials checks that requests wait for hanging dials for a moment only, and that later ones need not.
func TestHangingDials(t *testing.T) {
	d := &dialler{before: func(ctx context.Context, _ int) error { return hangs(ctx) }}
	virtual(t, d, func(t *testing.T, c *Client) {
		began := time.Now()
		for _, bound := range []time.Duration{maxPatience, minPatience} {
			took, errs := burst(t.Context(), c, 100)
			for i := range took {
				if !isTimeout(errs[i]) || took[i] != 10*time.Second {
					t.Errorf("request %d: %v after %v, want a timeout after 10s", i, errs[i], took[i])
				}
			}
			if n, last := d.count(), d.dials[d.count()-1].Sub(began); n%100 != 0 || last > bound {
				t.Errorf("%d dials, the last one after %v, want one for each of 100 requests within %v", n, last, bound)
			}
			began = time.Now()
		}
	})
}

// TestOneAddressHangs checks that no request waits for longer than a moment if a part of the dials hangs.
func TestOneAddressHangs(t *testing.T) {
	d := &dialler{
		answer: peer.SaysAndCloses("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"),
		before: func(ctx context.Context, n int) error {
			if n%4 == 0 {
				return takes(ctx, 2500*time.Millisecond)
			}
			return takes(ctx, time.Millisecond)
		},
	}
	virtual(t, d, func(t *testing.T, c *Client) {
		for range 3 {
			took, errs := burst(t.Context(), c, 100)
			if err := errors.Join(errs...); err != nil {
				t.Error(err)
			}
			slices.Sort(took)
			if took[74] > maxPatience+time.Millisecond || took[99] > 2500*time.Millisecond+maxPatience {
				t.Errorf("75%% of the requests took up to %v, all up to %v", took[74], took[99])
			}
		}
	})
}

// TestDialIsKeptForOthers checks that a connection whose request took another one serves the next request.
func TestDialIsKeptForOthers(t *testing.T) {
	d := &dialler{
		answer: afterReply(50 * time.Millisecond),
		before: func(ctx context.Context, n int) error { return takes(ctx, time.Duration(n-1)*100*time.Millisecond) },
	}
	virtual(t, d, func(t *testing.T, c *Client) {
		took, _ := burst(t.Context(), c, 2) // the second one takes the connection of the first
		if took[1] != 100*time.Millisecond {
			t.Errorf("the second request took %v", took[1])
		}
		time.Sleep(time.Second)
		took, _ = burst(t.Context(), c, 2)
		if d.count() != 2 || took[0] != 50*time.Millisecond || took[1] != took[0] {
			t.Errorf("%d dials, then requests took %v, want 2 and both at once", d.count(), took)
		}
	})
}

// TestCancelWhileWaiting checks that a request that waits ends with its context, and that the next one is served.
func TestCancelWhileWaiting(t *testing.T) {
	d := &dialler{
		answer: afterReply(20 * time.Millisecond),
		before: func(ctx context.Context, n int) error {
			if n == 1 {
				return nil
			}
			return hangs(ctx)
		},
	}
	virtual(t, d, func(t *testing.T, c *Client) {
		var all sync.WaitGroup
		all.Go(func() { mustPost(t, c, there) })
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		began := time.Now()
		for range maxDials + 10 { // with a dial and without
			all.Go(func() {
				_, err := c.Post(ctx, soon(), there, []byte(request), nil)
				if !errors.Is(err, context.Canceled) || time.Since(began) != 10*time.Millisecond {
					t.Errorf("%v after %v, want the cancellation", err, time.Since(began))
				}
			})
		}
		time.Sleep(10 * time.Millisecond)
		cancel()
		synctest.Wait()
		mustPost(t, c, there)
		if took := time.Since(began); took != 40*time.Millisecond {
			t.Errorf("the next request ended after %v", took)
		}
		all.Wait()
	})
}

// TestRefusalsReachWaiters checks that requests that wait for dials share a repeated refusal, not a first one, and that
// later requests dial.
func TestRefusalsReachWaiters(t *testing.T) {
	d := &dialler{before: func(ctx context.Context, _ int) error { return errors.Join(takes(ctx, time.Millisecond), errRefused) }}
	virtual(t, d, func(t *testing.T, c *Client) {
		for i, want := range []int{2 * maxDials, 3 * maxDials} {
			_, errs := burst(t.Context(), c, 100)
			for _, err := range errs {
				if !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("%v, want a refusal", err)
				}
			}
			if n := d.count(); n < i+maxDials || n > want {
				t.Errorf("%d dials in bursts of 100 requests, want up to %d", n, want)
			}
		}
		was := d.count()
		if _, errs := burst(t.Context(), c, 1); d.count() != was+1 || !errors.Is(errs[0], syscall.ECONNREFUSED) {
			t.Errorf("%d dials for a later request: %v", d.count()-was, errs[0])
		}
	})
}

// TestUnusedConnection checks that a connection that became idle before its first request is used, and that a close by
// the peer costs no request.
func TestUnusedConnection(t *testing.T) {
	// A server that asks for a certificate sends its session tickets after the handshake.
	secure := &tls.Config{Certificates: []tls.Certificate{certs.SelfSigned(t, nil)}, ClientAuth: tls.RequestClientCert}
	for name, start := range map[string]func() (*peer.Peer, Host){
		"plain": func() (*peer.Peer, Host) {
			p := peer.New(t, peer.Says(fine))
			return p, Host{Address: p.Addr}
		},
		"TLS": func() (*peer.Peer, Host) {
			p := peer.NewTLS(t, secure, peer.Says(fine))
			return p, Host{Address: p.Addr, ServerName: "localhost"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, host := start()
			var plain net.Conn
			c := newClient(t, func(cfg *Config) {
				dial := cfg.Dial
				cfg.TLS = &tls.Config{
					ClientSessionCache: tls.NewLRUClientSessionCache(1),
					InsecureSkipVerify: true, //nolint:gosec // the test's own server
				}
				cfg.Dial = func(ctx context.Context, network, address string) (conn net.Conn, err error) {
					plain, err = dial(ctx, network, address)
					return plain, err
				}
			})
			for i, closes := range []bool{false, true} {
				c.Close()
				c.pool.closed = false
				cn, _, err := c.dial(t.Context(), soon(), host)
				if err != nil {
					t.Fatal(err)
				}
				c.pool.put(cn, time.Now())
				if host.ServerName != "" && !closes { // a resumed session has its tickets in the handshake
					waitFor(t, func() bool { return arrived(t, c, host) })
				}
				if closes {
					_ = plain.(*net.TCPConn).CloseRead()
				}
				mustPost(t, c, host)
				if n, want := p.Connections.Load(), int32([]int{1, 3}[i]); n != want {
					t.Errorf("closed: %v: %d connections, want %d", closes, n, want)
				}
			}
		})
	}
}

// TestOrphans checks that dials whose requests took another connection are bounded, for a host and for all of them.
func TestOrphans(t *testing.T) {
	for _, tc := range []struct{ hosts, maxConns, want int }{
		{1, 0, hostOrphans},
		{20, 0, maxOrphans},
		{20, 100, 100 / orphanShare},
		{1, 16, 2},
		{1, 2, 1},
	} {
		t.Run(fmt.Sprintf("%d hosts, %d connections", tc.hosts, tc.maxConns), func(t *testing.T) {
			var mu sync.Mutex
			dials, connected := 0, map[string]bool{}
			d := &dialler{answer: afterReply(10 * time.Millisecond)}
			dial := func(ctx context.Context, network, address string) (net.Conn, error) {
				mu.Lock()
				first := !connected[address]
				connected[address] = true
				dials++
				mu.Unlock()
				if !first {
					return nil, hangs(ctx)
				}
				return d.dial(ctx, network, address)
			}
			d.before = func(context.Context, int) error { return nil }
			synctest.Test(t, func(t *testing.T) {
				c := newClient(t, func(cfg *Config) { cfg.Dial, cfg.MaxIdle, cfg.MaxConns = dial, 1000, tc.maxConns })
				began, most := time.Now(), int64(0)
				for time.Since(began) < 2*time.Second {
					var all sync.WaitGroup
					for i := range 2 * tc.hosts {
						host := Host{Address: fmt.Sprintf("peer%d:80", i/2)}
						all.Go(func() {
							if _, err := c.Post(t.Context(), soon(), host, []byte(request), nil); err != nil {
								t.Error(err)
							}
						})
						synctest.Wait()
					}
					all.Wait()
					most = max(most, c.open.Load()-int64(tc.hosts)) // one connection of each host is idle
				}
				if most != int64(tc.want) || dials > tc.want+tc.hosts*(1+maxDials*int(2*time.Second/maxPatience+1)) {
					t.Errorf("%d dials without a request at a time, want %d; %d dials in all", most, tc.want, dials)
				}
				c.Close()
				time.Sleep(time.Minute)
				if n := orphans(c); n != 0 || c.open.Load() != 0 || len(c.pool.hosts) > tc.hosts {
					t.Errorf("%d dials and %d connections are left at the end", n, c.open.Load())
				}
			})
		})
	}
}

// orphans returns the number of orphans that c counts.
func orphans(c *Client) int {
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	return c.pool.orphans
}

// TestWaitersAreServedInOrder checks the queue of a host.
func TestWaitersAreServedInOrder(t *testing.T) {
	h, p := &hostPool{patience: minPatience}, &pool{}
	var ws []*waiter
	for range 5 {
		w := &waiter{ready: make(chan connResult, 1)}
		ws, h.waiting = append(ws, w), append(h.waiting, w)
	}
	if !h.remove(ws[2]) || h.remove(ws[2]) {
		t.Error("a waiter is not removed exactly once")
	}
	for _, i := range []int{0, 1, 3, 4} {
		cn := &conn{}
		if !p.give(h, cn) {
			t.Fatal("no waiter")
		}
		if r := <-ws[i].ready; r.cn != cn {
			t.Errorf("waiter %d: %v", i, r)
		}
	}
	if p.give(h, &conn{}) || h.patience != 16*minPatience {
		t.Error(fmt.Sprint("a waiter is left, or patience has not grown: ", h.patience))
	}
}
