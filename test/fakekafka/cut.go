package fakekafka

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"sync"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Network connects a client with Kafka and can lose what the client sends. The zero Network loses nothing.
type Network struct {
	mu         sync.Mutex
	armed, cut bool
	conns      []net.Conn
}

// CutAtProduce cuts the network when the next produce request is sent, which Kafka does not receive. While it is cut
// nothing can be dialled.
func (n *Network) CutAtProduce() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.armed = true
}

// Mend ends the cut. The connections are closed, as a client does by itself when its requests time out.
func (n *Network) Mend() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.armed, n.cut = false, false
	for _, conn := range n.conns {
		_ = conn.Close()
	}
	n.conns = nil
}

// Dial is for [kgo.Dialer].
func (n *Network) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cut {
		return nil, &net.OpError{Op: "dial", Net: network, Err: errors.New("the network is cut")}
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	n.conns = append(n.conns, conn)
	return &cutConn{conn, n}, nil
}

// loses reports whether what is sent is lost.
func (n *Network) loses(request []byte) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.armed && len(request) > 6 && kmsg.Key(binary.BigEndian.Uint16(request[4:])) == kmsg.Produce {
		n.armed, n.cut = false, true
	}
	return n.cut
}

type cutConn struct {
	net.Conn
	network *Network
}

func (c *cutConn) Write(b []byte) (int, error) {
	if c.network.loses(b) {
		return len(b), nil
	}
	return c.Conn.Write(b)
}
