//go:build !unix

package http1

const rawIO = false

// trip is empty: without raw sockets, Write and Read are used, and no connection is reused.
type trip struct {
	checked bool
	poll    bool
	out, in []byte
	stale   bool
	sent, n int
	op      string
	err     error
}

func (*trip) step(uintptr) bool { return true }
