package real_test

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/smshooks/smshooks/test/real/harness"
)

// TestFrozenMember stops a member with requests in flight for longer than its session, so that another one takes over
// its partitions, and resumes it. It must not send what the other one sends, and must rejoin.
func TestFrozenMember(t *testing.T) {
	const users = 20
	e := newEnv(t, "--kafka.session_timeout=3s", "--dispatch.timeout=2s")
	hooks := map[int64]harness.Webhook{}
	for user := int64(1); user <= users; user++ {
		hooks[user] = e.all(user, "")
		e.recv.On(path("dlr", user), harness.Slow(300*time.Millisecond, 200))
	}
	e.configure(t, hooks)
	frozen := e.options()
	frozen.Binary = harness.BinaryOf(t, "frozen")
	first := harness.StartReady(t, frozen)
	l := startLoad(t, e, users, 100*time.Millisecond)
	e.recv.WaitCount(t, "", 2*users, harness.Patience)
	second := harness.Start(t, e.options())
	first.Signal(t, syscall.SIGSTOP)
	second.WaitReady(t, harness.Patience)
	n := e.recv.Count("")
	e.recv.WaitCount(t, "", n+10*users, harness.Patience) // by the other one
	before, stopped := e.recv.Count(""), 0
	for _, r := range e.recv.Requests("") {
		if r.Header.Get("User-Agent") == "smshooks/frozen" {
			stopped++
		}
	}
	first.Signal(t, syscall.SIGCONT)
	e.recv.WaitCount(t, "", before+10*users, harness.Patience)
	first.WaitReady(t, harness.Patience)
	events := l.end()
	harness.Eventually(t, harness.Patience, func() bool { return len(requestsOf(e)) >= len(events) }, "all %d events delivered", len(events))
	wantNarrow(t, e, users)
	if !strings.Contains(first.Log(), "the process was suspended") {
		t.Error("the suspension was not noticed")
	}
	// What was in flight or not committed when the member was stopped is repeated.
	again := 0
	for _, n := range requestsOf(e) {
		again += n - 1
	}
	t.Logf("%d events, %d requests again", len(events), again)
	if again > stopped {
		t.Errorf("%d requests again, want no more than the %d made before the member was stopped", again, stopped)
	}
}

// requestsOf counts the requests of each event.
func requestsOf(e *env) map[string]int {
	n := map[string]int{}
	for _, r := range e.recv.Requests("") {
		n[r.Header.Get("Webhook-Id")]++
	}
	return n
}
