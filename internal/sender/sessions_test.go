package sender

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/smshooks/smshooks/test/certs"
)

// sockets are the ends of a connection. Unlike a net.Pipe it buffers data that is not read yet.
func sockets(t *testing.T) (near, far net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if near, err = net.Dial("tcp4", l.Addr().String()); err == nil {
		far, err = l.Accept()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = near.Close(), far.Close() })
	return near, far
}

// TestSessions checks that the data kept for a server are bounded: no large certificates, no large tickets.
func TestSessions(t *testing.T) {
	authority, err := certs.New()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		names  int // in the certificate
		ticket int // bytes, 0 = as the server makes it
		keep   bool
	}{"small": {1, 0, true}, "large": {800, 0, false}, "a large ticket": {1, maxTicket + 1, false}, "no large ticket": {1, maxTicket, true}} {
		cert := authority.Issue(t, func(x *x509.Certificate) {
			for range c.names {
				x.DNSNames = append(x.DNSNames, "a-rather-long-name-of-a-host.example")
			}
		})
		near, far := sockets(t)
		cache := newSessions(maxSessions)
		cfg := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
		if c.ticket > 0 {
			cfg.WrapSession = func(tls.ConnectionState, *tls.SessionState) ([]byte, error) { return make([]byte, c.ticket), nil }
		}
		server := tls.Server(far, cfg)
		done := make(chan error, 1)
		go func() {
			_, err := server.Write([]byte("x")) // the ticket comes before
			done <- err
		}()
		client := tls.Client(near, &tls.Config{InsecureSkipVerify: true, ServerName: "a.example", ClientSessionCache: cache}) //nolint:gosec // a test's own server
		_ = client.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := client.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if got := len(cache.byKey) > 0; got != c.keep {
			t.Errorf("%s: kept %v, want %v", name, got, c.keep)
		}
	}
}

// TestSessionsBound checks that the cache stays within its bound, and keeps the sessions that are used.
func TestSessionsBound(t *testing.T) {
	session := func(ticket int) *tls.ClientSessionState {
		state, err := tls.NewResumptionState(make([]byte, ticket), &tls.SessionState{})
		if err != nil {
			t.Fatal(err)
		}
		return state
	}
	one, _ := size(session(1000))
	s := newSessions(10 * one)
	for i := range 30 {
		s.Put(strconv.Itoa(i), session(1000))
		if _, ok := s.Get("0"); !ok {
			t.Fatalf("session %d displaced one in use", i)
		}
		if s.bytes > s.max || len(s.byKey) != s.order.Len() || len(s.byKey) != min(i+1, 10) {
			t.Fatalf("after %d: %d sessions, %d in order, %d bytes", i, len(s.byKey), s.order.Len(), s.bytes)
		}
	}
	s.Put("0", session(10))
	s.Put("29", nil)
	if _, ok := s.Get("29"); ok || s.bytes >= 9*one || s.bytes <= 8*one {
		t.Errorf("%d bytes after one session was replaced and one removed", s.bytes)
	}
	for key := range s.byKey {
		s.Put(key, nil)
	}
	if s.bytes != 0 || s.order.Len() != 0 {
		t.Errorf("%d bytes without a session", s.bytes)
	}
}
