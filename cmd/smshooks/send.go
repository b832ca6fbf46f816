package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/smshooks/smshooks/internal/app"
	"github.com/smshooks/smshooks/pkg/webhook"
)

func sendCommand() *cobra.Command {
	var (
		s    app.Sending
		kind string
		file string
	)
	send := &cobra.Command{
		Use: "send --user ID", Short: "Write example events to a source topic", Args: arguments(0),
		Long: "Write example events to a source topic, as the gateway does: keyed by the user id. The events\n" +
			"are delivered to the user's URL like any other. Each is printed on a line: its id (for explain)\n" +
			"and the position of its record. A revocation has the id of the batch that begins with it.",
		Example: "  smshooks send --user 42\n" +
			"  smshooks send --user 42 --kind inbound --file record.json\n" +
			"  smshooks send --user 42 --count 1000 --rate 50",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if s.UserID < 1 {
				return usagef("--user: must be a user id, 1 or higher")
			}
			if err := oneOf("kind", kind, kindNames); err != nil {
				return err
			}
			s.Kind, _ = webhook.ParseKind(kind)
			switch {
			case s.Count < 1:
				return usagef("--count: must be 1 or higher")
			case !(s.Rate >= 0):
				return usagef("--rate: must be 0 or higher")
			}
			if cmd.Flags().Changed("file") {
				var err error
				if s.Record, err = os.ReadFile(file); err != nil {
					return usagef("--file: %w", err)
				}
			}
			return withAdmin(cmd, noTimeout, func(ctx context.Context, admin *app.Admin) error {
				err := sendEvents(ctx, cmd, admin, s)
				if errors.Is(err, app.ErrBadRecord) {
					return usagef("--file: %w", err)
				}
				return ignoreClosedPipe(err)
			})
		}}
	send.Flags().Int64Var(&s.UserID, "user", 0, "user id of the events (required)")
	send.Flags().StringVar(&kind, "kind", kindNames[0], "kind of the events: "+strings.Join(kindNames, ", "))
	send.Flags().StringVar(&file, "file", "",
		"record to write, its user_id replaced; default: the documented example with a new message id for each event")
	send.Flags().IntVar(&s.Count, "count", 1, "how many events to write")
	send.Flags().Float64Var(&s.Rate, "rate", 0, "events a second; 0: as fast as Kafka accepts them")
	complete(send, "kind", kindNames...)
	return send
}

func sendEvents(ctx context.Context, cmd *cobra.Command, admin *app.Admin, s app.Sending) error {
	out := bufio.NewWriter(cmd.OutOrStdout())
	err := admin.Send(ctx, s, func(sent app.Sent) error {
		_, err := fmt.Fprintf(out, "%s %s\n", sent.ID, sent.Record)
		if err == nil && s.Rate > 0 {
			err = out.Flush()
		}
		return err
	})
	return errors.Join(err, out.Flush())
}
