package fleet

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/smshooks/smshooks/tools/bench/result"
)

func TestClasses(t *testing.T) {
	const hosts = 10_000
	var count [classes]int
	seen := make(map[[4]byte]bool)
	f := Fleet{Hosts: hosts, Port: "4000", Closed: "7"}
	for i := 1; i <= hosts; i++ {
		count[ClassOf(i)]++
		seen[address(i)] = true
		if !netip.AddrFrom4(address(i)).IsLoopback() || f.hostOf(Name(i)) != i || f.hostOf(Name(i)+".") != i {
			t.Fatalf("host %d: %v, %s", i, address(i), Name(i))
		}
	}
	if len(seen) != hosts {
		t.Errorf("%d addresses of %d hosts", len(seen), hosts)
	}
	for c, n := range count {
		want := hosts * 96 / 100 / keeping
		switch Class(c) {
		case Hangs:
			want = hosts / 50
		case Refuses, FailsTLS:
			want = hosts / 100
		}
		if n < want*9/10 || n > want*11/10 {
			t.Errorf("%d hosts of the class %q, want about %d", n, Class(c), want)
		}
	}
	for _, name := range []string{"h0.fleet.test", "h10001.fleet.test", "h1.example.com", "fleet.test", "h-1.fleet.test"} {
		if f.hostOf(name) != 0 {
			t.Errorf("%s is host %d", name, f.hostOf(name))
		}
	}
}

func TestTraffic(t *testing.T) {
	const hosts, events = 10_000, 300_000
	next, again := NewTraffic(hosts), NewTraffic(hosts)
	count := make([]int, hosts+1)
	for range events {
		user := next()
		if user != again() {
			t.Fatal("two subjects get different events")
		}
		count[user]++
	}
	if share := float64(count[1]) / events; share < 0.005 || share > 0.015 {
		t.Errorf("the busiest host gets %.3f of the events", share)
	}
	slices.Sort(count)
	if half := count[hosts/2]; half == 0 || half > events/30_000 {
		t.Errorf("every second host gets more than %d of %d events", half, events)
	}
}

func TestReplyTime(t *testing.T) {
	took := make([]time.Duration, 100_000)
	for i := range took {
		took[i] = replyTime()
	}
	slices.Sort(took)
	near := func(d, want time.Duration) bool { return d > want*8/10 && d < want*12/10 }
	if p50, p99 := took[len(took)/2], took[len(took)*99/100]; !near(p50, 80*time.Millisecond) || !near(p99, 1500*time.Millisecond) {
		t.Errorf("p50 %v, p99 %v", p50, p99)
	}
}

// find returns a host of a class.
func find(class Class) int {
	for i := 1; ; i++ {
		if ClassOf(i) == class {
			return i
		}
	}
}

func TestNames(t *testing.T) {
	s := &nameServer{fleet: Fleet{Hosts: 10}}
	var err error
	if s.conn, err = net.ListenPacket("udp4", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	defer s.conn.Close()
	go s.serve()
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, s.conn.LocalAddr().String())
	}}
	found, err := r.LookupHost(t.Context(), Name(7))
	if err != nil || !slices.Equal(found, []string{"127.1.0.7"}) {
		t.Errorf("host 7: %v, %v", found, err)
	}
	if n := s.questions.Load(); n != 2 {
		t.Errorf("%d questions for an address of either family", n)
	}
	if _, err := r.LookupHost(t.Context(), Name(11)); !notFound(err) {
		t.Errorf("a name that no host has: %v", err)
	}
}

func notFound(err error) bool {
	var missing *net.DNSError
	return errors.As(err, &missing) && missing.IsNotFound
}

// newRoot creates an authority.
func newRoot(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := valid("root")
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key, Leaf: leaf}
}

// serve starts the hosts without their name server on a free port. It returns the port and the root of their
// certificates.
func serve(t *testing.T, f Fleet) (s *server, port string, trust *x509.CertPool) {
	t.Helper()
	root := newRoot(t)
	trust = x509.NewCertPool()
	trust.AddCert(root.Leaf)
	s = &server{fleet: f, names: &nameServer{fleet: f}}
	issuer, err := newIssuer(root)
	if err != nil {
		t.Fatal(err)
	}
	s.tls = issuer.config(f)
	s.watch.Store(&watch{since: time.Now()})
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go s.accept(l)
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return s, port, trust
}

func TestHosts(t *testing.T) {
	f := Fleet{Hosts: 1000}
	s, port, trust := serve(t, f)
	cache := tls.NewLRUClientSessionCache(10)
	dial := func(host int) (*tls.Conn, error) {
		return tls.Dial("tcp", "127.0.0.1:"+port, &tls.Config{RootCAs: trust, ServerName: Name(host), ClientSessionCache: cache})
	}
	post := func(c net.Conn) {
		t.Helper()
		const body = "reference=producedAt1772200000000000000"
		fmt.Fprintf(c, "POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		answer := make([]byte, len(reply))
		if _, err := io.ReadFull(c, answer); err != nil || string(answer) != string(reply) {
			t.Fatalf("reply %q, %v", answer, err)
		}
	}
	keeps := find(KeepsAlways)
	for range 2 {
		c, err := dial(keeps)
		if err != nil {
			t.Fatal(err)
		}
		post(c)
		post(c)
		c.Close()
	}
	if _, err := dial(find(FailsTLS)); err == nil || !strings.Contains(err.Error(), "tls") {
		t.Errorf("a host that fails handshakes: %v", err)
	}
	n := s.watch.Load().note(time.Now(), 12)
	for end := time.Now().Add(10 * time.Second); n.Count < 4 && time.Now().Before(end); time.Sleep(time.Millisecond) {
		n = s.watch.Load().note(time.Now(), 12) // a request is counted after its reply
	}
	if got := n.Cases[KeepsAlways.String()]; n.Count != 4 || got[result.Reused] != 50 || got[result.P50] <= 0 || len(n.Cases) != 1 {
		t.Errorf("counted %+v", n)
	}
	if g := n.Figures; g[result.Handshakes] != 2 || g[result.Resumed] != 50 || g[result.Dials] != 0.75 || g[result.Questions] != 3 {
		t.Errorf("counted %v", g)
	}
}

func TestIdle(t *testing.T) {
	s, port, trust := serve(t, Fleet{Hosts: 1000})
	c, err := tls.Dial("tcp", "127.0.0.1:"+port, &tls.Config{RootCAs: trust, ServerName: Name(find(Keeps1s))})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) { // blocks until the host closes
		t.Errorf("an idle connection ends with %v", err)
	}
	if n := s.watch.Load().note(time.Now(), 0); n.Figures[result.Rate] != 0 || n.Count != 0 {
		t.Errorf("counted %+v", n)
	}
}
