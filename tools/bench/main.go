// Command bench measures the service from outside, next to a hand-written consumer and a bare client.
//
// It starts Kafka and Redis (or uses given ones), a receiver, and then the subjects one after the other, taking turns:
// `smshooks serve` with everything on, a hand-written consumer, programs of others, a bare client loop. All are child
// processes, so that the kernel can report what each of them costs. The How text of a scenario describes it in the
// report.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/smshooks/smshooks/config"
	"github.com/smshooks/smshooks/tools/bench/bare"
	"github.com/smshooks/smshooks/tools/bench/fleet"
	"github.com/smshooks/smshooks/tools/bench/handwritten"
	"github.com/smshooks/smshooks/tools/bench/parts"
	"github.com/smshooks/smshooks/tools/bench/proc"
	"github.com/smshooks/smshooks/tools/bench/receiver"
	"github.com/smshooks/smshooks/tools/bench/report"
	"github.com/smshooks/smshooks/tools/bench/result"
)

// usageError is a wrong command line.
type usageError struct{ error }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run executes one command line and returns its exit code, which is 2 if the command line is wrong.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := rootCommand()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintf(stderr, "bench: %v\n", err)
	var (
		usage usageError
		wrong *config.Error
	)
	if errors.As(err, &usage) || errors.As(err, &wrong) {
		return 2
	}
	return 1
}

func rootCommand() *cobra.Command {
	var (
		o        options
		file     string
		dir      string
		settings = pflag.NewFlagSet("settings", pflag.ContinueOnError)
	)
	cmd := &cobra.Command{
		Use: "bench", Short: "Measure the service beside a hand-written consumer and a bare client", Args: noArguments,
		Long: `Starts a Kafka and a Redis in containers (or uses those given), a receiver, and ` + "`smshooks serve`" + ` as a child process,
and prints what a delivery costs, side by side with a hand-written consumer, programs of others and a bare client loop
that take turns with it. Settings of the service given as flags are passed on to ` + "`serve`" + `. The topics, groups and keys it creates start with
bench- and are removed afterwards.

Scenarios: ` + strings.Join(scenarioNames(), ", "),
		Example: `  go run -C tools/bench . --quick                                    does it work here? half a minute
  go run -C tools/bench . --scenarios throughput --runs 1 --json -   one look, figures as JSON on standard output
  go run -C tools/bench . --scenarios latency --cases '1,000 per second'
  go run -C tools/bench . --json /tmp/now.json                       everything, medians of 5: over an hour on a quiet machine
  go run -C tools/bench . --kafka b1:9092 --redis r1:6379            on servers of yours
  go run -C tools/bench . --scenarios latency --dispatch.max_in_flight=500`,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(); err != nil {
				return usageError{err}
			}
			if _, err := config.Load(settings.Lookup("config").Value.String(), os.Environ(), settings); err != nil {
				return err
			}
			o.Settings, o.Out = given(settings), cmd.OutOrStdout()
			if file == "-" {
				o.Out = cmd.ErrOrStderr()
			}
			return measureAndWrite(cmd, o, file, dir)
		},
	}
	cmd.CompletionOptions.DisableDefaultCmd = true
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{config.FlagError(err)} })
	settings.String("config", "", "read the service's settings from this YAML file")
	config.Flags(settings)
	f := cmd.Flags()
	f.StringVar(&o.Kafka, "kafka", "", "a Kafka to use, HOST:PORT (default: a container)")
	f.StringVar(&o.Redis, "redis", "", "a Redis to use, HOST:PORT (default: a container)")
	f.IntVar(&o.Runs, "runs", 5, "runs of every subject in every case; medians are shown")
	f.IntVar(&o.Records, "records", 300_000, "size of a full backlog")
	f.IntSliceVar(&o.Users, "users", []int{10, 1000, 100_000}, "numbers of users in the users scenario; start takes the largest")
	f.IntVar(&o.Parked, "parked", 1_000_000, "records that wait in the parked scenario")
	f.StringSliceVar(&o.Scenarios, "scenarios", nil, "scenarios to run (default all)")
	f.StringVar(&o.Cases, "cases", "", `run only the cases that match this regular expression, which sees "SUBJECT, CASE" as the progress shows it`)
	f.StringVar(&file, "json", "", "write all figures to this file, - for standard output")
	f.StringVar(&dir, "report", "", "write performance.md, performance.json and images/perf-*.svg into this directory")
	f.StringVar(&o.Binary, "binary", "", "the smshooks to measure (default: built from this checkout)")
	f.StringVar(&o.ConnectPlugin, "connect-plugin", "", "a folder with the jars of Aiven's HTTP sink: measure Kafka Connect, too (needs Docker)")
	f.BoolVar(&o.Quick, "quick", false, "one run with small counts: shows that it works, measures nothing")
	f.AddFlagSet(settings)
	cmd.AddCommand(reportCommand(), receiverCommand(), clientCommand(), handwrittenCommand(), partsCommand(), fleetCommand())
	return cmd
}

func noArguments(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("takes no arguments, got %q", args)}
	}
	return nil
}

// check returns what is wrong with the command line.
func (o *options) check() error {
	if o.Runs < 1 || o.Records < 1000 || o.Parked < 1 || len(o.Users) == 0 {
		return errors.New("--runs, --parked and --users must be at least 1, --records at least 1000")
	}
	for _, n := range o.Users {
		if n < 1 {
			return fmt.Errorf("--users: %d is not a number of users", n)
		}
	}
	for _, name := range o.Scenarios {
		if !slices.Contains(scenarioNames(), name) {
			return fmt.Errorf("--scenarios: %q is none of %s", name, strings.Join(scenarioNames(), ", "))
		}
	}
	if err := o.checkPlugin(); err != nil {
		return fmt.Errorf("--connect-plugin: %w", err)
	}
	if _, err := regexp.Compile(o.Cases); err != nil {
		return fmt.Errorf("--cases: %w", err)
	}
	return nil
}

// checkPlugin makes the folder of Kafka Connect's plugin absolute, for Docker, and returns an error if it has no jar.
func (o *options) checkPlugin() (err error) {
	if o.ConnectPlugin == "" {
		return nil
	}
	if o.ConnectPlugin, err = filepath.Abs(o.ConnectPlugin); err != nil {
		return err
	}
	jars, err := filepath.Glob(filepath.Join(o.ConnectPlugin, "*.jar"))
	if err == nil && len(jars) == 0 {
		err = fmt.Errorf("%s has no jar", o.ConnectPlugin)
	}
	return err
}

// given returns the settings on the command line as flags of `serve`.
func given(settings *pflag.FlagSet) []string {
	var flags []string
	settings.VisitAll(func(f *pflag.Flag) {
		if !f.Changed {
			return
		}
		if values, ok := f.Value.(pflag.SliceValue); ok {
			flags = append(flags, "--"+f.Name+"="+strings.Join(values.GetSlice(), ","))
			return
		}
		flags = append(flags, "--"+f.Name+"="+f.Value.String())
	})
	return flags
}

// measureAndWrite runs the benchmark. It writes the figures of finished scenarios even if a later one fails, and the
// page only if all passed.
func measureAndWrite(cmd *cobra.Command, o options, file, dir string) error {
	figures, err := measure(cmd.Context(), o)
	if figures == nil {
		return err
	}
	if file != "" {
		err = errors.Join(err, writeFigures(cmd, figures, file))
	}
	if err != nil || dir == "" {
		return err
	}
	return report.Write(dir, figures)
}

func writeFigures(cmd *cobra.Command, figures *result.Report, file string) error {
	if file == "-" {
		return figures.Write(cmd.OutOrStdout())
	}
	out, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("--json: %w", err)
	}
	return errors.Join(figures.Write(out), out.Close())
}

// reportCommand writes the page again from earlier figures.
func reportCommand() *cobra.Command {
	var file, dir string
	cmd := &cobra.Command{Use: "report", Short: "Write the page and the plots from figures measured before", Args: noArguments,
		Example: "  go run -C tools/bench . report --json ../../docs/performance.json --report ../../docs",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" || dir == "" {
				return usageError{errors.New("report: --json and --report are needed")}
			}
			from, err := os.Open(file)
			if err != nil {
				return fmt.Errorf("report: --json: %w", err)
			}
			defer from.Close()
			figures, err := result.Read(from)
			if err != nil {
				return err
			}
			return report.Write(dir, figures)
		}}
	cmd.Flags().StringVar(&file, "json", "", "the figures")
	cmd.Flags().StringVar(&dir, "report", "", "directory to write into")
	return cmd
}

// helper is a hidden command that the benchmark starts as a child process. It runs until its input ends, so that the
// kernel's figures of it can still be read.
func helper(use, short string, run func(cmd *cobra.Command) error) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: noArguments, Hidden: true, RunE: func(cmd *cobra.Command, _ []string) error {
		if err := run(cmd); err != nil {
			return err
		}
		_, err := io.Copy(io.Discard, os.Stdin)
		return err
	}}
}

func receiverCommand() *cobra.Command {
	var (
		cfg       receiver.Config
		cert, key string
	)
	cmd := helper("receiver", "Answer 200 to everything and count", func(cmd *cobra.Command) error {
		if cert != "" {
			pair, err := tls.LoadX509KeyPair(cert, key)
			if err != nil {
				return fmt.Errorf("receiver: %w", err)
			}
			cfg.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13}
		}
		return receiver.Run(cmd.Context(), cfg, os.Stdin, cmd.OutOrStdout())
	})
	cmd.Flags().StringVar(&cfg.Listen, "listen", "127.0.0.1:0", "host:port")
	cmd.Flags().StringVar(&cert, "cert", "", "serve TLS 1.3 with this certificate (PEM file)")
	cmd.Flags().StringVar(&key, "key", "", "the certificate's key (PEM file)")
	cmd.Flags().BoolVar(&cfg.Close, "close", false, "close the connection after every reply")
	return cmd
}

func clientCommand() *cobra.Command {
	var (
		cfg    bare.Config
		secure bool
	)
	cmd := helper("client", "Send one request over and over", func(cmd *cobra.Command) error {
		cfg.Record = newRecord(1, 42, "")
		if secure {
			host, _, _ := strings.Cut(cfg.Addr, ":")
			cfg.TLS = &tls.Config{MinVersion: tls.VersionTLS13, ServerName: host, ClientSessionCache: tls.NewLRUClientSessionCache(cfg.Conns)}
		}
		return bare.Run(cmd.Context(), cfg)
	})
	cmd.Flags().StringVar(&cfg.Addr, "addr", "", "host:port of the receiver")
	cmd.Flags().BoolVar(&secure, "tls", false, "speak TLS 1.3")
	cmd.Flags().IntVar(&cfg.Conns, "conns", 64, "connections")
	cmd.Flags().Int64Var(&cfg.Requests, "requests", 100_000, "requests in all")
	return cmd
}

func handwrittenCommand() *cobra.Command {
	cfg := handwritten.Config{Lost: new(atomic.Int64)}
	var (
		base string
		far  fleet.Fleet
	)
	cmd := helper("handwritten", "Consume as a program written in an afternoon does", func(cmd *cobra.Command) error {
		cfg.MaxIdle = 4 * cfg.Workers
		cfg.URL = func(user int) string { return base + "/dlr/" + strconv.Itoa(user) }
		if base == "" {
			cfg.URL, cfg.MaxIdle, cfg.Ahead = far.URL, 0, true
		}
		go func() { // report the number of lost requests on demand
			for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
				_ = json.NewEncoder(cmd.OutOrStdout()).Encode(proc.Note{Event: "lost", Count: cfg.Lost.Load()})
			}
		}()
		return handwritten.Run(cmd.Context(), cfg)
	})
	cmd.Flags().StringSliceVar(&cfg.Brokers, "kafka", nil, "brokers")
	cmd.Flags().StringVar(&cfg.Group, "group", "", "consumer group")
	cmd.Flags().StringVar(&cfg.Topic, "topic", "", "topic of delivery receipts")
	cmd.Flags().StringVar(&base, "base", "", "URL without the path (default: those of a fleet)")
	cmd.Flags().StringVar(&far.Port, "port", "", "port of the fleet's hosts")
	cmd.Flags().StringVar(&far.Closed, "closed", "", "port of those that refuse connections")
	cmd.Flags().IntVar(&cfg.Workers, "workers", 64, "requests at once")
	cmd.Flags().IntVar(&cfg.Idle, "idle", 64, "idle connections per host")
	cmd.Flags().DurationVar(&cfg.IdleTimeout, "idle-timeout", 0, "time for which an idle connection is kept")
	return cmd
}

func fleetCommand() *cobra.Command {
	var (
		hosts     int
		cert, key string
	)
	cmd := helper("fleet", "Be thousands of hosts and their name server", func(cmd *cobra.Command) error {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return fmt.Errorf("fleet: %w", err)
		}
		return fleet.Run(cmd.Context(), hosts, pair, os.Stdin, cmd.OutOrStdout())
	})
	cmd.Flags().IntVar(&hosts, "hosts", 0, "how many")
	cmd.Flags().StringVar(&cert, "cert", "", "certificate of the authority (PEM file)")
	cmd.Flags().StringVar(&key, "key", "", "the authority's key (PEM file)")
	return cmd
}

func partsCommand() *cobra.Command {
	var cfg parts.Config
	cmd := helper("parts", "Measure fetching, decoding and encoding", func(cmd *cobra.Command) error {
		return parts.Run(cmd.Context(), cfg, cmd.OutOrStdout())
	})
	cmd.Flags().StringSliceVar(&cfg.Brokers, "kafka", nil, "brokers")
	cmd.Flags().StringVar(&cfg.Topic, "topic", "", "topic to read")
	cmd.Flags().Int64Var(&cfg.Records, "requests", 100_000, "records to read")
	return cmd
}
