package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/smshooks/smshooks/internal/bench"
	"github.com/smshooks/smshooks/internal/bench/bare"
	"github.com/smshooks/smshooks/internal/bench/handwritten"
	"github.com/smshooks/smshooks/internal/bench/parts"
	"github.com/smshooks/smshooks/internal/bench/receiver"
	"github.com/smshooks/smshooks/internal/bench/report"
	"github.com/smshooks/smshooks/internal/bench/result"
)

func benchCommand() *cobra.Command {
	var (
		o    bench.Options
		file string
		dir  string
	)
	cmd := &cobra.Command{
		Use: "bench", Short: "Measure the service beside a hand-written consumer and a bare client", Args: arguments(0),
		Long: `Starts a Kafka and a Redis in containers (or uses those given), a receiver, and this program's own ` + "`serve`" + ` as a
child process, and prints what a delivery costs, side by side with a hand-written consumer and a bare client loop
that take turns with it. Settings given as flags are handed on to ` + "`serve`" + `. Topics, groups and keys it makes start with
bench- and are removed again.

Scenarios: ` + strings.Join(bench.Names(), ", "),
		Example: `  smshooks bench --quick                                  does it work here? half a minute
  smshooks bench --scenarios throughput --runs 1 --json -   one look, figures as JSON on standard output
  smshooks bench --json now.json                            everything, medians of 5: 20 minutes on a quiet machine
  smshooks bench --kafka b1:9092 --redis r1:6379            on servers of yours
  smshooks bench --scenarios latency --dispatch.max_in_flight=500`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkBench(o); err != nil {
				return err
			}
			if _, err := settings(cmd); err != nil {
				return err
			}
			o.Version, o.Settings, o.Out = version, given(cmd), cmd.OutOrStdout()
			if file == "-" {
				o.Out = cmd.ErrOrStderr()
			}
			return measure(cmd, o, file, dir)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Kafka, "kafka", "", "a Kafka to use, HOST:PORT (default: a container)")
	f.StringVar(&o.Redis, "redis", "", "a Redis to use, HOST:PORT (default: a container)")
	f.IntVar(&o.Runs, "runs", 5, "runs of every subject in every case; medians are shown")
	f.IntVar(&o.Records, "records", 300_000, "size of a full backlog")
	f.IntSliceVar(&o.Users, "users", []int{10, 1000, 100_000}, "numbers of users in the users scenario; start takes the largest")
	f.IntVar(&o.Parked, "parked", 1_000_000, "records that wait in the parked scenario")
	f.StringSliceVar(&o.Scenarios, "scenarios", nil, "scenarios to run (default all)")
	f.StringVar(&file, "json", "", "write all figures to this file, - for standard output")
	f.StringVar(&dir, "report", "", "write performance.md, performance.json and images/perf-*.svg into this directory")
	f.StringVar(&o.Binary, "binary", "", "measure `serve` of this program instead of its own")
	f.BoolVar(&o.Quick, "quick", false, "one run with small counts: shows that it works, measures nothing")
	cmd.AddCommand(benchReportCommand(), benchReceiverCommand(), benchClientCommand(), benchHandwrittenCommand(), benchPartsCommand())
	return cmd
}

// checkBench finds what is wrong on the command line.
func checkBench(o bench.Options) error {
	if o.Runs < 1 || o.Records < 1000 || o.Parked < 1 || len(o.Users) == 0 {
		return usageError{errors.New("bench: --runs, --parked and --users must be at least 1, --records at least 1000")}
	}
	for _, n := range o.Users {
		if n < 1 {
			return usageError{fmt.Errorf("bench: --users: %d is no number of users", n)}
		}
	}
	for _, name := range o.Scenarios {
		if !slices.Contains(bench.Names(), name) {
			return usageError{fmt.Errorf("bench: --scenarios: %q is none of %s", name, strings.Join(bench.Names(), ", "))}
		}
	}
	return nil
}

// given are the settings on the command line, to be handed on.
func given(cmd *cobra.Command) []string {
	var flags []string
	cmd.InheritedFlags().Visit(func(f *pflag.Flag) {
		if values, ok := f.Value.(pflag.SliceValue); ok {
			flags = append(flags, "--"+f.Name+"="+strings.Join(values.GetSlice(), ","))
			return
		}
		flags = append(flags, "--"+f.Name+"="+f.Value.String())
	})
	return flags
}

// measure runs the benchmark. The figures of finished scenarios are written even when a later one fails; a page is made
// of whole runs only.
func measure(cmd *cobra.Command, o bench.Options, file, dir string) error {
	figures, err := bench.Run(cmd.Context(), o)
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
		return fmt.Errorf("bench: --json: %w", err)
	}
	return errors.Join(figures.Write(out), out.Close())
}

// benchReportCommand makes the page again from figures that were measured before.
func benchReportCommand() *cobra.Command {
	var file, dir string
	cmd := &cobra.Command{Use: "report", Short: "Write the page and the plots from figures measured before", Args: arguments(0),
		Example: "  smshooks bench report --json docs/performance.json --report docs",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" || dir == "" {
				return usageError{errors.New("bench report: --json and --report are needed")}
			}
			from, err := os.Open(file)
			if err != nil {
				return fmt.Errorf("bench report: --json: %w", err)
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

// helper is a hidden command that the benchmark starts as a child process. It stays until its input ends, so that the
// kernel's figures of it can still be read.
func helper(use, short string, run func(cmd *cobra.Command) error) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: arguments(0), Hidden: true, RunE: func(cmd *cobra.Command, _ []string) error {
		if err := run(cmd); err != nil {
			return err
		}
		_, err := io.Copy(io.Discard, os.Stdin)
		return err
	}}
}

func benchReceiverCommand() *cobra.Command {
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

func benchClientCommand() *cobra.Command {
	var (
		cfg    bare.Config
		secure bool
	)
	cmd := helper("client", "Send one request over and over", func(cmd *cobra.Command) error {
		cfg.Record = bench.Record(1, 42, "")
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

func benchHandwrittenCommand() *cobra.Command {
	var cfg handwritten.Config
	cmd := helper("handwritten", "Consume as a program written in an afternoon does", func(cmd *cobra.Command) error {
		return handwritten.Run(cmd.Context(), cfg)
	})
	cmd.Flags().StringSliceVar(&cfg.Brokers, "kafka", nil, "brokers")
	cmd.Flags().StringVar(&cfg.Group, "group", "", "consumer group")
	cmd.Flags().StringVar(&cfg.Topic, "topic", "", "topic of delivery reports")
	cmd.Flags().StringVar(&cfg.Base, "base", "", "URL without the path")
	cmd.Flags().IntVar(&cfg.Workers, "workers", 64, "requests at once")
	cmd.Flags().IntVar(&cfg.Idle, "idle", 64, "idle connections per host")
	return cmd
}

func benchPartsCommand() *cobra.Command {
	var cfg parts.Config
	cmd := helper("parts", "Measure fetching, decoding and encoding", func(cmd *cobra.Command) error {
		return parts.Run(cmd.Context(), cfg, cmd.OutOrStdout())
	})
	cmd.Flags().StringSliceVar(&cfg.Brokers, "kafka", nil, "brokers")
	cmd.Flags().StringVar(&cfg.Topic, "topic", "", "topic to read")
	cmd.Flags().Int64Var(&cfg.Records, "requests", 100_000, "records to read")
	return cmd
}
