package dnscache

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"slices"
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

	message []byte // the whole question, until it was repeated
	// enough is when the answer is not needed any more, since the other family has addresses. Zero means never. It is
	// guarded by cache.mu.
	enough time.Time
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
	if ok {
		e.message = slices.Clone(message)
		e.cache.await(e)
	}
	return e.conn.Write(message)
}

// Read returns the answer from the cache with the question's id, or the name server's message.
func (e *exchange) Read(p []byte) (int, error) {
	if e.answer == nil {
		if e.conn == nil {
			return 0, net.ErrClosed
		}
		n, err := e.conn.Read(p)
		for err != nil && errors.Is(err, os.ErrDeadlineExceeded) && e.goOn() {
			n, err = e.conn.Read(p)
		}
		if err == nil {
			e.keep(p[:n])
		}
		if e.answer == nil {
			return n, err
		}
	}
	n := copy(p, e.answer)
	binary.BigEndian.PutUint16(p, e.id)
	e.answer = nil
	return n, nil
}

// goOn repeats the question if a read ended before the resolver's deadline. It returns false if that has passed, or if
// the addresses of the other family are enough.
func (e *exchange) goOn() bool {
	c, now := e.cache, time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.enough.IsZero() || !now.Before(e.deadline) && !e.deadline.IsZero() {
		return false
	}
	if !now.Before(e.enough) {
		e.answer = none(e.question)
		c.putLocked(e.question, e.answer, missingAge)
		return false
	}
	if e.message != nil && !now.Before(e.repeatAt()) {
		_, _ = e.conn.Write(e.message) // if it fails, so does the read
		e.message = nil
	}
	return e.setDeadline() == nil
}

// repeatAt returns when to repeat the question.
func (e *exchange) repeatAt() time.Time { return e.enough.Add(-patience(e.question) / 2) }

// setDeadline sets the time at which a read ends.
func (e *exchange) setDeadline() error {
	next := e.enough
	if e.message != nil {
		next = e.repeatAt()
	}
	if !e.deadline.IsZero() && e.deadline.Before(next) {
		next = e.deadline
	}
	return e.conn.SetReadDeadline(next)
}

// await registers e, which waits for the name server. If the other family has addresses already, their patience begins.
func (c *cache) await(e *exchange) {
	other := otherFamily(e.question)
	if other == "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting[e.question] = append(c.waiting[e.question], e)
	if hasAddress(c.getLocked(other)) {
		c.suffice(e)
	}
}

// suffice notes that the other family has addresses.
func (c *cache) suffice(e *exchange) {
	if e.enough.IsZero() {
		e.enough = time.Now().Add(patience(e.question))
		_ = e.setDeadline() // if it fails, so does the read
	}
}

// leave removes e from those that wait.
func (c *cache) leave(e *exchange) {
	c.mu.Lock()
	defer c.mu.Unlock()
	rest := slices.DeleteFunc(c.waiting[e.question], func(other *exchange) bool { return other == e })
	if c.waiting[e.question] = rest; len(rest) == 0 {
		delete(c.waiting, e.question)
	}
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
	if !hasAddress(message) {
		return
	}
	c, other := e.cache, otherFamily(question)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range c.waiting[other] {
		c.suffice(w)
	}
}

// questionTail is the size of type and class at the end of a question.
const questionTail = 4

// family returns the type of a question: A or AAAA. It returns 0 for any other.
func family(question string) dnsmessage.Type {
	if len(question) < questionTail {
		return 0
	}
	tail := []byte(question[len(question)-questionTail:])
	t := dnsmessage.Type(binary.BigEndian.Uint16(tail))
	if dnsmessage.Class(binary.BigEndian.Uint16(tail[2:])) != dnsmessage.ClassINET ||
		t != dnsmessage.TypeA && t != dnsmessage.TypeAAAA {
		return 0
	}
	return t
}

// otherFamily returns the question for the addresses of the other family, or "" if question is not for addresses.
func otherFamily(question string) string {
	other := dnsmessage.TypeA
	switch family(question) {
	case 0:
		return ""
	case dnsmessage.TypeA:
		other = dnsmessage.TypeAAAA
	}
	b := []byte(question)
	binary.BigEndian.PutUint16(b[len(b)-questionTail:], uint16(other))
	return string(b)
}

// patience returns how long to wait for the answer of a question if the other family has addresses.
func patience(question string) time.Duration {
	if family(question) == dnsmessage.TypeA {
		return patience4
	}
	return patience6
}

// none returns the answer that there are no records.
func none(question string) []byte {
	const response, recursionAvailable = 0x80, 0x80
	return append([]byte{0, 0, response, recursionAvailable, 0, 1, 0, 0, 0, 0, 0, 0}, question...)
}

// hasAddress reports whether an answer has an address of the family that was asked for.
func hasAddress(message []byte) bool {
	var p dnsmessage.Parser
	if _, err := p.Start(message); err != nil {
		return false
	}
	q, err := p.Question()
	if err != nil || p.SkipAllQuestions() != nil {
		return false
	}
	for {
		h, err := p.AnswerHeader()
		if err != nil {
			return false
		}
		if h.Type == q.Type && (h.Type == dnsmessage.TypeA || h.Type == dnsmessage.TypeAAAA) {
			return true
		}
		if p.SkipAnswer() != nil {
			return false
		}
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
	e.cache.leave(e)
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
