package http1

import (
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// maxRefusals is the number of refusing addresses that are remembered.
const maxRefusals = 10_000

// refusals lets dials that begin together share one refused connection. If an address refused the last dial, the next
// one first lets other goroutines that are about to dial the address begin. The first of them dials, and those that
// began before it was refused return its error. So an outage of a host with many endpoints costs a fraction of the
// dials. A refusal never counts for a dial that begins after it.
type refusals struct {
	count     atomic.Int64 // of addresses
	mu        sync.RWMutex
	addresses map[string]refusal // those whose last dial was refused
}

type refusal struct {
	at  time.Time // of the answer
	err error
}

// share returns the error of a dial of the same address that is refused after share is called. If it returns nil, the
// caller dials.
func (r *refusals) share(address string) error {
	if r.count.Load() == 0 {
		return nil
	}
	began := time.Now()
	if _, refuses := r.last(address); !refuses {
		return nil
	}
	runtime.Gosched()
	if last, refuses := r.last(address); refuses && last.at.After(began) {
		return last.err
	}
	return nil
}

func (r *refusals) last(address string) (refusal, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	last, ok := r.addresses[address]
	return last, ok
}

// ended records the result of a dial. If the dial was refused, and the one before it too, it returns the time of the
// refusal: the error also counts for requests that waited for a dial before that time. Otherwise it returns zero.
func (r *refusals) ended(address string, err error) (shared time.Time) {
	refused := errors.Is(err, syscall.ECONNREFUSED)
	if !refused && r.count.Load() == 0 {
		return shared
	}
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	_, known := r.addresses[address]
	if refused && known {
		shared = now
	}
	if refused && (known || len(r.addresses) < maxRefusals) {
		r.addresses[address] = refusal{now, err}
	} else {
		delete(r.addresses, address)
	}
	r.count.Store(int64(len(r.addresses)))
	return shared
}
