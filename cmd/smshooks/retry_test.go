package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/smshooks/smshooks/internal/app"
	"github.com/smshooks/smshooks/pkg/webhook"
	"github.com/smshooks/smshooks/test/fakekafka"
)

func TestReleaseFlags(t *testing.T) {
	now := time.Date(2026, 2, 27, 14, 30, 0, 0, time.UTC)
	inbound := webhook.Inbound
	for _, c := range []struct {
		line string
		want app.Selection
	}{
		{"--user 42", app.Selection{UserID: 42}},
		{"--host hooks.example.com --error timeout", app.Selection{Host: "hooks.example.com", Error: "timeout"}},
		{"--all --since 6h --until 2026-02-27T14:00:00Z", app.Selection{Since: now.Add(-6 * time.Hour), Until: now.Add(-30 * time.Minute)}},
		{"--all --kind inbound", app.Selection{Kind: &inbound}},
	} {
		var f releaseFlags
		cmd := releaseCommand(&f)
		if err := cmd.ParseFlags(strings.Fields(c.line)); err != nil {
			t.Fatal(err)
		}
		got, err := f.selection(cmd, now)
		if err != nil || got.UserID != c.want.UserID || got.Host != c.want.Host || got.Error != c.want.Error ||
			!got.Since.Equal(c.want.Since) || !got.Until.Equal(c.want.Until) || (got.Kind == nil) != (c.want.Kind == nil) {
			t.Errorf("%s: %+v, %v; want %+v", c.line, got, err, c.want)
		}
	}
}

func TestReleaseRefuses(t *testing.T) {
	for line, want := range map[string]string{
		"":                            "exactly one of --user, --host and --all is needed",
		"--user 42 --all":             "exactly one of --user, --host and --all is needed",
		"--all=false":                 "exactly one of --user, --host and --all is needed",
		"--user 0":                    "--user: 0 is not a user id (must be 1 or higher)",
		"--host http://a.example/":    `--host: "http://a.example/" is not a host name or an IP address without a port`,
		"--host a.example:8443":       `--host: "a.example:8443" is not a host name or an IP address without a port`,
		"--host=":                     `--host: "" is not a host name or an IP address without a port`,
		"--all --kind dlrs":           `--kind: "dlrs" is not one of dlr, click, inbound, revoke_click`,
		"--all --since yesterday":     `--since: "yesterday" is neither a time (2026-02-27T14:30:00Z) nor an age (24h, 30d)`,
		"--all --since 1h --until 2h": `--since: 1h is not before --until (2h)`,
	} {
		var out bytes.Buffer
		if code := run(t.Context(), append([]string{"retry", "release"}, strings.Fields(line)...), &out, &out); code != exitUsage || out.String() != "smshooks: "+want+"\n" {
			t.Errorf("%s: exit code %d, %s", line, code, out.String())
		}
	}
}

// interrupter is an output that calls interrupt when text is written to it.
type interrupter struct {
	bytes.Buffer
	text      string
	interrupt func()
}

func (w *interrupter) Write(p []byte) (int, error) {
	n, err := w.Buffer.Write(p)
	if strings.Contains(string(p), w.text) {
		w.interrupt()
	}
	return n, err
}

// TestReleaseInterrupted interrupts the command: before the recovery is stored, before an instance has begun it, and after
// that.
func TestReleaseInterrupted(t *testing.T) {
	cluster := fakekafka.New(t)
	brokers := "--kafka.brokers=" + cluster.ListenAddrs()[0]
	output(t, "topics", "ensure", "--topics.partitions=1", "--topics.replication=1", brokers)
	defer func(d time.Duration) { notBegun = d }(notBegun)
	notBegun = 0
	for _, c := range []struct {
		name, at, want string // at: the text on stderr that is followed by the interrupt
		code           int
	}{
		{"not stored", "", "smshooks: ", exitFailed},
		{"not begun", "no instance has begun", "no instance has begun the recovery; it begins when one with the role consume runs\n" +
			"interrupted before the recovery began; it begins when an instance with the role consume runs\n", exitDone},
		{"begun", "0 released so far", "interrupted; the running instances continue\n", exitDone},
	} {
		ctx, interrupt := context.WithCancel(t.Context())
		if c.at == "" {
			cluster.ControlKey(int16(kmsg.ListOffsets), func(kmsg.Request) (kmsg.Response, error, bool) {
				interrupt() // while topics.config is read
				return nil, nil, false
			})
		}
		stdout := interrupter{text: "rcv_", interrupt: func() {}}
		stderr := interrupter{text: c.at, interrupt: interrupt}
		if c.name == "begun" {
			stdout.interrupt = func() { examined(t, cluster, strings.TrimSpace(stdout.String())) }
		}
		code := run(ctx, []string{"retry", "release", "--user=42", brokers}, &stdout, &stderr)
		if code != c.code || !strings.HasSuffix(stderr.String(), c.want) && c.at != "" || (stdout.Len() > 0) != (c.at != "") {
			t.Errorf("%s: exit code %d, stdout %q, stderr %q; want %d, %q", c.name, code, stdout.String(), stderr.String(), c.code, c.want)
		}
		interrupt()
	}
}

// examined stores that an instance has found no records of the recovery in one partition.
func examined(t *testing.T, cluster *fakekafka.Cluster, id string) {
	t.Helper()
	value := fmt.Sprintf(`{"empty":{"id":%q,"units":{"sms-dlr-retry-6h":[0]},"time":"2026-02-27T14:30:00Z"}}`, id)
	record := &kgo.Record{Topic: "webhook-releases", Key: []byte(id), Value: []byte(value)}
	if err := cluster.Open().ProduceSync(t.Context(), record).FirstErr(); err != nil {
		t.Error(err)
	}
}
