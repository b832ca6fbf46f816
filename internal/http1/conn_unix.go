//go:build unix

package http1

import "syscall"

const rawIO = true

// turn is one request and the first part of its reply on a socket, done within a single RawConn.Read. The runtime
// notes the socket's readiness from before the request is written, so the goroutine goes to sleep without asking for
// a reply that cannot be there yet: that saves a system call of three.
//
// With no out it only looks whether the connection is alive.
type turn struct {
	fresh   bool // just dialled: it need not be looked at
	out, in []byte

	stale bool
	sent  int
	n     int
	op    string
	err   error
}

// step is for syscall.RawConn.Read: false waits until there is something to read.
func (t *turn) step(fd uintptr) bool {
	if t.sent > 0 {
		return t.read(int(fd))
	}
	if !t.fresh && !quiet(int(fd)) {
		t.stale = true
		return true
	}
	if len(t.out) == 0 {
		return true
	}
	for {
		t.sent, t.err = syscall.Write(int(fd), t.out)
		switch {
		case t.err == syscall.EINTR: //nolint:errorlint // system calls give the value itself
			continue
		case t.err == syscall.EAGAIN: //nolint:errorlint // as above
			t.sent, t.err = 0, nil
			return true
		case t.err != nil:
			t.sent, t.op = 0, "write"
			return true
		}
		return t.sent < len(t.out)
	}
}

func (t *turn) read(fd int) bool {
	for {
		n, err := syscall.Read(fd, t.in)
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			return false
		case err != nil:
			t.op, t.err = "read", err
			return true
		}
		t.n = n
		return true
	}
}

// quiet: the peer of an idle connection has neither closed it nor sent anything.
func quiet(fd int) bool {
	var one [1]byte
	for {
		_, err := syscall.Read(fd, one[:])
		if err != syscall.EINTR {
			return err == syscall.EAGAIN
		}
	}
}
