package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/smshooks/smshooks/test/fakekafka"
)

// TestCheckWarns checks that topics check reports settings that the service starts with nevertheless.
func TestCheckWarns(t *testing.T) {
	settings := []string{"--topics.partitions=1", "--topics.replication=1", "--retry.schedule=1s,20s", "--retry.window=5s",
		"--kafka.brokers=" + fakekafka.New(t).ListenAddrs()[0]}
	output(t, append([]string{"topics", "ensure"}, settings...)...)
	var out, stderr bytes.Buffer
	code := run(t.Context(), append([]string{"topics", "check"}, settings...), &out, &stderr)
	if code != exitDone || !strings.Contains(stderr.String(), "warning: retry.schedule: only 2 of 3 attempts are made") {
		t.Errorf("exit code %d, stderr %q", code, stderr.String())
	}
}
