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
	"github.com/smshooks/smshooks/pkg/webhook"
)

var (
	kindNames   = []string{"dlr", "click", "inbound", "revoke_click"}
	reasonNames = []string{string(webhook.AttemptsExhausted), string(webhook.WindowExpired), string(webhook.InvalidRecord)}
)

// letterFlags are the flags that say which dead letters are meant.
type letterFlags struct {
	user                       int64
	kind, since, until, reason string
}

func (f *letterFlags) add(cmd *cobra.Command) {
	cmd.Flags().Int64Var(&f.user, "user", 0, "only this user's")
	cmd.Flags().StringVar(&f.kind, "kind", "", "only this kind: "+strings.Join(kindNames, ", "))
	cmd.Flags().StringVar(&f.since, "since", "", "given up at or after: RFC 3339, or back from now as in 24h")
	cmd.Flags().StringVar(&f.until, "until", "", "given up before: RFC 3339, or back from now as in 24h")
	cmd.Flags().StringVar(&f.reason, "reason", "", "only for this reason: "+strings.Join(reasonNames, ", "))
	complete(cmd, "kind", kindNames...)
	complete(cmd, "reason", reasonNames...)
}

// filter reads the flags; an error is one of usage.
func (f *letterFlags) filter(cmd *cobra.Command, now time.Time) (deadletter.Filter, error) {
	filter := deadletter.Filter{UserID: f.user, Kind: f.kind, Reason: f.reason}
	if cmd.Flags().Changed("user") && f.user < 1 {
		return filter, usagef("--user: %d is no user id, which are from 1 on", f.user)
	}
	if err := oneOf("kind", f.kind, kindNames); err != nil {
		return filter, err
	}
	if err := oneOf("reason", f.reason, reasonNames); err != nil {
		return filter, err
	}
	var err error
	if filter.Since, err = instant(f.since, now); err != nil {
		return filter, usagef("--since: %w", err)
	}
	if filter.Until, err = instant(f.until, now); err != nil {
		return filter, usagef("--until: %w", err)
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
	return group("deadletter", "List and replay the events that were given up", listCommand(), replayCommand())
}

func listCommand() *cobra.Command {
	var wanted letterFlags
	list := &cobra.Command{
		Use: "list", Short: "Print the events that were given up, a JSON object a line", Args: arguments(0),
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
				return unlessReaderLeft(printLetters(cmd, func(each func(*deadletter.Letter) error) error {
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
		try      bool
		position string
	)
	replay := &cobra.Command{
		Use: "replay", Short: "Send events again that were given up", Args: arguments(0),
		Long: "Send events again that were given up: with the same Webhook-Id, attempts from 1, a fresh window.\n" +
			"Each event is sent once, however often it died, and not while a former replay of it is under way, which Redis\n" +
			"knows. Its dead letter stays: replayed again after that, it is sent again.\n" +
			"Records that could not be read (invalid_record) are never sent.\n\n" +
			"With --position an interrupted replay can be called again and goes on where it was, over the dead letters\n" +
			"that were there when it first began. One that was killed, or lost Kafka, may send its\n" +
			"last 500 events again.",
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
			}
			return withAdmin(cmd, noTimeout, func(ctx context.Context, admin *app.Admin) error {
				var end func()
				run.Progress, end = progressBar(cmd, "replaying")
				defer end()
				if try {
					return dryRun(ctx, cmd, admin, run)
				}
				return replayLetters(ctx, cmd, admin, run)
			})
		}}
	wanted.add(replay)
	replay.Flags().BoolVar(&try, "dry-run", false, "print what would be sent, as list does, and send nothing")
	replay.Flags().StringVar(&position, "position", "", "keep in this file how far the replay has come, and go on from there")
	return replay
}

// replayLetters sends, however long it takes: silence of Kafka ends it.
func replayLetters(ctx context.Context, cmd *cobra.Command, admin *app.Admin, run deadletter.Run) error {
	n, err := admin.ReplayDeadLetters(ctx, run)
	if err != nil && n == 0 {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%d replayed\n", n)
	if err != nil && run.Position != nil {
		return fmt.Errorf("%w; the same command goes on from there", err)
	}
	return err
}

// dryRun prints what would be sent.
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
	return unlessReaderLeft(err)
}

// resume takes up the position in a file. A replay that was asked for in other words is another one.
func resume(run *deadletter.Run, file, asked string) error {
	if file == "" {
		return usagef("--position: names no file")
	}
	p, err := deadletter.ReadPosition(file)
	if err != nil {
		return err
	}
	if p.Partitions == nil {
		p.Asked = asked
	} else if p.Asked != asked {
		return usagef("--position: %s is of a replay of %s, this is one of %s; name another file", file, p.Asked, asked)
	} else {
		run.Filter = p.Filter // its times count from when it first began
	}
	run.Position = p
	run.Save = func(p *deadletter.Position) error { return deadletter.WritePosition(file, p) }
	return nil
}

// asked is what was asked for, in the words of the command line.
func (f *letterFlags) asked() string {
	text := ""
	if f.user != 0 {
		text = fmt.Sprintf(" --user=%d", f.user)
	}
	for _, flag := range []struct{ name, value string }{{"kind", f.kind}, {"since", f.since}, {"until", f.until}, {"reason", f.reason}} {
		if flag.value != "" {
			text += " --" + flag.name + "=" + flag.value
		}
	}
	if text == "" {
		return "everything"
	}
	return text[1:]
}

// printLetters prints the letters that walk hands on.
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

// unlessReaderLeft returns err, or nil if it says that the reader of stdout closed it, as head does.
func unlessReaderLeft(err error) error {
	if errors.Is(err, syscall.EPIPE) {
		return nil
	}
	return err
}

// progressBar shows progress on stderr, if that is a terminal; end takes it away.
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
		_ = bar.Set64(read) // a terminal that is gone stops nothing
	}, func() { _ = bar.Finish() }
}
