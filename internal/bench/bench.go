// Package bench measures the service from outside, side by side with what stands for the limit and for the alternative.
//
// It starts a Kafka and a Redis (or is given them), a receiver, and then, one after the other and taking turns, the
// subjects: `smshooks serve` with everything on, a hand-written consumer, a bare client loop. All are child processes
// of the same program, so that the kernel can say what each of them costs. What a scenario does is told by its How
// text, which ends up in the report.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/internal/bench/result"
)

// Options of a run.
type Options struct {
	Kafka, Redis string   // host:port; "" = a container
	Runs         int      // of every subject in every case
	Records      int      // a full backlog; some scenarios use a part of it
	Users        []int    // of the users scenario
	Parked       int      // records waiting in the parked scenario
	Scenarios    []string // names; empty = all
	Settings     []string // flags for `serve`: --dispatch.max_in_flight=500
	Binary       string   // whose `serve` is measured; "" = this program
	Quick        bool     // small counts: shows that it works, measures nothing
	Version      string
	Out          io.Writer // progress and tables
}

type bench struct {
	Options
	self     string // this program
	dir      string // for logs and certificates
	prefix   string // what the names of topics, groups and keys start with
	worlds   int
	kafka    *server
	redis    *server
	client   *kgo.Client
	admin    *kadm.Client
	cache    *redis.Client
	plain    *target
	capacity map[string]float64 // deliveries per second, by subject
}

// Run measures and returns the report, with the scenarios that were finished before an error. Topics and containers it
// made are removed again.
func Run(ctx context.Context, o Options) (*result.Report, error) {
	if runtime.GOOS != "linux" {
		return nil, errors.New("bench: the cost of processes is read from /proc, which only Linux has")
	}
	if o.Quick {
		o.shrink()
	}
	chosen, err := choice(o.Scenarios)
	if err != nil {
		return nil, err
	}
	b := &bench{Options: o, prefix: fmt.Sprintf("bench-%d-%d", time.Now().Unix(), os.Getpid()), capacity: make(map[string]float64)}
	if b.self, err = os.Executable(); err != nil {
		return nil, fmt.Errorf("bench: finding this program: %w", err)
	}
	if b.dir, err = os.MkdirTemp("", "smshooks-bench-"); err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	defer os.RemoveAll(b.dir)
	report, err := b.all(ctx, chosen)
	return report, errors.Join(err, b.close())
}

// shrink makes everything small enough for half a minute.
func (o *Options) shrink() {
	o.Runs, o.Records, o.Users, o.Parked = 1, min(o.Records, 3000), []int{10, 500}, min(o.Parked, 2000)
}

// Names lists the scenarios.
func Names() []string {
	var names []string
	for _, s := range scenarios() {
		names = append(names, s.name)
	}
	return names
}

func choice(names []string) ([]scenario, error) {
	all := scenarios()
	for _, name := range names {
		if !slices.ContainsFunc(all, func(s scenario) bool { return s.name == name }) {
			return nil, fmt.Errorf("there is no scenario %q; there are %s", name, strings.Join(Names(), ", "))
		}
	}
	if len(names) == 0 {
		return all, nil
	}
	return slices.DeleteFunc(all, func(s scenario) bool { return !slices.Contains(names, s.name) }), nil
}

func (b *bench) all(ctx context.Context, chosen []scenario) (*result.Report, error) {
	began, machine := time.Now(), b.machine()
	if err := certify(b.dir); err != nil {
		return nil, err
	}
	if err := b.startStack(ctx); err != nil {
		return nil, err
	}
	machine.Kafka, machine.Redis = b.kafka.String(), b.redis.String()
	var err error
	if b.plain, err = b.newTarget(ctx, false, false); err != nil {
		return nil, err
	}
	report := &result.Report{Machine: machine, Date: began.UTC().Truncate(time.Second), RunsEach: b.Runs, Quick: b.Quick}
	for _, s := range chosen {
		b.say("%s: %s", s.name, s.title)
		found := &result.Scenario{Name: s.name, Title: s.title, How: s.how}
		if err := s.run(ctx, b, found); err != nil {
			return report, fmt.Errorf("scenario %s: %w", s.name, err)
		}
		report.Scenarios = append(report.Scenarios, found)
		report.Took = time.Since(began).Seconds()
		if err := found.Print(b.Out); err != nil {
			return report, err
		}
	}
	return report, nil
}

// close ends and removes what was made, even after ctx has ended.
func (b *bench) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if b.plain != nil {
		b.plain.kill()
	}
	var err error
	if b.client != nil {
		if b.kafka.container == "" || b.redis.container == "" {
			err = b.remove(ctx, b.prefix)
		}
		b.client.Close()
		err = errors.Join(err, b.cache.Close())
	}
	return errors.Join(err, b.kafka.stop(), b.redis.stop())
}

// say tells of progress.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.Out, "%s "+format+"\n", append([]any{time.Now().Format("15:04:05")}, args...)...)
}

// binary is the program whose service is measured.
func (b *bench) binary() string {
	if b.Binary != "" {
		return b.Binary
	}
	return b.self
}
