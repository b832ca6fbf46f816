package peer

import (
	"context"
	"io"
	"net"
)

// Pipes is a listener without sockets, for tests in virtual time. Closing the channel ends it.
type Pipes chan net.Conn

func (p Pipes) Accept() (net.Conn, error) {
	if c, ok := <-p; ok {
		return c, nil
	}
	return nil, io.EOF
}
func (Pipes) Close() error   { return nil }
func (Pipes) Addr() net.Addr { return &net.TCPAddr{} }

// Dial connects to the listener.
func (p Pipes) Dial(ctx context.Context) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case p <- far:
		return near, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
