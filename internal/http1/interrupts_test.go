//go:build unix

package http1

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/smshooks/smshooks/test/peer"
)

// registered is a context that counts the functions that wait for its end.
type registered struct {
	context.Context
	functions atomic.Int32
}

func (r *registered) AfterFunc(f func()) func() bool {
	r.functions.Add(1)
	return context.AfterFunc(r.Context, f)
}

// Value hides that the context is one of package context, for which AfterFunc would not be called.
func (*registered) Value(any) any { return nil }

// TestContextIsWatchedOnce checks that requests at the same time share one registration with their context, and that
// its end interrupts all of them and no later one.
func TestContextIsWatchedOnce(t *testing.T) {
	const requests = 5
	p := peer.New(t, func(c net.Conn, n int32) bool {
		if n <= requests {
			return peer.Hangs("")(c, n)
		}
		return peer.Says(fine)(c, n)
	})
	c := newClient(t, nil)
	// Every request dials. A dial that hangs would register, too.
	ctx, cancel := context.WithCancel(t.Context())
	shared := &registered{Context: ctx}
	var all sync.WaitGroup
	for range requests {
		all.Go(func() {
			cn, _, err := c.dial(t.Context(), soon(), Host{Address: p.Addr})
			if err != nil {
				t.Error(err)
				return
			}
			if status, _, err := c.request(shared, soon(), cn, []byte(request), nil); status != 0 || err == nil {
				t.Errorf("%d, %v of an interrupted request", status, err)
			}
		})
	}
	waitFor(t, func() bool { return p.Requests.Load() == requests })
	if n := shared.functions.Load(); n != 1 {
		t.Errorf("%d functions wait for the end of the context of %d requests, want 1", n, requests)
	}
	cancel()
	all.Wait()
	if _, err := c.Post(ctx, soon(), Host{Address: p.Addr}, []byte(request), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want a cancelled request", err)
	}
	mustPost(t, c, Host{Address: p.Addr})
	mustPost(t, c, Host{Address: p.Addr})
	if n := len(c.interrupts.watched); n != 0 {
		t.Errorf("%d contexts are watched without a request", n)
	}
}
