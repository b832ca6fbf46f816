package faults_test

import (
	"os/exec"
	"strings"
	"testing"
)

// TestWindow runs the tests of internal/app with an outage of 30 h, which needs virtual time, once more for the report.
func TestWindow(t *testing.T) {
	longOnly(t, "each of these tests of internal/app")
	inTurn(t)
	rec := newCase(t, "12", "retry topics across 30 h, virtual time", "single events of each kind")
	rec.did("the whole service in virtual time on an in-process Kafka and Redis: away for 30 h, for 20 h and up to the window's end, " +
		"with events waiting in retry topics and in the source topics")
	out, err := exec.Command("go", "-C", "../../..", "test", "-count=1", "-v", "-run", "^TestOutage|^TestWindow|^TestThreeAttempts",
		"./internal/app").CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	n := 0
	for _, line := range strings.Split(string(out), "\n") {
		if passed, ok := strings.CutPrefix(line, "--- PASS: "); ok {
			rec.note("passed: %s", passed)
			n++
		}
	}
	if n < 5 {
		t.Errorf("%d tests ran, want 5 at least\n%s", n, out)
	}
}
