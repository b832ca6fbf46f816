package sender

import (
	"container/list"
	"crypto/tls"
	"sync"
)

// Bounds of the cached TLS sessions. The server, which is not trusted, decides how large one is.
const (
	maxSessions = 32 << 20 // bytes of all sessions: about 10,000 servers
	maxTicket   = 4 << 10  // bytes
	maxSession  = 16 << 10 // bytes, with the server's certificates
)

// sessions is a cache of TLS sessions that is bounded by their size, and drops the least recently used ones. It
// refuses large sessions.
type sessions struct {
	max int // bytes

	mu    sync.Mutex
	byKey map[string]*list.Element // of order
	order list.List                // of cached, the most recently used first
	bytes int
}

// cached is the session of one server.
type cached struct {
	key     string
	session *tls.ClientSessionState
	bytes   int
}

func newSessions(limit int) *sessions {
	return &sessions{max: limit, byKey: make(map[string]*list.Element)}
}

// Get implements tls.ClientSessionCache.
func (s *sessions) Get(key string) (*tls.ClientSessionState, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.byKey[key]
	if e == nil {
		return nil, false
	}
	s.order.MoveToFront(e)
	return e.Value.(*cached).session, true
}

// Put implements tls.ClientSessionCache. A nil session removes the one that is cached.
func (s *sessions) Put(key string, session *tls.ClientSessionState) {
	bytes := 0
	if session != nil {
		var ok bool
		if bytes, ok = size(session); !ok {
			return
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.byKey[key]; e != nil {
		s.remove(e)
	}
	if session == nil {
		return
	}
	s.byKey[key] = s.order.PushFront(&cached{key, session, bytes})
	s.bytes += bytes
	for s.bytes > s.max {
		s.remove(s.order.Back())
	}
}

func (s *sessions) remove(e *list.Element) {
	c := s.order.Remove(e).(*cached)
	delete(s.byKey, c.key)
	s.bytes -= c.bytes
}

// size returns the size of a session in bytes, and whether it is within the bounds.
func size(session *tls.ClientSessionState) (bytes int, ok bool) {
	ticket, state, err := session.ResumptionState()
	if err != nil || len(ticket) > maxTicket {
		return 0, false
	}
	if state == nil {
		return len(ticket), true
	}
	text, err := state.Bytes()
	return len(ticket) + len(text), err == nil && len(text) <= maxSession
}
