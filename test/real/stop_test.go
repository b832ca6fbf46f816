package real_test

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/smshooks/smshooks/test/real/harness"
)

// graceTaken is how long a stop may take beyond shutdown.grace, because the process itself must end, too.
const graceTaken = 500 * time.Millisecond

// stopInTime sends SIGTERM and checks for exit code 0 within the grace.
func stopInTime(t *testing.T, p *harness.Proc, grace time.Duration) {
	t.Helper()
	at := time.Now()
	p.Signal(t, syscall.SIGTERM)
	code := p.Wait(t, time.Minute)
	took := time.Since(at)
	t.Logf("stopped after %v", took.Round(time.Millisecond))
	if code != 0 || took > grace+graceTaken+harness.Slack(at) {
		t.Errorf("exit code %d after %v, want 0 within %v", code, took, grace)
	}
}

// readyz returns the body of /readyz.
func readyz(p *harness.Proc) string {
	resp, err := http.Get("http://" + p.OpsAddr + "/readyz")
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return string(text)
}

// TestStopWhileJoining kills the only member and restarts it. The group waits for the killed one, which must be
// reported, and a stop must not wait for it.
func TestStopWhileJoining(t *testing.T) {
	t.Parallel()
	const grace = 5 * time.Second
	e := newEnv(t, "--kafka.session_timeout=30s", "--shutdown.grace="+grace.String())
	e.serve(t).Kill()
	p := harness.Start(t, e.options())
	const line = "waiting for members of the group that do not answer"
	harness.Eventually(t, harness.Patience, func() bool { return strings.Contains(p.Log(), line) }, "the log reports what the start waits for")
	if text := readyz(p); !strings.Contains(text, "group: waiting for members of group "+e.topics.Group) || !strings.Contains(text, "at most 2") {
		t.Errorf("/readyz returns %q, want who is waited for and how long at most", text)
	}
	if n := strings.Count(p.Log(), line); n != 1 {
		t.Errorf("%d such lines, want one", n)
	}
	stopInTime(t, p, grace)
	if strings.Contains(p.Log(), "cannot leave the group") {
		t.Error("the group was not left")
	}
}

// TestStopAtStart stops the service while each of the things that a start needs is missing.
func TestStopAtStart(t *testing.T) {
	const grace = 3 * time.Second
	e := newEnv(t, "--shutdown.grace="+grace.String())
	silent := silentServer(t)
	for name, flags := range map[string][]string{
		"no Kafka":     {"--kafka.brokers=" + harness.FreeAddr(t)},
		"silent Kafka": {"--kafka.brokers=" + silent},
		"no Redis":     {"--redis.addrs=" + harness.FreeAddr(t)},
		"silent Redis": {"--redis.addrs=" + silent},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := harness.Start(t, e.options(flags...))
			harness.Eventually(t, harness.Patience, p.Alive, "/healthz answers")
			harness.Eventually(t, harness.Patience, func() bool { return strings.Contains(readyz(p), "config: ") }, "the settings are not loaded")
			stopInTime(t, p, grace)
		})
	}
}

// TestStopWithoutKafka stops the service while Kafka, or also Redis, no longer answers, with events that cannot be
// stored.
func TestStopWithoutKafka(t *testing.T) {
	const grace = 4 * time.Second
	freeze := func(t *testing.T, e *env) { e.kafka.Pause(t); t.Cleanup(func() { e.kafka.Unpause(t) }) }
	for name, away := range map[string]func(*testing.T, *env){
		"gone":   func(t *testing.T, e *env) { e.kafka.Kill(t) },
		"frozen": freeze,
		"frozen with Redis": func(t *testing.T, e *env) {
			e.redis.Pause(t)
			t.Cleanup(func() { e.redis.Unpause(t) })
			freeze(t, e)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := ownEnv(t, true, strings.Contains(name, "Redis"), "--shutdown.grace="+grace.String())
			e.configure(t, map[int64]harness.Webhook{1: e.all(1, "")})
			e.recv.On(path("dlr", 1), harness.Slow(2*time.Second, 500))
			p := e.serve(t)
			e.emit(t, e.dlr(1, 1), e.dlr(1, 2))
			e.recv.WaitCount(t, path("dlr", 1), 2, harness.Patience)
			away(t, e)
			harness.Eventually(t, harness.Patience, func() bool { return strings.Contains(p.Log(), "attempt failed") }, "an attempt failed")
			stopInTime(t, p, grace)
		})
	}
}

// silentServer accepts connections and never answers.
func silentServer(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
		}
	}()
	return l.Addr().String()
}

// TestFenced starts a second process with the kafka.instance_id of the first one, which must end at once and log why.
func TestFenced(t *testing.T) {
	t.Parallel()
	e := newEnv(t, "--kafka.instance_id=one")
	e.configure(t, map[int64]harness.Webhook{1: e.all(1, "")})
	o := e.options()
	o.Binary = harness.BinaryOf(t, "first")
	first := harness.StartReady(t, o)
	l := startLoad(t, e, 1, 20*time.Millisecond)
	e.recv.WaitCount(t, "", 20, harness.Patience)
	second := harness.Start(t, e.options())
	if code := first.Wait(t, harness.Patience); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	ended := time.Now()
	if !strings.Contains(first.Log(), `kafka.instance_id: \"one\" is in use by another process`) {
		t.Error("the setting is not named")
	}
	second.WaitReady(t, harness.Patience)
	events := l.end()
	second.WaitBalanced(t, 1, harness.Patience)
	harness.Eventually(t, harness.Patience, func() bool { return len(succeeded(e)) >= len(events) }, "all %d events are received", len(events))
	seen, last := map[string]bool{}, time.Time{}
	for _, r := range e.recv.Requests("") {
		seen[r.Header.Get("Webhook-Id")] = true
		if r.Header.Get("User-Agent") == "smshooks/first" {
			last = r.Start
		}
	}
	if len(seen) != len(events) {
		t.Errorf("%d of %d events were received", len(seen), len(events))
	}
	refused := refusedAt(t, first.Log())
	t.Logf("%d events, %d requests; refused %v and last attempt %v before the process ended", len(events), e.recv.Count(""), ended.Sub(refused), ended.Sub(last))
	if last.Sub(refused) > 200*time.Millisecond+harness.Slack(refused) {
		t.Errorf("an attempt started %v after the group had refused the member", last.Sub(refused))
	}
}

// refusedAt returns when the log first reports that the group refused a commit or heartbeat, or, on a busy machine,
// missed one.
func refusedAt(t *testing.T, log string) time.Time {
	t.Helper()
	for line := range strings.Lines(log) {
		var entry struct{ Time string }
		left := strings.Contains(line, "FENCED_INSTANCE_ID") || strings.Contains(line, "did not send heartbeats in time")
		if left && json.Unmarshal([]byte(line), &entry) == nil {
			at, err := time.Parse("2006-01-02T15:04:05.000Z0700", entry.Time)
			if err != nil {
				t.Fatal(err)
			}
			return at
		}
	}
	t.Fatal("the log does not report that the member was refused")
	return time.Time{}
}
