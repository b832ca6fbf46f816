package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/smshooks/smshooks/tools/bench/result"
)

// warm and measured are the times of the latency scenario before and during the measurement.
const (
	warm     = 5 * time.Second
	measured = 10 * time.Second
)

// fewest is the minimum number of measured events.
const fewest = 200

// running calls keep to measure a subject that has delivered the first events.
func (b *bench) running(ctx context.Context, w *env, first int, begin func() (*child, error), keep func(context.Context, *child) (result.Figures, error)) (result.Figures, error) {
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	if err := w.skip(ctx); err != nil {
		return nil, err
	}
	if err := b.plain.arm(ctx, 0, first); err != nil {
		return nil, err
	}
	c, err := begin()
	if err != nil {
		return nil, err
	}
	defer c.kill()
	if err := w.fill(ctx, first, baseUsers); err != nil {
		return nil, err
	}
	if _, err := b.plain.nextWhile(ctx, "done", c); err != nil {
		return nil, err
	}
	return keep(ctx, c)
}

// steady lets a subject deliver events that arrive at a rate.
func (b *bench) steady(w *env, rate func(context.Context) (float64, error), begin func() (*child, error)) func(context.Context) (result.Figures, error) {
	return func(ctx context.Context) (result.Figures, error) {
		perSecond, err := rate(ctx)
		if err != nil {
			return nil, err
		}
		return b.running(ctx, w, 1, begin, func(ctx context.Context, c *child) (result.Figures, error) {
			return b.atRate(ctx, w, c, perSecond)
		})
	}
}

// atRate measures a subject while events arrive at a rate.
func (b *bench) atRate(ctx context.Context, w *env, c *child, perSecond float64) (result.Figures, error) {
	skip, count := int(warm.Seconds()*perSecond), max(int(measured.Seconds()*perSecond), fewest)
	if b.Quick {
		skip, count = skip/4, min(count/6, int(perSecond))
	}
	if err := b.plain.arm(ctx, skip, count); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go func() {
		if err := w.pace(ctx, skip+count, perSecond, inTurn); err != nil {
			stop(err)
		}
	}()
	f, _, err := b.watch(ctx, b.plain, c, count)
	if err == nil {
		f[result.Sent] = perSecond
	}
	return f, err
}

// idle measures a subject without events.
func (b *bench) idle(w *env, begin func() (*child, error)) func(context.Context) (result.Figures, error) {
	return func(ctx context.Context) (result.Figures, error) {
		return b.running(ctx, w, 1, begin, b.resting)
	}
}

// resting measures the CPU of an idle process, in percent of a core.
func (b *bench) resting(ctx context.Context, c *child) (result.Figures, error) {
	settle, long := 4*time.Second, 10*time.Second
	if b.Quick {
		settle, long = settle/20, long/20
	}
	pause(ctx, settle)
	before, err := c.cpu()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	pause(ctx, long)
	after, err := c.cpu()
	return result.Figures{result.Idle: 100 * (after - before).Seconds() / time.Since(began).Seconds()}, err
}

// inTurn returns the user of the i-th event if the users take turns.
func inTurn(i int) int { return 1 + i%baseUsers }

func latency(ctx context.Context, b *bench, s *result.Scenario) error {
	w, err := b.newEnv(ctx, b.base())
	if err != nil {
		return err
	}
	if err := w.configure(ctx, baseUsers, b.plain.url); err != nil {
		return err
	}
	begin := map[string]func() (*child, error){
		ours: func() (*child, error) { return b.serve(w) },
		hand: func() (*child, error) { return b.consume(w, b.plain) },
	}
	part := func(subject string, of float64) func(context.Context) (float64, error) {
		return func(ctx context.Context) (float64, error) {
			if err := b.learnCapacity(ctx); err != nil {
				return 0, err
			}
			return b.capacity[subject] / of, nil
		}
	}
	const atHalf, atQuarter, at1000, at100, at10, nothing = "half load", "quarter load", "1,000 per second", "100 per second", "10 per second", "nothing comes"
	type measurement = func(context.Context) (result.Figures, error)
	both := func(condition string, run func(subject string) measurement) []contest {
		return []contest{{ours, condition, run(ours)}, {hand, condition, run(hand)}}
	}
	share := func(of float64) func(string) measurement {
		return func(subject string) measurement { return b.steady(w, part(subject, of), begin[subject]) }
	}
	load := func(perSecond float64) func(string) measurement {
		at := func(context.Context) (float64, error) { return perSecond, nil }
		return func(subject string) measurement { return b.steady(w, at, begin[subject]) }
	}
	err = b.alternate(ctx, s, slices.Concat(
		both(atHalf, share(2)), both(atQuarter, share(4)),
		both(at1000, load(1000)), b.peersAt(w, at1000, 1000),
		both(at100, load(100)), b.peersAt(w, at100, 100),
		both(at10, load(10)),
		both(nothing, func(subject string) measurement { return b.idle(w, begin[subject]) }),
	)...)
	if err != nil {
		return err
	}
	s.Want("p50 at most 3 ms at half load", ours, atHalf, result.P50, true, goalHalfP50)
	s.Want("p99 at most 15 ms at half load", ours, atHalf, result.P99, true, goalHalfP99)
	s.Want("p50 at most 0.5 ms at 1,000 per second", ours, at1000, result.P50, true, goalSlowP50)
	s.Want("p99 at most 2 ms at 1,000 per second", ours, at1000, result.P99, true, goalSlowP99)
	const ratio = "CPU per delivery at %s, smshooks to hand-written"
	s.WantRatio(fmt.Sprintf(ratio, at1000), result.CPU, ours, at1000, hand, at1000, goalSlowCPU)
	s.WantRatio(fmt.Sprintf(ratio, at100), result.CPU, ours, at100, hand, at100, goalSlowerCPU)
	s.WantRatio(fmt.Sprintf(ratio, at10), result.CPU, ours, at10, hand, at10, goalSlowerCPU)
	s.Want("idle: at most 0.5% of a core", ours, nothing, result.Idle, true, goalIdle)
	return b.remove(ctx, w.name)
}

// learnCapacity measures the service and the hand-written consumer with a backlog, unless the throughput scenario has
// done so.
func (b *bench) learnCapacity(ctx context.Context) error {
	if b.capacity[ours] > 0 {
		return nil
	}
	count := b.Records / 2
	w, err := b.backlog(ctx, b.base(), baseUsers, count, b.plain.url)
	if err != nil {
		return err
	}
	for subject, run := range map[string]func(context.Context) (result.Figures, error){
		ours: b.oursIn(w, b.plain, count, nil), hand: b.handIn(w, b.plain, count),
	} {
		f, err := run(ctx)
		if err != nil {
			return fmt.Errorf("capacity of %s: %w", subject, err)
		}
		b.capacity[subject] = f[result.Rate]
		b.say("  %s with a backlog: %s per second", subject, result.Number(f[result.Rate], 0))
	}
	return b.remove(ctx, w.name)
}

func outage(ctx context.Context, b *bench, s *result.Scenario) error {
	closed, err := closedPort()
	if err != nil {
		return err
	}
	count := b.part()
	const refused = "connection refused"
	run := func(ctx context.Context) (result.Figures, error) {
		w, err := b.backlog(ctx, b.base(), baseUsers, count, func(user int) string { return "http://" + closed + "/dlr/" + strconv.Itoa(user) })
		if err != nil {
			return nil, err
		}
		c, err := b.serve(w)
		if err != nil {
			return nil, err
		}
		defer c.kill()
		f, err := w.watchParking(ctx, c, int64(count))
		if err != nil {
			return nil, err
		}
		over, err := w.written(ctx, "dlr-overflow")
		if over > 0 {
			f[result.Overflowed] = float64(over)
		}
		return f, errors.Join(err, b.remove(ctx, w.name))
	}
	if err := b.alternate(ctx, s, contest{ours, refused, run}); err != nil {
		return err
	}
	s.Want("at least 50,000 events parked per second", ours, refused, result.Rate, false, goalParking)
	s.Want("peak RSS at most 120 MB", ours, refused, result.RSS, true, goalRSS)
	return nil
}

// closedPort returns a host:port without a listener, below the kernel's ephemeral range so that it stays so.
func closedPort() (string, error) {
	for port := 1; port < 1024; port++ {
		addr := "127.0.0.1:" + strconv.Itoa(port)
		conn, err := net.DialTimeout("tcp", addr, time.Second)
		if err != nil {
			return addr, nil
		}
		conn.Close()
	}
	return "", errors.New("no closed port below 1024 at 127.0.0.1")
}

// watchParking follows the retry topic until it holds count records. It counts from the start of the last check that
// saw none, so that the rate is too low rather than too high: a check can take long on a busy broker.
func (w *env) watchParking(ctx context.Context, c *child, count int64) (result.Figures, error) {
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	var (
		seen   int64
		began  time.Time
		before time.Duration
	)
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for seen < count {
		used, err := c.cpu()
		if err != nil {
			return nil, err
		}
		looked := time.Now()
		if seen, err = w.written(ctx, "dlr-retry-6h"); err != nil {
			return nil, err
		}
		if seen == 0 || began.IsZero() {
			began, before = looked, used
		}
		select {
		case <-tick.C:
		case <-c.ended:
			return nil, fmt.Errorf("%s ended: %s", c.name, c.tail())
		case <-ctx.Done():
			return nil, fmt.Errorf("%d of %d events are parked: %w", seen, count, context.Cause(ctx))
		}
	}
	took := time.Since(began)
	after, err := c.cpu()
	if err != nil {
		return nil, err
	}
	peak, err := c.peak()
	if err != nil {
		return nil, err
	}
	return result.Figures{
		result.Rate: float64(seen) / took.Seconds(), result.CPU: perEach(after-before, int(seen)), result.RSS: peak / 1e6,
	}, nil
}

func start(ctx context.Context, b *bench, s *result.Scenario) error {
	n := 0
	for _, u := range b.Users {
		n = max(n, u)
	}
	const count = 1000
	w, err := b.backlog(ctx, b.base(), n, count, b.plain.url)
	if err != nil {
		return err
	}
	run := func(empty bool) func(context.Context) (result.Figures, error) {
		return func(ctx context.Context) (result.Figures, error) {
			if empty {
				w.forget()
			}
			w.again()
			if err := b.plain.arm(ctx, 0, count); err != nil {
				return nil, err
			}
			ctx, cancel := context.WithTimeout(ctx, longest)
			defer cancel()
			c, err := b.serve(w)
			if err != nil {
				return nil, err
			}
			defer c.kill()
			f, note, err := b.watch(ctx, b.plain, c, count)
			if err != nil {
				return nil, err
			}
			return result.Figures{result.Start: note.First.Sub(c.born).Seconds(), result.RSS: f[result.RSS]}, nil
		}
	}
	empty, full := counted(n, "users, Redis empty"), counted(n, "users, Redis full")
	if err := b.alternate(ctx, s, contest{ours, empty, run(true)}, contest{ours, full, run(false)}); err != nil {
		return err
	}
	s.Want("at most 3 s to the first delivery, Redis empty", ours, empty, result.Start, true, goalStart)
	s.Want("at most 3 s to the first delivery, Redis full", ours, full, result.Start, true, goalStart)
	return b.remove(ctx, w.name)
}

func secure(ctx context.Context, b *bench, s *result.Scenario) error {
	for _, c := range []struct {
		name    string
		closing bool
		count   int
	}{{"TLS 1.3, kept alive", false, b.Records / 3}, {"TLS 1.3, a handshake per request", true, b.Records / 30}} {
		t, err := b.newTarget(ctx, true, c.closing)
		if err != nil {
			return err
		}
		err = b.secureAt(ctx, s, t, c.name, c.count, !c.closing)
		t.kill()
		if err != nil {
			return err
		}
		s.Compare("CPU per delivery, smshooks to hand-written: "+c.name, result.CPU, ours, c.name, hand, c.name)
		s.Compare("CPU per delivery, smshooks to limit: "+c.name, result.CPU, ours, c.name, limit, c.name)
	}
	return nil
}

// secureAt measures all subjects with a receiver; the peers only with one that keeps connections.
func (b *bench) secureAt(ctx context.Context, s *result.Scenario, t *target, name string, count int, kept bool) error {
	w, err := b.backlog(ctx, b.base(), baseUsers, count, t.url)
	if err != nil {
		return err
	}
	contests := []contest{
		{ours, name, b.oursIn(w, t, count, nil)},
		{hand, name, b.handIn(w, t, count)},
	}
	if kept {
		contests = append(contests, b.peersIn(w, t, name, b.Records/10)...)
	}
	err = b.alternate(ctx, s, append(contests,
		contest{bareClient, name, b.bareAt(t, count)},
		contest{limit, name, b.limitIn(w, s, name, count)},
	)...)
	return errors.Join(err, b.remove(ctx, w.name))
}
