// Package trouble logs a trouble when it begins and when it is over, however often it is met in between.
package trouble

import (
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// Trouble is one thing that may fail for a while. Its methods may be called from any goroutine.
type Trouble struct {
	log          *zap.Logger
	begins, ends string

	on atomic.Bool // read without the lock: Over is called on the road of events

	mu    sync.Mutex
	since time.Time
	times int
}

// New gives a trouble that is not there yet. begins is the warning when it is met, ends the line when it is over.
func New(log *zap.Logger, begins, ends string) *Trouble {
	return &Trouble{log: log, begins: begins, ends: ends}
}

// Met says that it was met: a warning with fields and the error the first time, lines at debug level from then on.
func (t *Trouble) Met(err error, fields ...zap.Field) {
	t.mu.Lock()
	first := !t.on.Load()
	if first {
		t.since, t.times = time.Now(), 0
		t.on.Store(true)
	}
	t.times++
	t.mu.Unlock()
	fields = append(fields, zap.Error(err))
	if first {
		t.log.Warn(t.begins, fields...)
	} else {
		t.log.Debug(t.begins, fields...)
	}
}

// Over says that what was tried succeeded.
func (t *Trouble) Over() {
	if !t.on.Load() {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.on.Load() {
		return // another one said so first
	}
	t.on.Store(false)
	t.log.Info(t.ends, zap.Duration("after", time.Since(t.since)), zap.Int("failed", t.times))
}
