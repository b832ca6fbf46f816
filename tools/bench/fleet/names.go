package fleet

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync/atomic"

	"golang.org/x/net/dns/dnsmessage"
)

// lifetime of a name's address, in seconds. It is typical for names of load balancers.
const lifetime = 60

// nameServer answers questions for the addresses of the hosts, over UDP on port 53 of a loopback address.
type nameServer struct {
	fleet     Fleet
	conn      net.PacketConn
	questions atomic.Int64
}

// listenNames listens on a free address in 127.0.0.0/8, on port 53: a resolv.conf cannot name another.
func listenNames(f Fleet) (*nameServer, error) {
	const tries = 10
	var failed error
	for range tries {
		ip := net.IPv4(127, 255, byte(rand.IntN(256)), byte(1+rand.IntN(254)))
		conn, err := net.ListenPacket("udp4", net.JoinHostPort(ip.String(), "53"))
		if err == nil {
			return &nameServer{fleet: f, conn: conn}, nil
		}
		failed = err
	}
	return nil, fmt.Errorf("name server: %w", failed)
}

// host returns the address without the port.
func (s *nameServer) host() string { return s.conn.LocalAddr().(*net.UDPAddr).IP.String() }

// serve answers until the connection is closed.
func (s *nameServer) serve() {
	var buf [1500]byte
	for {
		n, from, err := s.conn.ReadFrom(buf[:])
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // caused by an earlier reply: its receiver is gone
		}
		s.questions.Add(1)
		if reply, err := s.reply(buf[:n]); err == nil {
			_, _ = s.conn.WriteTo(reply, from)
		}
	}
}

// reply answers one question: for A with the address of the host, for any other type with an empty answer, which may be
// cached as well.
func (s *nameServer) reply(message []byte) ([]byte, error) {
	var p dnsmessage.Parser
	head, err := p.Start(message)
	if err != nil {
		return nil, err
	}
	q, err := p.Question()
	if err != nil {
		return nil, err
	}
	head.Response, head.Authoritative, head.RecursionAvailable = true, true, true
	host := s.fleet.hostOf(q.Name.String())
	if host == 0 {
		head.RCode = dnsmessage.RCodeNameError
	}
	b := dnsmessage.NewBuilder(nil, head)
	b.EnableCompression()
	err = errors.Join(b.StartQuestions(), b.Question(q))
	about := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: lifetime}
	if host != 0 && q.Type == dnsmessage.TypeA {
		err = errors.Join(err, b.StartAnswers(), b.AResource(about, dnsmessage.AResource{A: address(host)}))
	} else {
		zone := dnsmessage.MustNewName(domain[1:] + ".")
		about.Name = zone
		err = errors.Join(err, b.StartAuthorities(), b.SOAResource(about, dnsmessage.SOAResource{NS: zone, MBox: zone, MinTTL: lifetime}))
	}
	if err != nil {
		return nil, err
	}
	return b.Finish()
}
