package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/smshooks/smshooks/internal/app"
	"github.com/smshooks/smshooks/internal/deadletter"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// letterFlags are the flags that say which dead letters are meant.
type letterFlags struct {
	user                       int64
	kind, since, until, reason string
}

func (f *letterFlags) add(cmd *cobra.Command) {
	cmd.Flags().Int64Var(&f.user, "user", 0, "only this user's")
	cmd.Flags().StringVar(&f.kind, "kind", "", "only this kind: dlr, click, inbound, revoke_click")
	cmd.Flags().StringVar(&f.since, "since", "", "given up at or after: RFC 3339, or back from now as in 24h")
	cmd.Flags().StringVar(&f.until, "until", "", "given up before: RFC 3339, or back from now as in 24h")
	cmd.Flags().StringVar(&f.reason, "reason", "", "only for this reason: attempts_exhausted, window_expired, invalid_record")
}

// filter reads the flags; an error is one of usage.
func (f *letterFlags) filter(cmd *cobra.Command, now time.Time) (deadletter.Filter, error) {
	filter := deadletter.Filter{UserID: f.user, Kind: f.kind, Reason: f.reason}
	if cmd.Flags().Changed("user") && f.user < 1 {
		return filter, usageError{fmt.Errorf("--user: %d is no user id, which are from 1 on", f.user)}
	}
	if f.kind != "" {
		if _, err := webhook.ParseKind(f.kind); err != nil {
			return filter, usageError{fmt.Errorf("--kind: %q is none of dlr, click, inbound, revoke_click", f.kind)}
		}
	}
	switch webhook.Reason(f.reason) {
	case "", webhook.AttemptsExhausted, webhook.WindowExpired, webhook.InvalidRecord:
	default:
		return filter, usageError{fmt.Errorf("--reason: %q is none of attempts_exhausted, window_expired, invalid_record", f.reason)}
	}
	var err error
	if filter.Since, err = instant(f.since, now); err != nil {
		return filter, usageError{fmt.Errorf("--since: %w", err)}
	}
	if filter.Until, err = instant(f.until, now); err != nil {
		return filter, usageError{fmt.Errorf("--until: %w", err)}
	}
	return filter, nil
}

// instant reads a time, or a duration back from now; "" is the zero time.
func instant(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	back, err := time.ParseDuration(text)
	if err != nil || back < 0 {
		return time.Time{}, fmt.Errorf("%q is neither a time as in 2026-02-27T14:30:00Z nor a duration as in 24h", text)
	}
	return now.Add(-back), nil
}

func deadletterCommand() *cobra.Command {
	var listed, replayed letterFlags
	list := &cobra.Command{Use: "list", Short: "Print the events that were given up, a JSON object a line", Args: arguments(0),
		Example: "  smshooks deadletter list --user 42 --since 24h",
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := listed.filter(cmd, time.Now())
			if err != nil {
				return err
			}
			return withAdmin(cmd, func(_ context.Context, admin *app.Admin) error { return printLetters(cmd, admin, f) })
		}}
	listed.add(list)
	replay := &cobra.Command{Use: "replay", Short: "Send events again that were given up",
		Long: "Send events again that were given up: with the same Webhook-Id, attempts from 1, a fresh window.\n" +
			"Each event is sent once, however often it died. Its dead letter stays: replayed twice, it is sent twice.\n" +
			"Records that could not be read (invalid_record) are never sent.",
		Example: "  smshooks deadletter replay --user 42 --kind dlr --since 2026-02-27T14:00:00Z", Args: arguments(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := replayed.filter(cmd, time.Now())
			if err != nil {
				return err
			}
			return withAdmin(cmd, func(_ context.Context, admin *app.Admin) error {
				// However long it takes: silence of Kafka ends it.
				n, err := admin.ReplayDeadLetters(cmd.Context(), f)
				if err != nil && n == 0 {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%d replayed\n", n)
				return err
			})
		}}
	replayed.add(replay)
	return group("deadletter", "List and replay the events that were given up", list, replay)
}

func printLetters(cmd *cobra.Command, admin *app.Admin, f deadletter.Filter) error {
	out := bufio.NewWriter(cmd.OutOrStdout())
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	err := admin.DeadLetters(cmd.Context(), f, func(l *deadletter.Letter) error { return enc.Encode(l) })
	if flushed := out.Flush(); err == nil {
		err = flushed
	}
	return err
}
