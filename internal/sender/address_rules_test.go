package sender

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/smshooks/smshooks/pkg/webhook"
	"github.com/smshooks/smshooks/test/peer"
)

func prefixes(texts string) (all []netip.Prefix) {
	for _, text := range strings.Fields(texts) {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

// TestDenyAndNAT64 checks that a denied address is refused in every form, and that an address in a NAT64 prefix is
// checked by the IPv4 address in it.
func TestDenyAndNAT64(t *testing.T) {
	tests := []struct {
		allow, deny, nat64 string
		open, blocked      string
	}{
		{"", "8.8.8.0/24 2606:4700::/32", "", "8.8.4.4 2001:4860:4860::8888", "8.8.8.8 ::ffff:8.8.8.8 2606:4700:4700::1111"},
		{"10.0.0.0/8", "10.1.0.0/16", "", "10.0.0.1 10.2.0.0", "10.1.0.0 10.1.255.255 ::ffff:10.1.2.3"},
		{"127.0.0.0/8 fe80::/10", "::ffff:127.0.0.2/128 fe80::/64", "", "127.0.0.1 fe80:0:0:1::1", "127.0.0.2 fe80::1 fe80::1%eth0"},
		{"0.0.0.0/0 ::/0", "0.0.0.0/0 ::/0", "", "", "1.1.1.1 127.0.0.1 ::1 2606:4700:4700::1111"},
		{"64:ff9b::/96", "8.8.8.8/32", "", "64:ff9b::1.1.1.1", "64:ff9b::8.8.8.8 64:ff9b::127.0.0.1 64:ff9b::10.0.0.1 64:ff9b::169.254.169.254 64:ff9b::168.63.129.16"},
		{"64:ff9b::/96 10.0.0.0/8", "", "", "64:ff9b::10.0.0.1 64:ff9b::8.8.8.8", "64:ff9b::127.0.0.1"},
		{"64:ff9b::/96", "64:ff9b::101:101/128", "", "64:ff9b::1.0.0.1", "64:ff9b::1.1.1.1"},
		{"", "", "", "", "64:ff9b::8.8.8.8"}, // the prefix is not open by itself
		{"::/0", "", "", "64:ff9b::8.8.8.8", "64:ff9b::127.0.0.1"},
		// The forms of RFC 6052, 2.2: 192.168.2.33 and 8.8.8.8.
		{"", "", "2a00:db8::/32", "2a00:db8:808:808::", "2a00:db8:c0a8:221::"},
		{"", "", "2a00:db8:100::/40", "2a00:db8:108:808:8::", "2a00:db8:1c0:a802:21::"},
		{"", "", "2a00:db8:122::/48", "2a00:db8:122:808:8:800::", "2a00:db8:122:c0a8:2:2100::"},
		{"", "", "2a00:db8:122:300::/56", "2a00:db8:122:308:8:808::", "2a00:db8:122:3c0:a8:221::"},
		{"", "", "2a00:db8:122:344::/64", "2a00:db8:122:344:8:808:800::", "2a00:db8:122:344:c0:a802:2100::"},
		{"", "", "2a00:db8:122:344::/96", "2a00:db8:122:344::8.8.8.8", "2a00:db8:122:344::192.168.2.33"},
		{"fd00::/8", "192.0.2.0/24", "fd00:64::/96", "fd00:64::8.8.8.8 fd00::1", "fd00:64::127.0.0.1 fd00:64::192.0.2.1"},
	}
	for _, test := range tests {
		p := newAddressPolicy(Addresses{Allow: prefixes(test.allow), Deny: prefixes(test.deny), NAT64: prefixes(test.nat64)})
		for _, a := range strings.Fields(test.open) {
			if err := dial(p, a); err != nil {
				t.Errorf("%+v: %s: %v", test, a, err)
			}
		}
		for _, a := range strings.Fields(test.blocked) {
			if err := dial(p, a); !errors.As(err, new(blockedError)) {
				t.Errorf("%+v: %s: %v, want it blocked", test, a, err)
			}
		}
	}
}

func TestPorts(t *testing.T) {
	p := newAddressPolicy(Addresses{Ports: []Ports{{443, 443}, {8000, 8999}}})
	for port, open := range map[string]bool{"443": true, "8000": true, "8999": true, "442": false, "444": false, "80": false, "9000": false, "1": false} {
		if err := p.control(t.Context(), "tcp4", "8.8.8.8:"+port, nil); (err == nil) != open {
			t.Errorf("port %s: %v, want it allowed: %v", port, err, open)
		}
	}
	if p.control(t.Context(), "tcp4", "127.0.0.1:443", nil) == nil {
		t.Error("an allowed port allows a blocked address")
	}
}

// TestDeniedIsNotDialled checks that the sender never connects to denied addresses.
func TestDeniedIsNotDialled(t *testing.T) {
	for name, change := range map[string]func(*Addresses){
		"network": func(a *Addresses) { a.Deny = prefixes("127.0.0.0/30") },
		"port":    func(a *Addresses) { a.Ports = []Ports{{443, 443}} },
	} {
		p := peer.New(t, peer.Says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
		out := newSender(t, func(c *Config) { change(&c.Addresses) }).Send(t.Context(), request(t, p.URL))
		if out.Failure != webhook.BlockedAddress || out.Local != "" || p.Connections.Load() != 0 {
			t.Errorf("%s: %+v on %d connections, want a blocked address", name, out, p.Connections.Load())
		}
	}
}

// TestBlocks covers what is known to be blocked without DNS.
func TestBlocks(t *testing.T) {
	policy := newAddressPolicy(Addresses{Allow: prefixes("10.1.0.0/16"), Deny: prefixes("8.8.8.0/24"), Ports: []Ports{{443, 443}, {8000, 8999}}})
	for address, want := range map[string]bool{
		"example.com:443": false, "example.com:8080": false, "example.com:80": true, "10.2.0.1:443": true, "10.1.2.3:443": false, "10.1.2.3:80": true,
		"8.8.8.8:443": true, "1.1.1.1:443": false, "[::1]:443": true, "[2606:4700:4700::1111]:443": false, "[::ffff:10.2.0.1]:443": true,
		"localhost:443": true, "a.LocalHost.:443": true, "localhost.example:443": false, "": false,
	} {
		if got := policy.blocks(address); got != want {
			t.Errorf("blocks(%q) = %v", address, got)
		}
	}
}
