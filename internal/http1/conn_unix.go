//go:build unix

package http1

import "syscall"

const rawIO = true

// trip writes one request and reads the first part of its reply within a single RawConn.Read. The runtime registers for
// readiness before the request is written. So the goroutine parks without first trying to read a reply that cannot have
// arrived. That saves one of three system calls.
//
// With an empty out it only checks whether the connection is alive.
type trip struct {
	checked bool // needs no check: just dialled, or checked by TLS
	poll    bool // only reads what has arrived, and sets stale if anything has
	out, in []byte

	stale bool
	sent  int
	n     int
	op    string
	err   error
}

// step is the callback of syscall.RawConn.Read. It returns false to wait until the socket is readable.
func (t *trip) step(fd uintptr) bool {
	if t.sent > 0 {
		return t.read(int(fd))
	}
	if t.poll {
		t.stale = t.read(int(fd))
		return true
	}
	if !t.checked && !quiet(int(fd)) {
		t.stale = true
		return true
	}
	if len(t.out) == 0 {
		return true
	}
	for {
		t.sent, t.err = syscall.Write(int(fd), t.out)
		switch {
		case t.err == syscall.EINTR: //nolint:errorlint // system calls return unwrapped errors
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

func (t *trip) read(fd int) bool {
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

// quiet reports whether the peer of an idle connection has neither closed it nor sent anything.
func quiet(fd int) bool {
	var one [1]byte
	for {
		_, err := syscall.Read(fd, one[:])
		if err != syscall.EINTR {
			return err == syscall.EAGAIN
		}
	}
}
