package http1

import (
	"sync"
	"time"
)

// How long idle connections are kept.
const (
	// defaultKeep is below 5 s, after which common servers close an idle connection.
	defaultKeep = 4 * time.Second
	maxKeep     = 60 * time.Second
	minKeep     = 5 * time.Millisecond // below it, keeping a connection is not worth it
	// A host that closes a connection earlier than expected is distrusted for a while, and for longer each time.
	minDistrust = 10 * time.Second
	maxDistrust = 5 * time.Minute

	reapEvery = time.Second
	reapBatch = 32     // hosts
	maxHosts  = 16_384 // whose keep time is remembered, besides those with idle connections
)

// pool holds idle connections and remembers how long their hosts keep them.
type pool struct {
	maxIdle, maxOrphans int

	mu     sync.Mutex
	hosts  map[Host]*hostPool
	idle   idleList    // of all hosts, the longest idle one first
	count  int         // of all idle connections
	reaper *time.Timer // runs while there are idle connections
	closed bool

	orphans int // of all hosts, see hostOrphans
}

// hostPool holds the idle connections to one host.
type hostPool struct {
	idle []*conn // in the order of their return

	waiting  []*waiter // in the order of their arrival
	dials    []*waiter // those whose dial is in progress, without dials that began longer than maxPatience ago
	patience time.Duration
	orphans  int // see hostOrphans

	// keep is the longest time for which the host has been observed to keep an idle connection.
	keep          time.Duration
	distrustUntil time.Time     // until then keep does not grow; zero = no distrust
	distrust      time.Duration // duration of the last distrust
	distrustEnded time.Time     // when the last distrust ended
}

// endDistrust ends a distrust that has expired.
func (h *hostPool) endDistrust(now time.Time) {
	if !h.distrustUntil.IsZero() && !now.Before(h.distrustUntil) {
		h.distrustUntil, h.distrustEnded = time.Time{}, now
		h.keep = max(h.keep, defaultKeep)
	}
}

// closedEarly records that the host closed a connection after it was idle for this long.
func (h *hostPool) closedEarly(idle time.Duration, now time.Time) {
	h.endDistrust(now)
	h.keep = min(h.keep, idle*4/5)
	if !h.distrustUntil.IsZero() {
		return
	}
	if now.Sub(h.distrustEnded) > maxDistrust {
		h.distrust = 0
	}
	h.distrust = min(max(2*h.distrust, minDistrust), maxDistrust)
	h.distrustUntil = now.Add(h.distrust)
}

// init prepares the pool for maxConns connections. 0 means no bound.
func (p *pool) init(maxIdle, maxConns int) {
	p.maxIdle, p.maxOrphans, p.hosts = maxIdle, maxOrphans, map[Host]*hostPool{}
	if maxConns > 0 {
		p.maxOrphans = max(1, min(maxOrphans, maxConns/orphanShare))
	}
}

// keeps returns the idle time up to which cn can be reused.
func (h *hostPool) keeps(cn *conn) time.Duration {
	switch {
	case !cn.announced:
		return h.keep
	case h.distrustUntil.IsZero():
		return cn.keep
	}
	return min(cn.keep, h.keep)
}

// nextCheck returns the idle time at which a connection is checked to observe whether the host keeps it for longer than
// is known. Most hosts of a large fleet are called rarely, so a check each second would cost a lot.
func (h *hostPool) nextCheck() time.Duration { return min(h.keep+h.keep/8, maxKeep-reapEvery) }

// take removes and returns the most recently used idle connection to host, or nil.
func (p *pool) take(host Host, now time.Time) *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.takeLocked(host, now)
}

func (p *pool) takeLocked(host Host, now time.Time) *conn {
	h := p.hosts[host]
	if h == nil {
		return nil
	}
	h.endDistrust(now)
	for len(h.idle) > 0 {
		cn := h.idle[len(h.idle)-1]
		if now.Sub(cn.since) >= h.keeps(cn) {
			return nil // the others have been idle for longer
		}
		p.remove(h, len(h.idle)-1)
		if now.Before(cn.replaceAt) {
			return cn
		}
		_ = cn.Close()
	}
	return nil
}

// put passes a connection to a waiting request, or adds it to the pool.
func (p *pool) put(cn *conn, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.putLocked(cn, now)
}

func (p *pool) putLocked(cn *conn, now time.Time) {
	cn.since = now
	// If the socket cannot be checked, unexpected data would count as the reply to the next request.
	if !rawIO || p.closed || !now.Before(cn.replaceAt) {
		_ = cn.Close()
		return
	}
	h := p.host(cn.host)
	h.endDistrust(now)
	if h.keeps(cn) < minKeep {
		_ = cn.Close()
		return
	}
	if p.give(h, cn) {
		return
	}
	if p.count >= p.maxIdle {
		p.closeOldestLocked(1)
	}
	cn.used = true // the peer may close it from now on
	h.idle = append(h.idle, cn)
	p.idle.push(cn)
	p.count++
	if p.reaper == nil {
		p.reaper = time.AfterFunc(reapEvery, p.reap)
	}
}

// host returns the pool of host and creates it if needed.
func (p *pool) host(host Host) *hostPool {
	h := p.hosts[host]
	if h != nil {
		return h
	}
	if len(p.hosts) >= maxHosts {
		tries, now := 16, time.Now()
		for other, old := range p.hosts {
			if old.dropOldDials(now); old.unused() {
				delete(p.hosts, other)
				break
			}
			if tries--; tries == 0 {
				break // nearly all hosts have idle connections, and these are bounded
			}
		}
	}
	h = &hostPool{keep: defaultKeep, patience: maxPatience}
	p.hosts[host] = h
	return h
}

// unused reports whether no connection is idle, no request waits, and no dial counts or is an orphan.
func (h *hostPool) unused() bool {
	return len(h.idle) == 0 && len(h.waiting) == 0 && len(h.dials) == 0 && h.orphans == 0
}

// forget drops the pool of host if it is unused and has learned nothing about the host.
func (p *pool) forget(host Host, h *hostPool, now time.Time) {
	h.dropOldDials(now)
	if h.unused() && h.keep == defaultKeep && h.distrust == 0 && h.patience == maxPatience {
		delete(p.hosts, host)
	}
}

// remove removes the i-th idle connection of h.
func (p *pool) remove(h *hostPool, i int) {
	p.idle.remove(h.idle[i])
	copy(h.idle[i:], h.idle[i+1:])
	h.idle[len(h.idle)-1] = nil
	h.idle = h.idle[:len(h.idle)-1]
	p.count--
}

// closedByPeer records that a host closed a connection, or sent unexpected data on it, while it was idle or being
// reused.
func (p *pool) closedByPeer(cn *conn) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.host(cn.host).closedEarly(now.Sub(cn.since), now)
}

// closeOldest closes the n connections that have been idle for longest. It returns how many it closed.
func (p *pool) closeOldest(n int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closeOldestLocked(n)
}

func (p *pool) closeOldestLocked(n int) int {
	for i := range n {
		cn := p.idle.first
		if cn == nil {
			return i
		}
		p.remove(p.hosts[cn.host], 0) // the longest idle of all is also the longest idle of its host
		_ = cn.Close()
	}
	return n
}

// reap closes connections that have been idle for too long. It also checks whether hosts keep connections for longer
// than is known.
func (p *pool) reap() {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for host, h := range p.hosts {
		p.reapHost(h, now)
		h.patience = min(2*h.patience, maxPatience)
		p.forget(host, h, now)
		if n++; n%reapBatch == 0 { // checks make system calls; let requests in
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
	h.endDistrust(now)
	for len(h.idle) > 0 {
		cn := h.idle[0]
		idle := now.Sub(cn.since)
		if idle < maxKeep && now.Before(cn.replaceAt) {
			learns := !cn.announced && h.distrustUntil.IsZero() && cn.raw != nil
			if idle < h.keeps(cn) || learns && idle < h.nextCheck() {
				return
			}
			if learns && cn.alive() {
				h.keep = idle
				return
			}
		}
		p.remove(h, 0)
		_ = cn.Close()
	}
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.closeOldestLocked(p.count)
	if p.reaper != nil {
		p.reaper.Stop()
		p.reaper = nil
	}
}

// idleList is an intrusive linked list of idle connections.
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
