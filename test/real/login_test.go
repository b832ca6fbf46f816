package real_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/smshooks/smshooks/test/certs"
	"github.com/smshooks/smshooks/test/real/harness"
)

const (
	loginUser     = "hooks"
	loginPassword = "login-password"
	clientSecret  = "client-secret-of-hooks"
	issuer        = "https://login.example.com/"
	audience      = "kafka"
	tokenLife     = 12 * time.Second
)

// tokenServer issues tokens for client credentials, and serves the key that the broker checks them with.
type tokenServer struct {
	key    *rsa.PrivateKey
	port   int
	issued atomic.Int64
}

func newTokenServer(t *testing.T) *tokenServer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", ":0") // the broker's container reaches it at the address of the bridge
	if err != nil {
		t.Fatal(err)
	}
	s := &tokenServer{key: key, port: l.Addr().(*net.TCPAddr).Port}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /keys", s.keys)
	mux.HandleFunc("POST /token", s.token)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	return s
}

func (s *tokenServer) keys(w http.ResponseWriter, _ *http.Request) {
	base64 := base64.RawURLEncoding.EncodeToString
	_ = json.NewEncoder(w).Encode(map[string]any{"keys": []map[string]string{{
		"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "k1", "n": base64(s.key.N.Bytes()), "e": base64(big.NewInt(int64(s.key.E)).Bytes()),
	}}})
}

func (s *tokenServer) token(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if id, secret, _ := r.BasicAuth(); id != loginUser || secret != clientSecret || r.FormValue("grant_type") != "client_credentials" {
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"error":"invalid_client"}`)
		return
	}
	s.issued.Add(1)
	fmt.Fprintf(w, `{"access_token":%q,"token_type":"Bearer","expires_in":%d}`, sign(s.key, tokenLife), int(tokenLife.Seconds()))
}

// sign returns a token for the broker.
func sign(key *rsa.PrivateKey, life time.Duration) string {
	now := time.Now()
	token := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.MapClaims{
		"sub": loginUser, "iss": issuer, "aud": audience, "scope": "kafka", "iat": now.Unix(), "exp": now.Add(life).Unix(),
	})
	token.Header["kid"] = "k1"
	signed, err := token.SignedString(key)
	if err != nil {
		panic(err)
	}
	harness.Secret(signed)
	return signed
}

// loginEnv is a broker that accepts all logins, a token server, and the files of both.
type loginEnv struct {
	broker *harness.LoginBroker
	tokens *tokenServer
	ca     *certs.Authority
	dir    string
}

func (l *loginEnv) file(name string) string { return filepath.Join(l.dir, name) }

func newLoginEnv(t *testing.T) *loginEnv {
	t.Helper()
	ca, err := certs.New()
	if err != nil {
		t.Fatal(err)
	}
	l := &loginEnv{tokens: newTokenServer(t), ca: ca, dir: t.TempDir()}
	if err := ca.Write(l.file("ca.pem")); err != nil {
		t.Fatal(err)
	}
	writePair(t, ca.Issue(t, nil), l.file("server.pem"), l.file("server.key"))
	for _, secret := range []string{loginPassword, clientSecret} {
		harness.Secret(secret)
	}
	l.broker = harness.LoginKafka(t, harness.LoginOptions{
		CAFile: l.file("ca.pem"), CertFile: l.file("server.pem"), KeyFile: l.file("server.key"), User: loginUser, Password: loginPassword,
		JWKS: fmt.Sprintf("http://%s:%d/keys", harness.HostForContainers, l.tokens.port), Audience: audience, Issuer: issuer,
	})
	admin := kadm.NewClient(harness.Client(t, l.broker.Addr))
	// The broker refuses two mechanisms of a user in one request.
	for _, mechanism := range []kadm.ScramMechanism{kadm.ScramSha256, kadm.ScramSha512} {
		altered, err := admin.AlterUserSCRAMs(t.Context(), nil, []kadm.UpsertSCRAM{
			{User: loginUser, Mechanism: mechanism, Iterations: 4096, Password: loginPassword},
		})
		if err := errors.Join(err, altered[loginUser].Err); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// env returns an env whose program logs in by flags at addr.
func (l *loginEnv) env(t *testing.T, addr string, flags ...string) *env {
	t.Helper()
	e := &env{kafka: l.broker.Broker, redis: harness.Redis(t), topics: harness.TopicsFor(t)}
	e.begin(t, append([]string{"--kafka.brokers=" + addr, "--kafka.tls.enabled", "--kafka.tls.ca_file=" + l.file("ca.pem")}, flags...))
	e.configure(t, map[int64]harness.Webhook{1: e.all(1, "")})
	return e
}

// TestKafkaLogins logs in to a real broker with each mechanism that managed clusters offer.
func TestKafkaLogins(t *testing.T) {
	t.Parallel()
	l := newLoginEnv(t)
	token := l.file("token")
	user, url := "--kafka.sasl.username="+loginUser, fmt.Sprintf("http://127.0.0.1:%d/token", l.tokens.port)
	oauth := []string{"--kafka.sasl.mechanism=OAUTHBEARER", "--kafka.sasl.oauth.token_url=" + url, "--kafka.sasl.oauth.client_id=" + loginUser}
	for name, flags := range map[string][]string{
		"PLAIN":     {"--kafka.sasl.mechanism=PLAIN", user, "--kafka.sasl.password=" + loginPassword},
		"SCRAM-256": {"--kafka.sasl.mechanism=SCRAM-SHA-256", user, "--kafka.sasl.password=" + loginPassword},
		"SCRAM-512": {"--kafka.sasl.mechanism=SCRAM-SHA-512", user, "--kafka.sasl.password=" + loginPassword},
	} {
		t.Run(name, func(t *testing.T) {
			e := l.env(t, l.broker.SASLAddr, flags...)
			p := e.serve(t)
			e.emit(t, e.dlr(1, 1))
			e.recv.WaitCount(t, path("dlr", 1), 1, harness.Patience)
			p.WaitBalanced(t, 1, harness.Patience)
			_, stderr, code := harness.Run(t, e.options("--kafka.sasl.password=wrong"), "topics", "check")
			if code != 1 || !strings.Contains(stderr, "kafka.sasl.") {
				t.Errorf("a wrong password: exit code %d, %s", code, stderr)
			}
		})
	}
	t.Run("OAUTHBEARER", func(t *testing.T) {
		e := l.env(t, l.broker.SASLAddr, append(oauth, "--kafka.sasl.oauth.client_secret="+clientSecret, "--kafka.sasl.oauth.scope=kafka")...)
		p := e.serve(t)
		before := l.tokens.issued.Load()
		e.emit(t, e.dlr(1, 1))
		e.recv.WaitCount(t, path("dlr", 1), 1, harness.Patience)
		// The first token expires, and the connections log in again with others.
		harness.Eventually(t, time.Minute, func() bool { return l.tokens.issued.Load() >= before+2 }, "the token is renewed")
		e.emit(t, e.dlr(1, 2))
		e.recv.WaitCount(t, path("dlr", 1), 2, harness.Patience)
		p.WaitBalanced(t, 2, harness.Patience)
		_, stderr, code := harness.Run(t, e.options("--kafka.sasl.oauth.client_secret=wrong"), "topics", "check")
		if code != 1 || !strings.Contains(stderr, "kafka.sasl.oauth.token_url: ") || !strings.Contains(stderr, "invalid_client") {
			t.Errorf("a wrong secret: exit code %d, %s", code, stderr)
		}
	})
	t.Run("OAUTHBEARER, the token server does not reply", func(t *testing.T) {
		const grace = 3 * time.Second
		asked, ended := make(chan bool, 100), make(chan bool)
		hanging := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			asked <- true
			<-ended
		}))
		defer hanging.Close()
		defer close(ended)
		p := harness.Start(t, harness.Options{Brokers: l.broker.SASLAddr, RedisAddr: harness.Redis(t).Addr, Args: []string{
			"--kafka.tls.enabled", "--kafka.tls.ca_file=" + l.file("ca.pem"), "--kafka.sasl.mechanism=OAUTHBEARER", "--kafka.sasl.oauth.token_url=" + hanging.URL,
			"--kafka.sasl.oauth.client_id=" + loginUser, "--kafka.sasl.oauth.client_secret=" + clientSecret, fmt.Sprint("--shutdown.grace=", grace),
		}})
		select {
		case <-asked:
		case <-time.After(harness.Patience):
			t.Fatalf("no request for a token:\n%s", p.Log())
		}
		began := time.Now()
		if code := p.Term(t); code != 0 {
			t.Errorf("exit code %d", code)
		}
		if took := time.Since(began); took > grace+harness.Slack(began) {
			t.Errorf("the stop took %v, the grace is %v", took, grace)
		}
	})
	t.Run("OAUTHBEARER by file", func(t *testing.T) {
		renew := func(text string) {
			t.Helper()
			if err := os.WriteFile(token+".new", []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(token+".new", token); err != nil {
				t.Fatal(err)
			}
		}
		renew(sign(l.tokens.key, tokenLife))
		first := time.Now()
		e := l.env(t, l.broker.SASLAddr, "--kafka.sasl.mechanism=OAUTHBEARER", "--kafka.sasl.oauth.token_file="+token)
		renew(sign(l.tokens.key, time.Hour))
		p := e.serve(t)
		harness.Eventually(t, time.Minute, func() bool { return time.Since(first) > tokenLife }, "the first token has expired")
		e.emit(t, e.dlr(1, 1))
		e.recv.WaitCount(t, path("dlr", 1), 1, harness.Patience)
		p.WaitBalanced(t, 1, harness.Patience)
		stranger, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		renew(sign(stranger, time.Hour))
		if _, stderr, code := harness.Run(t, e.options(), "topics", "check"); code != 1 || !strings.Contains(stderr, "kafka.sasl.") {
			t.Errorf("a token with an unknown key: exit code %d, %s", code, stderr)
		}
	})
}

// TestKafkaClientCertificate replaces the client's certificate under a running service. The first one expires.
func TestKafkaClientCertificate(t *testing.T) {
	t.Parallel()
	l := newLoginEnv(t)
	const life = 45 * time.Second
	client := func(until time.Time) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.ExtKeyUsage, c.NotAfter = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, until
		}
	}
	replace := func(until time.Time) {
		t.Helper()
		writePair(t, l.ca.Issue(t, client(until)), l.file("client.pem"), l.file("client.key"))
	}
	replace(time.Now().Add(time.Hour))
	e := l.env(t, l.broker.CertAddr, "--kafka.tls.cert_file="+l.file("client.pem"), "--kafka.tls.key_file="+l.file("client.key"))
	ends := time.Now().Add(life)
	replace(ends)
	p := e.serve(t)
	e.emit(t, e.dlr(1, 1))
	e.recv.WaitCount(t, path("dlr", 1), 1, harness.Patience)
	replace(time.Now().Add(time.Hour))
	harness.Eventually(t, 2*life, func() bool { return time.Now().After(ends) }, "the first certificate has expired")
	l.broker.Kill(t) // all connections are reopened
	l.broker.Start(t)
	e.emit(t, e.dlr(1, 2))
	e.recv.WaitCount(t, path("dlr", 1), 2, 60*time.Second)
	p.WaitReady(t, harness.Patience)
	if _, stderr, code := harness.Run(t, e.options("--kafka.tls.cert_file=", "--kafka.tls.key_file="), "topics", "check"); code != 1 ||
		!strings.Contains(stderr, "kafka.tls.") {
		t.Errorf("no certificate: exit code %d, %s", code, stderr)
	}
}
