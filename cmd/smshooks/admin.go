package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/smshooks/smshooks/internal/app"
)

const noTimeout = 0

// adminTimeout is for commands with a few requests to Kafka. A test changes it.
var adminTimeout = 60 * time.Second

// withAdmin connects to Kafka and runs f. The context of f ends after timeout or with the command.
func withAdmin(cmd *cobra.Command, timeout time.Duration, f func(ctx context.Context, admin *app.Admin) error) error {
	cfg, err := settings(cmd)
	if err != nil {
		return err
	}
	log, err := app.NewLogger(cfg.Log, os.Stderr)
	if err != nil {
		return err
	}
	admin, err := app.NewAdmin(cmd.Context(), cfg, log)
	if err != nil {
		return err
	}
	defer admin.Close()
	ctx := cmd.Context()
	if timeout != noTimeout {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	_, command, _ := strings.Cut(cmd.CommandPath(), " ")
	return admin.NameRights(ctx, command, f(ctx, admin))
}

func topicsCommand() *cobra.Command {
	return group("topics", "Create and check the topics, print the rights they need",
		&cobra.Command{Use: "ensure", Short: "Create missing topics and print a line for each topic", Args: arguments(0),
			Example: "  smshooks topics ensure --topics.partitions=24 --topics.replication=3",
			RunE: func(cmd *cobra.Command, _ []string) error {
				return withAdmin(cmd, adminTimeout, func(ctx context.Context, admin *app.Admin) error {
					lines, err := admin.EnsureTopics(ctx)
					for _, l := range lines {
						fmt.Fprintln(cmd.OutOrStdout(), l)
					}
					return err
				})
			}},
		&cobra.Command{Use: "check", Short: "Report what is wrong with the topics and how to fix it", Args: arguments(0),
			Example: "  smshooks topics check --config smshooks.yaml",
			RunE: func(cmd *cobra.Command, _ []string) error {
				return withAdmin(cmd, adminTimeout, func(ctx context.Context, admin *app.Admin) error {
					return checkTopics(ctx, cmd, admin)
				})
			}},
		aclsCommand(),
	)
}

// override returns the flags of given that change does not set, followed by change.
func override(given, change []string) []string {
	kept := slices.DeleteFunc(slices.Clone(given), func(g string) bool {
		return slices.ContainsFunc(change, func(c string) bool {
			name, _, _ := strings.Cut(c, "=")
			return strings.HasPrefix(g, name+"=")
		})
	})
	return append(kept, change...)
}

// checkTopics explains every problem. Orphaned delay topics, risky settings and warnings are only reported, because
// the service starts with them.
func checkTopics(ctx context.Context, cmd *cobra.Command, admin *app.Admin) error {
	problems, err := admin.CheckTopics(ctx)
	if err != nil {
		return err
	}
	connection := admin.Connection()
	for _, p := range problems {
		fmt.Fprintln(cmd.ErrOrStderr(), p.Explain(connection))
	}
	risks, err := admin.TopicRisks(ctx)
	if err != nil {
		return err
	}
	for _, r := range risks {
		fmt.Fprintln(cmd.ErrOrStderr(), "warning:", r)
	}
	for _, w := range admin.Warnings() {
		fmt.Fprintln(cmd.ErrOrStderr(), "warning:", w)
	}
	orphaned, flags, err := admin.OrphanedTopics(ctx)
	if err != nil { // not a failure: the topics themselves have been checked
		fmt.Fprintln(cmd.ErrOrStderr(), admin.NameRights(ctx, "topics check", err))
	}
	for _, o := range orphaned {
		fmt.Fprintln(cmd.ErrOrStderr(), o)
	}
	if len(flags) > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "  type: smshooks serve %s (on every instance, or as settings)\n",
			strings.Join(override(connection.Flags, flags), " "))
	}
	switch {
	case len(problems) > 0:
		return fmt.Errorf("check topics: %d problems found", len(problems))
	case len(orphaned) > 0:
		fmt.Fprintln(cmd.OutOrStdout(), "the service can run, but orphaned delay topics hold records")
	default:
		fmt.Fprintln(cmd.OutOrStdout(), "all topics are correct")
	}
	return nil
}

func keysCommand() *cobra.Command {
	var (
		user int64
		name string
	)
	create := &cobra.Command{Use: "create --user ID", Short: "Create an API key and print it; it cannot be shown again",
		Example: "  smshooks keys create --user 42 --name 'back office'", Args: arguments(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if user < 1 {
				return usagef("--user: must be a user id, 1 or higher")
			}
			return withAdmin(cmd, adminTimeout, func(ctx context.Context, admin *app.Admin) error {
				key, err := admin.CreateKey(ctx, user, name)
				if err != nil {
					return err
				}
				_, err = fmt.Fprintln(cmd.OutOrStdout(), key)
				return err
			})
		}}
	create.Flags().Int64Var(&user, "user", 0, "user id of the key's owner (required)")
	create.Flags().StringVar(&name, "name", "", "name that distinguishes the user's keys")
	revoke := &cobra.Command{Use: "revoke KEY", Short: "Revoke an API key", Args: arguments(1),
		Example: "  smshooks keys revoke KEY",
		RunE: func(cmd *cobra.Command, args []string) error {
			return withAdmin(cmd, adminTimeout, func(ctx context.Context, admin *app.Admin) error {
				return admin.RevokeKey(ctx, args[0])
			})
		}}
	return group("keys", "Create and revoke API keys", create, revoke)
}
