package real_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/smshooks/smshooks/test/certs"
	"github.com/smshooks/smshooks/test/real/harness"
)

// writePair writes a certificate and its key as PEM files that a container's user can read.
func writePair(t testing.TB, pair tls.Certificate, certFile, keyFile string) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: pair.Certificate[0]}, keyFile: {Type: "PRIVATE KEY", Bytes: key}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o644); err != nil { // the container has another user
			t.Fatal(err)
		}
	}
}

// TestRedisTLS uses a Redis with its own authority that requires client certificates. A certificate that Redis no
// longer accepts is replaced on disk, and must take effect without a restart.
func TestRedisTLS(t *testing.T) {
	t.Parallel()
	ca, err := certs.New()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	if err := ca.Write(file("ca.pem")); err != nil {
		t.Fatal(err)
	}
	writePair(t, ca.Issue(t, nil), file("server.pem"), file("server.key"))
	clientOnly := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }
	writePair(t, ca.Issue(t, clientOnly), file("client.pem"), file("client.key"))
	r := harness.TLSRedis(t, file("ca.pem"), file("server.pem"), file("server.key"))

	e := &env{kafka: harness.Kafka(t), redis: r, topics: harness.TopicsFor(t)}
	e.begin(t, []string{"--redis.tls.enabled", "--redis.tls.ca_file=" + file("ca.pem"), "--redis.tls.cert_file=" + file("client.pem"), "--redis.tls.key_file=" + file("client.key")})
	e.configure(t, map[int64]harness.Webhook{1: e.all(1, "")})
	p := e.serve(t)
	e.emit(t, e.click(1, 1))
	e.recv.WaitCount(t, "/click/1", 1, harness.Patience)

	// Without a client certificate, and without the authority, the log names the settings to check.
	for _, c := range []struct {
		name, want string
		flags      []string
	}{
		{"no certificate", "redis.tls", []string{"--redis.tls.cert_file=", "--redis.tls.key_file="}},
		{"no authority", "redis.tls", []string{"--redis.tls.ca_file="}},
	} {
		q := harness.Start(t, e.options(c.flags...))
		q.WaitUnready(t, harness.Patience, "redis: ")
		q.WaitLog(t, harness.Patience, c.want)
		q.Kill()
	}

	// A renewal: another authority's certificate is refused at the next connection, until the right one is restored.
	stranger, err := certs.New()
	if err != nil {
		t.Fatal(err)
	}
	writePair(t, stranger.Issue(t, clientOnly), file("client.pem"), file("client.key"))
	r.Stop(t)
	r.Start(t)
	p.WaitUnready(t, harness.Patience, "redis: ")
	writePair(t, ca.Issue(t, clientOnly), file("client.pem"), file("client.key"))
	p.Signal(t, syscall.SIGHUP)
	p.WaitReady(t, harness.Patience)
	e.emit(t, e.click(1, 2))
	e.recv.WaitCount(t, "/click/1", 2, harness.Patience)

	// Files without TLS are an error and do not lead to a plaintext connection.
	_, stderr, code := harness.Run(t, e.options("--redis.tls.enabled=false"), "config", "print")
	if code != 2 || !strings.Contains(stderr, "redis.tls.ca_file: is set, but redis.tls.enabled is not") {
		t.Errorf("files without redis.tls.enabled: exit code %d, %s", code, stderr)
	}
}
