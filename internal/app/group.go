package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// group owns the goroutines of the process. It starts its members in order and stops them in reverse (ADR 0015).
type group struct {
	members  []member
	stopping context.Context // ends when the stop begins
	stop     context.CancelFunc
	failed   chan error // the first failure
}

// member is one part of a running process.
type member struct {
	name   string
	cancel context.CancelFunc
	done   chan struct{} // closed when its function has returned
}

// newGroup returns an empty group. Its stop begins when ctx ends or a member fails.
func newGroup(ctx context.Context) *group {
	g := &group{failed: make(chan error, 1)}
	g.stopping, g.stop = context.WithCancel(ctx)
	return g
}

// serve starts a member that the members after it need: its context ends when all of these have returned.
func (g *group) serve(name string, run func(context.Context) error) {
	g.start(context.Background(), name, run)
}

// work starts a member that has work to finish: its context ends as soon as the stop begins.
func (g *group) work(name string, run func(context.Context) error) {
	g.start(g.stopping, name, run)
}

// start calls run in a goroutine. An error other than the end of its context is a failure and stops the group; a nil
// error is not, since some members have nothing more to do.
func (g *group) start(parent context.Context, name string, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(parent)
	m := member{name, cancel, make(chan struct{})}
	g.members = append(g.members, m)
	go func() {
		defer close(m.done)
		if err := run(ctx); err != nil && (ctx.Err() == nil || !errors.Is(err, context.Canceled)) {
			g.fail(err)
		}
	}()
}

// fail stops the group. The first failure is what wait returns.
func (g *group) fail(err error) {
	select {
	case g.failed <- err:
	default:
	}
	g.stop()
}

// wait returns the first failure, or nil, once the stop has begun and all members have returned, the last started
// first. It does not wait longer than b.total for them.
func (g *group) wait(b budget, cutOff func()) error {
	<-g.stopping.Done()
	defer time.AfterFunc(b.servers, cutOff).Stop()
	late, cancel := context.WithTimeout(context.Background(), b.total)
	defer cancel()
	for _, m := range slices.Backward(g.members) {
		m.cancel()
		select {
		case <-m.done:
		case <-late.Done():
			g.fail(fmt.Errorf("shutdown.grace (%v) has passed: %s has not stopped", b.grace, m.name))
		}
	}
	select {
	case err := <-g.failed:
		return err
	default:
		return nil
	}
}

// budget divides shutdown.grace. All times count from the beginning of the stop.
type budget struct {
	grace    time.Duration
	api      time.Duration // limit for requests to the API
	pipeline time.Duration // limit for attempts and commits
	servers  time.Duration // limit for calls that wait for Kafka or Redis
	total    time.Duration // limit for everything
}

// commitMargin is how much longer than the grace the last commit may take if requests had to be cut off.
const commitMargin = 5 * time.Second

// budgetOf leaves the pipeline most of grace, and a little for the members that stop after it.
func budgetOf(grace time.Duration) budget {
	return budget{
		grace: grace, api: grace / 2, pipeline: grace - min(200*time.Millisecond, grace/10),
		servers: grace - min(100*time.Millisecond, grace/20), total: grace + commitMargin,
	}
}
