package limit

import (
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Client returns the address that a request is counted under: an IPv4 address, or the /64 network of an IPv6 address,
// since all of it may belong to one client. It is the peer's address. If the peer is one of the trusted proxies, it is
// the last address in X-Forwarded-For that is not trusted, since everything before that one may be forged.
func Client(r *http.Request, trusted []netip.Prefix) string {
	client, ok := parseAddr(r.RemoteAddr)
	if !ok {
		return "unknown"
	}
	forwarded := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(forwarded) - 1; i >= 0 && contains(trusted, client); i-- {
		before, ok := parseAddr(strings.TrimSpace(forwarded[i]))
		if !ok {
			break
		}
		client = before
	}
	return counted(client)
}

// Peer is like Client for a connection with this remote address.
func Peer(remote string) string {
	addr, ok := parseAddr(remote)
	if !ok {
		return "unknown"
	}
	return counted(addr)
}

// counted returns what requests from addr are counted under.
func counted(addr netip.Addr) string {
	if addr.Is6() {
		if network, err := addr.Prefix(64); err == nil {
			return network.String()
		}
	}
	return addr.String()
}

func contains(networks []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// parseAddr reads an address with or without a port. It drops the zone and unmaps an IPv4 address in IPv6 form.
func parseAddr(text string) (netip.Addr, bool) {
	if withPort, err := netip.ParseAddrPort(text); err == nil {
		return withPort.Addr().Unmap().WithZone(""), true
	}
	addr, err := netip.ParseAddr(strings.Trim(text, "[]"))
	return addr.Unmap().WithZone(""), err == nil
}

// SetRetryAfter sets Retry-After in whole seconds, rounded up, at least one.
func SetRetryAfter(w http.ResponseWriter, wait time.Duration) {
	seconds := max(1, int64((wait+time.Second-1)/time.Second))
	w.Header().Set("Retry-After", strconv.FormatInt(seconds, 10))
}
