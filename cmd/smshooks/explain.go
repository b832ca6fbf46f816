package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/smshooks/smshooks/internal/app"
	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/explain"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// explainFlags are the flags of explain.
type explainFlags struct {
	user                 int64
	message, kind, since string
	json, personal       bool
}

func explainCommand() *cobra.Command {
	var flags explainFlags
	cmd := &cobra.Command{
		Use: "explain [ID]", Short: "Show what became of an event or of a message", Args: atMostOne,
		Long: "Show what became of an event or of a message: its copies in the source, delay and dead letter topics,\n" +
			"its attempts and failures, when the next attempt is due, and its state.\n\n" +
			"ID is the event's id (Webhook-Id) or the position of its source record (<topic>/<partition>/<offset>).\n" +
			"With --user, the partition of the user's key is searched first. An id of the form evt_… is found without\n" +
			"reading the source. For an id given by the gateway, or a message, the records are searched, so --user\n" +
			"and --since shorten the search. Attempts come from the delivery log, which has a user's latest 1,000.",
		Example: "  smshooks explain evt_65zCzbYEsdPvvuoJ9JsGNu\n" +
			"  smshooks explain --user 42 --message 12345 --since 24h\n" +
			"  smshooks explain --user 42 --message 12345 --json | jq '.[].state'",
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := flags.query(cmd, args, time.Now())
			if err != nil {
				return err
			}
			return withAdmin(cmd, noTimeout, func(ctx context.Context, admin *app.Admin) error {
				events, err := admin.Explain(ctx, q, func(err error) { fmt.Fprintf(cmd.ErrOrStderr(), "warning: %v\n", err) })
				if err != nil {
					return err
				}
				if len(events) == 0 {
					return errors.New("nothing found: check the id, --user and --since; the topics may no longer hold its records")
				}
				if flags.json {
					return ignoreClosedPipe(printExplained(cmd.OutOrStdout(), events, q.ID == ""))
				}
				return ignoreClosedPipe(writeExplained(cmd.OutOrStdout(), events, flags.personal))
			})
		}}
	cmd.Flags().Int64Var(&flags.user, "user", 0,
		"user id of the message; with an event's id, whose partition to search first")
	cmd.Flags().StringVar(&flags.message, "message", "", "id of the message (sms.id)")
	cmd.Flags().StringVar(&flags.kind, "kind", "", "only events of this kind: "+strings.Join(kindNames, ", "))
	cmd.Flags().StringVar(&flags.since, "since", "",
		"only records written at or after this time: RFC 3339, or an age such as 24h or 30d")
	cmd.Flags().BoolVar(&flags.json, "json", false, "print JSON: an object for an id, an array for a message")
	cmd.Flags().BoolVar(&flags.personal, "show-personal-data", false, "print phone numbers in full")
	complete(cmd, "kind", kindNames...)
	return cmd
}

// atMostOne accepts at most one argument.
func atMostOne(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usagef("%s takes 1 argument, got %d", cmd.CommandPath(), len(args))
	}
	return nil
}

// query reads the flags. An error is a usageError.
func (f *explainFlags) query(cmd *cobra.Command, args []string, now time.Time) (q explain.Query, err error) {
	q = explain.Query{UserID: f.user, MessageID: f.message}
	if len(args) == 1 {
		q.ID = args[0]
	}
	switch {
	case q.ID == "" && q.MessageID == "":
		return q, usagef("missing argument: give an event's id, or --user and --message; see %s --help", cmd.CommandPath())
	case q.ID != "" && q.MessageID != "":
		return q, usagef("--message: cannot be used together with an event's id")
	case (q.ID == "" || cmd.Flags().Changed("user")) && f.user < 1:
		return q, usagef("--user: must be a user id, 1 or higher")
	}
	if err := oneOf("kind", f.kind, kindNames); err != nil {
		return q, err
	}
	if kind, err := webhook.ParseKind(f.kind); err == nil {
		q.Kind = &kind
	}
	if q.Since, err = instant(f.since, now); err != nil {
		return q, usagef("--since: %w", err)
	}
	return q, nil
}

// explainedJSON is an event in JSON.
type explainedJSON struct {
	ID          string     `json:"id"`
	UserID      *int64     `json:"user_id"`
	Kind        string     `json:"kind"`
	MessageID   *string    `json:"message_id"`
	EventTime   *string    `json:"event_time"`
	State       string     `json:"state"`
	Attempts    int        `json:"attempts"`
	NextAttempt *string    `json:"next_attempt"`
	Error       *string    `json:"error"`
	Copies      []copyJSON `json:"copies"`
}

type copyJSON struct {
	Topic     string  `json:"topic"`
	Partition int32   `json:"partition"`
	Offset    int64   `json:"offset"`
	Time      string  `json:"time"`
	Due       *string `json:"due"`
	Committed bool    `json:"committed"`
}

// printExplained prints the events as JSON: an array, or an object for each. Only an id that the gateway gave twice has
// several.
func printExplained(w io.Writer, events []explain.Event, array bool) error {
	list := make([]explainedJSON, len(events))
	for i := range events {
		e := &events[i]
		list[i] = explainedJSON{
			ID: e.ID, Kind: e.Kind.String(), MessageID: orNull(e.MessageID), EventTime: orNull(timeText(e.Time)),
			State: string(e.State), Attempts: e.Attempts, NextAttempt: orNull(timeText(e.Next)),
			Error: orNull(string(e.Failure)), Copies: make([]copyJSON, len(e.Copies)),
		}
		if e.UserID > 0 {
			list[i].UserID = &e.UserID
		}
		for j, c := range e.Copies {
			list[i].Copies[j] = copyJSON{c.Topic, c.Partition, c.Offset, timeText(c.Time), orNull(timeText(c.Due)), c.Committed}
		}
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	if array {
		return enc.Encode(list)
	}
	for _, e := range list {
		if err := enc.Encode(e); err != nil {
			return err
		}
	}
	return nil
}

func orNull(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

// timeText formats t like all other times. It returns "" for the zero time.
func timeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return event.FormatTime(t)
}

// writeExplained writes events as tables.
func writeExplained(w io.Writer, events []explain.Event, personal bool) error {
	for i := range events {
		e := &events[i]
		if i > 0 {
			fmt.Fprintln(w)
		}
		out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		line := func(name, value string) {
			if value != "" {
				fmt.Fprintf(out, "%s\t%s\n", name, printable(value))
			}
		}
		line("event", e.ID)
		line("kind", e.Kind.String())
		if e.UserID > 0 {
			line("user", strconv.FormatInt(e.UserID, 10))
		}
		line("message", e.MessageID)
		line("from", number(e.From, personal))
		line("to", number(e.To, personal))
		line("event time", timeText(e.Time))
		line("state", string(e.State))
		line("attempts", strconv.Itoa(e.Attempts))
		line("next attempt", timeText(e.Next))
		line("error", string(e.Failure))
		line("reason", string(e.Reason))
		if e.State == explain.Settled {
			line("meaning", settledMeaning(e.Kind))
		}
		if err := out.Flush(); err != nil {
			return err
		}
		if err := writeCopies(w, e.Copies); err != nil {
			return err
		}
		if err := writeAttempts(w, e.Log); err != nil {
			return err
		}
	}
	return nil
}

// settledMeaning says how an event of a kind may have ended that the delivery log does not have.
func settledMeaning(k webhook.Kind) string {
	text := "delivered longer ago than the delivery log shows, or not sent: no URL was set"
	switch k {
	case webhook.DLR:
		text += ", or its status is not in dlr_statuses"
	case webhook.Click:
		text += ", it is a click of a bot or of a preview, or not the first of its message"
	case webhook.RevokeClick:
		text += ", or it was sent with its batch, which has an id of its own"
	}
	return text
}

func writeCopies(w io.Writer, copies []explain.Copy) error {
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "\nRECORD\tCLASS\tWRITTEN\tDUE\tCOMMITTED")
	for _, c := range copies {
		committed := "no"
		if c.Committed {
			committed = "yes"
		}
		if c.Class == explain.DeadLetter {
			committed = "-"
		}
		due := "-"
		if !c.Due.IsZero() {
			due = timeText(c.Due)
		}
		fmt.Fprintf(out, "%s/%d/%d\t%s\t%s\t%s\t%s\n", c.Topic, c.Partition, c.Offset, c.Class, timeText(c.Time), due,
			committed)
	}
	return out.Flush()
}

func writeAttempts(w io.Writer, attempts []event.LogEntry) error {
	if len(attempts) == 0 {
		return nil
	}
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "\nATTEMPT\tTIME\tHOST\tRESULT\tTOOK")
	for _, a := range attempts {
		result := string(a.Failure)
		if result == "" {
			result = "http " + strconv.Itoa(a.Status)
		}
		fmt.Fprintf(out, "%d\t%s\t%s\t%s\t%v\n", a.Number, timeText(a.Time), printable(a.Host), result,
			a.Took.Round(time.Millisecond))
	}
	return out.Flush()
}

// number masks all but the last two characters of a phone number. It does not change the name of a sender: that has
// letters and fewer digits than a phone number.
func number(text string, personal bool) string {
	const phoneDigits = 7
	chars, digits, letters := []rune(text), 0, false
	for _, c := range chars {
		if letters = letters || unicode.IsLetter(c); unicode.IsDigit(c) {
			digits++
		}
	}
	if personal || letters && digits < phoneDigits || len([]rune(strings.TrimLeft(text, "+0"))) < 3 {
		return text
	}
	return strings.Repeat("*", len(chars)-2) + string(chars[len(chars)-2:])
}

// printable quotes text with control characters: ids come from the gateway and can hold any character.
func printable(text string) string {
	if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(text)
	}
	return text
}
