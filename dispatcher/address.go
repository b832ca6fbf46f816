package dispatcher

import (
	"context"
	"fmt"
	"net/netip"
	"syscall"

	"code.dny.dev/ssrf"
)

// addressPolicy refuses connections to addresses that are not public. It is asked with the resolved address at every
// dial, so a name that changes its answer cannot get through.
type addressPolicy struct{ guard *ssrf.Guardian }

// alsoBlocked are addresses that are public by their range and metadata all the same: Azure's.
var alsoBlocked = netip.MustParsePrefix("168.63.129.16/32")

func newAddressPolicy(allow []netip.Prefix) addressPolicy {
	var v4, v6 []netip.Prefix
	for _, p := range allow {
		if p.Addr().Is4() {
			v4 = append(v4, p)
			// The same addresses written as IPv4-mapped IPv6.
			mapped := netip.AddrFrom16(p.Addr().As16())
			v6 = append(v6, netip.PrefixFrom(mapped, p.Bits()+96))
		} else {
			v6 = append(v6, p)
		}
	}
	return addressPolicy{ssrf.New(ssrf.WithAnyPort(), ssrf.WithDeniedV4Prefixes(alsoBlocked), ssrf.WithAllowedV4Prefixes(v4...), ssrf.WithAllowedV6Prefixes(v6...))}
}

// control is for net.Dialer; an error is a blockedError.
func (p addressPolicy) control(_ context.Context, network, address string, c syscall.RawConn) error {
	if err := p.guard.Safe(network, address, c); err != nil {
		return blockedError{err}
	}
	return nil
}

// blockedError is a dial refused by the address policy.
type blockedError struct{ err error }

func (e blockedError) Error() string { return fmt.Sprintf("blocked address: %v", e.err) }
func (e blockedError) Unwrap() error { return e.err }
