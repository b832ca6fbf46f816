package sender

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/smshooks/smshooks/pkg/webhook"
	"github.com/smshooks/smshooks/test/peer"
)

// This floor uses real sockets on loopback.

const brief = time.Second // a timeout that is meant to expire, but not in a handshake on a busy machine

func newSender(t *testing.T, change func(*Config)) *Sender {
	t.Helper()
	cfg := Config{Timeout: 10 * time.Second, MaxInFlight: 100, Version: "1.2.3",
		Addresses: Addresses{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}}
	if change != nil {
		change(&cfg)
	}
	s := New(cfg)
	t.Cleanup(s.Close)
	return s
}

var eventTime = time.Date(2026, 2, 27, 15, 30, 0, 123_999_999, time.FixedZone("", 3600))

func request(t *testing.T, to string) Request {
	t.Helper()
	return Request{Kind: webhook.DLR, Endpoint: webhook.NewEndpoint(to), ID: "sms-dlr/0/7", Attempt: 2, Time: time.Now(),
		EventTime: eventTime, Body: Bytes("sms=%7B%7D")}
}

func drips(c net.Conn, _ int32) bool {
	if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"); err != nil {
		return false
	}
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for range ticker.C {
		if _, err := io.WriteString(c, "."); err != nil {
			return false
		}
	}
	return false
}

func resets(c net.Conn, _ int32) bool {
	_ = c.(*net.TCPConn).SetLinger(0)
	return false
}

func TestReplies(t *testing.T) {
	body := strings.Repeat("x", maxReplyBody)
	tests := []struct {
		name    string
		answer  func(net.Conn, int32) bool
		failure webhook.Failure
		status  int
	}{
		{"200", peer.Says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), "", 200},
		{"200 without a body", peer.Says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), "", 200},
		{"200 with HTTP/1.0", peer.SaysAndCloses("HTTP/1.0 200 OK\r\n\r\nok"), "", 200},
		{"200 in chunks", peer.Says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"), "", 200},
		{"200 until closed", peer.SaysAndCloses("HTTP/1.1 200 OK\r\n\r\nok"), "", 200},
		{"200 with another reason", peer.Says("HTTP/1.1 200 Fine\r\nContent-Length: 0\r\n\r\n"), "", 200},
		{"invalid gzip", peer.Says("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok"), "", 200},
		{"after 100", peer.Says("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), "", 200},
		{"after 103", peer.Says("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"), "http 500", 500},
		{"101", peer.Says("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"), "http 101", 101},
		{"201", peer.Says("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"), "http 201", 201},
		{"204", peer.Says("HTTP/1.1 204 No Content\r\n\r\n"), "http 204", 204},
		{"301", peer.Says("HTTP/1.1 301 Moved\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"), "http 301", 301},
		{"307", peer.Says("HTTP/1.1 307 Moved\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"), "http 307", 307},
		{"404", peer.Says("HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone"), "http 404", 404},
		{"503 to retry after", peer.Says("HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"), "http 503", 503},
		{"599", peer.Says("HTTP/1.1 599 x\r\nContent-Length: 0\r\n\r\n"), "http 599", 599},
		{"64 KiB", peer.Says("HTTP/1.1 200 OK\r\nContent-Length: 65536\r\n\r\n" + body), "", 200},
		{"1 MiB", peer.Says("HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n" + strings.Repeat(body, 16)), "", 200},
		{"1 MiB of an error", peer.Says("HTTP/1.1 500 No\r\nContent-Length: 1048576\r\n\r\n" + strings.Repeat(body, 16)), "http 500", 500},
		{"64 KiB and then nothing", peer.Hangs("HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n" + body), "", 200},
		{"body cut off", peer.SaysAndCloses("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok"), webhook.ConnectionReset, 200},
		{"chunks cut off", peer.SaysAndCloses("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nok"), webhook.ConnectionReset, 200},
		{"no reply", peer.SaysAndCloses(""), webhook.ConnectionReset, 0},
		{"half a head", peer.SaysAndCloses("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"), webhook.ConnectionReset, 0},
		{"reset", resets, webhook.ConnectionReset, 0},
		{"not HTTP", peer.SaysAndCloses("SSH-2.0-OpenSSH_9.9\r\n\r\n"), webhook.Network, 0},
		{"a head of 20 KiB", peer.Says("HTTP/1.1 200 OK\r\nX: " + body[:20<<10] + "\r\nContent-Length: 0\r\n\r\n"), webhook.Network, 0},
		{"a head of 12 KiB", peer.Says("HTTP/1.1 200 OK\r\nX: " + body[:12<<10] + "\r\nContent-Length: 0\r\n\r\n"), "", 200},
		{"two lengths", peer.Says("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nok"), webhook.Network, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := peer.New(t, test.answer)
			out := newSender(t, nil).Send(t.Context(), request(t, p.URL))
			if out.Failure != test.failure || out.Status != test.status || out.Aborted {
				t.Errorf("%+v, want failure %q, status %d", out, test.failure, test.status)
			}
			if n := p.Requests.Load(); n != 1 {
				t.Errorf("%d requests were made, want 1", n)
			}
		})
	}
}

func TestAny2xx(t *testing.T) {
	s := newSender(t, func(c *Config) { c.Any2xx = true })
	for status, want := range map[int]webhook.Failure{200: "", 201: "", 204: "", 299: "", 300: "http 300", 302: "http 302", 404: "http 404", 101: "http 101"} {
		p := peer.New(t, peer.SaysAndCloses(fmt.Sprintf("HTTP/1.1 %d x\r\nContent-Length: 0\r\n\r\n", status)))
		if out := s.Send(t.Context(), request(t, p.URL)); out.Failure != want {
			t.Errorf("%d: failure %q, want %q", status, out.Failure, want)
		}
	}
}

func TestTimeouts(t *testing.T) {
	tests := []struct {
		name   string
		answer func(net.Conn, int32) bool
		status int
	}{
		{"before the reply", peer.Hangs(""), 0},
		{"in the head", peer.Hangs("HTTP/1.1 200 OK\r\nContent-"), 0},
		{"after the head", peer.Hangs("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"), 200},
		{"body without length", peer.Hangs("HTTP/1.1 200 OK\r\n\r\nok"), 200},
		{"body that drips", drips, 200},
		{"after 100", peer.Hangs("HTTP/1.1 100 Continue\r\n\r\n"), 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := peer.New(t, test.answer)
			out := newSender(t, func(c *Config) { c.Timeout = brief }).Send(t.Context(), request(t, p.URL))
			if out.Failure != webhook.Timeout || out.Status != test.status || out.Aborted {
				t.Errorf("%+v, want a timeout, status %d", out, test.status)
			}
			if out.Took < brief || out.Took > brief+5*time.Second {
				t.Errorf("took %v, want %v", out.Took, brief)
			}
			if n := p.Requests.Load(); n != 1 {
				t.Errorf("%d requests were made, want 1", n)
			}
		})
	}
}

func TestTLSHandshakeThatHangs(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	out := newSender(t, func(c *Config) { c.Timeout = brief }).Send(t.Context(), request(t, "https://"+l.Addr().String()))
	if out.Failure != webhook.Timeout {
		t.Errorf("%+v, want a timeout", out)
	}
}

func TestNoConnection(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	_ = l.Close()
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	hangup := peer.New(t, resets) // not a TLS handshake, so it closes

	tests := []struct {
		name, to string
		want     webhook.Failure
	}{
		{"refused", "http://" + closed, webhook.ConnectionRefused},
		{"unknown name", "http://no..such.invalid/", webhook.DNS},
		{"self-signed", secure.URL, webhook.TLS},
		{"plain reply to https", strings.Replace(plain.URL, "http:", "https:", 1), webhook.TLS},
		{"http to a TLS port", strings.Replace(secure.URL, "https:", "http:", 1), "http 400"},
		{"hung up in the handshake", strings.Replace(hangup.URL, "http:", "https:", 1), webhook.ConnectionReset},
		{"blocked", "http://[::1]:1/", webhook.BlockedAddress},
		{"metadata", "http://169.254.169.254/latest", webhook.BlockedAddress},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if out := newSender(t, nil).Send(t.Context(), request(t, test.to)); out.Failure != test.want {
				t.Errorf("%+v, want failure %q", out, test.want)
			}
		})
	}
}

func TestInvalidURL(t *testing.T) {
	r := request(t, "http://x")
	r.Endpoint = &webhook.Endpoint{}
	if out := newSender(t, nil).Send(t.Context(), r); out.Failure != webhook.Network || out.Aborted {
		t.Errorf("%+v, want network", out)
	}
}

func TestBlockedAddressIsNotDialled(t *testing.T) {
	p := peer.New(t, peer.Says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
	_, port, _ := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(p.URL, "http://"), "/hook"), ":")
	s := newSender(t, func(c *Config) { c.Addresses = Addresses{} })
	for _, host := range []string{"127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]"} {
		out := s.Send(t.Context(), request(t, "http://"+host+":"+port+"/hook"))
		if out.Failure != webhook.BlockedAddress || out.Failure.Result() != webhook.Blocked || out.Status != 0 {
			t.Errorf("%s: %+v, want a blocked address", host, out)
		}
	}
	if p.Connections.Load() != 0 {
		t.Error("a connection was made")
	}
}

func TestRequest(t *testing.T) {
	type seen struct {
		Method, URI, Host, Body string
		Length                  int64
		Encoding                []string
		Header                  http.Header
	}
	got := make(chan seen, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- seen{r.Method, r.RequestURI, r.Host, string(body), r.ContentLength, r.TransferEncoding, r.Header}
	}))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	for i, length := range []int{1, 100, 1 << 20} {
		r := request(t, server.URL+"/a%2Fb/c%20d;e?x=1&y=%2F;z")
		r.Endpoint.Authorization = "Basic dXNlcjpwYXNz"
		r.Body = Bytes(strings.Repeat("s", length))
		r.Failover = []webhook.Failure{"", "http 503", webhook.ConnectionRefused}[i]
		if out := newSender(t, nil).Send(t.Context(), r); out.Failure != "" {
			t.Fatalf("%+v", out)
		}
		one := <-got
		if got, want := one.Header.Get("Webhook-Timestamp"), strconv.FormatInt(r.Time.Unix(), 10); got != want {
			t.Errorf("Webhook-Timestamp: %q, want %s", got, want)
		}
		one.Header.Del("Webhook-Timestamp")
		want := seen{
			"POST", "/a%2Fb/c%20d;e?x=1&y=%2F;z", host, string(r.Body.(Bytes)), int64(length), nil, http.Header{
				"Content-Type": {"application/x-www-form-urlencoded"}, "Content-Length": {strconv.Itoa(length)}, "User-Agent": {"smshooks/1.2.3"},
				"Webhook-Id": {"sms-dlr/0/7"}, "Webhook-Attempt": {"2"}, "Authorization": {"Basic dXNlcjpwYXNz"},
				"Webhook-Event-Time": {"2026-02-27T14:30:00.123Z"},
			},
		}
		if r.Failover != "" {
			want.Header["Webhook-Failover"] = []string{string(r.Failover)}
		}
		if !reflect.DeepEqual(one, want) {
			if length > 1000 {
				one.Body, want.Body = strconv.Itoa(len(one.Body)), strconv.Itoa(len(want.Body))
			}
			t.Errorf("sent:\n%+v\nwant:\n%+v", one, want)
		}
	}
	r := request(t, server.URL)
	r.Kind = webhook.RevokeClick
	newSender(t, nil).Send(t.Context(), r)
	if one := <-got; one.Header.Get("Content-Type") != "application/json" || one.Header.Get("Authorization") != "" {
		t.Errorf("a revocation's headers: %v", one.Header)
	}
}

// TestSignedRequest checks the signature of the received request with crypto/hmac. Without a valid secret there is no
// header.
func TestSignedRequest(t *testing.T) {
	got := make(chan *http.Request, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		got <- r
	}))
	defer server.Close()
	keys := [][]byte{bytes.Repeat([]byte("n"), 32), bytes.Repeat([]byte("o"), 24)}
	secrets := make(webhook.Secrets, 2)
	for i, end := range []time.Duration{time.Hour, 0} { // the older secret expires now
		var err error
		if secrets[i], err = webhook.ParseSecret(webhook.NewSecret(keys[i]), time.Now().Add(end)); err != nil {
			t.Fatal(err)
		}
	}
	ago := time.Now().Add(-time.Minute)
	for _, test := range []struct {
		secrets webhook.Secrets
		at      time.Time
		by      []int
	}{{secrets, ago, []int{0, 1}}, {secrets, time.Now(), []int{0}}, {secrets[1:], time.Now(), nil}, {nil, time.Now(), nil}} {
		r := request(t, server.URL+"/hook")
		r.Time, r.Body = test.at, Bytes(strings.Repeat("%7B", 1000))
		if test.secrets != nil {
			r.Endpoint.Secrets = &test.secrets
		}
		if out := newSender(t, nil).Send(t.Context(), r); out.Failure != "" {
			t.Fatalf("%+v", out)
		}
		one := <-got
		body, _ := io.ReadAll(one.Body)
		var want []string
		for _, i := range test.by {
			mac := hmac.New(sha256.New, keys[i])
			fmt.Fprintf(mac, "%s.%s.%s", one.Header.Get("Webhook-Id"), one.Header.Get("Webhook-Timestamp"), body)
			want = append(want, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
		}
		if signature := one.Header.Get("Webhook-Signature"); signature != strings.Join(want, " ") || len(one.Header["Webhook-Signature"]) != min(len(want), 1) {
			t.Errorf("signature %q, want %q", one.Header["Webhook-Signature"], want)
		}
	}
}

func TestProxiesOfTheEnvironmentAreNotUsed(t *testing.T) {
	proxy := peer.New(t, peer.Says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"} {
		t.Setenv(name, strings.TrimSuffix(proxy.URL, "/hook"))
	}
	out := newSender(t, nil).Send(t.Context(), request(t, "http://no..such.invalid/"))
	if out.Failure != webhook.DNS || proxy.Connections.Load() != 0 {
		t.Errorf("%+v, %d connections to the proxy", out, proxy.Connections.Load())
	}
}

func TestConnectionsAreReused(t *testing.T) {
	p := peer.New(t, peer.Says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
	s := newSender(t, nil)
	for range 5 {
		if out := s.Send(t.Context(), request(t, p.URL)); out.Failure != "" {
			t.Fatalf("%+v", out)
		}
	}
	if n := p.Connections.Load(); n != 1 {
		t.Errorf("%d connections for 5 requests, want 1", n)
	}
	long := peer.New(t, peer.Says("HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n"+strings.Repeat("x", 1<<20)))
	for range 2 {
		s.Send(t.Context(), request(t, long.URL))
	}
	if n := long.Connections.Load(); n != 2 {
		t.Errorf("%d connections, want 2: one with too long a reply is closed", n)
	}
}

// A request that fails because a reused connection is being closed is repeated exactly once, on a new connection. On a
// new connection it is not repeated.
func TestReusedConnectionThatIsClosed(t *testing.T) {
	for name, end := range map[string]func(net.Conn, int32) bool{"closed": peer.SaysAndCloses(""), "reset": resets} {
		for _, test := range []struct {
			answered              []int32 // of the requests, by number
			failure               webhook.Failure
			requests, connections int32
		}{
			{[]int32{1, 3}, "", 3, 2},
			{[]int32{1}, webhook.ConnectionReset, 3, 2},
		} {
			t.Run(fmt.Sprint(name, test.answered), func(t *testing.T) {
				p := peer.New(t, func(c net.Conn, n int32) bool {
					if slices.Contains(test.answered, n) {
						return peer.Says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")(c, n)
					}
					return end(c, n)
				})
				s := newSender(t, nil)
				if out := s.Send(t.Context(), request(t, p.URL)); out.Failure != "" {
					t.Fatalf("%+v", out)
				}
				out := s.Send(t.Context(), request(t, p.URL))
				if out.Failure != test.failure || p.Requests.Load() != test.requests || p.Connections.Load() != test.connections {
					t.Errorf("%+v, %d requests on %d connections, want %q, %d on %d",
						out, p.Requests.Load(), p.Connections.Load(), test.failure, test.requests, test.connections)
				}
			})
		}
	}
}

// TestConnectionClosedWhileIdle checks that a connection that the peer closed while idle costs no attempt, and that
// none is reused after 4 s unless its host was observed to keep it.
func TestConnectionClosedWhileIdle(t *testing.T) {
	for name, closes := range map[string]bool{"by the peer": true, "by the sender": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var p peer.Peer
				dial := func(context.Context, string, string) (net.Conn, error) {
					near, far := net.Pipe()
					p.Connections.Add(1)
					go p.Serve(far, func(c net.Conn, _ int32) bool {
						_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
						return err == nil && !closes
					})
					return near, nil
				}
				s := newSender(t, func(c *Config) { c.Dial = dial })
				defer s.Close()
				for range 3 {
					if out := s.Send(t.Context(), request(t, "http://peer/")); out.Failure != "" {
						t.Fatalf("%+v", out)
					}
					if !closes {
						time.Sleep(4 * time.Second)
					}
					synctest.Wait() // the sender has seen the end of the connection
				}
				if p.Requests.Load() != 3 || p.Connections.Load() != 3 {
					t.Errorf("%d requests on %d connections, want 3 on 3", p.Requests.Load(), p.Connections.Load())
				}
			})
		})
	}
}

func TestAbort(t *testing.T) {
	tests := map[string]func(net.Conn, int32) bool{
		"before the reply": peer.Hangs(""), "in the body": peer.Hangs("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"),
	}
	for name, answer := range tests {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			p := peer.New(t, func(c net.Conn, n int32) bool {
				cancel()
				return answer(c, n)
			})
			if out := newSender(t, nil).Send(ctx, request(t, p.URL)); !out.Aborted || out.Failure == "" {
				t.Errorf("%+v, want it aborted", out)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p := peer.New(t, peer.Says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
	if out := newSender(t, nil).Send(ctx, request(t, p.URL)); !out.Aborted || p.Requests.Load() != 0 {
		t.Errorf("%+v with %d requests, want it aborted before anything was sent", out, p.Requests.Load())
	}
}

// TestReplyBeforeTheEnd checks that a request that was answered before the context ended is an attempt.
func TestReplyBeforeTheEnd(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	p := peer.New(t, peer.Says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
	out := newSender(t, nil).Send(ctx, request(t, p.URL))
	cancel()
	if out.Aborted || out.Failure != "" {
		t.Errorf("%+v, want a success", out)
	}
}
