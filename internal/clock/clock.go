// Package clock returns the time of day, and does not follow a machine's clock that is set to a wrong time.
//
// An attempt is never early, and its window never closes early. So a jump of the machine's clock, made by an operator
// or a wrong time server, must not count as elapsed time. The monotonic clock measures the time that passes. A clock on
// another machine decides whether the jump corrected the machine's clock.
package clock

import (
	"context"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/outage"
)

const (
	interval = time.Second
	slack    = time.Second // the machine's clock is followed if it is off by no more than this between two looks
)

// witness returns the time of another machine's clock.
type witness func(ctx context.Context) (time.Time, error)

// Clock is the time of day. Now may be called from any goroutine.
type Clock struct {
	machine func() anchor
	anchor  atomic.Pointer[anchor]
	off     time.Duration // of the machine's clock from this one, as last logged
	log     *zap.Logger
	asking  *outage.Outage
}

// anchor is a time of day and when it was, by the monotonic clock. Both are of one reading: between two readings the
// process may stand still, and this clock would then be behind those of other instances until the next look.
type anchor struct{ day, at time.Time }

// read takes one reading of the machine's clock.
func read() anchor {
	now := time.Now()
	return anchor{now.Round(0), now}
}

// to returns the time of day at a time of the monotonic clock.
func (a anchor) to(at time.Time) time.Time { return a.day.Add(at.Sub(a.at)) }

// New returns a Clock that starts with the machine's time.
func New(log *zap.Logger) *Clock {
	c := &Clock{machine: read, log: log, asking: outage.New(log,
		"the machine's clock was changed and Redis cannot confirm the new time: the previous time is kept",
		"the machine's clock is confirmed again")}
	c.follow(c.machine())
	return c
}

// Now returns the time of day. It has no monotonic reading: differences are those of the wall clock.
func (c *Clock) Now() time.Time {
	a := c.anchor.Load()
	return a.day.Add(time.Since(a.at))
}

func (c *Clock) follow(a anchor) { c.anchor.Store(&a) }

// Run follows the machine's clock until ctx ends. If it was changed, ask decides.
func (c *Clock) Run(ctx context.Context, ask witness) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			c.look(ctx, ask)
		}
	}
}

func (c *Clock) look(ctx context.Context, ask witness) {
	machine := c.machine()
	off := machine.day.Sub(c.anchor.Load().to(machine.at))
	if near(off, 0) {
		if c.off != 0 {
			c.log.Info("the machine's clock is right again")
		}
		c.off = 0
		c.asking.Recover()
		c.follow(machine)
		return
	}
	there, err := ask(ctx)
	if err != nil {
		if ctx.Err() == nil {
			c.asking.Fail(err, zap.Duration("set_by", off))
		}
		return
	}
	c.asking.Recover()
	if here := there.Sub(c.Now()); (here - off).Abs() < here.Abs() {
		c.log.Warn("the machine's clock was changed to the right time according to Redis: following it",
			zap.Duration("set_by", off))
		c.off = 0
		c.follow(c.machine())
		return
	}
	if !near(off, c.off) {
		c.log.Error("the machine's clock was changed to a wrong time according to Redis: "+
			"not following it; correct it before starting other processes",
			zap.Duration("off", off))
		c.off = off
	}
}

func near(a, b time.Duration) bool { return (a - b).Abs() <= slack }
