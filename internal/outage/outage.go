// Package outage logs when something begins to fail and when it works again, however often it fails in between.
package outage

import (
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// Outage is something external that may fail for a while. Its methods may be called from any goroutine.
type Outage struct {
	log          *zap.Logger
	begins, ends string

	on atomic.Bool // read without the lock, because the pipeline calls Recover for each event

	mu    sync.Mutex
	since time.Time
	times int
}

// New returns an outage that has not begun. begins is the message of the warning when it begins, ends the message when
// it ends.
func New(log *zap.Logger, begins, ends string) *Outage {
	return &Outage{log: log, begins: begins, ends: ends}
}

// Fail records a failure. The first one of an outage is logged as a warning with fields and err, each further one at
// debug level.
func (o *Outage) Fail(err error, fields ...zap.Field) {
	o.mu.Lock()
	first := !o.on.Load()
	if first {
		o.since, o.times = time.Now(), 0
		o.on.Store(true)
	}
	o.times++
	o.mu.Unlock()
	fields = append(fields, zap.Error(err))
	if first {
		o.log.Warn(o.begins, fields...)
	} else {
		o.log.Debug(o.begins, fields...)
	}
}

// Recover records a success. It ends the outage, if there is one, and logs how long it lasted.
func (o *Outage) Recover() {
	if !o.on.Load() {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.on.Load() {
		return // another goroutine ended it first
	}
	o.on.Store(false)
	o.log.Info(o.ends, zap.Duration("after", time.Since(o.since)), zap.Int("failed", o.times))
}
