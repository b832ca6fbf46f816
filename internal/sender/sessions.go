package sender

import "crypto/tls"

// Bounds of the cached TLS sessions. The server, which is not trusted, decides how large one is.
const (
	maxSessions = 4096
	maxTicket   = 4 << 10  // bytes
	maxSession  = 16 << 10 // bytes, with the server's certificates
)

// sessions is a cache that refuses large sessions.
type sessions struct{ tls.ClientSessionCache }

func newSessions() sessions { return sessions{tls.NewLRUClientSessionCache(maxSessions)} }

// Put implements tls.ClientSessionCache.
func (s sessions) Put(key string, session *tls.ClientSessionState) {
	if session != nil && !small(session) {
		return
	}
	s.ClientSessionCache.Put(key, session)
}

// small reports whether a session is within the bounds.
func small(session *tls.ClientSessionState) bool {
	ticket, state, err := session.ResumptionState()
	if err != nil || len(ticket) > maxTicket {
		return false
	}
	if state == nil {
		return true
	}
	text, err := state.Bytes()
	return err == nil && len(text) <= maxSession
}
