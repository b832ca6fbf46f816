package http1

import (
	"sync"
	"time"
)

// How long an idle connection is kept.
const (
	// Common servers close a connection that was idle for 5 s, so this is what is taken for granted.
	keepUnknown = 4 * time.Second
	keepMost    = 60 * time.Second
	keepLeast   = 5 * time.Millisecond // less is not worth keeping it
	// A host that closed a connection earlier than was thought is believed to do so again for a while, and for longer if it
	// did.
	doubtLeast = 10 * time.Second
	doubtMost  = 5 * time.Minute

	reapEvery  = time.Second
	reapAtOnce = 32     // hosts
	maxHosts   = 16_384 // with something learned, besides those with idle connections
)

// pool holds idle connections, and what was learned of how long their hosts keep them.
type pool struct {
	maxIdle int

	mu     sync.Mutex
	hosts  map[Host]*hostPool
	idle   idleList    // of all hosts, the longest idle one first
	count  int         // of all idle connections
	reaper *time.Timer // runs while there are any
	closed bool
}

// hostPool is what belongs to one host.
type hostPool struct {
	idle []*conn // in the order of their return
	// keep is how long the host has been seen to keep an idle connection.
	keep    time.Duration
	doubted time.Time     // keep was found to be less than thought, and does not grow until then; zero = it may
	doubts  time.Duration // how long the last doubt lasted
	calm    time.Time     // when it ended
}

// settle ends a doubt that has lasted long enough.
func (h *hostPool) settle(now time.Time) {
	if !h.doubted.IsZero() && !now.Before(h.doubted) {
		h.doubted, h.calm = time.Time{}, now
		h.keep = max(h.keep, keepUnknown)
	}
}

// doubt notes that a connection was closed after it was idle for so long.
func (h *hostPool) doubt(idle time.Duration, now time.Time) {
	h.settle(now)
	h.keep = min(h.keep, idle*4/5)
	if !h.doubted.IsZero() {
		return
	}
	if now.Sub(h.calm) > doubtMost {
		h.doubts = 0
	}
	h.doubts = min(max(2*h.doubts, doubtLeast), doubtMost)
	h.doubted = now.Add(h.doubts)
}

func (p *pool) init(maxIdle int) {
	p.maxIdle, p.hosts = maxIdle, map[Host]*hostPool{}
}

// keeps returns how long cn may be idle and be used again.
func (h *hostPool) keeps(cn *conn) time.Duration {
	switch {
	case !cn.said:
		return h.keep
	case h.doubted.IsZero():
		return cn.keep
	}
	return min(cn.keep, h.keep)
}

// take returns an idle connection to host, the last one used; nil if there is none.
func (p *pool) take(host Host, now time.Time) *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.hosts[host]
	if h == nil {
		return nil
	}
	h.settle(now)
	for len(h.idle) > 0 {
		cn := h.idle[len(h.idle)-1]
		if now.Sub(cn.since) >= h.keeps(cn) {
			return nil // the others are idle for longer still
		}
		p.remove(h, len(h.idle)-1)
		if now.Before(cn.replaceAt) {
			return cn
		}
		_ = cn.Close()
	}
	return nil
}

// put keeps a connection for the next request.
func (p *pool) put(cn *conn, now time.Time) {
	cn.since = now
	p.mu.Lock()
	defer p.mu.Unlock()
	// Where a socket cannot be looked at, a reply that came unasked would be taken for that to the next request.
	if !rawIO || p.closed || !now.Before(cn.replaceAt) {
		_ = cn.Close()
		return
	}
	h := p.host(cn.host)
	h.settle(now)
	if h.keeps(cn) < keepLeast {
		_ = cn.Close()
		return
	}
	if p.count >= p.maxIdle {
		p.giveUpLocked(1)
	}
	h.idle = append(h.idle, cn)
	p.idle.push(cn)
	p.count++
	if p.reaper == nil {
		p.reaper = time.AfterFunc(reapEvery, p.reap)
	}
}

// host returns the pool of host, which it creates if need be.
func (p *pool) host(host Host) *hostPool {
	h := p.hosts[host]
	if h != nil {
		return h
	}
	if len(p.hosts) >= maxHosts {
		tries := 16
		for other, old := range p.hosts {
			if len(old.idle) == 0 {
				delete(p.hosts, other)
				break
			}
			if tries--; tries == 0 {
				break // nearly all have idle connections, which are bounded
			}
		}
	}
	h = &hostPool{keep: keepUnknown}
	p.hosts[host] = h
	return h
}

// remove takes the i-th idle connection of h out.
func (p *pool) remove(h *hostPool, i int) {
	p.idle.remove(h.idle[i])
	copy(h.idle[i:], h.idle[i+1:])
	h.idle[len(h.idle)-1] = nil
	h.idle = h.idle[:len(h.idle)-1]
	p.count--
}

// closedByPeer learns that a connection was closed by its host, or spoken on, while it was idle or as it was used again.
func (p *pool) closedByPeer(cn *conn) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.host(cn.host).doubt(now.Sub(cn.since), now)
}

// giveUp closes the n connections that have been idle for the longest, and returns how many there were.
func (p *pool) giveUp(n int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.giveUpLocked(n)
}

func (p *pool) giveUpLocked(n int) int {
	for i := range n {
		cn := p.idle.first
		if cn == nil {
			return i
		}
		p.remove(p.hosts[cn.host], 0) // the longest idle one of all is that of its host
		_ = cn.Close()
	}
	return n
}

// reap closes what has been idle for too long, and looks whether hosts keep connections for longer than is known.
func (p *pool) reap() {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for host, h := range p.hosts {
		p.reapHost(h, now)
		if len(h.idle) == 0 && h.keep == keepUnknown && h.doubts == 0 {
			delete(p.hosts, host)
		}
		if n++; n%reapAtOnce == 0 { // a look is a system call or more: let requests in between
			p.mu.Unlock()
			p.mu.Lock()
		}
	}
	p.reaper = nil
	if p.count > 0 && !p.closed {
		p.reaper = time.AfterFunc(reapEvery, p.reap)
	}
}

func (p *pool) reapHost(h *hostPool, now time.Time) {
	h.settle(now)
	for len(h.idle) > 0 {
		cn := h.idle[0]
		idle := now.Sub(cn.since)
		switch {
		case idle < keepMost && now.Before(cn.replaceAt) && idle < h.keeps(cn):
			return
		case idle < keepMost && now.Before(cn.replaceAt) && !cn.said && h.doubted.IsZero() && cn.raw != nil && cn.alive():
			h.keep = idle
			return
		}
		p.remove(h, 0)
		_ = cn.Close()
	}
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.giveUpLocked(p.count)
	if p.reaper != nil {
		p.reaper.Stop()
		p.reaper = nil
	}
}

// idleList is a list of idle connections, linked through themselves.
type idleList struct{ first, last *conn }

func (l *idleList) push(cn *conn) {
	cn.before, cn.after = l.last, nil
	if l.last == nil {
		l.first = cn
	} else {
		l.last.after = cn
	}
	l.last = cn
}

func (l *idleList) remove(cn *conn) {
	if cn.before == nil {
		l.first = cn.after
	} else {
		cn.before.after = cn.after
	}
	if cn.after == nil {
		l.last = cn.before
	} else {
		cn.after.before = cn.before
	}
	cn.before, cn.after = nil, nil
}
