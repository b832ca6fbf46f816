package sender

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"code.dny.dev/ssrf"
)

// Addresses are the addresses that may be reached. The zero value allows public ones, on all ports.
type Addresses struct {
	Allow []netip.Prefix // allowed although blocked by default
	Deny  []netip.Prefix // blocked, even if Allow has them
	NAT64 []netip.Prefix // prefixes, besides 64:ff9b::/96, of addresses that embed an IPv4 address (RFC 6052)
	Ports []Ports        // none = all
}

// Ports is a range of ports, First and Last included.
type Ports struct{ First, Last uint16 }

// addressPolicy blocks connections to addresses that are not public. It checks the resolved address at every dial,
// so that a name cannot pass by changing its answer.
type addressPolicy struct {
	guard *ssrf.Guardian
	deny  []netip.Prefix
	nat64 []netip.Prefix
	ports []Ports
}

// alsoBlocked is a metadata address with a public range: Azure's.
var alsoBlocked = netip.MustParsePrefix("168.63.129.16/32")

// wellKnownNAT64 is the prefix that any NAT64 gateway may use.
var wellKnownNAT64 = netip.MustParsePrefix("64:ff9b::/96")

var (
	errDenied = errors.New("denied by dispatch.deny_networks")
	errPort   = errors.New("not one of dispatch.ports")
)

func newAddressPolicy(a Addresses) addressPolicy {
	var v4, v6 []netip.Prefix
	for _, p := range a.Allow {
		if p.Addr().Is4() {
			v4 = append(v4, p)
			// The same addresses written as IPv4-mapped IPv6.
			mapped := netip.AddrFrom16(p.Addr().As16())
			v6 = append(v6, netip.PrefixFrom(mapped, p.Bits()+96))
		} else {
			v6 = append(v6, p)
		}
	}
	policy := addressPolicy{
		guard: ssrf.New(ssrf.WithAnyPort(), ssrf.WithDeniedV4Prefixes(alsoBlocked),
			ssrf.WithAllowedV4Prefixes(v4...), ssrf.WithAllowedV6Prefixes(v6...)),
		nat64: append(slices.Clone(a.NAT64), wellKnownNAT64), ports: a.Ports,
	}
	for _, p := range a.Deny {
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		policy.deny = append(policy.deny, p)
	}
	return policy
}

// control checks an address for net.Dialer. Its errors are blockedErrors.
func (p addressPolicy) control(_ context.Context, network, address string, c syscall.RawConn) error {
	err := p.guard.Safe(network, address, c)
	if err == nil {
		err = p.check(netip.MustParseAddrPort(address)) // Safe has already parsed it
	}
	if err != nil {
		return blockedError{err}
	}
	return nil
}

// blocks reports whether every connection to a host and port would be refused, as far as can be known without resolving
// the host: localhost, an address, or the port.
func (p addressPolicy) blocks(address string) bool {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		host = "127.0.0.1"
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return !p.opens(uint16(n))
	}
	return p.guard.SafeAddr(ip) != nil || p.check(netip.AddrPortFrom(ip, uint16(n))) != nil
}

// opens reports whether a port is allowed.
func (p addressPolicy) opens(port uint16) bool {
	inside := func(r Ports) bool { return r.First <= port && port <= r.Last }
	return len(p.ports) == 0 || slices.ContainsFunc(p.ports, inside)
}

// check applies the rules that guard does not have to an address that it allows.
func (p addressPolicy) check(to netip.AddrPort) error {
	if !p.opens(to.Port()) {
		return fmt.Errorf("port %d: %w", to.Port(), errPort)
	}
	ip := to.Addr().WithZone("").Unmap() // a Prefix contains no address with a zone
	if err := p.denied(ip); err != nil {
		return err
	}
	for _, prefix := range p.nat64 {
		if !prefix.Contains(ip) {
			continue
		}
		inside := embedded(ip, prefix.Bits())
		if err := p.denied(inside); err != nil {
			return err
		}
		if err := p.guard.SafeAddr(inside); err != nil {
			return err
		}
	}
	return nil
}

func (p addressPolicy) denied(ip netip.Addr) error {
	for _, prefix := range p.deny {
		if prefix.Contains(ip) {
			return fmt.Errorf("%s: %w", ip, errDenied)
		}
	}
	return nil
}

// embedded returns the IPv4 address after a prefix of the given bits in ip. It skips byte 8 (RFC 6052, 2.2).
func embedded(ip netip.Addr, bits int) netip.Addr {
	var v4 [4]byte
	from, at := ip.As16(), bits/8
	for i := range v4 {
		if at == 8 {
			at++
		}
		v4[i] = from[at]
		at++
	}
	return netip.AddrFrom4(v4)
}

// blockedError is returned if the address policy blocked a dial.
type blockedError struct{ err error }

func (e blockedError) Error() string { return fmt.Sprintf("blocked address: %v", e.err) }
func (e blockedError) Unwrap() error { return e.err }
