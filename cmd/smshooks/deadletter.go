package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/smshooks/smshooks/internal/app"
	"github.com/smshooks/smshooks/internal/deadletter"
	"github.com/smshooks/smshooks/pkg/delay"
	"github.com/smshooks/smshooks/pkg/webhook"
)

var (
	kindNames   = []string{"dlr", "click", "inbound", "revoke_click"}
	reasonNames = []string{string(webhook.AttemptsExhausted), string(webhook.WindowExpired), string(webhook.InvalidRecord)}
)

// letterFlags are the flags that select dead letters.
type letterFlags struct {
	user                       int64
	kind, since, until, reason string
}

func (f *letterFlags) add(cmd *cobra.Command) {
	cmd.Flags().Int64Var(&f.user, "user", 0, "only events of this user id")
	cmd.Flags().StringVar(&f.kind, "kind", "", "only events of this kind: "+strings.Join(kindNames, ", "))
	cmd.Flags().StringVar(&f.since, "since", "",
		"only events given up at or after this time: RFC 3339, or an age such as 24h or 30d")
	cmd.Flags().StringVar(&f.until, "until", "",
		"only events given up before this time: RFC 3339, or an age such as 24h or 30d")
	cmd.Flags().StringVar(&f.reason, "reason", "", "only events with this reason: "+strings.Join(reasonNames, ", "))
	complete(cmd, "kind", kindNames...)
	complete(cmd, "reason", reasonNames...)
}

// filter reads the flags. An error is a usageError.
func (f *letterFlags) filter(cmd *cobra.Command, now time.Time) (deadletter.Filter, error) {
	filter := deadletter.Filter{UserID: f.user, Kind: f.kind, Reason: f.reason}
	if cmd.Flags().Changed("user") && f.user < 1 {
		return filter, usagef("--user: %d is not a user id (must be 1 or higher)", f.user)
	}
	if err := oneOf("kind", f.kind, kindNames); err != nil {
		return filter, err
	}
	if err := oneOf("reason", f.reason, reasonNames); err != nil {
		return filter, err
	}
	var err error
	filter.Since, filter.Until, err = period(f.since, f.until, now)
	return filter, err
}

// period reads --since and --until. A period without an instant is refused: it would select nothing. An error is a
// usageError.
func period(since, until string, now time.Time) (from, to time.Time, err error) {
	if from, err = instant(since, now); err != nil {
		return from, to, usagef("--since: %w", err)
	}
	if to, err = instant(until, now); err != nil {
		return from, to, usagef("--until: %w", err)
	}
	if since != "" && until != "" && !from.Before(to) {
		return from, to, usagef("--since: %s is not before --until (%s)", since, until)
	}
	return from, to, nil
}

// instant parses a time or an age. It returns the zero time for "".
func instant(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		if t.IsZero() { // which would mean no bound
			t = t.Add(1)
		}
		return t, nil
	}
	age, err := delay.Parse(text)
	if err != nil || age < 0 {
		return time.Time{}, fmt.Errorf("%q is neither a time (2026-02-27T14:30:00Z) nor an age (24h, 30d)", text)
	}
	return now.Add(-age), nil
}

func deadletterCommand() *cobra.Command {
	return group("deadletter", "List and replay dead letters", listCommand(), replayCommand())
}

func listCommand() *cobra.Command {
	var wanted letterFlags
	list := &cobra.Command{
		Use: "list", Short: "Print dead letters, one JSON object per line", Args: arguments(0),
		Example: "  smshooks deadletter list --user 42 --since 24h\n" +
			"  smshooks deadletter list --reason invalid_record | jq -r .error | sort | uniq -c",
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := wanted.filter(cmd, time.Now())
			if err != nil {
				return err
			}
			return withAdmin(cmd, noTimeout, func(ctx context.Context, admin *app.Admin) error {
				progress, end := progressBar(cmd, "reading")
				defer end()
				return ignoreClosedPipe(printLetters(cmd, func(each func(*deadletter.Letter) error) error {
					return admin.DeadLetters(ctx, f, progress, each)
				}))
			})
		}}
	wanted.add(list)
	return list
}

func replayCommand() *cobra.Command {
	var (
		wanted   letterFlags
		dry      bool
		position string
	)
	replay := &cobra.Command{
		Use: "replay", Short: "Replay dead letters", Args: arguments(0),
		Long: "Replay dead letters: send their events again with the same Webhook-Id, a new window and attempts\n" +
			"counted from 1. An event is sent once, even if it has several dead letters, and not while an\n" +
			"earlier replay of it is under way (Redis keeps track of that). The dead letter stays, so the event\n" +
			"can be replayed again later. Unreadable records (invalid_record) are never sent.\n\n" +
			"With --position, an interrupted replay continues when the same command is run again. It covers the\n" +
			"dead letters that existed when it first began: use a new file for each replay. After a kill or a\n" +
			"loss of Kafka, up to 500 events may be sent twice. After a kill, it continues two minutes later at\n" +
			"the earliest.",
		Example: "  smshooks deadletter replay --user 42 --kind dlr --since 2026-02-27T14:00:00Z --dry-run\n" +
			"  smshooks deadletter replay --since 24h --position replay.json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := wanted.filter(cmd, time.Now())
			if err != nil {
				return err
			}
			run := deadletter.Run{Filter: f}
			if cmd.Flags().Changed("position") {
				if err := resume(&run, position, wanted.asked()); err != nil {
					return err
				}
				if run.Position.Done() {
					fmt.Fprintf(cmd.ErrOrStderr(), "the replay in %s is complete; to replay newer dead letters, name another file\n",
						position)
				}
			}
			return withAdmin(cmd, noTimeout, func(ctx context.Context, admin *app.Admin) error {
				var end func()
				run.Progress, end = progressBar(cmd, "replaying")
				defer end()
				if dry {
					return dryRun(ctx, cmd, admin, run)
				}
				return replayLetters(ctx, cmd, admin, run)
			})
		}}
	wanted.add(replay)
	replay.Flags().BoolVar(&dry, "dry-run", false, "print what would be replayed, as list does, and send nothing")
	replay.Flags().StringVar(&position, "position", "", "file that keeps the progress, to continue an interrupted replay")
	return replay
}

// replayLetters replays without a time limit. It ends when Kafka no longer answers.
func replayLetters(ctx context.Context, cmd *cobra.Command, admin *app.Admin, run deadletter.Run) error {
	n, err := admin.ReplayDeadLetters(ctx, run)
	if err != nil && n == 0 {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%d replayed\n", n)
	if err != nil && run.Position != nil {
		return fmt.Errorf("%w; run the same command to continue", err)
	}
	return err
}

// dryRun prints what would be replayed.
func dryRun(ctx context.Context, cmd *cobra.Command, admin *app.Admin, run deadletter.Run) error {
	n := 0
	err := printLetters(cmd, func(each func(*deadletter.Letter) error) (err error) {
		run.Try = each
		n, err = admin.ReplayDeadLetters(ctx, run)
		return err
	})
	if err == nil {
		fmt.Fprintf(cmd.ErrOrStderr(), "%d would be replayed\n", n)
	}
	return ignoreClosedPipe(err)
}

// resume continues from the position in file. The flags must be those of the interrupted replay.
func resume(run *deadletter.Run, file, asked string) error {
	if file == "" {
		return usagef("--position: must name a file")
	}
	p, err := deadletter.ReadPosition(file)
	if err != nil {
		return err
	}
	if p.Partitions == nil {
		p.Asked = asked
	} else if p.Asked != asked {
		return usagef("--position: %s belongs to a replay with other flags (%s, not %s); name another file",
			file, p.Asked, asked)
	} else {
		run.Filter = p.Filter // ages such as 24h count from the first start
	}
	run.Position = p
	run.Save = func(p *deadletter.Position) error { return deadletter.WritePosition(file, p) }
	return nil
}

// asked returns the flags in the form of the command line.
func (f *letterFlags) asked() string {
	text := ""
	if f.user != 0 {
		text = fmt.Sprintf(" --user=%d", f.user)
	}
	for _, flag := range []struct{ name, value string }{{"kind", f.kind}, {"since", f.since}, {"until", f.until},
		{"reason", f.reason}} {
		if flag.value != "" {
			text += " --" + flag.name + "=" + flag.value
		}
	}
	if text == "" {
		return "everything"
	}
	return text[1:]
}

// printLetters prints the letters that walk passes to each.
func printLetters(cmd *cobra.Command, walk func(each func(*deadletter.Letter) error) error) error {
	out := bufio.NewWriter(cmd.OutOrStdout())
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	err := walk(func(l *deadletter.Letter) error { return enc.Encode(l) })
	if flushed := out.Flush(); err == nil {
		err = flushed
	}
	return err
}

// ignoreClosedPipe returns nil if the reader of stdout has closed it, as head does.
func ignoreClosedPipe(err error) error {
	if errors.Is(err, syscall.EPIPE) {
		return nil
	}
	return err
}

// progressBar shows progress on stderr if that is a terminal. end removes it.
func progressBar(cmd *cobra.Command, what string) (show deadletter.Progress, end func()) {
	f, ok := cmd.ErrOrStderr().(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil, func() {}
	}
	bar := progressbar.NewOptions64(-1, progressbar.OptionSetWriter(f), progressbar.OptionSetDescription(what),
		progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionSetItsString("records"),
		progressbar.OptionClearOnFinish(), progressbar.OptionThrottle(100*time.Millisecond))
	return func(read, total int64) {
		bar.ChangeMax64(max(total, 1))
		_ = bar.Set64(read) // a closed terminal is no reason to stop
	}, func() { _ = bar.Finish() }
}
