package sender

import (
	"bufio"
	"context"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/smshooks/smshooks/pkg/webhook"
	"github.com/smshooks/smshooks/test/names"
	"github.com/smshooks/smshooks/test/peer"
)

// row is a line of testdata/addresses.txt.
type row struct {
	set           bool
	verdict, host string
	what          string
}

func readRows(t *testing.T) []row {
	t.Helper()
	f, err := os.Open("testdata/addresses.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var rows []row
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := lines.Text()
		if line == "" || line[0] == '#' {
			continue
		}
		set, rest, _ := strings.Cut(line, " ")
		verdict, rest, _ := strings.Cut(strings.TrimSpace(rest), " ")
		rest = strings.TrimSpace(rest)
		host, what, _ := strings.Cut(rest, "  ")
		if rest[0] == '"' {
			quoted, err := strconv.QuotedPrefix(rest)
			if err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			host, _ = strconv.Unquote(quoted)
			what = rest[len(quoted):]
		}
		rows = append(rows, row{set == "yes", verdict, host, strings.TrimSpace(what)})
	}
	return rows
}

// door counts connections to a loopback port, on IPv4 and, if available, IPv6.
type door struct {
	port    string
	entered atomic.Int32
}

func newDoor(t *testing.T) *door {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &door{}
	_, d.port, _ = net.SplitHostPort(l.Addr().String())
	d.open(t, l)
	for _, other := range []string{"127.0.0.2", "[::1]"} {
		if l, err := net.Listen("tcp", other+":"+d.port); err == nil { // not every machine has them
			d.open(t, l)
		}
	}
	return d
}

func (d *door) open(t *testing.T, l net.Listener) {
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			d.entered.Add(1)
			_ = c.Close()
		}
	}()
}

// resolveBy makes the process resolve all names at a server of the test.
func resolveBy(t *testing.T) *names.Server {
	t.Helper()
	s := names.Serve(t, "127.0.0.1:0")
	resolver.Store(s.Resolver())
	t.Cleanup(func() { resolver.Store(nil) })
	return s
}

// resolver is the resolver that a test set; nil means the system's.
var resolver atomic.Pointer[net.Resolver]

// switchResolvers makes the process resolve names with resolver. It is called once, before the tests: lookups continue
// in the background, so the process's resolver must not change while they run.
func switchResolvers() {
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		if r := resolver.Load(); r != nil {
			return r.Dial(ctx, network, address)
		}
		var d net.Dialer
		return d.DialContext(ctx, network, address)
	}}
}

// stored returns the endpoint of a URL as the settings store it.
func stored(raw string) *webhook.Endpoint {
	return webhook.NewSettings(1, [webhook.NumKinds]string{webhook.DLR: raw}, "").Endpoints[webhook.DLR]
}

// TestAddressTable checks, for each notation of an address, the validation of the URL and a real dial.
func TestAddressTable(t *testing.T) {
	rows := readRows(t)
	if len(rows) < 160 {
		t.Errorf("only %d rows", len(rows))
	}
	dns := resolveBy(t)
	dns.On("", names.Always("127.0.0.1"))
	d := newDoor(t)
	s := newSender(t, func(c *Config) { c.Addresses, c.Timeout = Addresses{}, 5*time.Second })
	policy := newAddressPolicy(Addresses{})
	for _, r := range rows {
		for _, scheme := range []string{"http", "https"} {
			raw := scheme + "://" + r.host + ":" + d.port + "/hook"
			if err := webhook.ValidateURL(raw); (err == nil) != r.set {
				t.Errorf("%q (%s): set-webhook returns %v", raw, r.what, err)
			}
			if r.verdict == "allowed" {
				if err := dial(policy, strings.Trim(r.host, "[]")); err != nil {
					t.Errorf("%s (%s): %v, want it allowed", r.host, r.what, err)
				}
				continue
			}
			out := s.Send(t.Context(), Request{Kind: webhook.DLR, Endpoint: stored(raw), ID: "sms-dlr/0/1", Attempt: 1, Time: time.Now(), Body: Bytes("sms=1")})
			var good bool
			switch r.verdict {
			case "blocked":
				good = out.Failure == webhook.BlockedAddress
			case "nowhere":
				good = out.Failure == webhook.BlockedAddress || out.Failure == webhook.DNS || out.Failure == webhook.Network
			case "unusable":
				good = out.Failure == webhook.Network
			}
			if !good || out.Status != 0 {
				t.Errorf("%q (%s): %+v, want it %s", raw, r.what, out, r.verdict)
			}
		}
	}
	if n := d.entered.Load(); n > 0 {
		t.Errorf("%d connections were made", n)
	}
	// The door is reachable: the same sender with loopback allowed connects by address and by name.
	open := newSender(t, func(c *Config) { c.Timeout = 5 * time.Second })
	for _, host := range []string{"127.0.0.1", "[::ffff:127.0.0.1]", "flips.example", "localhost"} {
		open.Send(t.Context(), request(t, "http://"+host+":"+d.port+"/hook"))
	}
	if n := d.entered.Load(); n < 4 {
		t.Errorf("only %d of 4 connections to loopback where it is allowed", n)
	}
}

// TestNamesThatFlip checks that a name that resolved to an allowed address first cannot be used once it resolves to a
// blocked one.
// 127.0.0.2 stands for a public address, 127.0.0.1 for an internal one.
func TestNamesThatFlip(t *testing.T) {
	tests := []struct {
		name    string
		answers names.Answer
		want    []webhook.Failure // of consecutive requests; "*" = any failure
	}{
		{"first within", names.Always("127.0.0.1"), []webhook.Failure{webhook.BlockedAddress, webhook.BlockedAddress}},
		{"flips", names.Turns("127.0.0.2", "127.0.0.1"), []webhook.Failure{webhook.ConnectionReset, webhook.BlockedAddress, webhook.BlockedAddress}},
		{"flips back", names.Turns("127.0.0.1", "127.0.0.2"), []webhook.Failure{webhook.BlockedAddress, webhook.ConnectionReset}},
		{"both, within first", names.Always("127.0.0.1", "127.0.0.2"), []webhook.Failure{"*"}},
		{"both, within last, nobody outside", names.Always("127.0.0.3", "127.0.0.1"), []webhook.Failure{"*"}},
		{"metadata", names.Always("169.254.169.254"), []webhook.Failure{webhook.BlockedAddress}},
		{"this host", names.Always("0.0.0.0"), []webhook.Failure{webhook.BlockedAddress}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dns := resolveBy(t)
			dns.On("rebind.example", test.answers)
			inside := peer.New(t, peer.Says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
			host, port, _ := net.SplitHostPort(strings.TrimSuffix(strings.TrimPrefix(inside.URL, "http://"), "/hook"))
			outside, err := net.Listen("tcp", "127.0.0.2:"+port)
			if err != nil {
				if runtime.GOOS == "linux" {
					t.Fatal(err)
				}
				t.Skipf("%s alone is loopback here: %v", host, err)
			}
			d := &door{}
			d.open(t, outside)
			s := newSender(t, func(c *Config) {
				c.Addresses.Allow = []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32"), netip.MustParsePrefix("127.0.0.3/32")}
			})
			for i, want := range test.want {
				out := s.Send(t.Context(), request(t, "http://rebind.example:"+port+"/hook"))
				if out.Failure != want && (want != "*" || out.Failure == "") {
					t.Errorf("request %d: %+v, want %q", i+1, out, want)
				}
			}
			if n := inside.Connections.Load(); n != 0 {
				t.Errorf("%d connections within", n)
			}
		})
	}
}

// TestNamesThatFail checks that failures of a name server are classified, and do not exceed the timeout.
func TestNamesThatFail(t *testing.T) {
	const timeout = 800 * time.Millisecond
	tests := []struct {
		name   string
		answer names.Answer
		want   webhook.Failure
	}{
		{"no such name", func(int) names.Reply { return names.Reply{} }, webhook.DNS},
		{"server failure", func(int) names.Reply { return names.Reply{Fails: true} }, webhook.DNS},
		{"no answer", func(int) names.Reply { return names.Reply{Silent: true} }, webhook.Timeout},
		{"an answer after the timeout", func(int) names.Reply {
			return names.Reply{Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, After: 2 * timeout}
		}, webhook.Timeout},
		{"a late answer", func(int) names.Reply {
			return names.Reply{Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, After: timeout / 4}
		}, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			resolveBy(t).On("hook.example", test.answer)
			p := peer.New(t, peer.Says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
			_, port, _ := net.SplitHostPort(strings.TrimSuffix(strings.TrimPrefix(p.URL, "http://"), "/hook"))
			out := newSender(t, func(c *Config) { c.Timeout = timeout }).Send(t.Context(), request(t, "http://hook.example:"+port+"/hook"))
			if out.Failure != test.want || out.Took > timeout+late {
				t.Errorf("%+v, want %q within %v", out, test.want, timeout)
			}
		})
	}
}

// TestKeptAnswers checks that one answer of a name server serves several dials, and that each dial is checked.
func TestKeptAnswers(t *testing.T) {
	dns := resolveBy(t)
	kept := func(address string) names.Answer {
		return func(int) names.Reply {
			return names.Reply{Addresses: []netip.Addr{netip.MustParseAddr(address)}, Lifetime: time.Minute}
		}
	}
	dns.On("kept.example", kept("127.0.0.1"))
	dns.On("inside.example", kept("127.0.0.2"))
	const last = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
	p := peer.New(t, peer.Says(last))
	_, port, _ := net.SplitHostPort(p.Addr)
	s := newSender(t, func(c *Config) { c.Addresses.Allow = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")} })
	for range 3 {
		if out := s.Send(t.Context(), request(t, "http://kept.example:"+port+"/hook")); out.Failure != "" {
			t.Errorf("%+v", out)
		}
		if out := s.Send(t.Context(), request(t, "http://inside.example:"+port+"/hook")); out.Failure != webhook.BlockedAddress {
			t.Errorf("%+v", out)
		}
	}
	if asked, dials := dns.Asked("kept.example"), p.Connections.Load(); asked != 1 || dials != 3 {
		t.Errorf("%d queries for %d connections", asked, dials)
	}
}
