package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/tools/bench/result"
)

// options of a run.
type options struct {
	Kafka, Redis string   // host:port; "" = a container
	Runs         int      // of every subject in every case
	Records      int      // a full backlog; some scenarios use a part of it
	Users        []int    // of the users scenario
	Parked       int      // records waiting in the parked scenario
	Scenarios    []string // names; empty = all
	Cases        string   // regular expression of the cases to run, as "subject, case"; "" = all
	Settings     []string // flags for `serve`: --dispatch.max_in_flight=500
	Binary       string   // whose `serve` is measured; "" = built from this checkout
	// ConnectPlugin is the folder of Kafka Connect's HTTP sink; "" = Kafka Connect is left out
	ConnectPlugin string
	Quick         bool      // small counts: a trial run that measures nothing
	Out           io.Writer // progress and tables
}

type bench struct {
	options
	self     string // this program
	service  string // the smshooks that is measured
	version  string // its version
	dir      string // for logs and certificates
	prefix   string // prefix of the names of topics, groups and keys
	envs     int
	kafka    *server
	redis    *server
	client   *kgo.Client
	admin    *kadm.Client
	cache    *redis.Client
	plain    *target
	capacity map[string]float64 // deliveries per second, by subject
	cases    *regexp.Regexp     // of options.Cases
	peers    []peer
	leftOut  []string // the other peers, each with the reason
}

// measure returns the report, with the scenarios that were finished before an error. It removes the topics and
// containers that it created.
func measure(ctx context.Context, o options) (*result.Report, error) {
	if runtime.GOOS != "linux" {
		return nil, errors.New("only Linux reports what processes cost")
	}
	if o.Quick {
		o.shrink()
	}
	chosen, err := choice(o.Scenarios)
	if err != nil {
		return nil, err
	}
	b := &bench{options: o, prefix: fmt.Sprintf("bench-%d-%d", time.Now().Unix(), os.Getpid()), capacity: make(map[string]float64)}
	if b.cases, err = regexp.Compile(o.Cases); err != nil {
		return nil, fmt.Errorf("--cases: %w", err)
	}
	if b.self, err = os.Executable(); err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	if b.dir, err = os.MkdirTemp("", "smshooks-bench-"); err != nil {
		return nil, fmt.Errorf("make a directory: %w", err)
	}
	defer os.RemoveAll(b.dir)
	if err := b.findService(ctx); err != nil {
		return nil, err
	}
	report, err := b.all(ctx, chosen)
	return report, errors.Join(err, b.close())
}

// shrink makes everything small enough for half a minute.
func (o *options) shrink() {
	o.Runs, o.Records, o.Users, o.Parked = 1, min(o.Records, 3000), []int{10, 500}, min(o.Parked, 2000)
}

// scenarioNames lists the scenarios.
func scenarioNames() []string {
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
			return nil, fmt.Errorf("unknown scenario %q (try %s)", name, strings.Join(scenarioNames(), ", "))
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
	b.findPeers(ctx)
	report := &result.Report{Machine: machine, Date: began.UTC().Truncate(time.Second), RunsEach: b.Runs, Quick: b.Quick, LeftOut: b.leftOut}
	rows := 0
	for _, s := range chosen {
		b.say("%s: %s", s.name, s.title)
		found := &result.Scenario{Name: s.name, Title: s.title, How: s.how}
		if err := s.run(ctx, b, found); err != nil {
			return report, fmt.Errorf("scenario %s: %w", s.name, err)
		}
		rows += len(found.Rows)
		report.Scenarios = append(report.Scenarios, found)
		report.Took = time.Since(began).Seconds()
		if err := found.Print(b.Out); err != nil {
			return report, err
		}
	}
	if rows == 0 {
		return report, fmt.Errorf("--cases: no case of these scenarios matches %q", b.Cases)
	}
	return report, nil
}

// close stops and removes everything that was created, even after ctx has ended.
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

// say reports progress.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.Out, "%s "+format+"\n", append([]any{time.Now().Format("15:04:05")}, args...)...)
}

// findService builds the service, unless a program is given, and reads its version.
func (b *bench) findService(ctx context.Context) error {
	b.service = b.Binary
	if b.service == "" {
		b.service = filepath.Join(b.dir, "smshooks")
		root, err := checkout(ctx)
		if err == nil {
			// In the service's own module: the versions of its dependencies are those of a release.
			_, err = output(ctx, "go", "-C", root, "build", "-trimpath", "-o", b.service, "./cmd/smshooks")
		}
		if err != nil {
			return fmt.Errorf("build the service; outside of its checkout, pass --binary: %w", err)
		}
	}
	version, err := output(ctx, b.service, "version")
	if err != nil {
		return fmt.Errorf("ask --binary for its version: %w", err)
	}
	b.version = strings.TrimPrefix(version, "smshooks ")
	return nil
}

// checkout returns the folder of the service's source.
func checkout(ctx context.Context) (string, error) {
	return output(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/smshooks/smshooks")
}

// output runs a command and returns what it prints, without the line feed at its end.
func output(ctx context.Context, command string, args ...string) (string, error) {
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, command, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", command, args[0], err, bytes.TrimSpace(stderr.Bytes()))
	}
	return strings.TrimSpace(string(out)), nil
}
