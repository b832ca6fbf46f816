package sender

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
)

// blocked lists addresses that no webhook may reach unless they are allowed, by class.
var blocked = map[string][]string{
	"loopback":             {"127.0.0.1", "127.1.2.3", "127.255.255.255", "::1"},
	"this network":         {"0.0.0.0", "0.1.2.3", "::"},
	"private":              {"10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.0.1", "192.168.255.255"},
	"unique local":         {"fc00::1", "fd00::1", "fdff:ffff::1", "fd00:ec2::254"},
	"link-local":           {"169.254.0.1", "169.254.255.255", "fe80::1", "fe80::1%eth0", "fe80::a9fe:a9fe%1", "febf::1"},
	"site-local":           {"fec0::1"},
	"metadata":             {"169.254.169.254", "169.254.170.2", "100.100.100.200", "192.0.0.192"},
	"carrier NAT":          {"100.64.0.1", "100.127.255.255"},
	"multicast":            {"224.0.0.1", "239.255.255.255", "ff02::1", "ff05::2", "ff0e::1"},
	"broadcast, reserved":  {"255.255.255.255", "240.0.0.1"},
	"benchmark":            {"198.18.0.1", "198.19.255.255", "2001:2::1"},
	"documentation":        {"192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1"},
	"protocol assignments": {"192.0.0.1", "192.88.99.1", "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2"},
	"IPv4-mapped":          {"::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:7f00:1", "0:0:0:0:0:ffff:c0a8:0101"},
	"IPv4-compatible":      {"::127.0.0.1", "::7f00:1", "::a9fe:a9fe"},
	"NAT64":                {"64:ff9b::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b::10.0.0.1", "64:ff9b:1::7f00:1", "64:ff9b:1::a00:1"},
	"6to4":                 {"2002:7f00:1::", "2002:7f00:1::1", "2002:a00:1::1", "2002:a9fe:a9fe::1"},
	"discard-only":         {"100::1"},
	"segment routing":      {"5f00::1"},
}

var public = []string{
	"1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.1", "100.63.255.255", "100.128.0.1", "126.255.255.255", "128.0.0.1", "169.253.255.255",
	"169.255.0.1", "172.15.255.255", "172.32.0.1", "192.167.255.255", "192.169.0.1", "198.17.255.255", "198.20.0.1", "223.255.255.255",
	"2606:4700:4700::1111", "2001:4860:4860::8888", "2a00:1450:4001:800::200e", "2400:cb00::1",
}

// dial checks an address as a dialler does.
func dial(p addressPolicy, address string) error {
	network := "tcp4"
	if strings.Contains(address, ":") {
		network = "tcp6"
	}
	return p.control(context.Background(), network, net.JoinHostPort(address, "443"), nil)
}

func TestAddressesBlockedByDefault(t *testing.T) {
	p, n := newAddressPolicy(Addresses{}), 0
	for what, addresses := range blocked {
		for _, a := range addresses {
			n++
			err := dial(p, a)
			var asked blockedError
			if !errors.As(err, &asked) {
				t.Errorf("%s (%s): %v, want it blocked", a, what, err)
			}
		}
	}
	if n < 60 {
		t.Errorf("only %d addresses", n)
	}
}

func TestPublicAddresses(t *testing.T) {
	p := newAddressPolicy(Addresses{})
	for _, a := range public {
		if err := dial(p, a); err != nil {
			t.Errorf("%s: %v, want it allowed", a, err)
		}
	}
	for _, port := range []string{"1", "22", "80", "8443", "65535"} {
		if err := p.control(context.Background(), "tcp4", net.JoinHostPort("8.8.8.8", port), nil); err != nil {
			t.Errorf("port %s: %v, want any port allowed", port, err)
		}
	}
}

func TestInvalidAddress(t *testing.T) {
	p := newAddressPolicy(Addresses{Allow: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}})
	for _, address := range []string{"", "8.8.8.8", "localhost:80", "[8.8.8.8:80", "::1:80"} {
		if p.control(context.Background(), "tcp4", address, nil) == nil {
			t.Errorf("%q is allowed", address)
		}
	}
	for _, network := range []string{"udp4", "unix", "ip4:icmp"} {
		if p.control(context.Background(), network, "8.8.8.8:80", nil) == nil {
			t.Errorf("network %s is allowed", network)
		}
	}
}

func TestAllowNetworks(t *testing.T) {
	tests := []struct {
		allow         []string
		open, blocked []string
	}{
		{[]string{"127.0.0.0/8"}, []string{"127.0.0.1", "127.255.255.255", "::ffff:127.0.0.1", "8.8.8.8"},
			[]string{"::1", "10.0.0.1", "169.254.169.254", "64:ff9b::7f00:1", "::ffff:10.0.0.1", "0.0.0.0"}},
		{[]string{"10.1.0.0/16", "192.168.7.1/32"}, []string{"10.1.0.0", "10.1.255.255", "192.168.7.1", "::ffff:10.1.2.3"},
			[]string{"10.0.255.255", "10.2.0.0", "192.168.7.2", "127.0.0.1", "::ffff:10.2.0.0"}},
		{[]string{"::1/128"}, []string{"::1"}, []string{"127.0.0.1", "::", "::ffff:127.0.0.1"}},
		{[]string{"fd00::/8"}, []string{"fd00::1", "fdff::1"}, []string{"fc00::1", "fe80::1"}},
		{[]string{"169.254.169.254/32"}, []string{"169.254.169.254"}, []string{"169.254.169.253", "169.254.170.2"}},
		{[]string{"100.64.0.0/10"}, []string{"100.64.0.1", "100.100.100.200"}, []string{"10.0.0.1"}},
	}
	for _, test := range tests {
		var prefixes []netip.Prefix
		for _, a := range test.allow {
			prefixes = append(prefixes, netip.MustParsePrefix(a))
		}
		p := newAddressPolicy(Addresses{Allow: prefixes})
		for _, a := range test.open {
			if err := dial(p, a); err != nil {
				t.Errorf("allowed %v: %s: %v", test.allow, a, err)
			}
		}
		for _, a := range test.blocked {
			if dial(p, a) == nil {
				t.Errorf("allowed %v: %s is allowed", test.allow, a)
			}
		}
	}
}
