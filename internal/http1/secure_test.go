//go:build unix

package http1

import (
	"context"
	"crypto/tls"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/smshooks/smshooks/test/certs"
	"github.com/smshooks/smshooks/test/peer"
)

// endsLate ends its context while the client's last message of the handshake is written. The interruption that follows
// takes place only once late is closed.
type endsLate struct {
	net.Conn
	end    context.CancelFunc
	late   chan struct{}
	writes atomic.Int32
}

func (c *endsLate) Write(p []byte) (int, error) {
	if c.writes.Add(1) == 2 { // after the first message, the client writes once more
		c.end()
	}
	return c.Conn.Write(p)
}

func (c *endsLate) SetDeadline(t time.Time) error {
	if t.Equal(longAgo) {
		<-c.late
	}
	return c.Conn.SetDeadline(t)
}

// TestInterruptedHandshake checks that a connection whose dial was cancelled at the end of its handshake is not passed
// to another request: the interruption could still end that one.
func TestInterruptedHandshake(t *testing.T) {
	p := peer.NewTLS(t, &tls.Config{Certificates: []tls.Certificate{certs.SelfSigned(t, nil)}}, peer.Says(fine))
	late := make(chan struct{})
	defer close(late)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c := newClient(t, func(cfg *Config) {
		dial := cfg.Dial
		cfg.TLS = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // the test's own server
		cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			plain, err := dial(ctx, network, address)
			return &endsLate{Conn: plain, end: cancel, late: late}, err
		}
	})
	if cn, _, err := c.dial(ctx, soon(), Host{Address: p.Addr, ServerName: "localhost"}); err == nil {
		_ = cn.Close()
		t.Error("a connection was returned that is about to be interrupted")
	}
	if n := c.open.Load(); n != 0 {
		t.Errorf("%d connections are left", n)
	}
}
