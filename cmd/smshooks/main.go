// Command smshooks sends the webhooks of an SMS platform: it reads events from Kafka and posts them to the URLs of its
// users. This package contains the commands, signals and exit codes, and no logic.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/smshooks/smshooks/config"
)

// version is set by the linker.
var version = "dev"

// The exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// usageError is a mistake on the command line.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// loggedError is an error that has already been logged.
type loggedError struct{ error }

func (e loggedError) Unwrap() error { return e.error }

func main() {
	// A write to a closed stdout or stderr must be an ordinary error, not the end of the process.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signalled(os.Stderr)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// signalled returns a context that ends at the first SIGTERM or SIGINT. The second ends the process at once.
func signalled(stderr io.Writer) (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-signals
		cancel()
		<-signals
		fmt.Fprintln(stderr, "smshooks: second signal, exiting at once")
		os.Exit(exitFailed)
	}()
	return ctx, func() { signal.Stop(signals); cancel() }
}

// run executes one command line and returns its exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root, out := rootCommand(), &checkedWriter{Writer: stdout}
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(stderr)
	refuseUnknown(root)
	command, err := root.ExecuteContextC(ctx)
	if failed := out.failed.Load(); err == nil && failed != nil && command.Name() != "serve" { // its output is only a hint
		err = *failed
	}
	if err == nil {
		return exitDone
	}
	if logged := (loggedError{}); !errors.As(err, &logged) {
		fmt.Fprintf(stderr, "smshooks: %v\n", err)
	}
	var (
		usage usageError
		wrong *config.Error
	)
	if errors.As(err, &usage) || errors.As(err, &wrong) {
		return exitUsage
	}
	return exitFailed
}

// checkedWriter is a stdout that remembers the first write that failed, so that no command has to check each of its
// writes. A closed pipe is no failure.
type checkedWriter struct {
	io.Writer
	failed atomic.Pointer[error]
}

func (w *checkedWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	if ignoreClosedPipe(err) != nil {
		w.failed.CompareAndSwap(nil, &err)
	}
	return n, err
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "smshooks",
		Short: "Send the webhooks of an SMS platform from Kafka to its users' URLs",
		Long: "Send the webhooks of an SMS platform from Kafka to its users' URLs.\n\n" +
			"Settings come from a YAML file (--config), SMSHOOKS_ environment variables and flags.\n" +
			"Flags override the environment, which overrides the file.",
		Example: "  smshooks demo\n" +
			"  smshooks topics ensure --kafka.brokers=a:9092,b:9092\n" +
			"  smshooks serve --config smshooks.yaml",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return cmd.Help()
		},
	}
	root.SetFlagErrorFunc(flagError)
	root.SetUsageTemplate(usageTemplate(root))
	root.Version = version
	root.SetVersionTemplate("smshooks {{.Version}}\n")
	root.PersistentFlags().String("config", "", "read settings from this YAML file")
	config.Flags(root.PersistentFlags())
	for name, values := range config.Values() {
		complete(root, name, values...)
	}
	root.AddCommand(serveCommand(), demoCommand(), topicsCommand(), keysCommand(), sendCommand(), explainCommand(),
		deadletterCommand(), retryCommand(), secretsCommand(),
		configCommand(), versionCommand(), readyCommand(), manCommand())
	return root
}

// complete registers the values of a flag for shell completion.
func complete(cmd *cobra.Command, flag string, values ...string) {
	// It fails only for a flag that does not exist.
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}

// group returns a command that only has subcommands.
func group(use, short string, children ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Args: cobra.ArbitraryArgs, RunE: needSubcommand,
	}
	c.AddCommand(children...)
	var examples []string
	for _, child := range children {
		if child.Example != "" {
			examples = append(examples, child.Example)
		}
	}
	c.Example = strings.Join(examples, "\n")
	return c
}

// oneOf checks that the value of a flag is empty or one of allowed.
func oneOf(flag, value string, allowed []string) error {
	if value != "" && !slices.Contains(allowed, value) {
		return usagef("--%s: %q is not one of %s", flag, value, strings.Join(allowed, ", "))
	}
	return nil
}

// arguments accepts exactly n arguments.
func arguments(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return usagef("%s takes %d arguments, got %d", cmd.CommandPath(), n, len(args))
		}
		return nil
	}
}

// settings reads the settings from the file, the environment and the flags of cmd.
func settings(cmd *cobra.Command) (*config.Config, error) {
	file, err := cmd.Flags().GetString("config")
	if err != nil {
		return nil, usageError{err}
	}
	return config.Load(file, os.Environ(), cmd.Flags())
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: arguments(0), Example: "  smshooks version",
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "smshooks %s\n", version)
			return ignoreClosedPipe(err)
		},
	}
}

func configCommand() *cobra.Command {
	return group("config", "Show the settings", &cobra.Command{
		Example: "  smshooks config print --config smshooks.yaml\n" +
			"  SMSHOOKS_RETRY_WINDOW=30h smshooks config print | grep window",
		Use: "print", Args: arguments(0),
		Short: "Print all settings as YAML, with their origins as comments and secrets masked",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := settings(cmd)
			if err != nil {
				return err
			}
			return ignoreClosedPipe(cfg.WriteYAML(cmd.OutOrStdout()))
		},
	})
}
