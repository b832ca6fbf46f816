//go:build !unix

package http1

const rawIO = false

// turn stands for what other systems do with raw sockets: nothing, Write and Read are used, each connection once.
type turn struct {
	fresh   bool
	out, in []byte
	stale   bool
	sent, n int
	op      string
	err     error
}

func (*turn) step(uintptr) bool { return true }
