package http1

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"
)

func TestExhausted(t *testing.T) {
	dial := func(network, address string, errno syscall.Errno, call string) error {
		to, _ := net.ResolveTCPAddr("tcp", address)
		return fmt.Errorf("dial: %w", &net.OpError{Op: "dial", Net: network, Addr: to, Err: os.NewSyscallError(call, errno)})
	}
	resolve := func(err error, server string) error {
		return &net.OpError{Op: "dial", Err: &net.DNSError{Err: err.Error(), Name: "example.com", Server: server}}
	}
	const here = "127.0.0.1:80"
	tests := []struct {
		name string
		err  error
		want string
	}{
		{"none", nil, ""},
		{"descriptors", dial("tcp", here, syscall.EMFILE, "socket"), "emfile"},
		{"descriptors of the system", dial("tcp", here, syscall.ENFILE, "socket"), "enfile"},
		{"buffers", dial("tcp", here, syscall.ENOBUFS, "connect"), "enobufs"},
		{"memory", dial("tcp", here, syscall.ENOMEM, "connect"), "enomem"},
		{"ports", dial("tcp", here, syscall.EADDRNOTAVAIL, "connect"), "eaddrnotavail"},
		{"no local address for the destination", dial("tcp", "[fe80::1]:80", syscall.EADDRNOTAVAIL, "connect"), ""},
		{"resolver: descriptors", resolve(dial("udp", "127.0.0.1:53", syscall.EMFILE, "socket"), "127.0.0.1:53"), "emfile"},
		{"resolver: descriptors of the system", resolve(dial("udp", "127.0.0.1:53", syscall.ENFILE, "socket"), "127.0.0.1:53"), "enfile"},
		{"resolver: ports", resolve(dial("udp", "127.0.0.1:53", syscall.EADDRNOTAVAIL, "connect"), "127.0.0.1:53"), "eaddrnotavail"},
		{"resolver: cgo", resolve(syscall.EMFILE, ""), "emfile"},
		{"no such host", resolve(errors.New("no such host"), "127.0.0.1:53"), ""},
		{"refused", dial("tcp", here, syscall.ECONNREFUSED, "connect"), ""},
		{"unreachable", dial("tcp", here, syscall.EHOSTUNREACH, "connect"), ""},
		{"address in use", dial("tcp", here, syscall.EADDRINUSE, "connect"), ""},
	}
	for _, test := range tests {
		if got := Exhausted(test.err); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}
