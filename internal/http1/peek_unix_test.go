//go:build unix

package http1

import "syscall"

// peek reports whether data can be read, without reading it.
func peek(fd uintptr, p []byte) bool {
	_, _, err := syscall.Recvfrom(int(fd), p, syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	return err != syscall.EAGAIN
}
