package harness_test

import (
	"testing"
	"time"

	"github.com/smshooks/smshooks/test/real/harness"
)

// TestSlack checks that a time limit grows while the machine is held up, and only then.
func TestSlack(t *testing.T) {
	from := time.Now()
	harness.Kafka(t)
	harness.Eventually(t, harness.Patience, func() bool { return harness.Slack(from) > 0 }, "a record arrives")
	if d := harness.Slack(time.Now().Add(time.Hour)); d != 0 {
		t.Errorf("a slack of %v for a time in the future", d)
	}
}
