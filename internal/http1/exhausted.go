package http1

import (
	"errors"
	"net"
	"os"
	"strings"
	"syscall"
)

// exhaustions are the errors of a process or machine that has run out of a resource. The resolver keeps only their
// text. ENFILE comes first because its text contains that of EMFILE.
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

// Exhaustions returns all reasons that Exhausted can return.
func Exhaustions() []string {
	reasons := make([]string, len(exhaustions))
	for i, e := range exhaustions {
		reasons[i] = e.reason
	}
	return reasons
}

// Exhausted returns the resource that this process lacked when a request failed with err: descriptors (emfile, enfile),
// memory (enomem, enobufs) or local ports (eaddrnotavail). It returns "" if err has another cause.
func Exhausted(err error) string {
	errno, known := errors.AsType[syscall.Errno](err)
	dns, resolving := errors.AsType[*net.DNSError](err)
	for _, e := range exhaustions {
		if !(known && errno == e.errno) && !(resolving && strings.Contains(dns.Err, e.errno.Error())) {
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

// reachable reports whether this machine has a local address from which it can reach that of err. Without one, a dial
// also fails with EADDRNOTAVAIL, but no free port would help.
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
// report that the name does not exist.
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
