package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/smshooks/smshooks/tools/bench/result"
)

// scenario is one experiment.
type scenario struct {
	name, title, how string
	run              func(ctx context.Context, b *bench, s *result.Scenario) error
}

// The goals in docs/performance.md.
const (
	goalCPU       = 12.0   // µs per delivery
	goalRate      = 75_000 // deliveries per second
	goalRSS       = 120.0  // MB with 1,000 users
	goalRSSMany   = 300.0  // MB with 100,000 users
	goalSpread    = 15.0   // percent between users, partitions, parked retries
	goalHalfP50   = 3.0    // ms
	goalHalfP99   = 15.0   // ms
	goalSlowP50   = 0.5    // ms at 1,000/s
	goalSlowP99   = 2.0    // ms at 1,000/s
	goalSlowCPU   = 0.8    // of the hand-written consumer's, at 1,000/s
	goalSlowerCPU = 0.6    // the same at 100/s and at 10/s
	goalIdle      = 0.5    // percent of a core
	goalParking   = 50_000 // events parked per second
	goalStart     = 3.0    // seconds to the first delivery
	goalParkedCPU = 1.0    // percent of a core more than without parked retries
)

const baseUsers = 1000

func scenarios() []scenario {
	return []scenario{
		{"throughput", "a backlog drained as fast as it goes", "A DLR topic of 6 partitions holds the backlog, 1,000 users taking turns, before the subject starts. " +
			"All users' URLs have one host and port and a path each; in the row with own hosts each user has an address of its own in 127.0.0.0/8. " +
			"The limit is the bare client's CPU per request plus what fetching, decoding and encoding cost by themselves.", throughput},
		{"users", "the number of users", "The same backlog spread over more or fewer users, whose settings the service reads from the config topic first.", users},
		{"partitions", "the number of partitions", "The same backlog in topics of 1, 6 and 48 partitions, with 1,000 users.", partitions},
		{"parked", "retries that wait", "The same backlog while the retry topic of the first step holds records that are due in six hours. " +
			"Idle CPU is taken over 10 s, 4 s after the backlog is done, in percent of one core.", parked},
		{"latency", "event to delivery", "A producer in the benchmark's process (no linger) writes events at a steady pace, each with its moment in nanoseconds in the body; " +
			"the receiver takes the difference when it has read the request. Half load is half of what the subject itself did with a backlog, a quarter likewise; " +
			"but then no producer took its part of the processors, and the broker had nothing to store, so that half load may be more than the machine can bear. The first five seconds don't count, in which the load sets in. " +
			"Where nothing comes, idle CPU is taken over 10 s, in percent of one core; every topic that a subject consumes has 6 partitions: 192 in all for smshooks, 6 for the hand-written consumer.", latency},
		{"outage", "every endpoint refuses", "All URLs point to a closed port. Counted is what the retry topic holds, by its end offsets, from the last look that saw none there to the first that saw all (25 ms between looks).", outage},
		{"start", "start to first delivery", "From the fork of `serve` to the first request, with a backlog of 1,000 events waiting; Redis empty (a fresh key prefix) and full (left by the start before).", start},
		{"tls", "HTTPS", "The backlog with a TLS 1.3 receiver (P-256 certificate, checked): connections kept alive, and a receiver that closes after every reply, so that each request needs a handshake.", secure},
		{"fleet", "thousands of hosts far away", fleetHow, roam},
	}
}

// backlog returns an env with users and a backlog of count events for them.
func (b *bench) backlog(ctx context.Context, partitions, users, count int, url func(int) string) (*env, error) {
	w, err := b.newEnv(ctx, partitions)
	if err != nil {
		return nil, err
	}
	if err := w.configure(ctx, users, url); err != nil {
		return nil, err
	}
	return w, w.fill(ctx, count, users)
}

// oursIn lets the service drain the backlog of an env.
func (b *bench) oursIn(w *env, t *target, count int, keep func(*child, result.Figures) error) func(context.Context) (result.Figures, error) {
	return func(ctx context.Context) (result.Figures, error) {
		before, err := w.written(ctx, "dlr-overflow")
		if err != nil {
			return nil, err
		}
		w.again()
		f, err := b.drain(ctx, t, 0, count, func() (*child, error) { return b.serve(w) }, keep)
		if err != nil {
			return nil, err
		}
		after, err := w.written(ctx, "dlr-overflow")
		if after > before {
			f[result.Overflowed] = float64(after - before)
		}
		return f, err
	}
}

// handIn lets the hand-written consumer drain the backlog of an env.
func (b *bench) handIn(w *env, t *target, count int) func(context.Context) (result.Figures, error) {
	return func(ctx context.Context) (result.Figures, error) {
		w.again()
		return b.drain(ctx, t, 0, count, func() (*child, error) { return b.consume(w, t) }, nil)
	}
}

// bareAt runs the bare client, which needs no env.
func (b *bench) bareAt(t *target, count int) func(context.Context) (result.Figures, error) {
	return func(ctx context.Context) (result.Figures, error) {
		return b.drain(ctx, t, 0, count, func() (*child, error) { return b.hammer(t, count) }, nil)
	}
}

// limitIn adds the costs of fetching, decoding and encoding to the bare client's last run.
func (b *bench) limitIn(w *env, s *result.Scenario, condition string, count int) func(context.Context) (result.Figures, error) {
	return func(ctx context.Context) (result.Figures, error) {
		ctx, cancel := context.WithTimeout(ctx, longest)
		defer cancel()
		c, err := b.spawn("parts", b.self, nil, "parts", "--kafka="+b.kafka.addr, "--topic="+w.topic("dlr"), fmt.Sprintf("--requests=%d", count))
		if err != nil {
			return nil, err
		}
		defer c.kill()
		note, err := c.next(ctx, "done")
		if err != nil {
			return nil, err
		}
		f := note.Figures
		if runs := s.Row(bareClient, condition).Runs; len(runs) > 0 {
			f[result.WriteRead] = runs[len(runs)-1][result.CPU]
		}
		f[result.CPU] = f[result.WriteRead] + f[result.Fetch] + f[result.Decode] + f[result.Encode]
		return f, nil
	}
}

func throughput(ctx context.Context, b *bench, s *result.Scenario) error {
	w, err := b.backlog(ctx, b.base(), baseUsers, b.Records, b.plain.url)
	if err != nil {
		return err
	}
	hosts, err := b.newEnv(ctx, b.base())
	if err != nil {
		return err
	}
	if err := hosts.configure(ctx, baseUsers, b.plain.ownHost); err != nil {
		return err
	}
	few := b.Records / 2
	if err := hosts.fill(ctx, few, baseUsers); err != nil {
		return err
	}
	const one, own = "one host", "own hosts"
	contests := []contest{
		{ours, one, b.oursIn(w, b.plain, b.Records, nil)},
		{hand, one, b.handIn(w, b.plain, b.Records)},
	}
	contests = append(contests, b.peersIn(w, b.plain, one, b.Records/3)...)
	err = b.alternate(ctx, s, append(contests,
		contest{bareClient, one, b.bareAt(b.plain, b.Records)},
		contest{limit, one, b.limitIn(w, s, one, b.Records)},
		contest{ours, own, b.oursIn(hosts, b.plain, few, nil)},
	)...)
	if err != nil {
		return err
	}
	for _, subject := range []string{ours, hand} {
		b.capacity[subject], _ = s.Median(subject, one, result.Rate)
	}
	s.Want("at most 12 CPU-µs per delivery", ours, one, result.CPU, true, goalCPU)
	s.Want("at least 75,000 deliveries per second", ours, one, result.Rate, false, goalRate)
	s.Want("peak RSS at most 120 MB", ours, one, result.RSS, true, goalRSS)
	s.Compare("CPU per delivery, smshooks to hand-written", result.CPU, ours, one, hand, one)
	s.Compare("CPU per delivery, smshooks to limit", result.CPU, ours, one, limit, one)
	s.Compare("deliveries per second, smshooks to hand-written", result.Rate, ours, one, hand, one)
	return errors.Join(b.remove(ctx, w.name), b.remove(ctx, hosts.name))
}

// part is the backlog of the scenarios that need a smaller one.
func (b *bench) part() int { return b.Records * 2 / 3 }

func counted(n int, what string) string { return result.Number(float64(n), 0) + " " + what }

// sweep runs the service in several envs, taking turns, and removes them.
func (b *bench) sweep(ctx context.Context, s *result.Scenario, envs []*env, cases []string, keep func(*child, result.Figures) error) error {
	var contests []contest
	for i, w := range envs {
		contests = append(contests, contest{ours, cases[i], b.oursIn(w, b.plain, b.part(), keep)})
	}
	err := b.alternate(ctx, s, contests...)
	for _, w := range envs {
		err = errors.Join(err, b.remove(ctx, w.name))
	}
	if spread, ok := s.Spread(ours, result.CPU); ok && err == nil {
		s.Judge("CPU per delivery within 15% over all cases (percent found)", 100*spread, true, goalSpread)
	}
	return err
}

func users(ctx context.Context, b *bench, s *result.Scenario) error {
	var (
		envs  []*env
		cases []string
	)
	for _, n := range b.Users {
		w, err := b.backlog(ctx, b.base(), n, b.part(), b.plain.url)
		if err != nil {
			return err
		}
		envs, cases = append(envs, w), append(cases, counted(n, "users"))
	}
	if err := b.sweep(ctx, s, envs, cases, nil); err != nil {
		return err
	}
	s.Want("peak RSS at most 120 MB with 1,000 users", ours, counted(1000, "users"), result.RSS, true, goalRSS)
	s.Want("peak RSS at most 300 MB with 100,000 users", ours, counted(100_000, "users"), result.RSS, true, goalRSSMany)
	return nil
}

// base is the default number of partitions. Creating them takes most of a quick run.
func (b *bench) base() int {
	if b.Quick {
		return 2
	}
	return 6
}

// partitions returns the counts of the scenario. Creating topics with 48 takes long.
func (b *bench) partitions() []int {
	if b.Quick {
		return []int{1, 3}
	}
	return []int{1, 6, 48}
}

func partitions(ctx context.Context, b *bench, s *result.Scenario) error {
	var (
		envs  []*env
		cases []string
	)
	for _, n := range b.partitions() {
		w, err := b.backlog(ctx, n, baseUsers, b.part(), b.plain.url)
		if err != nil {
			return err
		}
		envs, cases = append(envs, w), append(cases, counted(n, "partitions"))
	}
	return b.sweep(ctx, s, envs, cases, nil)
}

func parked(ctx context.Context, b *bench, s *result.Scenario) error {
	none, err := b.backlog(ctx, b.base(), baseUsers, b.part(), b.plain.url)
	if err != nil {
		return err
	}
	many, err := b.backlog(ctx, b.base(), baseUsers, b.part(), b.plain.url)
	if err != nil {
		return err
	}
	if err := many.park(ctx, b.Parked, baseUsers); err != nil {
		return err
	}
	idle := func(c *child, f result.Figures) error {
		resting, err := b.resting(ctx, c)
		maps.Copy(f, resting)
		return err
	}
	cases := []string{counted(0, "parked"), counted(b.Parked, "parked")}
	if err := b.sweep(ctx, s, []*env{none, many}, cases, idle); err != nil {
		return err
	}
	with, both := s.Median(ours, cases[1], result.Idle)
	if without, ok := s.Median(ours, cases[0], result.Idle); ok && both {
		s.Judge("parked retries cost at most 1% of a core while idle (percent more than without)", with-without, true, goalParkedCPU)
	}
	return nil
}

// pause waits while something is measured.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
