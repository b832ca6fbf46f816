package tlsfiles_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/smshooks/smshooks/internal/tlsfiles"
	"github.com/smshooks/smshooks/test/certs"
)

func TestOpenNamesTheSetting(t *testing.T) {
	dir := t.TempDir()
	junk, none := filepath.Join(dir, "junk.pem"), filepath.Join(dir, "none")
	if err := os.WriteFile(junk, []byte("not PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		s    tlsfiles.Settings
		want string
	}{
		{"no CA", tlsfiles.Settings{CAFile: none}, "x.tls.ca_file"},
		{"junk CA", tlsfiles.Settings{CAFile: junk}, "x.tls.ca_file"},
		{"no certificate", tlsfiles.Settings{CertFile: none, KeyFile: junk}, "x.tls.cert_file"},
		{"no key", tlsfiles.Settings{CertFile: junk, KeyFile: none}, "x.tls.key_file"},
		{"a certificate alone", tlsfiles.Settings{CertFile: junk}, "x.tls.key_file"},
		{"a key alone", tlsfiles.Settings{KeyFile: junk}, "x.tls.cert_file"},
		{"junk pair", tlsfiles.Settings{CertFile: junk, KeyFile: junk}, "x.tls.cert_file"},
	} {
		c.s.Enabled = true
		_, err := tlsfiles.Open("x.tls", c.s, nil)
		var wrong *tlsfiles.SettingError
		if !errors.As(err, &wrong) || wrong.Setting != c.want {
			t.Errorf("%s: got %v, want an error of %s", c.name, err, c.want)
		}
	}
}

func TestDialWithoutTLS(t *testing.T) {
	files, err := tlsfiles.Open("x.tls", tlsfiles.Settings{}, nil)
	if files != nil || err != nil {
		t.Fatalf("got %v, %v", files, err)
	}
	if err := files.Reload(); err != nil {
		t.Error(err)
	}
	here, there := net.Pipe()
	defer there.Close()
	conn, err := files.Over(func(context.Context, string, string) (net.Conn, error) { return here, nil })(t.Context(), "tcp", "a:1")
	if conn != here || err != nil {
		t.Errorf("got %v, %v", conn, err)
	}
}

// renewal is a client certificate on disk and a server that reports which one it received.
type renewal struct {
	t                 *testing.T
	ca                *certs.Authority
	caFile, cert, key string
	addr              string
	shown             chan int64 // serial numbers
}

func newRenewal(t *testing.T) *renewal {
	t.Helper()
	ca, err := certs.New()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	r := &renewal{t: t, ca: ca, caFile: filepath.Join(dir, "ca.pem"), cert: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "key.pem"), shown: make(chan int64, 1)}
	if err := ca.Write(r.caFile); err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{ca.Issue(t, nil)}, ClientAuth: tls.RequireAnyClientCert})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	r.addr = l.Addr().String()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			secured := conn.(*tls.Conn)
			if secured.Handshake() == nil {
				r.shown <- secured.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
			}
			conn.Close()
		}
	}()
	return r
}

// renew writes a client certificate with this serial number.
func (r *renewal) renew(serial int64) {
	r.t.Helper()
	pair := r.ca.Issue(r.t, func(c *x509.Certificate) {
		c.SerialNumber, c.ExtKeyUsage = big.NewInt(serial), []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	})
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		r.t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{r.cert: {Type: "CERTIFICATE", Bytes: pair.Certificate[0]}, r.key: {Type: "PRIVATE KEY", Bytes: key}} {
		// As certificate managers do it: a new file in the place of the old one.
		if err := errors.Join(os.WriteFile(path+".new", pem.EncodeToMemory(block), 0o600), os.Rename(path+".new", path)); err != nil {
			r.t.Fatal(err)
		}
	}
}

// dial makes a connection and returns the serial number that the server received.
func (r *renewal) dial(files *tlsfiles.Files) int64 {
	r.t.Helper()
	conn, err := files.Over((&net.Dialer{}).DialContext)(r.t.Context(), "tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close()
	return <-r.shown
}

func TestRenewedFiles(t *testing.T) {
	r := newRenewal(t)
	r.renew(10)
	var reports []error
	files, err := tlsfiles.Open("x.tls", tlsfiles.Settings{Enabled: true, CAFile: r.caFile, CertFile: r.cert, KeyFile: r.key}, func(err error) { reports = append(reports, err) })
	if err != nil {
		t.Fatal(err)
	}
	if got := r.dial(files); got != 10 {
		t.Errorf("the server received %d, want 10", got)
	}
	r.renew(11)
	if got := r.dial(files); got != 11 {
		t.Errorf("after the renewal: the server received %d, want 11", got)
	}
	if err := os.WriteFile(r.key, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := r.dial(files); got != 11 {
		t.Errorf("with a broken key: the server received %d, want the previous 11", got)
	}
	if err := reports[len(reports)-1]; err == nil || !strings.Contains(err.Error(), "x.tls.cert_file") || !strings.Contains(err.Error(), "x.tls.key_file") {
		t.Errorf("reported %v, want both settings named", err)
	}
	if err := files.Reload(); err == nil {
		t.Error("Reload of a broken key returns no error")
	}
	r.renew(12)
	if err := files.Reload(); err != nil {
		t.Error(err)
	}
	if got := r.dial(files); got != 12 || reports[len(reports)-1] != nil {
		t.Errorf("after the repair: the server received %d, reported %v", got, reports[len(reports)-1])
	}
}

// TestRenewedCA replaces an authority that did not issue the server's certificate.
func TestRenewedCA(t *testing.T) {
	r := newRenewal(t)
	r.renew(10)
	stranger, err := certs.New()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := stranger.Write(file); err != nil {
		t.Fatal(err)
	}
	files, err := tlsfiles.Open("x.tls", tlsfiles.Settings{Enabled: true, CAFile: file, CertFile: r.cert, KeyFile: r.key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var unknown x509.UnknownAuthorityError
	if _, err := files.Over((&net.Dialer{}).DialContext)(t.Context(), "tcp", r.addr); !errors.As(err, &unknown) {
		t.Fatalf("with a strange authority: %v", err)
	}
	if err := os.Rename(r.caFile, file); err != nil {
		t.Fatal(err)
	}
	if got := r.dial(files); got != 10 {
		t.Errorf("the server received %d, want 10", got)
	}
}

func TestHandshakeErrorNamesTheSection(t *testing.T) {
	r := newRenewal(t)
	files, err := tlsfiles.Open("x.tls", tlsfiles.Settings{Enabled: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = files.Over((&net.Dialer{}).DialContext)(t.Context(), "tcp", r.addr)
	var unknown x509.UnknownAuthorityError
	if !errors.As(err, &unknown) || !strings.Contains(err.Error(), "x.tls") || !strings.Contains(err.Error(), r.addr) {
		t.Errorf("got %v", err)
	}
}
