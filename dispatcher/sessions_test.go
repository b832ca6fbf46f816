package dispatcher

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"testing"
	"time"

	"github.com/smshooks/smshooks/test/certs"
)

// kept counts what a cache was given.
type kept struct{ puts int }

func (k *kept) Get(string) (*tls.ClientSessionState, bool)    { return nil, false }
func (k *kept) Put(_ string, session *tls.ClientSessionState) { k.puts++ }

// TestSessions: what a server has kept for it is bounded: no large certificates.
func TestSessions(t *testing.T) {
	authority, err := certs.New()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		names int // in the certificate
		keep  bool
	}{"small": {1, true}, "large": {800, false}} {
		cert := authority.Issue(t, func(x *x509.Certificate) {
			for range c.names {
				x.DNSNames = append(x.DNSNames, "a-rather-long-name-of-a-host.example")
			}
		})
		near, far := net.Pipe()
		inner := &kept{}
		server := tls.Server(far, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})
		done := make(chan error, 1)
		go func() {
			_, err := server.Write([]byte("x")) // the ticket comes before
			done <- err
		}()
		client := tls.Client(near, &tls.Config{InsecureSkipVerify: true, ServerName: "a.example", ClientSessionCache: sessions{inner}}) //nolint:gosec // a test's own server
		_ = client.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := client.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		_, _ = near.Close(), far.Close()
		if got := inner.puts > 0; got != c.keep {
			t.Errorf("%s: kept %v, want %v", name, got, c.keep)
		}
	}
}
