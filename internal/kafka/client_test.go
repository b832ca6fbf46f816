package kafka

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/smshooks/smshooks/internal/tlsfiles"
)

func ping(t *testing.T, c Config) error {
	t.Helper()
	return pingFor(t, c, 10*time.Second)
}

func pingFor(t *testing.T, c Config, limit time.Duration) error {
	t.Helper()
	cl, err := c.NewClient()
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	return cl.Ping(ctx)
}

func TestConfigErrors(t *testing.T) {
	for _, c := range []struct {
		name string
		cfg  Config
		want string
	}{
		{"no brokers", Config{}, "kafka.brokers"},
		{"bad seed", Config{Brokers: []string{"a:b:c"}}, `kafka.brokers: "a:b:c"`},
		{"a URL", Config{Brokers: []string{"kafka://a:9092"}}, "kafka.brokers"},
		{"no host", Config{Brokers: []string{":9092"}}, "kafka.brokers"},
		{"port 0", Config{Brokers: []string{"a:0"}}, "kafka.brokers"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := c.cfg.NewClient()
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			if strings.Contains(err.Error(), "hush") {
				t.Errorf("the error contains the password: %v", err)
			}
		})
	}
}

// writeCert makes a self-signed certificate for 127.0.0.1 and returns the PEM files.
func writeCert(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"broker.test"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

func opened(t *testing.T, s tlsfiles.Settings) *tlsfiles.Files {
	t.Helper()
	files, err := tlsfiles.Open("kafka.tls", s, nil)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestTLS(t *testing.T) {
	certFile, keyFile := writeCert(t)
	server, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	trusted := x509.NewCertPool()
	text, _ := os.ReadFile(certFile)
	trusted.AppendCertsFromPEM(text)
	cluster := newCluster(t, kfake.TLS(&tls.Config{
		Certificates: []tls.Certificate{server}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: trusted,
	}))
	for _, c := range []struct {
		name string
		tls  tlsfiles.Settings
		ok   bool
	}{
		{"both sides known", tlsfiles.Settings{Enabled: true, CAFile: certFile, CertFile: certFile, KeyFile: keyFile}, true},
		{"another name of the broker", tlsfiles.Settings{Enabled: true, CAFile: certFile, CertFile: certFile, KeyFile: keyFile, ServerName: "broker.test"}, true},
		{"not verified", tlsfiles.Settings{Enabled: true, InsecureSkipVerify: true, CertFile: certFile, KeyFile: keyFile}, true},
		{"unknown authority", tlsfiles.Settings{Enabled: true, CertFile: certFile, KeyFile: keyFile}, false},
		{"wrong name", tlsfiles.Settings{Enabled: true, CAFile: certFile, CertFile: certFile, KeyFile: keyFile, ServerName: "other.test"}, false},
		{"no client certificate", tlsfiles.Settings{Enabled: true, CAFile: certFile}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := ping(t, Config{Brokers: cluster.ListenAddrs(), TLS: opened(t, c.tls)})
			if (err == nil) != c.ok || IsUnavailable(err) {
				t.Errorf("got %v (unavailable: %v)", err, IsUnavailable(err))
			}
		})
	}
}

func TestTLSAgainstPlainBroker(t *testing.T) {
	cluster := newCluster(t)
	if err := pingFor(t, Config{Brokers: cluster.ListenAddrs(), TLS: opened(t, tlsfiles.Settings{Enabled: true})}, time.Second); err == nil {
		t.Error("TLS with a plain broker works")
	}
}

func TestDial(t *testing.T) {
	cluster := newCluster(t)
	var dials atomic.Int32
	err := ping(t, Config{
		Brokers: []string{"kafka.invalid:9092"},
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			dials.Add(1)
			if _, ok := ctx.Deadline(); !ok {
				t.Error("dialling without a deadline")
			}
			return (&net.Dialer{}).DialContext(ctx, network, cluster.ListenAddrs()[0])
		},
	})
	if err != nil || dials.Load() == 0 {
		t.Errorf("err %v, %d dials", err, dials.Load())
	}
}

func TestLog(t *testing.T) {
	core, seen := observer.New(zapcore.InfoLevel)
	log := newLogger(zap.New(core))
	log.Log(kgo.LogLevelInfo, "chatter")
	log.Log(kgo.LogLevelError, "bad", "broker", "1", "err", io.EOF, "odd")
	for range 20 {
		log.Log(kgo.LogLevelWarn, "again")
		log.Log(kgo.LogLevelWarn, "unable to open connection to broker", "err", io.EOF)
	}
	entries := seen.All()
	if len(entries) != 2 {
		t.Fatalf("%d lines, want one of each message that nothing else reports", len(entries))
	}
	if got := entries[0]; got.Level != zapcore.ErrorLevel || got.ContextMap()["broker"] != "1" || got.ContextMap()["err"] != "EOF" {
		t.Errorf("got %v %v", got.Entry, got.ContextMap())
	}
}

func TestIsUnavailable(t *testing.T) {
	_, refused := net.Dial("tcp", freeAddr(t))
	for _, c := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{errors.New("something"), false},
		{context.Canceled, false},
		{context.DeadlineExceeded, true},
		{kgo.ErrClientClosed, false},
		{kgo.ErrRecordTimeout, true},
		{kgo.ErrRecordRetries, true},
		{refused, true},
		{io.EOF, true},
		{net.ErrClosed, true},
		{&net.DNSError{Err: "no such host", Name: "kafka", IsNotFound: true}, true},
		{&net.OpError{Op: "dial", Err: &net.AddrError{Err: "missing port", Addr: "a"}}, false},
		{&net.OpError{Op: "remote error", Err: errors.New("tls: bad certificate")}, false},
		{tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}, false},
		{kerr.LeaderNotAvailable, true},
		{kerr.NotLeaderForPartition, true},
		{kerr.NotEnoughReplicas, true},
		{kerr.RequestTimedOut, true},
		{kerr.BrokerNotAvailable, true},
		{kerr.CoordinatorLoadInProgress, true},
		{kerr.SaslAuthenticationFailed, false},
		{kerr.TopicAuthorizationFailed, false},
		{kerr.UnknownTopicOrPartition, false},
		{kerr.MessageTooLarge, false},
		{kerr.InvalidReplicationFactor, false},
	} {
		for _, err := range []error{c.err, wrap(c.err)} {
			if got := IsUnavailable(err); got != c.want {
				t.Errorf("%v: got %v", err, got)
			}
		}
	}
}

func wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("read topics: %w", err)
}

func TestFenced(t *testing.T) {
	reply := func(code int16, text string) kmsg.CreateTopicsResponseTopic {
		r := kmsg.NewCreateTopicsResponseTopic()
		r.ErrorCode, r.ErrorMessage = code, &text
		return r
	}
	const says = "Unable to replicate the partition 1 time(s): All brokers are currently fenced."
	if !fenced(reply(kerr.InvalidReplicationFactor.Code, says)) {
		t.Error("fenced brokers are reported as too few")
	}
	if fenced(reply(kerr.InvalidReplicationFactor.Code, "Unable to replicate the partition 3 time(s): The target replication factor of 3 cannot be reached because only 1 broker(s) are registered.")) ||
		fenced(reply(kerr.InvalidConfig.Code, says)) {
		t.Error("too few brokers are reported as fenced")
	}
}
