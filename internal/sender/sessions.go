package sender

import "crypto/tls"

// Bounds of the TLS sessions that are kept to be resumed: by number, and each by what a server that is not to be trusted
// can put into it.
const (
	maxSessions = 4096
	maxTicket   = 4 << 10  // bytes
	maxSession  = 16 << 10 // bytes, with the server's certificates
)

// sessions is a cache that does not keep large sessions.
type sessions struct{ tls.ClientSessionCache }

// Put implements tls.ClientSessionCache.
func (s sessions) Put(key string, session *tls.ClientSessionState) {
	if session != nil && !small(session) {
		return
	}
	s.ClientSessionCache.Put(key, session)
}

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
