package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/smshooks/smshooks/internal/app"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// releaseFlags are the flags of retry release.
type releaseFlags struct {
	user                              int64
	host, kind, failure, since, until string
	all, dry                          bool
}

// selection reads the flags. An error is a usageError.
func (f *releaseFlags) selection(cmd *cobra.Command, now time.Time) (s app.Selection, err error) {
	selectors := 0
	for _, name := range []string{"user", "host", "all"} {
		if cmd.Flags().Changed(name) {
			selectors++
		}
	}
	switch {
	case selectors != 1 || cmd.Flags().Changed("all") && !f.all:
		return s, usagef("exactly one of --user, --host and --all is needed")
	case cmd.Flags().Changed("user") && f.user < 1:
		return s, usagef("--user: %d is not a user id (must be 1 or higher)", f.user)
	}
	host, ok := app.ParseHost(f.host)
	if cmd.Flags().Changed("host") && !ok {
		return s, usagef("--host: %q is not a host name or an IP address without a port", f.host)
	}
	s = app.Selection{UserID: f.user, Host: host, Error: f.failure}
	if err := oneOf("kind", f.kind, kindNames); err != nil {
		return s, err
	}
	if kind, err := webhook.ParseKind(f.kind); err == nil {
		s.Kind = &kind
	}
	s.Since, s.Until, err = period(f.since, f.until, now)
	return s, err
}

func retryCommand() *cobra.Command {
	return group("retry", "Release delayed events", releaseCommand(new(releaseFlags)))
}

func releaseCommand(flags *releaseFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use: "release (--user N | --host NAME | --all)", Short: "Make delayed events due now", Args: arguments(0),
		Long: "Make events due now that wait for a retry or in overflow. With --user, include those of an ended pause.\n" +
			"An attempt keeps its number. If it fails, the next one comes a full delay later.\n\n" +
			"The command prints the id of the recovery, then its progress until it is done. The running instances do\n" +
			"the work: if the command is interrupted, they continue. If none runs, the next one to start does it.",
		Example: "  smshooks retry release --user 42 --dry-run\n" +
			"  smshooks retry release --host hooks.example.com --error timeout --since 6h",
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := flags.selection(cmd, time.Now())
			if err != nil {
				return err
			}
			return withAdmin(cmd, noTimeout, func(ctx context.Context, admin *app.Admin) error {
				if flags.dry {
					n, err := admin.CountDelayed(ctx, s)
					if err == nil {
						fmt.Fprintf(cmd.OutOrStdout(), "%d would be released\n", n)
					}
					return err
				}
				return release(ctx, cmd, admin, s)
			})
		}}
	cmd.Flags().Int64Var(&flags.user, "user", 0, "events of this user id")
	cmd.Flags().StringVar(&flags.host, "host", "", "events of the endpoints whose URL has this host, without a port")
	cmd.Flags().BoolVar(&flags.all, "all", false, "events of all users, except paused ones, which --user releases")
	cmd.Flags().StringVar(&flags.kind, "kind", "", "only events of this kind: "+strings.Join(kindNames, ", "))
	cmd.Flags().StringVar(&flags.failure, "error", "",
		"only events whose last failure contains this text: timeout, http 503")
	cmd.Flags().StringVar(&flags.since, "since", "",
		"only events of this time or later: RFC 3339, or an age such as 24h or 30d")
	cmd.Flags().StringVar(&flags.until, "until", "",
		"only events before this time: RFC 3339, or an age such as 24h or 30d")
	cmd.Flags().BoolVar(&flags.dry, "dry-run", false, "print how many events would be released, and release none")
	complete(cmd, "kind", kindNames...)
	return cmd
}

// notBegun is the time after which release reports that no instance has begun the recovery. A running instance needs a
// few seconds at most. A test changes it.
var notBegun = 10 * time.Second

// release stores a recovery and prints its progress until it is done or ctx ends. If ctx ends before the recovery is
// stored, or stored only in part, it returns the error.
func release(ctx context.Context, cmd *cobra.Command, admin *app.Admin, s app.Selection) error {
	var (
		stored  time.Time // zero: not all of it
		working bool      // an instance has begun
		warned  bool
	)
	shown := int64(-1) // none
	n, err := admin.Release(ctx, s, func(ids []string) {
		for _, id := range ids {
			fmt.Fprintln(cmd.OutOrStdout(), id)
		}
	}, func(released int64, begun bool) {
		if working = begun; stored.IsZero() {
			stored = time.Now()
		}
		switch {
		case begun && released != shown:
			fmt.Fprintf(cmd.ErrOrStderr(), "%d released so far\n", released)
			shown = released
		case !begun && !warned && time.Since(stored) >= notBegun:
			fmt.Fprintln(cmd.ErrOrStderr(), "no instance has begun the recovery; it begins when one with the role consume runs")
			warned = true
		}
	})
	if err != nil && ctx.Err() != nil && !stored.IsZero() {
		text := "interrupted; the running instances continue"
		if !working {
			text = "interrupted before the recovery began; it begins when an instance with the role consume runs"
		}
		fmt.Fprintln(cmd.ErrOrStderr(), text)
		return nil
	}
	if err == nil {
		fmt.Fprintf(cmd.OutOrStdout(), "%d released\n", n)
	}
	return err
}
