// Package names is a DNS server for tests. It can answer late, differently each time, or not at all.
package names

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Reply is the answer to a query for a name's IPv4 addresses. Without addresses the name does not exist.
type Reply struct {
	Addresses []netip.Addr
	After     time.Duration // before it is sent
	Fails     bool          // the server reports a failure
	Silent    bool          // there is no answer
	Lifetime  time.Duration // how long the client may keep the answer
}

// Answer returns the reply to query n, from 1, for a name.
type Answer func(n int) Reply

// Always answers with the same addresses.
func Always(addresses ...string) Answer {
	return func(int) Reply { return reply(addresses) }
}

// Turns answers with each address in turn, and with the last one from then on.
func Turns(addresses ...string) Answer {
	return func(n int) Reply { return reply([]string{addresses[min(n, len(addresses))-1]}) }
}

func reply(addresses []string) (r Reply) {
	for _, a := range addresses {
		r.Addresses = append(r.Addresses, netip.MustParseAddr(a))
	}
	return r
}

// Server is a DNS server. Names that were not set with On do not exist.
type Server struct {
	conn net.PacketConn

	mu      sync.Mutex
	answers map[string]Answer // lower case, without the last dot; "" = all others
	asked   map[string]int
}

// Serve starts a server at a UDP address. It stops when the test ends.
func Serve(t testing.TB, address string) *Server {
	t.Helper()
	conn, err := net.ListenPacket("udp4", address)
	if err != nil {
		t.Fatalf("DNS server: %v", err)
	}
	s := &Server{conn: conn, answers: map[string]Answer{}, asked: map[string]int{}}
	t.Cleanup(func() { _ = conn.Close() })
	go s.serve()
	return s
}

// On sets the answer for a name, or with "" for all other names.
func (s *Server) On(name string, a Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[name] = a
}

// Asked returns the number of queries for a name's IPv4 addresses.
func (s *Server) Asked(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[name]
}

// Resolver returns a resolver that queries only this server.
func (s *Server) Resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp4", s.conn.LocalAddr().String())
	}}
}

func (s *Server) serve() {
	for {
		question := make([]byte, 1500)
		n, from, err := s.conn.ReadFrom(question)
		if err != nil {
			return
		}
		go s.answer(question[:n], from)
	}
}

func (s *Server) answer(question []byte, to net.Addr) {
	var m dnsmessage.Message
	if m.Unpack(question) != nil || len(m.Questions) != 1 {
		return
	}
	q := m.Questions[0]
	r := s.reply(q)
	if r.Silent {
		return
	}
	<-time.After(r.After)
	m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
	switch {
	case r.Fails:
		m.RCode = dnsmessage.RCodeServerFailure
	case len(r.Addresses) == 0:
		m.RCode = dnsmessage.RCodeNameError
	}
	for _, a := range r.Addresses {
		if q.Type != dnsmessage.TypeA {
			break // there are no others
		}
		m.Answers = append(m.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: uint32(r.Lifetime.Seconds())},
			Body:   &dnsmessage.AResource{A: a.As4()},
		})
	}
	if packed, err := m.Pack(); err == nil {
		_, _ = s.conn.WriteTo(packed, to) // the client no longer waits for the reply
	}
}

func (s *Server) reply(q dnsmessage.Question) Reply {
	name := strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))
	s.mu.Lock()
	defer s.mu.Unlock()
	answer, ok := s.answers[name]
	if !ok {
		answer = s.answers[""]
	}
	if answer == nil {
		return Reply{}
	}
	if q.Type == dnsmessage.TypeA {
		s.asked[name]++
	}
	return answer(max(s.asked[name], 1))
}
