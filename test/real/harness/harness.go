// Package harness starts what the tests of the real floor run against: a real Kafka and a real Redis in containers, the
// program as a child process, and an HTTP receiver that records its requests.
//
// A test says what it needs (Kafka, Redis, Start, NewReceiver) and everything ends with it. One Kafka and one Redis are
// shared by all tests of a process, which keep apart by topic names and key prefixes (TopicsFor); a test that stops or
// kills them takes its own (OwnKafka, OwnRedis).
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

// Main is the body of TestMain: it runs the tests, then what comes after, and ends the shared containers.
func Main(m *testing.M, after ...func() error) {
	// On a machine with a /.dockerenv testcontainers would dial the default gateway instead of loopback. Its reaper
	// is one more image to pull; here the tests end what they start, and reap what a killed run left.
	setDefault("TESTCONTAINERS_HOST_OVERRIDE", "127.0.0.1")
	setDefault("TESTCONTAINERS_RYUK_DISABLED", "true")
	tclog.SetDefault(tclog.NewNoopLogger()) // it would bury what failed; errors carry what counts
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

// Need skips the test unless the real floor is asked for: by SMSHOOKS_TEST_REAL, or by CI, where a missing real floor
// is a failure.
func Need(t testing.TB) {
	t.Helper()
	if !wanted() {
		t.Skip("needs Docker: run make test-real (or set SMSHOOKS_TEST_REAL=1)")
	}
}

func wanted() bool { return os.Getenv("SMSHOOKS_TEST_REAL") != "" || os.Getenv("CI") != "" }

// Eventually polls cond every 20 ms and fails the test with msg when it is not true within timeout, and what a busy machine
// adds (Slack). msg is formatted with args at the end, so pass pointers or functions' results that are still right then.
func Eventually(t testing.TB, timeout time.Duration, cond func() bool, msg string, args ...any) {
	t.Helper()
	if began := time.Now(); !poll(timeout, cond) {
		t.Fatalf("not within %v, and %v for a busy machine: %s", timeout, Slack(began).Round(time.Millisecond), fmt.Sprintf(msg, args...))
	}
}

// Pass lets time pass in which something must happen by contract, or must not: for what cannot be asked.
func Pass(d time.Duration) { <-time.After(d) }

// poll asks cond every 20 ms, and a last time at the end of timeout.
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

// over tells whether timeout has passed since began, and what a busy machine adds to it.
func over(began time.Time, timeout time.Duration) bool {
	passed := time.Since(began)
	return passed > timeout && passed > timeout+Slack(began)
}

// FreeAddr gives a loopback address (127.0.0.1:port) nobody listens on.
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

// within gives a context for one step of the set-up, ended with the test.
func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}
