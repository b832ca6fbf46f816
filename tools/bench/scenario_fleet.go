package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/tools/bench/fleet"
	"github.com/smshooks/smshooks/tools/bench/result"
)

const fleetHow = "10,000 hosts with a name and a certificate each (TLS 1.3, P-256, an intermediate authority), one user each, whose shares follow Zipf's law: " +
	"the busiest gets 1% of 500 events per second, every second one less than one a minute. Hosts answer after a log-normal time (p50 80 ms, p99 1.5 s). " +
	"They close idle connections after 1, 5, 15 or 75 s or never, a fifth each; 2% hang, 1% refuse connections, 1% fail handshakes. " +
	"A small name server answers with a lifetime of 60 s; subjects find it in a resolv.conf of their own. " +
	"The hand-written consumer has 1,000 workers, keeps idle connections for 90 s, and does not wait for a batch before it polls the next one. " +
	"The first 70 seconds, in which it becomes known how long hosts keep connections, don't count; the next 60 do. " +
	"CPU is per reply. Rows of a class have the time from event to request. Lost are attempts whose connection the host closed before it replied."

// goalFleet is the CPU per delivery relative to the hand-written consumer.
const goalFleet = 0.5

// voyage is the size of the scenario.
type voyage struct {
	hosts          int
	rate           float64 // events per second
	warm, measured time.Duration
}

func (b *bench) voyage() voyage {
	if b.Quick {
		return voyage{hosts: 300, rate: 100, warm: 2 * time.Second, measured: 4 * time.Second}
	}
	return voyage{hosts: 10_000, rate: 500, warm: 70 * time.Second, measured: 60 * time.Second}
}

// hosts is the process of a fleet.
type hosts struct {
	*child
	fleet.Fleet
	resolver string // a resolv.conf that names its name server
}

// newHosts starts a fleet.
func (b *bench) newHosts(ctx context.Context, n int) (*hosts, error) {
	refusing, err := closedPort()
	if err != nil {
		return nil, err
	}
	_, closed, _ := net.SplitHostPort(refusing)
	c, err := b.spawn("fleet", b.self, nil, "fleet", "--hosts="+strconv.Itoa(n), "--cert="+filepath.Join(b.dir, certFile), "--key="+filepath.Join(b.dir, keyFile))
	if err != nil {
		return nil, err
	}
	note, err := c.next(ctx, "listening")
	names, port, wrong := net.SplitHostPort(note.Addr)
	f := &hosts{child: c, Fleet: fleet.Fleet{Hosts: n, Port: port, Closed: closed}, resolver: filepath.Join(b.dir, "resolv.conf")}
	err = errors.Join(err, wrong, os.WriteFile(f.resolver, []byte("nameserver "+names+"\n"), 0o644))
	if err != nil {
		c.kill()
		return nil, fmt.Errorf("start the fleet: %w", err)
	}
	return f, nil
}

// inside returns a command line that runs another one with the fleet's name server. A program finds its name server in
// /etc/resolv.conf, so it gets a mount namespace with another such file. It keeps the process id.
func (f *hosts) inside(command ...string) []string {
	return append([]string{"unshare", "--mount", "sh", "-c", `mount --bind "$0" /etc/resolv.conf && exec "$@"`, f.resolver}, command...)
}

// spawnInside starts a subject that uses the fleet's name server.
func (b *bench) spawnInside(f *hosts, name string, command ...string) (*child, error) {
	command = f.inside(command...)
	return b.spawn(name, command[0], b.trust(), command[1:]...)
}

// count ends the fleet's count and begins the next one.
func (f *hosts) count(ctx context.Context, subject *child) (note, error) {
	if _, err := fmt.Fprintln(f.in); err != nil {
		return note{}, fmt.Errorf("write to the fleet: %w", err)
	}
	n, err := f.nextWhile(ctx, "counted", subject)
	if err != nil {
		return note{}, err
	}
	used, err := subject.cpu()
	return note{n.Count, n.Figures, n.Cases, used}, err
}

// note holds the fleet's counts, and the CPU that the subject has used until then.
type note struct {
	replies int64
	figures result.Figures
	cases   map[string]result.Figures
	used    time.Duration
}

func roam(ctx context.Context, b *bench, s *result.Scenario) error {
	if os.Geteuid() != 0 {
		return errors.New("needs root, to give the subjects a resolv.conf of their own; choose others with --scenarios")
	}
	v := b.voyage()
	f, err := b.newHosts(ctx, v.hosts)
	if err != nil {
		return err
	}
	defer f.kill()
	w, err := b.newEnv(ctx, b.base())
	if err != nil {
		return err
	}
	if err := w.configure(ctx, v.hosts, f.URL); err != nil {
		return err
	}
	condition := result.Number(v.rate, 0) + " per second"
	err = b.alternate(ctx, s,
		contest{ours, condition, b.roamer(s, w, f, v, ours, condition, func() (*child, error) {
			return b.spawnInside(f, ours, append([]string{b.service, "serve"}, w.flags()...)...)
		}, func(ctx context.Context, _ *child) (int64, error) { return w.resets(ctx) })},
		contest{hand, condition, b.roamer(s, w, f, v, hand, condition, func() (*child, error) {
			return b.spawnInside(f, hand, b.self, "handwritten", "--kafka="+b.kafka.addr, "--group="+w.group(), "--topic="+w.topic("dlr"),
				"--port="+f.Port, "--closed="+f.Closed, "--workers=1000", "--idle="+strconv.Itoa(wide), "--idle-timeout=90s")
		}, tellLost)},
	)
	if err != nil {
		return err
	}
	s.Compare("CPU per delivery, smshooks to hand-written", result.CPU, ours, condition, hand, condition)
	if r := s.Ratios; len(r) > 0 {
		s.Judge("CPU per delivery at most 0.5 × hand-written's", r[0].Value, true, goalFleet)
	}
	s.Want("no attempt lost to a close race", ours, condition, result.Lost, true, 0)
	return b.remove(ctx, w.name)
}

// roamer lets a subject deliver a steady stream to the fleet. lost returns the number of attempts lost since its start.
func (b *bench) roamer(s *result.Scenario, w *env, f *hosts, v voyage, subject, condition string, begin func() (*child, error),
	lost func(context.Context, *child) (int64, error),
) func(context.Context) (result.Figures, error) {
	return func(ctx context.Context) (result.Figures, error) {
		s.Row(subject, condition) // before those of the classes
		ctx, cancel := context.WithTimeout(ctx, longest)
		defer cancel()
		if err := w.skip(ctx); err != nil {
			return nil, err
		}
		before, err := w.resets(ctx)
		if err != nil {
			return nil, err
		}
		c, err := begin()
		if err != nil {
			return nil, err
		}
		defer c.kill()
		ctx, stop := context.WithCancelCause(ctx)
		defer stop(nil)
		go func() {
			user := fleet.NewTraffic(v.hosts)
			events := int(v.rate * (v.warm + v.measured + time.Second).Seconds())
			if err := w.pace(ctx, events, v.rate, func(int) int { return user() }); err != nil {
				stop(err)
			}
		}()
		pause(ctx, v.warm)
		from, err := f.count(ctx, c)
		if err != nil {
			return nil, err
		}
		pause(ctx, v.measured)
		to, err := f.count(ctx, c)
		if err != nil {
			return nil, err
		}
		if to.replies == 0 {
			return nil, fmt.Errorf("%s delivered nothing: %s", c.name, c.tail())
		}
		figures := to.figures
		peak, err := c.peak()
		if err != nil {
			return nil, err
		}
		n, err := lost(ctx, c)
		if err != nil {
			return nil, err
		}
		if subject == ours {
			n -= before
		}
		figures[result.CPU], figures[result.RSS] = perEach(to.used-from.used, int(to.replies)), peak/1e6
		figures[result.Sent], figures[result.Lost] = v.rate, float64(n)
		for _, class := range fleet.Classes() {
			if found, ok := to.cases[class.String()]; ok {
				s.Row(subject, "host "+class.String()).Add(found)
			}
		}
		return figures, nil
	}
}

// tellLost asks the hand-written consumer for the number of lost requests.
func tellLost(ctx context.Context, c *child) (int64, error) {
	if _, err := fmt.Fprintln(c.in); err != nil {
		return 0, fmt.Errorf("write to %s: %w", c.name, err)
	}
	n, err := c.next(ctx, "lost")
	return n.Count, err
}

// resets counts the records in the retry topics whose attempt failed because the connection ended.
func (w *env) resets(ctx context.Context) (int64, error) {
	topics, err := w.b.topics(ctx, w.topic("dlr-retry-"))
	if err != nil || len(topics) == 0 {
		return 0, err
	}
	ends, err := w.b.admin.ListEndOffsets(ctx, topics...)
	if err != nil {
		return 0, fmt.Errorf("reading the retries of %s: %w", w.name, err)
	}
	left := int64(0)
	ends.Each(func(o kadm.ListedOffset) { left += o.Offset })
	client, err := kgo.NewClient(kgo.SeedBrokers(w.b.kafka.addr), kgo.ConsumeTopics(topics...), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return 0, fmt.Errorf("reading the retries of %s: %w", w.name, err)
	}
	defer client.Close()
	resets := int64(0)
	for left > 0 {
		fetches := client.PollFetches(ctx)
		if err := errors.Join(fetches.Err(), ctx.Err()); err != nil {
			return 0, fmt.Errorf("reading the retries of %s: %w", w.name, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			left--
			for _, h := range r.Headers {
				if h.Key == event.HeaderError && strings.HasPrefix(string(h.Value), "connection reset") {
					resets++
				}
			}
		})
	}
	return resets, nil
}
