package http1

import (
	"errors"
	"net"
	"os"
	"strings"
	"syscall"
)

// exhaustions are the errors of a machine or process that has run out of something. The resolver keeps only their
// text, and that of EMFILE is part of that of ENFILE.
var exhaustions = []struct {
	errno  syscall.Errno
	reason string
}{
	{syscall.ENFILE, "enfile"},
	{syscall.EMFILE, "emfile"},
	{syscall.ENOBUFS, "enobufs"},
	{syscall.ENOMEM, "enomem"},
	{syscall.EADDRNOTAVAIL, portsExhausted},
}

const portsExhausted = "eaddrnotavail"

// Exhaustions lists what Exhausted may return.
func Exhaustions() []string {
	reasons := make([]string, len(exhaustions))
	for i, e := range exhaustions {
		reasons[i] = e.reason
	}
	return reasons
}

// Exhausted returns what this process had run out of when a request failed with err: descriptors (emfile, enfile),
// memory (enomem, enobufs) or local ports (eaddrnotavail). It returns "" if err says something about the other side.
func Exhausted(err error) string {
	var dns *net.DNSError
	resolving := errors.As(err, &dns)
	for _, e := range exhaustions {
		if !errors.Is(err, e.errno) && !(resolving && strings.Contains(dns.Err, e.errno.Error())) {
			continue
		}
		if e.reason == portsExhausted && !reachable(err) {
			return ""
		}
		return e.reason
	}
	if resolving {
		return noDescriptor()
	}
	return ""
}

// reachable reports whether this machine has an address to reach that of err from. Without one, a connection fails with
// EADDRNOTAVAIL too, but no port that becomes free would help.
func reachable(err error) bool {
	var (
		op      *net.OpError
		dns     *net.DNSError
		address string
	)
	switch {
	case errors.As(err, &dns):
		address = dns.Server
	case errors.As(err, &op) && op.Addr != nil:
		address = op.Addr.String()
	}
	c, err := net.Dial("udp", address) // sends nothing
	if err != nil {
		return !errors.Is(err, syscall.EADDRNOTAVAIL) && Exhausted(err) != ""
	}
	_ = c.Close()
	return true
}

// noDescriptor returns the reason if no file can be opened now. A resolver that cannot open its files or sockets may
// report a name that does not exist.
func noDescriptor() string {
	f, err := os.Open(os.DevNull)
	if err == nil {
		_ = f.Close()
		return ""
	}
	for _, e := range exhaustions {
		if errors.Is(err, e.errno) {
			return e.reason
		}
	}
	return ""
}
