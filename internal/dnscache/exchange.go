package dnscache

import (
	"encoding/binary"
	"errors"
	"net"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// exchange is one question and its answer. It connects to the name server only if the cache has no answer.
type exchange struct {
	cache *cache
	dial  func() (net.Conn, error)

	conn     net.Conn
	deadline time.Time
	id       uint16
	question string
	answer   []byte // from the cache, the part that was not read yet
}

// Write receives the resolver's question.
func (e *exchange) Write(message []byte) (int, error) {
	head, question, ok := parse(message)
	if ok {
		e.id, e.question = head.ID, question
		if e.answer = e.cache.get(question); e.answer != nil {
			return len(message), nil
		}
	}
	if e.conn == nil {
		conn, err := e.dial()
		if err != nil {
			return 0, err
		}
		e.conn = conn
		if err := conn.SetDeadline(e.deadline); err != nil {
			return 0, err
		}
	}
	return e.conn.Write(message)
}

// Read returns the answer from the cache with the question's id, or the name server's message.
func (e *exchange) Read(p []byte) (int, error) {
	if e.answer != nil {
		n := copy(p, e.answer)
		binary.BigEndian.PutUint16(p, e.id)
		e.answer = nil
		return n, nil
	}
	if e.conn == nil {
		return 0, net.ErrClosed
	}
	n, err := e.conn.Read(p)
	if err == nil {
		e.keep(p[:n])
	}
	return n, err
}

// keep puts a message into the cache if it answers the question. Anyone may have sent it, so it must pass the same
// checks as in the resolver.
func (e *exchange) keep(message []byte) {
	head, question, ok := parse(message)
	if !ok || !head.Response || head.ID != e.id || question != e.question ||
		head.Truncated || head.RCode != dnsmessage.RCodeSuccess {
		return
	}
	if !head.Authoritative && !head.RecursionAvailable { // the resolver may have to ask another server
		return
	}
	if life := min(lifetime(message), MaxAge); life > 0 {
		e.cache.put(question, append([]byte(nil), message...), life)
	}
}

// parse returns a message's header and its only question in wire form.
func parse(message []byte) (head dnsmessage.Header, question string, ok bool) {
	const begin = 12 // the size of a header
	var p dnsmessage.Parser
	head, err := p.Start(message)
	if err != nil || len(message) < begin || binary.BigEndian.Uint16(message[4:]) != 1 {
		return head, "", false
	}
	end := begin
	for end < len(message) && message[end] != 0 {
		if message[end] > 63 { // refers to another name; no question does
			return head, "", false
		}
		end += 1 + int(message[end])
	}
	if end += 1 + 4; end > len(message) { // the end of the name; type and class
		return head, "", false
	}
	return head, string(message[begin:end]), true
}

// lifetime returns how long an answer may be kept. A message without the requested records may be kept if it has a
// lifetime (RFC 2308, 5).
func lifetime(message []byte) time.Duration {
	var p dnsmessage.Parser
	if _, err := p.Start(message); err != nil {
		return 0
	}
	q, err := p.Question()
	if err != nil || p.SkipAllQuestions() != nil {
		return 0
	}
	least, found := uint32(MaxAge/time.Second), false
	for {
		h, err := p.AnswerHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			break
		}
		if err != nil || p.SkipAnswer() != nil {
			return 0
		}
		least, found = min(least, h.TTL), found || h.Type == q.Type
	}
	for !found {
		h, err := p.AuthorityHeader()
		if err != nil {
			return 0
		}
		if h.Type != dnsmessage.TypeSOA {
			if p.SkipAuthority() != nil {
				return 0
			}
			continue
		}
		soa, err := p.SOAResource()
		if err != nil {
			return 0
		}
		least, found = min(least, h.TTL, soa.MinTTL), true
	}
	return time.Duration(least) * time.Second
}

// Close closes the connection to the name server, if there is one.
func (e *exchange) Close() error {
	if e.conn == nil {
		return nil
	}
	return e.conn.Close()
}

// SetDeadline implements [net.Conn].
func (e *exchange) SetDeadline(t time.Time) error {
	e.deadline = t
	if e.conn == nil {
		return nil
	}
	return e.conn.SetDeadline(t)
}

// The resolver calls none of the following. It sends packets because an exchange is a [net.PacketConn].

// SetReadDeadline implements [net.Conn].
func (e *exchange) SetReadDeadline(t time.Time) error { return e.SetDeadline(t) }

// SetWriteDeadline implements [net.Conn].
func (e *exchange) SetWriteDeadline(t time.Time) error { return e.SetDeadline(t) }

// ReadFrom implements [net.PacketConn].
func (e *exchange) ReadFrom(p []byte) (int, net.Addr, error) {
	n, err := e.Read(p)
	return n, e.RemoteAddr(), err
}

// WriteTo implements [net.PacketConn].
func (e *exchange) WriteTo(p []byte, _ net.Addr) (int, error) { return e.Write(p) }

// LocalAddr implements [net.Conn].
func (e *exchange) LocalAddr() net.Addr { return e.addr(net.Conn.LocalAddr) }

// RemoteAddr implements [net.Conn].
func (e *exchange) RemoteAddr() net.Addr { return e.addr(net.Conn.RemoteAddr) }

func (e *exchange) addr(of func(net.Conn) net.Addr) net.Addr {
	if e.conn == nil {
		return nil
	}
	return of(e.conn)
}
