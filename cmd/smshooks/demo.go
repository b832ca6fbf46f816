package main

import (
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/smshooks/smshooks/internal/app"
	"github.com/smshooks/smshooks/internal/demo"
)

func demoCommand() *cobra.Command {
	var (
		length time.Duration
		open   bool
	)
	cmd := &cobra.Command{
		Use: "demo", Short: "Run a demo of the whole service; needs no Kafka and no Redis", Args: arguments(0),
		Example: "  smshooks demo --for 1m --open",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if length < time.Second {
				return usagef("--for: must be at least 1s")
			}
			cfg, err := settings(cmd)
			if err != nil {
				return err
			}
			demo.Shorten(cfg, length)
			log, err := app.NewLogger(cfg.Log, os.Stderr)
			if err != nil {
				return err
			}
			return demo.Run(cmd.Context(), demo.Options{
				Config: cfg, Length: length, Open: open, Version: version, Log: log, Out: os.Stdout,
			})
		},
	}
	cmd.Flags().DurationVar(&length, "for", 30*time.Second, "approximate duration")
	cmd.Flags().BoolVar(&open, "open", false, "open the account page in a browser")
	return cmd
}
