package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/spf13/cobra"

	"github.com/smshooks/smshooks/test/fakekafka"
)

// output runs a command line and returns its stdout.
func output(t *testing.T, args ...string) string {
	t.Helper()
	var out, stderr bytes.Buffer
	if code := run(t.Context(), args, &out, &stderr); code != exitDone {
		t.Fatalf("%v: exit code %d: %s", args, code, stderr.String())
	}
	return out.String()
}

// every calls f for each visible command, except those that cobra adds.
func every(cmd *cobra.Command, f func(*cobra.Command)) {
	if cmd.Hidden {
		return
	}
	f(cmd)
	for _, child := range cmd.Commands() {
		every(child, f)
	}
}

func TestHelpHasExamples(t *testing.T) {
	commands := 0
	every(rootCommand(), func(cmd *cobra.Command) {
		commands++
		path := strings.Fields(cmd.CommandPath())[1:]
		help := output(t, append(path, "--help")...)
		_, examples, found := strings.Cut(help, "Examples:\n")
		if !found || !strings.Contains(strings.SplitN(examples, "\n\n", 2)[0], "smshooks "+strings.Join(path, " ")) {
			t.Errorf("%s: no example in its help:\n%.600s", cmd.CommandPath(), help)
		}
	})
	if commands < 15 {
		t.Errorf("%d commands checked", commands)
	}
}

// TestExamplesParse checks that the flags and arguments of all examples are valid.
func TestExamplesParse(t *testing.T) {
	every(rootCommand(), func(cmd *cobra.Command) {
		for line := range strings.Lines(cmd.Example) {
			line, _, _ = strings.Cut(strings.TrimSpace(line), " | ")
			line, _, _ = strings.Cut(line, "   ") // cut the explanation
			if i := strings.Index(line, "smshooks "); i > 0 {
				line = line[i:] // after variables
			}
			words := strings.Fields(strings.ReplaceAll(line, "'back office'", "x"))
			if len(words) == 0 || words[0] != "smshooks" {
				t.Errorf("%s: not an example of this program: %s", cmd.CommandPath(), line)
				continue
			}
			target, rest, err := rootCommand().Find(words[1:])
			if err == nil {
				err = target.ParseFlags(rest)
			}
			if err == nil {
				err = target.ValidateArgs(target.Flags().Args())
			}
			if err != nil || target.HasSubCommands() && target.HasParent() {
				t.Errorf("%s: %s: %v", cmd.CommandPath(), line, err)
			}
		}
	})
}

func TestManPages(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "man")
	output(t, "man", dir)
	every(rootCommand(), func(cmd *cobra.Command) {
		name := strings.ReplaceAll(cmd.CommandPath(), " ", "-") + ".1"
		page, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
			return
		}
		for _, part := range []string{".SH NAME", ".SH SYNOPSIS", ".SH EXAMPLE", "--retry.window"} {
			if !strings.Contains(strings.ReplaceAll(string(page), `\-`, "-"), part) {
				t.Errorf("%s lacks %s", name, part)
			}
		}
	})
	again := filepath.Join(t.TempDir(), "man")
	output(t, "man", again)
	first, _ := os.ReadFile(filepath.Join(dir, "smshooks.1"))
	second, _ := os.ReadFile(filepath.Join(again, "smshooks.1"))
	if len(first) == 0 || !bytes.Equal(first, second) {
		t.Error("the pages of two runs differ")
	}
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		script := output(t, "completion", shell)
		if !strings.Contains(script, "smshooks") {
			t.Errorf("%s: %.200s", shell, script)
		}
		path, err := exec.LookPath(shell)
		if err != nil {
			t.Logf("%s is not installed; its script is not checked", shell)
			continue
		}
		check := exec.Command(path, "-n")
		check.Stdin = strings.NewReader(script)
		if out, err := check.CombinedOutput(); err != nil {
			t.Errorf("%s rejects its script: %v: %s", shell, err, out)
		}
	}
	for line, want := range map[string][]string{
		"serve --log.level=":               {"debug", "info", "warn", "error"},
		"serve --kafka.sasl.mechanism ":    {"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"},
		"topics check --dispatch.success=": {"200", "2xx"},
		"serve --roles ":                   {"consume", "materialise", "api"},
		"deadletter list --kind ":          {"dlr", "click", "inbound", "revoke_click"},
		"deadletter replay --reason ":      {"attempts_exhausted", "window_expired", "invalid_record"},
		"deadletter ":                      {"list", "replay"},
	} {
		words := strings.Split(line, " ")
		out := output(t, append([]string{"__complete"}, words...)...)
		for _, word := range want {
			if !strings.Contains(out, word) {
				t.Errorf("completions of %q: %q, want %s", line, out, word)
			}
		}
	}
}

// closedPipe is a stdout whose reader has gone, as after head.
type closedPipe struct{}

func (closedPipe) Write([]byte) (int, error) {
	return 0, fmt.Errorf("write /dev/stdout: %w", syscall.EPIPE)
}

// TestClosedPipe checks that the output of a command may be cut off without an error.
func TestClosedPipe(t *testing.T) {
	for _, args := range [][]string{
		{"version"}, {"config", "print"}, {"topics", "acls", "--principal", "User:x"},
		{"topics", "acls", "--principal", "User:x", "--format", "strimzi"},
	} {
		var stderr bytes.Buffer
		if code := run(t.Context(), args, closedPipe{}, &stderr); code != exitDone || stderr.Len() > 0 {
			t.Errorf("%v: exit code %d: %s", args, code, stderr.String())
		}
	}
}

// fullDisk is a stdout that cannot be written.
type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) {
	return 0, fmt.Errorf("write /dev/stdout: %w", syscall.ENOSPC)
}

// TestFullDisk checks that every command fails if its output cannot be written.
func TestFullDisk(t *testing.T) {
	cluster := fakekafka.New(t)
	flags := []string{"--topics.partitions=1", "--topics.replication=1", "--kafka.brokers=" + cluster.ListenAddrs()[0],
		"--redis.addrs=" + miniredis.RunT(t).Addr(), "--secrets.key=" + strings.Repeat("A", 43) + "="}
	for _, args := range []string{
		"topics ensure", "topics check", "topics acls --principal=User:x", "retry release --all --dry-run", "secrets reseal", "secrets reseal --dry-run",
		"deadletter replay", "keys create --user=42", "send --user=42 --kind=dlr", "version", "config print", "--help",
	} {
		var stderr bytes.Buffer
		code := run(t.Context(), append(strings.Fields(args), flags...), fullDisk{}, &stderr)
		if code != exitFailed || !strings.Contains(stderr.String(), "no space left on device") {
			t.Errorf("%s: exit code %d: %s", args, code, stderr.String())
		}
	}
}

// writerFunc is a stdout.
type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// TestServeWithFullDisk checks that serve stops with 0 although its hint could not be written.
func TestServeWithFullDisk(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	full := writerFunc(func(p []byte) (int, error) { cancel(); return fullDisk{}.Write(p) })
	var stderr bytes.Buffer
	code := run(ctx, []string{"serve", "--embedded", "--embedded.dir=" + t.TempDir(), "--embedded.kafka_addr=127.0.0.1:0",
		"--embedded.redis_addr=127.0.0.1:0", "--api.addr=127.0.0.1:0", "--ops.addr=127.0.0.1:0"}, full, &stderr)
	if code != exitDone || ctx.Err() == nil {
		t.Errorf("exit code %d: %s", code, stderr.String())
	}
}

// TestMissingFile checks that a setting that names a missing file is a usage error.
func TestMissingFile(t *testing.T) {
	for _, command := range [][]string{{"serve"}, {"topics", "check"}} {
		var out, stderr strings.Builder
		args := append(command, "--kafka.tls.enabled=true", "--kafka.tls.ca_file=/nowhere/ca.pem")
		if code := run(t.Context(), args, &out, &stderr); code != exitUsage {
			t.Errorf("%v: exit code %d, want %d", command, code, exitUsage)
		}
		text := stderr.String()
		for _, part := range []string{"kafka.tls.ca_file", "flag --kafka.tls.ca_file", "/nowhere/ca.pem"} {
			if !strings.Contains(text, part) {
				t.Errorf("%v: %s", command, text)
			}
		}
	}
}
