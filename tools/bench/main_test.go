package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// invoke runs a command line and returns what it printed and its exit code.
func invoke(args ...string) (stdout, stderr string, code int) {
	var out, errOut bytes.Buffer
	code = run(context.Background(), args, &out, &errOut)
	return out.String(), errOut.String(), code
}

func TestUsage(t *testing.T) {
	service := filepath.Join(t.TempDir(), "smshooks")
	if err := os.WriteFile(service, []byte("#!/bin/sh\necho smshooks v1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", "/nonexistent") // no Docker
	for _, tc := range []struct {
		args   []string
		code   int
		stderr string
	}{
		{[]string{"--scenarios=speed"}, 2, "throughput"},
		{[]string{"--runs=0"}, 2, "--runs"},
		{[]string{"--cases=("}, 2, "--cases"},
		{[]string{"--connect-plugin=/nonexistent"}, 2, "no jar"},
		{[]string{"--users=10,0"}, 2, "--users"},
		{[]string{"--speed"}, 2, "--speed"},
		{[]string{"--retry.window=long"}, 2, "retry.window"},
		{[]string{"fast"}, 2, "fast"},
		{[]string{"report"}, 2, "--json"},
		{[]string{"--quick"}, 1, "--binary"},
		{[]string{"--quick", "--binary=" + service}, 1, "--kafka"},
	} {
		if _, stderr, code := invoke(tc.args...); code != tc.code || !strings.Contains(stderr, tc.stderr) {
			t.Errorf("bench %v: exit code %d, want %d; %q in %q", tc.args, code, tc.code, tc.stderr, stderr)
		}
	}
	out, _, code := invoke("--help")
	if code != 0 || !strings.Contains(out, "go run -C tools/bench . --quick") || strings.Contains(out, "handwritten") {
		t.Errorf("bench --help: exit code %d\n%s", code, out)
	}
}
