package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/config"
	"github.com/smshooks/smshooks/internal/app"
	"github.com/smshooks/smshooks/internal/tenant"
)

// adminTimeout bounds a command that talks to Kafka.
const adminTimeout = 60 * time.Second

// withKafka runs f with the settings and a Kafka client.
func withKafka(cmd *cobra.Command, f func(ctx context.Context, cfg *config.Config, client *kgo.Client) error) error {
	cfg, err := settings(cmd)
	if err != nil {
		return err
	}
	log, err := app.NewLogger(cfg.Log, os.Stderr)
	if err != nil {
		return err
	}
	client, err := app.KafkaConfig(cfg, nil, log).NewClient()
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(cmd.Context(), adminTimeout)
	defer cancel()
	return f(ctx, cfg, client)
}

func topicsCommand() *cobra.Command {
	return group("topics", "Create or check the topics",
		&cobra.Command{Use: "ensure", Short: "Create the topics that are missing; a line per topic", Args: arguments(0),
			RunE: func(cmd *cobra.Command, _ []string) error {
				return withKafka(cmd, func(ctx context.Context, cfg *config.Config, client *kgo.Client) error {
					lines, err := app.TopicPlan(cfg).Ensure(ctx, client)
					for _, l := range lines {
						fmt.Fprintln(cmd.OutOrStdout(), l)
					}
					return err
				})
			}},
		&cobra.Command{Use: "check", Short: "Tell what is wrong with the topics and what to do about it", Args: arguments(0),
			RunE: func(cmd *cobra.Command, _ []string) error {
				return withKafka(cmd, func(ctx context.Context, cfg *config.Config, client *kgo.Client) error {
					problems, err := app.TopicPlan(cfg).Check(ctx, client)
					if err != nil {
						return err
					}
					for _, p := range problems {
						fmt.Fprintln(cmd.ErrOrStderr(), p)
					}
					if len(problems) > 0 {
						return fmt.Errorf("%d problems with topics", len(problems))
					}
					fmt.Fprintln(cmd.OutOrStdout(), "all topics are as they should be")
					return nil
				})
			}},
	)
}

func keysCommand() *cobra.Command {
	var (
		user int64
		name string
	)
	create := &cobra.Command{Use: "create --user ID", Short: "Create an API key and print it; it is not stored in clear and cannot be shown again",
		Example: "  smshooks keys create --user 42 --name 'back office'", Args: arguments(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if user < 1 {
				return usageError{errors.New("--user must be a user id from 1 on")}
			}
			return withKafka(cmd, func(ctx context.Context, cfg *config.Config, client *kgo.Client) error {
				key, err := tenant.CreateKey(ctx, client, cfg.Topics.Keys, user, name)
				if err != nil {
					return err
				}
				_, err = fmt.Fprintln(cmd.OutOrStdout(), key)
				return err
			})
		}}
	create.Flags().Int64Var(&user, "user", 0, "the user the key is for")
	create.Flags().StringVar(&name, "name", "", "a name to tell the user's keys apart")
	revoke := &cobra.Command{Use: "revoke KEY", Short: "Revoke an API key", Args: arguments(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withKafka(cmd, func(ctx context.Context, cfg *config.Config, client *kgo.Client) error {
				found, err := tenant.RevokeKey(ctx, client, cfg.Topics.Keys, args[0])
				if err == nil && !found {
					err = errors.New("no such key")
				}
				return err
			})
		}}
	return group("keys", "Create and revoke API keys", create, revoke)
}
