package sender

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/smshooks/smshooks/pkg/webhook"
	"github.com/smshooks/smshooks/test/certs"
	"github.com/smshooks/smshooks/test/names"
	"github.com/smshooks/smshooks/test/peer"
)

// TestMain makes the tests trust one authority only: the system's certificates are read once per process, from the file
// that is set here.
func TestMain(m *testing.M) { os.Exit(trusting(m)) }

func trusting(m *testing.M) int {
	dir, err := os.MkdirTemp("", "smshooks-ca-")
	if err == nil {
		defer os.RemoveAll(dir)
		if authority, err = certs.New(); err == nil {
			err = authority.Write(filepath.Join(dir, "ca.pem"))
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	_ = os.Setenv("SSL_CERT_FILE", filepath.Join(dir, "ca.pem"))
	_ = os.Setenv("SSL_CERT_DIR", dir)
	switchResolvers()
	return m.Run()
}

// authority is created by TestMain.
var authority *certs.Authority

func TestCertificates(t *testing.T) {
	yes := func(c *x509.Certificate) {}
	tests := []struct {
		name   string
		self   bool
		change func(*x509.Certificate)
		cfg    *tls.Config
		want   webhook.Failure
	}{
		{"good", false, yes, &tls.Config{}, ""},
		{"good, TLS 1.2", false, yes, &tls.Config{MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS12}, ""}, //nolint:gosec // an older peer
		{"expired", false, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, &tls.Config{}, webhook.TLS},
		{"not yet valid", false, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }, &tls.Config{}, webhook.TLS},
		{"of another host", false, func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = []string{"other.example"}, nil }, &tls.Config{}, webhook.TLS},
		{"of another address", false, func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 2)} }, &tls.Config{}, webhook.TLS},
		{"for clients", false, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, &tls.Config{}, webhook.TLS},
		{"self-signed", true, yes, &tls.Config{}, webhook.TLS},
		{"TLS 1.1 at most", false, yes, &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, webhook.TLS}, //nolint:gosec // a peer that is too old
		{"requires a client certificate", false, yes, &tls.Config{ClientAuth: tls.RequireAnyClientCert}, bad},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			issue := authority.Issue
			if test.self {
				issue = certs.SelfSigned
			}
			test.cfg.Certificates = []tls.Certificate{issue(t, test.change)}
			p := peer.NewTLS(t, test.cfg, peer.Says(emptyReply))
			s := newSender(t, nil)
			for range 2 {
				out := s.Send(t.Context(), request(t, p.URL))
				if out.Failure != test.want && (test.want != bad || out.Failure == "") {
					t.Errorf("%+v, want %q", out, test.want)
				}
			}
			if n := p.Requests.Load(); test.want != "" && n > 0 {
				t.Errorf("%d requests were sent to an untrusted peer", n)
			}
		})
	}
}

// TestTLSNames checks that the certificate is verified for the URL's name, not for the address it resolves to.
func TestTLSNames(t *testing.T) {
	dns := resolveBy(t)
	for _, name := range []string{"hook.example", "other.example", "xn--bcher-kva.example"} {
		dns.On(name, names.Always("127.0.0.1"))
	}
	cert := authority.Issue(t, func(c *x509.Certificate) {
		c.DNSNames, c.IPAddresses = []string{"hook.example", "xn--bcher-kva.example"}, nil
	})
	var asked atomic.Value
	cfg := &tls.Config{GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		asked.Store(h.ServerName)
		return &cert, nil
	}}
	p := peer.NewTLS(t, cfg, peer.Says(emptyReply))
	_, port, _ := net.SplitHostPort(strings.TrimSuffix(strings.TrimPrefix(p.URL, "https://"), "/hook"))
	for host, want := range map[string]struct {
		name    string
		failure webhook.Failure
	}{
		"hook.example":   {"hook.example", ""},
		"HOOK.example":   {"hook.example", ""},
		"hook.example.":  {"hook.example", ""},
		"bücher.example": {"xn--bcher-kva.example", ""},
		"other.example":  {"other.example", webhook.TLS},
		"127.0.0.1":      {"", webhook.TLS},
	} {
		asked.Store("")
		out := newSender(t, nil).Send(t.Context(), request(t, "https://"+host+":"+port+"/hook"))
		if got := asked.Load().(string); out.Failure != want.failure || !strings.EqualFold(got, want.name) {
			t.Errorf("%s: %+v, requested name %q, want %q and failure %q", host, out, got, want.name, want.failure)
		}
	}
}

// TestTLSPeers covers peers with valid TLS that send invalid data in it.
func TestTLSPeers(t *testing.T) {
	cert := authority.Issue(t, nil)
	frames := "\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64" // SETTINGS
	tests := []struct {
		name   string
		alpn   []string
		answer func(net.Conn, int32) bool
		want   webhook.Failure
	}{
		{"HTTP/2 only", []string{"h2"}, peer.SaysAndCloses(frames), bad},
		{"HTTP/2 that waits", []string{"h2"}, peer.Hangs(frames), bad},
		{"HTTP/1.1 of two", []string{"h2", "http/1.1"}, peer.Says(emptyReply), ""},
		{"hangs", nil, peer.Hangs(""), webhook.Timeout},
		{"hangs in the body", nil, peer.Hangs("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"), webhook.Timeout},
		{"closes in the body", nil, peer.SaysAndCloses("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"), webhook.ConnectionReset},
		{"closes without a reply", nil, peer.SaysAndCloses(""), webhook.ConnectionReset},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := peer.NewTLS(t, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: test.alpn}, func(c net.Conn, n int32) bool {
				if n == 1 {
					return test.answer(c, n)
				}
				return peer.Says(teapot)(c, n)
			})
			s := newSender(t, func(c *Config) { c.Timeout = brief })
			wantOutcome(t, s.Send(t.Context(), request(t, p.URL)), test.want)
			if out := s.Send(t.Context(), request(t, p.URL)); out.Failure != "http 418" {
				t.Errorf("the next request: %+v", out)
			}
		})
	}
}

// TestTLSSmuggling checks that surplus bytes on an idle TLS connection do not become a reply.
func TestTLSSmuggling(t *testing.T) {
	for name, version := range map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13} {
		for when, later := range map[string]bool{"at once": false, "later": true} {
			t.Run(name+" "+when, func(t *testing.T) {
				answered, said := make(chan struct{}), make(chan struct{})
				cfg := &tls.Config{Certificates: []tls.Certificate{authority.Issue(t, nil)}, MaxVersion: version}
				p := peer.NewTLS(t, cfg, func(c net.Conn, n int32) bool {
					if n > 1 {
						return peer.Says(teapot)(c, n)
					}
					extra := func() { _, _ = io.WriteString(c, evil); close(said) }
					_, _ = io.WriteString(c, "HTTP/1.1 202 Mine\r\nContent-Length: 2\r\n\r\nok")
					if !later {
						extra()
						return true
					}
					go func() { <-answered; extra() }()
					return true
				})
				s := newSender(t, nil)
				if out := s.Send(t.Context(), request(t, p.URL)); out.Failure != "http 202" {
					t.Errorf("%+v", out)
				}
				close(answered)
				<-said
				for range 3 {
					if out := s.Send(t.Context(), request(t, p.URL)); out.Failure != "http 418" {
						t.Errorf("a request after it: %+v", out)
					}
				}
			})
		}
	}
}

// TestPeersThatDoNotListen covers a port whose backlog is full, one that never accepts, and a very slow handshake.
func TestPeersThatDoNotListen(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	drip, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer drip.Close()
	go func() {
		for {
			c, err := drip.Accept()
			if err != nil {
				return
			}
			go dripsBytes("\x16\x03\x03\x3f\xff", "\x02")(c, 1)
		}
	}()
	for name, to := range map[string]string{
		"never accepts": "http://" + l.Addr().String(), "never accepts TLS": "https://" + l.Addr().String(), "drips its hello": "https://" + drip.Addr().String(),
	} {
		t.Run(name, func(t *testing.T) {
			s := newSender(t, func(c *Config) { c.Timeout = brief })
			r := request(t, to)
			for _, size := range []int{10, 1 << 20} { // the larger one does not fit into the kernel's buffers
				r.Body = Bytes(strings.Repeat("x", size))
				out := s.Send(t.Context(), r)
				wantOutcome(t, out, bad)
				if out.Failure != webhook.Timeout && name != "drips its hello" {
					t.Errorf("%d bytes: %+v, want a timeout", size, out)
				}
			}
		})
	}
}

// TestHostileIdentity checks that an identity from a record's header cannot inject anything into the request's head.
func TestHostileIdentity(t *testing.T) {
	for _, id := range []string{"a\r\nX-Evil: 1", "a\nX-Evil: 1", "a\r\n\r\nPOST /evil HTTP/1.1\r\nHost: x\r\n\r\n", "a\x00b", "a\x7fb", "\r", "\n"} {
		var evilSeen atomic.Bool
		p := peer.New(t, func(c net.Conn, n int32) bool { return peer.Says(emptyReply)(c, n) })
		server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Evil") != "" || r.URL.Path == "/evil" {
				evilSeen.Store(true)
			}
		}))
		r := request(t, server.URL+"/hook")
		r.ID = id
		out := newSender(t, nil).Send(t.Context(), r)
		if out.Aborted || evilSeen.Load() {
			t.Errorf("%q: %+v, and the peer saw it: %v", id, out, evilSeen.Load())
		}
		r = request(t, p.URL)
		r.ID = id
		if out := newSender(t, nil).Send(t.Context(), r); out.Failure != webhook.Network || p.Requests.Load() != 0 {
			t.Errorf("%q: %+v with %d requests, want network and none", id, out, p.Requests.Load())
		}
		server.Close()
	}
}

// TestInternationalHost checks that an internationalised name is resolved, and sent as Host, in its ASCII form.
func TestInternationalHost(t *testing.T) {
	resolveBy(t).On("xn--bcher-kva.example", names.Always("127.0.0.1"))
	host := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { host <- r.Host + r.RequestURI }))
	defer server.Close()
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(server.URL, "http://"))
	if out := newSender(t, nil).Send(t.Context(), request(t, "http://bücher.example:"+port+"/ü?ä=ö")); out.Failure != "" {
		t.Fatalf("%+v", out)
	}
	if got := <-host; got != "xn--bcher-kva.example:"+port+"/%C3%BC?%C3%A4=%C3%B6" {
		t.Errorf("sent to %s", got)
	}
}

func withEnd(t *testing.T, soon bool) (context.Context, context.CancelFunc) {
	t.Helper()
	if !soon {
		return context.WithCancel(t.Context())
	}
	return context.WithTimeout(t.Context(), brief/3)
}
