package main

import (
	"bytes"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/smshooks/smshooks/test/fakekafka"
)

func TestLetterFilter(t *testing.T) {
	now := time.Date(2026, 2, 27, 12, 0, 0, 0, time.UTC)
	read := func(args ...string) (since, until time.Duration, err error) {
		var f letterFlags
		cmd := deadletterCommand()
		cmd.ResetFlags()
		f.add(cmd)
		if err := cmd.ParseFlags(args); err != nil {
			t.Fatal(err)
		}
		filter, err := f.filter(cmd, now)
		return now.Sub(filter.Since), now.Sub(filter.Until), err
	}
	since, until, err := read("--user=42", "--kind=revoke_click", "--reason=window_expired", "--since=24h", "--until=2026-02-27T11:00:00Z")
	if err != nil || since != 24*time.Hour || until != time.Hour {
		t.Errorf("%v, since %v, until %v ago", err, since, until)
	}
	if since, _, err := read("--since=30d"); err != nil || since != 30*24*time.Hour {
		t.Errorf("30d: %v, since %v ago", err, since)
	}
	if _, _, err := read("--since=2026-02-27T11:00:00Z", "--until=1h"); err == nil {
		t.Error("an empty period is accepted")
	}
	if t0, err := instant("0001-01-01T00:00:00Z", now); err != nil || t0.IsZero() {
		t.Errorf("the zero time of Go programs is no bound: %v, %v", t0, err)
	}
	for _, arg := range []string{"--user=0", "--user=-1", "--kind=sms", "--reason=none", "--since=yesterday", "--until=-1h"} {
		var usage usageError
		if _, _, err := read(arg); !errors.As(err, &usage) {
			t.Errorf("%s: %v, want a usageError", arg, err)
		}
	}
}

// TestReplayIsComplete reuses the file of a complete replay.
func TestReplayIsComplete(t *testing.T) {
	flags := []string{"--kafka.brokers=" + fakekafka.New(t).ListenAddrs()[0], "--redis.addrs=127.0.0.1:1"}
	output(t, append([]string{"topics", "ensure", "--topics.partitions=1", "--topics.replication=1"}, flags...)...)
	file := filepath.Join(t.TempDir(), "replay.json")
	complete := "the replay in " + file + " is complete; to replay newer dead letters, name another file\n"
	for _, want := range []string{"", complete} {
		var out, stderr bytes.Buffer
		code := run(t.Context(), append([]string{"deadletter", "replay", "--position=" + file}, flags...), &out, &stderr)
		if code != exitDone || out.String() != "0 replayed\n" || stderr.String() != want {
			t.Errorf("exit code %d, stdout %q, stderr %q, want %q", code, out.String(), stderr.String(), want)
		}
	}
}
