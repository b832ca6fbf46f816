//go:build unix

// Package clients compares the service's HTTP client with net/http's and fasthttp's (docs/adr/0006).
package clients

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/smshooks/smshooks/internal/http1"
	"github.com/smshooks/smshooks/test/certs"
)

// The benchmark's receiver is this test binary, started a second time, so that only the client's work is measured.
const receiverEnv = "SMSHOOKS_TEST_HTTP1_RECEIVER"

func TestMain(m *testing.M) {
	if os.Getenv(receiverEnv) != "" {
		if err := receive(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// identity is what the receiver sees of the client.
type identity struct{ Cert, Key []byte }

// addresses holds the receiver's addresses.
type addresses struct {
	Plain, TLS, Once string // Once: TLS, and the connection is closed after each reply
}

func receive(in io.Reader, out io.Writer) error {
	var id identity
	from := json.NewDecoder(in)
	if err := from.Decode(&id); err != nil {
		return err
	}
	key, err := x509.ParseECPrivateKey(id.Key)
	if err != nil {
		return err
	}
	var a addresses
	secure := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{id.Cert}, PrivateKey: key}}, MinVersion: tls.VersionTLS13}
	for _, one := range []struct {
		address *string
		cfg     *tls.Config
		once    bool
	}{{&a.Plain, nil, false}, {&a.TLS, secure, false}, {&a.Once, secure, true}} {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return err
		}
		*one.address = l.Addr().String()
		if one.cfg != nil {
			l = tls.NewListener(l, one.cfg)
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go answer(c, one.once)
			}
		}()
	}
	if err := json.NewEncoder(out).Encode(a); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, in) // until the benchmark ends
	return err
}

func answer(c net.Conn, once bool) {
	defer c.Close()
	reply := []byte("HTTP/1.1 200 OK\r\nDate: Mon, 05 Jan 2026 10:00:00 GMT\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok")
	if once {
		reply = []byte("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
	}
	r := bufio.NewReaderSize(c, 8<<10)
	for {
		length := 0
		for {
			line, err := r.ReadSlice('\n')
			if err != nil {
				return
			}
			if len(line) <= 2 {
				break
			}
			if digits, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
				length, _ = strconv.Atoi(string(bytes.TrimSpace(digits)))
			}
		}
		if _, err := r.Discard(length); err != nil {
			return
		}
		if _, err := c.Write(reply); err != nil || once {
			return
		}
	}
}

func startReceiver(b *testing.B) (addresses, *x509.CertPool) {
	b.Helper()
	authority, err := certs.New()
	if err != nil {
		b.Fatal(err)
	}
	ca := filepath.Join(b.TempDir(), "ca.pem")
	if err := authority.Write(ca); err != nil {
		b.Fatal(err)
	}
	pem, err := os.ReadFile(ca)
	if err != nil {
		b.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	cert := authority.Issue(b, nil)
	key, err := x509.MarshalECPrivateKey(cert.PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		b.Fatal(err)
	}

	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), receiverEnv+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	if err := json.NewEncoder(in).Encode(identity{cert.Certificate[0], key}); err != nil {
		b.Fatal(err)
	}
	var a addresses
	if err := json.NewDecoder(out).Decode(&a); err != nil {
		b.Fatal(err)
	}
	return a, roots
}

// client posts body to the address and returns the reply's status.
type client func(address string, secure bool, body []byte) (int, error)

func clients(roots *x509.CertPool) map[string]func(address string, secure bool) client {
	cfg := func() *tls.Config {
		return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, ClientSessionCache: tls.NewLRUClientSessionCache(64)}
	}
	url := func(address string, secure bool) string {
		if secure {
			return "https://" + address + "/hook/dlr"
		}
		return "http://" + address + "/hook/dlr"
	}
	return map[string]func(string, bool) client{
		"own": func(string, bool) client {
			c := http1.New(http1.Config{Dial: (&net.Dialer{}).DialContext, TLS: cfg(), MaxAge: 5 * time.Minute, MaxIdle: 1000, MaxHead: 16 << 10, MaxBody: 64 << 10})
			head := []byte("POST /hook/dlr HTTP/1.1\r\nHost: peer\r\nUser-Agent: smshooks/1\r\nContent-Type: application/x-www-form-urlencoded\r\n" +
				"Webhook-Id: sms-dlr/0/1\r\nWebhook-Timestamp: 1767225600\r\nWebhook-Attempt: 1\r\nContent-Length: ")
			messages := sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}
			return func(address string, secure bool, body []byte) (int, error) {
				host := http1.Host{Address: address}
				if secure {
					host.ServerName = "127.0.0.1"
				}
				m := messages.Get().(*[]byte)
				defer messages.Put(m)
				*m = append(append(strconv.AppendInt(append((*m)[:0], head...), int64(len(body)), 10), "\r\n\r\n"...), body...)
				return c.Post(context.Background(), time.Now().Add(10*time.Second), host, *m, nil)
			}
		},
		"net/http": func(address string, secure bool) client {
			t := &http.Transport{MaxIdleConnsPerHost: 1000, MaxIdleConns: 1000, TLSClientConfig: cfg(), DisableCompression: true,
				TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}}
			to := url(address, secure)
			return func(_ string, _ bool, body []byte) (int, error) {
				req, err := http.NewRequest(http.MethodPost, to, bytes.NewReader(body))
				if err != nil {
					return 0, err
				}
				req.Header = http.Header{"Content-Type": {"application/x-www-form-urlencoded"}, "User-Agent": {"smshooks/1"}, "Webhook-Id": {"sms-dlr/0/1"},
					"Webhook-Timestamp": {"1767225600"}, "Webhook-Attempt": {"1"}}
				resp, err := t.RoundTrip(req)
				if err != nil {
					return 0, err
				}
				_, err = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				return resp.StatusCode, err
			}
		},
		"fasthttp": func(address string, secure bool) client {
			c := &fasthttp.HostClient{Addr: address, IsTLS: secure, TLSConfig: cfg(), MaxConns: 1000, MaxIdemponentCallAttempts: 1, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second}
			to := url(address, secure)
			return func(_ string, _ bool, body []byte) (int, error) {
				req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
				defer fasthttp.ReleaseRequest(req)
				defer fasthttp.ReleaseResponse(resp)
				req.SetRequestURI(to)
				req.Header.SetMethod(http.MethodPost)
				req.Header.SetContentType("application/x-www-form-urlencoded")
				req.Header.SetUserAgent("smshooks/1")
				req.Header.Set("Webhook-Id", "sms-dlr/0/1")
				req.Header.Set("Webhook-Timestamp", "1767225600")
				req.Header.Set("Webhook-Attempt", "1")
				req.SetBodyRaw(body)
				err := c.Do(req, resp)
				return resp.StatusCode(), err
			}
		},
	}
}

// BenchmarkClients compares HTTP clients by the processor time of a request, 64 at a time.
func BenchmarkClients(b *testing.B) {
	a, roots := startReceiver(b)
	body := []byte("sms=" + strings.Repeat("%22created%22%3A", 75))
	for _, to := range []struct {
		name, address string
		secure        bool
	}{{"plain", a.Plain, false}, {"TLS 1.3", a.TLS, true}, {"TLS 1.3, a handshake each", a.Once, true}} {
		for _, name := range []string{"own", "net/http", "fasthttp"} {
			b.Run(to.name+"/"+name, func(b *testing.B) {
				post := clients(roots)[name](to.address, to.secure)
				var left atomic.Int64
				left.Store(int64(b.N))
				b.ReportAllocs()
				begun := cpu(b)
				b.ResetTimer()
				var all sync.WaitGroup
				for range 64 {
					all.Go(func() {
						for left.Add(-1) >= 0 {
							if status, err := post(to.address, to.secure, body); status != 200 || err != nil {
								b.Errorf("%d, %v", status, err)
								return
							}
						}
					})
				}
				all.Wait()
				b.StopTimer()
				b.ReportMetric(float64((cpu(b)-begun).Nanoseconds())/1000/float64(b.N), "cpu-µs/op")
			})
		}
	}
}

// cpu returns the processor time that this process has used.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
