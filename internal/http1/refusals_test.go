package http1

import (
	"context"
	"errors"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

var errRefused = &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}

// TestRefusalsAreShared lets dials begin together on one processor, so that the first one is refused before the others
// go on.
func TestRefusalsAreShared(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var dials atomic.Int32
	c := newClient(t, func(cfg *Config) {
		cfg.Dial = func(context.Context, string, string) (net.Conn, error) {
			dials.Add(1)
			return nil, errRefused
		}
	})
	post := func() {
		_, err := c.Post(context.Background(), soon(), Host{Address: "peer:80"}, []byte(request), nil)
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%v, want a refusal", err)
		}
	}
	for range 3 {
		post()
	}
	if n := dials.Load(); n != 3 {
		t.Fatalf("%d dials one after the other, want 3: a refusal counts for no later dial", n)
	}
	const together = 64
	dials.Store(0)
	var all sync.WaitGroup
	for range together {
		all.Go(post)
	}
	all.Wait()
	if n := dials.Load(); n > together/2 {
		t.Errorf("%d of %d dials that began together were made", n, together)
	}
}

// TestRefusals checks for which dials a refusal counts.
func TestRefusals(t *testing.T) {
	r := refusals{addresses: map[string]refusal{}}
	r.ended("a:80", errRefused)
	if err := r.share("a:80"); err != nil {
		t.Errorf("a dial that began after the refusal has %v", err)
	}
	r.addresses["a:80"] = refusal{time.Now().Add(time.Hour), errRefused} // the answer to a dial that is under way
	if err := r.share("a:80"); !errors.Is(err, errRefused) {
		t.Errorf("a dial that began before the refusal has %v", err)
	}
	if err := r.share("b:80"); err != nil {
		t.Errorf("a dial of another address has %v", err)
	}
	for _, other := range []error{nil, os.ErrDeadlineExceeded, syscall.ECONNRESET} {
		r.ended("a:80", errRefused)
		r.ended("a:80", other)
		if _, refuses := r.last("a:80"); refuses {
			t.Errorf("the address refuses after %v", other)
		}
	}
	for i := range 2 * maxRefusals {
		r.ended(string(rune(i)), errRefused)
	}
	if n := len(r.addresses); n > maxRefusals {
		t.Errorf("%d addresses are remembered", n)
	}
}
