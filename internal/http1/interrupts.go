package http1

import (
	"context"
	"sync"
)

// interrupts ends the requests whose context has ended. Many requests run under the same context, so it registers a
// context once for all of them: context.AfterFunc and its stop function for each request cost 3% of a delivery.
type interrupts struct {
	mu      sync.Mutex
	watched map[context.Context]*watch
}

// watch holds the connections of the requests in progress under a context.
type watch struct {
	ctx   context.Context //nolint:containedctx // what is watched
	conns []*conn
	stop  func() bool
	ended bool // the context has ended, and the connections were interrupted
}

// begin makes the end of ctx interrupt cn until end is called.
func (i *interrupts) begin(ctx context.Context, cn *conn) *watch {
	i.mu.Lock()
	defer i.mu.Unlock()
	w := i.watched[ctx]
	if w == nil {
		w = &watch{ctx: ctx}
		w.stop = context.AfterFunc(ctx, func() { i.interrupt(w) })
		i.watched[ctx] = w
	}
	cn.watched = len(w.conns)
	w.conns = append(w.conns, cn)
	return w
}

// end ends what begin began. It returns false if cn was interrupted.
func (i *interrupts) end(w *watch, cn *conn) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	last := len(w.conns) - 1
	w.conns[cn.watched] = w.conns[last]
	w.conns[cn.watched].watched = cn.watched
	w.conns[last] = nil
	w.conns = w.conns[:last]
	if last == 0 && !w.ended {
		w.stop()
		delete(i.watched, w.ctx)
	}
	return !w.ended
}

func (i *interrupts) interrupt(w *watch) {
	i.mu.Lock()
	defer i.mu.Unlock()
	w.ended = true
	if i.watched[w.ctx] == w {
		delete(i.watched, w.ctx)
	}
	for _, cn := range w.conns {
		cn.interrupt()
	}
}
