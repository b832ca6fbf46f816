package main

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/smshooks/smshooks/tools/bench/proc"
	"github.com/smshooks/smshooks/tools/bench/result"
)

// The names of the subjects in tables.
const (
	ours       = "smshooks"
	hand       = "hand-written"
	bareClient = "bare client"
	limit      = "limit"
)

// wide is the number of requests that the hand-written consumer and the bare client have in flight.
const wide = 64

// target is a receiver process.
type target struct {
	*child
	addr   string // host:port at 127.0.0.1
	secure bool
}

// newTarget starts a receiver. It also serves 127.x.y.z.
func (b *bench) newTarget(ctx context.Context, secure, closing bool) (*target, error) {
	args := []string{"receiver", "--listen=0.0.0.0:0", "--close=" + strconv.FormatBool(closing)}
	if secure {
		args = append(args, "--cert="+filepath.Join(b.dir, certFile), "--key="+filepath.Join(b.dir, keyFile))
	}
	c, err := b.spawn("receiver", b.self, nil, args...)
	if err != nil {
		return nil, err
	}
	note, err := c.next(ctx, "listening")
	if err != nil {
		c.kill()
		return nil, err
	}
	_, port, err := net.SplitHostPort(note.Addr)
	if err != nil {
		c.kill()
		return nil, fmt.Errorf("the receiver listens at %q: %w", note.Addr, err)
	}
	return &target{child: c, addr: "127.0.0.1:" + port, secure: secure}, nil
}

// base returns the URL without a path.
func (t *target) base() string {
	if t.secure {
		return "https://" + t.addr
	}
	return "http://" + t.addr
}

// url returns a user's URL.
func (t *target) url(user int) string { return t.base() + "/dlr/" + strconv.Itoa(user) }

// ownHost returns a user's URL at a separate loopback address.
func (t *target) ownHost(user int) string {
	_, port, _ := strings.Cut(t.addr, ":")
	return fmt.Sprintf("http://127.%d.%d.%d:%s/dlr/%d", 1+user>>16, user>>8&255, user&255, port, user)
}

// arm makes the receiver skip requests and watch those that follow.
func (t *target) arm(ctx context.Context, skip, count int) error {
	if _, err := fmt.Fprintf(t.in, "arm %d %d\n", skip, count); err != nil {
		return fmt.Errorf("write to the receiver: %w", err)
	}
	_, err := t.next(ctx, "armed")
	return err
}

// serve starts the service in an env.
func (b *bench) serve(w *env) (*child, error) {
	return b.spawn(ours, b.service, b.trust(), append([]string{"serve"}, w.flags()...)...)
}

// consume starts the hand-written consumer in an env.
func (b *bench) consume(w *env, t *target) (*child, error) {
	return b.spawn(hand, b.self, b.trust(), "handwritten", "--kafka="+b.kafka.addr, "--group="+w.group(), "--topic="+w.topic("dlr"),
		"--base="+t.base(), "--workers="+strconv.Itoa(wide), "--idle="+strconv.Itoa(wide))
}

// hammer starts the bare client.
func (b *bench) hammer(t *target, requests int) (*child, error) {
	return b.spawn(bareClient, b.self, b.trust(), "client", "--addr="+t.addr, "--tls="+strconv.FormatBool(t.secure),
		"--conns="+strconv.Itoa(wide), "--requests="+strconv.Itoa(requests))
}

// trust makes a child trust the receivers' certificate.
func (b *bench) trust() []string { return []string{"SSL_CERT_FILE=" + filepath.Join(b.dir, certFile)} }

// watch waits for the first and the last request for which the receiver was armed, and returns the figures of subject
// between them: deliveries per second, CPU per delivery, and its peak memory so far.
func (b *bench) watch(ctx context.Context, t *target, subject *child, count int) (result.Figures, proc.Note, error) {
	fail := func(err error) (result.Figures, proc.Note, error) { return nil, proc.Note{}, err }
	if _, err := t.nextWhile(ctx, "first", subject); err != nil {
		return fail(err)
	}
	before, err := subject.cpu()
	if err != nil {
		return fail(err)
	}
	note, err := t.nextWhile(ctx, "done", subject)
	if err != nil {
		return fail(err)
	}
	after, err := subject.cpu()
	if err != nil {
		return fail(err)
	}
	peak, err := subject.peak()
	if err != nil {
		return fail(err)
	}
	f := result.Figures{result.CPU: perEach(after-before, count), result.RSS: peak / 1e6}
	if took := note.Last.Sub(note.First); took > 0 {
		f[result.Rate] = float64(count-1) / took.Seconds()
	}
	for name, v := range note.Figures {
		f[name] = v
	}
	return f, note, nil
}

func perEach(d time.Duration, n int) float64 { return float64(d.Microseconds()) / float64(n) }

// longest limits a single run.
const longest = 4 * time.Minute

// drain lets a subject drain a backlog of count events, after skip others that are not measured. keep, if not nil, is
// called while it still runs.
func (b *bench) drain(ctx context.Context, t *target, skip, count int, start func() (*child, error),
	keep func(*child, result.Figures) error) (result.Figures, error) {
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	if err := t.arm(ctx, skip, count); err != nil {
		return nil, err
	}
	c, err := start()
	if err != nil {
		return nil, err
	}
	defer c.kill()
	f, _, err := b.watch(ctx, t, c, count)
	if err == nil && keep != nil {
		err = keep(c, f)
	}
	return f, err
}

// contest is a subject in a case. All contests have the same number of runs.
type contest struct {
	subject, condition string
	run                func(ctx context.Context) (result.Figures, error)
}

// chosen reports whether a case is among those to run.
func (b *bench) chosen(subject, condition string) bool {
	return b.cases.MatchString(subject + ", " + condition)
}

// alternate runs every chosen contest Runs times, taking turns, so that a slow moment of the machine affects all of
// them.
func (b *bench) alternate(ctx context.Context, s *result.Scenario, contests ...contest) error {
	contests = slices.DeleteFunc(contests, func(c contest) bool { return !b.chosen(c.subject, c.condition) })
	for run := range b.Runs {
		for _, c := range contests {
			f, err := c.run(ctx)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", c.subject, c.condition, err)
			}
			s.Row(c.subject, c.condition).Add(f)
			b.say("  run %d/%d  %s, %s:%s", run+1, b.Runs, c.subject, c.condition, brief(f))
		}
	}
	return nil
}

// brief writes the figures in one line.
func brief(f result.Figures) string {
	text := ""
	for _, c := range result.Columns() {
		if v, ok := f[c.Name]; ok {
			text += "  " + result.Number(v, c.Decimals) + " " + c.Title
		}
	}
	return text
}
