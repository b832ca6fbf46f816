package http1

import (
	"slices"
	"time"
)

// A request that finds no idle connection dials, or waits for a connection if the host has enough dials in progress. It
// takes the first connection that it gets: that of its own dial, or one that another request returns. Without the
// bound, a burst of requests to a host would open a connection for each of them, and over TLS the handshakes would use
// the processor time that the first connections need to serve the burst.
const (
	// maxDials is the number of dials of a host in progress. Those older than maxPatience do not count.
	maxDials = 8
	// A request waits for maxPatience before it dials regardless of maxDials. For a host where waiting was in vain, such
	// as one whose dials hang or that keeps no connections, the next requests wait for shorter, down to minPatience.
	maxPatience = 256 * time.Millisecond
	minPatience = time.Millisecond
	// An orphan is a dial whose request has taken another connection. Each holds a descriptor that no request in flight
	// accounts for, so more than hostOrphans of a host are cancelled, and more than maxOrphans of all hosts, or than
	// one in orphanShare of [Config.MaxConns] if that is less. A host whose dials hang cannot use up the share of others.
	hostOrphans = 4
	maxOrphans  = 32
	orphanShare = 8
)

// waiter is a request that waits for a connection.
type waiter struct {
	dial   func()          // starts a dial for it, and sets cancel
	cancel func()          // ends that dial
	ready  chan connResult // receives one result
	since  time.Time       // when it began to wait

	dials     bool      // its dial was started
	dialled   time.Time // when the dial began, if that counts in hostPool.dials
	orphan    bool      // it has taken another connection while its dial was in progress
	cancelled bool      // and the dial was cancelled
}

// connResult is the result of a wait.
type connResult struct {
	cn  *conn
	err error
}

// wait returns an idle connection to host, or adds w to the waiters and returns nil and how long w should wait before
// it calls waitedInVain. It starts the dial of w if the host has few in progress.
func (p *pool) wait(host Host, w *waiter) (cn *conn, patience time.Duration) {
	w.since = time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if cn := p.takeLocked(host, w.since); cn != nil {
		return cn, 0
	}
	h := p.host(host)
	h.waiting = append(h.waiting, w)
	h.startDials(w.since)
	return nil, h.patience
}

// waitedInVain starts the dial of w, unless w has one.
func (p *pool) waitedInVain(host Host, w *waiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.hosts[host]
	if h == nil || w.dials || !slices.Contains(h.waiting, w) {
		return
	}
	h.patience = max(h.patience/2, minPatience)
	w.dials = true
	w.dial()
}

// leave removes w from the waiters. It returns false if w has a result, or a dial that will have one.
func (p *pool) leave(host Host, w *waiter) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.hosts[host]
	return h != nil && !w.dials && h.remove(w)
}

// dialled ends the dial of w. If w has taken another connection, the new one goes to another waiter or becomes idle.
// An error also goes to the waiters without a dial that began to wait before shared.
func (p *pool) dialled(host Host, w *waiter, r connResult, shared time.Time) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.host(host)
	if w.orphan {
		p.orphans--
		h.orphans--
	}
	// A cancelled dial counts until it is old. Otherwise each returned connection could start and cancel one.
	if i := slices.Index(h.dials, w); i >= 0 && !w.cancelled {
		h.dials = slices.Delete(h.dials, i, i+1)
	}
	switch {
	case h.remove(w):
		w.ready <- r
	case r.cn != nil && !p.give(h, r.cn):
		p.putLocked(r.cn, now)
	}
	if !shared.IsZero() {
		h.waiting = slices.DeleteFunc(h.waiting, func(w *waiter) bool {
			before := !w.dials && w.since.Before(shared)
			if before {
				w.ready <- r
			}
			return before
		})
	}
	h.startDials(now)
	p.forget(host, h, now)
}

// dropOldDials stops counting the dials that began maxPatience ago.
func (h *hostPool) dropOldDials(now time.Time) {
	for len(h.dials) > 0 && now.Sub(h.dials[0].dialled) >= maxPatience {
		h.dials = slices.Delete(h.dials, 0, 1)
	}
}

// startDials starts dials for waiters, the longest waiting first.
func (h *hostPool) startDials(now time.Time) {
	h.dropOldDials(now)
	for _, w := range h.waiting {
		if len(h.dials) >= maxDials {
			return
		}
		if !w.dials {
			w.dials, w.dialled = true, now
			h.dials = append(h.dials, w)
			w.dial()
		}
	}
}

// give passes cn, a connection to the host of h, to the request that has waited for longest. It returns false if none
// waits.
func (p *pool) give(h *hostPool, cn *conn) bool {
	if len(h.waiting) == 0 {
		return false
	}
	w := h.waiting[0]
	h.remove(w)
	switch {
	case !w.dials:
		h.patience = min(2*h.patience, maxPatience)
	case p.orphans < p.maxOrphans && h.orphans < hostOrphans:
		p.orphans++
		h.orphans++
		w.orphan = true
	default:
		w.cancelled = true
		w.cancel()
	}
	w.ready <- connResult{cn, nil}
	return true
}

// remove removes w from the waiters. It returns false if w is not one of them.
func (h *hostPool) remove(w *waiter) bool {
	i := slices.Index(h.waiting, w)
	if i < 0 {
		return false
	}
	if i == 0 { // the usual case
		h.waiting[0] = nil
		h.waiting = h.waiting[1:]
	} else {
		h.waiting = slices.Delete(h.waiting, i, i+1)
	}
	return true
}
