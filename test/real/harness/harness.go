// Package harness starts what tests of the real floor need: a real Kafka and a real Redis in containers, the program as
// a child process, and an HTTP receiver that records its requests.
//
// A test requests what it needs (Kafka, Redis, Start, NewReceiver), and everything ends with it. All tests of a process
// share one Kafka and one Redis, with separate topic names and key prefixes (TopicsFor). A test that stops or kills a
// server starts its own (OwnKafka, OwnRedis).
package harness

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"testing"
	"time"

	tclog "github.com/testcontainers/testcontainers-go/log"
)

// Main is the body of TestMain: it runs the tests, calls after, and ends the shared containers.
func Main(m *testing.M, after ...func() error) {
	// On a machine with a /.dockerenv testcontainers would dial the default gateway instead of loopback. Its reaper
	// would need another image; the tests end what they start, and reap cleans up after a killed run.
	setDefault("TESTCONTAINERS_HOST_OVERRIDE", "127.0.0.1")
	setDefault("TESTCONTAINERS_RYUK_DISABLED", "true")
	tclog.SetDefault(tclog.NewNoopLogger()) // it would hide the failures; errors contain what matters
	if wanted() {
		reap()
	}
	code := m.Run()
	for _, f := range after {
		if err := f(); err != nil {
			fmt.Fprintln(os.Stderr, "harness:", err)
			code = max(code, 1)
		}
	}
	endShared()
	removeBinary()
	os.Exit(code)
}

// Need skips the test unless SMSHOOKS_TEST_REAL or CI requests the real floor. In CI a missing real floor is a failure.
func Need(t testing.TB) {
	t.Helper()
	if !wanted() {
		t.Skip("needs Docker: run make test-real (or set SMSHOOKS_TEST_REAL=1)")
	}
}

func wanted() bool { return os.Getenv("SMSHOOKS_TEST_REAL") != "" || os.Getenv("CI") != "" }

// Eventually polls cond every 20 ms. It fails the test with msg if cond is not true within timeout plus the slack of a
// busy machine (Slack). msg is formatted with args at the end, so pass values that are still right then, or pointers.
func Eventually(t testing.TB, timeout time.Duration, cond func() bool, msg string, args ...any) {
	t.Helper()
	if began := time.Now(); !poll(timeout, cond) {
		t.Fatalf("not within %v and a slack of %v: %s", timeout, Slack(began).Round(time.Millisecond), fmt.Sprintf(msg, args...))
	}
}

// Patience limits a wait for something that happens soon unless it is broken. It is long because the machine may be
// busy, and only a test that fails waits for all of it.
const Patience = time.Minute

// Pass waits while something must happen by contract, or must not, if there is no condition to poll.
func Pass(d time.Duration) { <-time.After(d) }

// poll checks cond every 20 ms, and once more at the end of timeout.
func poll(timeout time.Duration, cond func() bool) bool {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); ; <-tick.C {
		late := over(began, timeout)
		if cond() {
			return true
		}
		if late {
			return false
		}
	}
}

// over reports whether timeout plus the slack of a busy machine has passed since began.
func over(began time.Time, timeout time.Duration) bool {
	passed := time.Since(began)
	return passed > timeout && passed > timeout+Slack(began)
}

// FreeAddr returns a loopback address (127.0.0.1:port) that is not in use.
func FreeAddr(t testing.TB) string {
	t.Helper()
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	return loopback(port)
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func env(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

func setDefault(name, value string) {
	if os.Getenv(name) == "" {
		os.Setenv(name, value)
	}
}

// within returns a context for one step of the set-up. It ends with the test.
func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}
