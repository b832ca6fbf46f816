package demo

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/smshooks/smshooks/config"
	"github.com/smshooks/smshooks/pkg/delay"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// Terminal control sequences. Lines are cut at the edge: if they wrapped, moving up would miss the first line.
const (
	wrapOff   = "\x1b[?7l"
	wrapOn    = "\x1b[?7h"
	clearLine = "\x1b[K"
	clearDown = "\x1b[J"
)

// Colours.
const (
	bold   = "1"
	dim    = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
)

const barWidth = 30

// screen redraws a table on a terminal and writes a line per second elsewhere.
type screen struct {
	out    io.Writer
	redraw bool
	colour bool
	drawn  int       // lines of the last frame
	said   time.Time // time of the last plain line
}

func newScreen(out *os.File) *screen {
	info, err := out.Stat()
	terminal := err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
	if runtime.GOOS == "windows" && os.Getenv("WT_SESSION") == "" {
		terminal = false // older consoles print the control sequences
	}
	return &screen{out: out, redraw: terminal, colour: terminal && os.Getenv("NO_COLOR") == ""}
}

func (v *screen) paint(colour, text string) string {
	if !v.colour {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

func (v *screen) line(text string) { fmt.Fprintln(v.out, text) }

// introduce prints the users, the shortened settings and the addresses.
func (v *screen) introduce(s *setup) {
	v.line(v.paint(bold, "smshooks demo") + "  runs the service, a gateway and four users in this process.")
	v.line("  Kafka and Redis are simulated. Nothing is stored, and nothing leaves this machine.")
	v.line("")
	for _, u := range s.users {
		v.line(fmt.Sprintf("  user %d  %s %s", u.id, v.paint(bold, fmt.Sprintf("%-9s", u.name)), u.manners))
	}
	v.line("")
	v.line("  Retries      " + schedule(s.Config))
	if s.longest() > s.Length+spareTime {
		v.line("               " + v.paint(yellow,
			"Retries take longer than this demo: "+
				"delayed events will be missing in the ledger."))
		v.line("               " + v.paint(yellow,
			"Use a longer --for, or shorten "+
				"retry.schedule, dispatch.timeout or revocation.interval."))
	}
	v.line("  Revocations  one batch per user every " + delay.Name(s.Config.Revocation.Interval) +
		shortened(config.Defaults().Revocation.Interval, s.Config.Revocation.Interval))
	v.line("  Operations   http://" + s.opsAddr + "/metrics  /healthz  /readyz")
	if s.apiUp {
		v.line("  API          " + s.page())
		v.line("               curl -H 'X-API-KEY: " + s.apiKey + "' " + s.api() + "/v1/user/get-webhook")
	}
	v.line("")
}

// schedule describes the retries.
func schedule(cfg *config.Config) string {
	if len(cfg.Retry.Schedule) == 0 {
		return "none: retry.schedule is empty"
	}
	usual := config.Defaults().Retry.Schedule
	text := "after "
	for i, d := range cfg.Retry.Schedule {
		if i > 0 {
			text += " and "
		}
		text += delay.Name(d)
	}
	return text + shortened(usual[0], cfg.Retry.Schedule[0])
}

func shortened(usual, now time.Duration) string {
	if now >= usual {
		return ""
	}
	return " (" + delay.Name(usual) + " shortened to " + delay.Name(now) + ")"
}

// progress shows the current counts.
func (v *screen) progress(s *setup, f counts, phase string) {
	now := time.Now()
	if v.redraw {
		v.frame(v.table(s, f, phase, now.Sub(s.began)))
		return
	}
	if now.Sub(v.said) < time.Second {
		return
	}
	v.said = now
	var t row
	for _, u := range s.users {
		t.add(s.row(u))
	}
	v.line(fmt.Sprintf("%5.1fs  %-35s  sent %d  delivered %d  pending %d  dead %d  skipped %d  requests %d",
		now.Sub(s.began).Seconds(), firstClause(phase), t.sent, t.delivered, t.pending, t.dead, t.skipped, t.requests))
}

func firstClause(phase string) string {
	before, _, _ := strings.Cut(phase, ":")
	return before
}

// frame overwrites the last frame in one write.
func (v *screen) frame(lines []string) {
	var b strings.Builder
	b.WriteString(wrapOff)
	if v.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA\r", v.drawn)
	}
	for _, l := range lines {
		b.WriteString(l + clearLine + "\n")
	}
	b.WriteString(clearDown + wrapOn)
	v.drawn = len(lines)
	_, _ = io.WriteString(v.out, b.String()) // a closed terminal does not matter
}

// row is a user's line in the table. It counts records of the gateway.
type row struct {
	sent, delivered, pending, dead, skipped, requests int64
	last                                              string
}

func (r *row) add(o row) {
	r.sent += o.sent
	r.delivered += o.delivered
	r.pending += o.pending
	r.dead += o.dead
	r.skipped += o.skipped
	r.requests += o.requests
}

func (s *setup) row(u *user) row {
	t := u.receiver.tally()
	r := row{sent: u.sent.Load(), delivered: t.records, dead: s.letters.of(string(u.key())), skipped: u.skipped.Load(),
		last: t.last}
	for _, n := range t.requests {
		r.requests += n
	}
	// The counts are read one after the other: a record may be delivered before its acknowledgement arrives.
	r.pending = max(r.sent-r.skipped-r.delivered-r.dead, 0)
	return r
}

func (v *screen) table(s *setup, f counts, phase string, elapsed time.Duration) []string {
	filled := min(int(elapsed*barWidth/s.Length), barWidth)
	lines := []string{
		fmt.Sprintf("  %s%s %5.1fs of about %s  %s", v.paint(green, strings.Repeat("█", filled)),
			v.paint(dim, strings.Repeat("░", barWidth-filled)),
			elapsed.Seconds(), delay.Name(s.Length), v.paint(bold, phase)),
		"",
		v.paint(dim, fmt.Sprintf("  %-12s %6s %9s %7s %5s %7s %8s  %s", "user", "sent", "delivered", "pending", "dead",
			"skipped", "requests", "last reply")),
	}
	for _, u := range s.users {
		r := s.row(u)
		lines = append(lines, fmt.Sprintf("  %-12s %6d %s %s %s %7d %8d  %s", fmt.Sprintf("%d %s", u.id, u.name), r.sent,
			v.count(green, 9, r.delivered), v.count(yellow, 7, r.pending), v.count(red, 5, r.dead), r.skipped, r.requests,
			v.reply(r.last)))
	}
	lines = append(lines, "", v.paint(dim, fmt.Sprintf("  %-13s %9s %6s %8s %6s %5s %7s %8s %9s", "fates", "delivered",
		"retry", "overflow", "paused", "dead", "batched", "filtered", "duplicate")))
	for _, k := range webhook.Kinds() {
		n := f.settled[k]
		lines = append(lines, fmt.Sprintf("  %-13s %s %s %s %s %s %7d %8d %9d", k, v.count(green, 9, n[webhook.Delivered]),
			v.count(yellow, 6, n[webhook.Retry]),
			v.count(yellow, 8, n[webhook.Overflow]), v.count(yellow, 6, n[webhook.Paused]), v.count(red, 5, n[webhook.Dead]),
			n[webhook.Batched], n[webhook.Filtered],
			n[webhook.Duplicate]))
	}
	return lines
}

// count colours a number that is not 0.
func (v *screen) count(colour string, width int, n int64) string {
	text := fmt.Sprintf("%*d", width, n)
	if n == 0 {
		return text
	}
	return v.paint(colour, text)
}

func (v *screen) reply(last string) string {
	switch last {
	case "200":
		return v.paint(green, last)
	case "-":
		return last
	}
	return v.paint(red, last)
}

// ledger prints the rows of the ledger and the verdict.
func (v *screen) ledger(checks []check, f facts, deadLetters string) {
	v.line("")
	v.line(v.paint(bold, "The ledger") + "  compares what the gateway, Kafka and " +
		"the receivers counted with the service's metrics")
	about := ""
	for _, c := range checks {
		if c.about != about {
			about = c.about
			v.line("")
			v.line("  " + strings.Replace(about, "in the topic", "in "+deadLetters, 1))
		}
		mark := v.paint(green, "✓")
		if !c.balanced() {
			mark = v.paint(red, "✗")
		}
		text := fmt.Sprintf("  %s %-13s %-26s", mark, c.kind, equation(c.sides))
		if c.note != "" {
			text += "  " + v.paint(dim, c.note)
		}
		v.line(strings.TrimRight(text, " "))
		if !c.balanced() {
			v.line("      " + v.paint(red, "differs: "+c.differs()))
		}
	}
	v.line("")
	if verdict(checks, f) == nil {
		v.line(v.paint(green, "✓") + " The ledger balances: every record has exactly one fate, and none is missing.")
	} else {
		v.line(v.paint(red, "✗") + " The ledger does not balance.")
	}
}

// equation returns a text such as 412 + 96 = 508 = 508, with ≠ between different values.
func equation(sides []side) string {
	text := ""
	for i, s := range sides {
		switch {
		case i == 0:
		case s.sum() == sides[i-1].sum():
			text += " = "
		default:
			text += " ≠ "
		}
		if len(s.terms) == 2 {
			text += fmt.Sprintf("%d + %d", s.terms[0], s.terms[1])
		} else {
			text += fmt.Sprint(s.sum())
		}
	}
	return text
}
