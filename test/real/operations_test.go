package real_test

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	spans "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/smshooks/smshooks/test/collector"
	"github.com/smshooks/smshooks/test/real/harness"
)

// spansOf returns the spans of a trace: of a record as "topic/offset", of an attempt as "POST n".
func spansOf(c *collector.Collector, trace string) map[string]*spans.Span {
	all := map[string]*spans.Span{}
	for _, s := range c.Spans() {
		if hex.EncodeToString(s.TraceId) != trace {
			continue
		}
		name := s.Name
		for _, a := range s.Attributes {
			if a.Key == "smshooks.attempt" {
				name = fmt.Sprintf("POST %d", a.Value.GetIntValue())
			}
		}
		all[name] = s
	}
	return all
}

// TestTracing checks that one trace leads from the gateway's span through the retry topic to the second attempt, and
// that the customer receives nothing of it.
func TestTracing(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.configure(t, map[int64]harness.Webhook{1: {DLR: e.recv.URL("/dlr/1") + "?key=hush", Auth: "user:hush"}, 2: e.all(2, "")})
	harness.Settle()
	e.recv.On("/dlr/1", harness.Codes(503, 200))
	c := collector.New(t)
	p := e.serve(t, "--tracing.endpoint="+c.URL, "--tracing.sample=0")
	const trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	traced := e.dlr(1, 1)
	traced.Headers = []kgo.RecordHeader{{Key: "traceparent", Value: []byte("00-" + trace + "-" + parent + "-01")}}
	e.emit(t, traced, e.dlr(2, 2))
	for _, r := range e.recv.WaitCount(t, "/dlr/1", 2, harness.Patience) {
		if r.Header.Get("Traceparent") != "" || r.Header.Get("Tracestate") != "" {
			t.Errorf("the customer receives trace headers: %v", r.Header)
		}
	}
	e.recv.WaitCount(t, "/dlr/2", 1, harness.Patience)
	retry := harness.Retry(e.topics.DLR, "1s")
	if stored := e.waitStored(t, retry, 1, 1, harness.Patience); !strings.HasPrefix(harness.Header(stored[0], "traceparent"), "00-"+trace+"-") {
		t.Errorf("the waiting record has traceparent %q", harness.Header(stored[0], "traceparent"))
	}
	if code := p.Term(t); code != 0 { // sends the last spans
		t.Errorf("exit code %d", code)
	}
	got := spansOf(c, trace)
	record1, attempt1, record2, attempt2 := got[e.topics.DLR+" process"], got["POST 1"], got[retry+" process"], got["POST 2"]
	if len(got) != 4 || record1 == nil || attempt1 == nil || record2 == nil || attempt2 == nil {
		t.Fatalf("spans: %v", got)
	}
	if len(c.Spans()) != 4 {
		t.Errorf("%d spans, want only those of the traced record", len(c.Spans()))
	}
	for i, link := range [][2]string{
		{hex.EncodeToString(record1.ParentSpanId), parent}, {string(attempt1.ParentSpanId), string(record1.SpanId)},
		{string(record2.ParentSpanId), string(record1.SpanId)}, {string(attempt2.ParentSpanId), string(record2.SpanId)},
	} {
		if link[0] != link[1] {
			t.Errorf("link %d: parent %x, want %x", i, link[0], link[1])
		}
	}
	if text := fmt.Sprint(c.Spans()); strings.Contains(text, "hush") {
		t.Error("a span shows a secret")
	}
}

// TestLogLevel changes the level while the service runs.
func TestLogLevel(t *testing.T) {
	t.Parallel()
	harness.Need(t)
	p := harness.StartReady(t, harness.Options{Env: quick(), Args: []string{"--embedded", "--embedded.kafka_addr=127.0.0.1:0", "--embedded.redis_addr=127.0.0.1:0", "--embedded.dir=" + t.TempDir(), "--topics.partitions=1", "--log.level=warn"}})
	put := func(level string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+p.OpsAddr+"/loglevel", strings.NewReader(`{"level":"`+level+`"}`))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(body)
	}
	if code, body := put("loud"); code != http.StatusBadRequest {
		t.Errorf("an unknown level: %d %s", code, body)
	}
	if code, body := put("info"); code != http.StatusOK || !strings.Contains(body, `"level":"info"`) {
		t.Errorf("%d %s", code, body)
	}
	p.Term(t)
	if strings.Contains(p.Log(), `"starting"`) || !strings.Contains(p.Log(), `"log level changed"`) || !strings.Contains(p.Log(), `"stopped"`) {
		t.Errorf("the log is not warn first and info then:\n%s", p.Log())
	}
}

// TestTopicsCheckExplains checks that topics check prints the commands to type, and names orphaned delay topics.
func TestTopicsCheckExplains(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	_, stderr, code := harness.Run(t, e.options("--retry.window=2000h"), "topics", "check")
	retry := harness.Retry(e.topics.DLR, "1s")
	if code != 1 || !lineWith(stderr, retry, "retention.ms") || !lineWith(stderr, "type: smshooks topics ensure", "") ||
		!lineWith(stderr, "kafka-configs.sh --bootstrap-server "+e.kafka.Addr, "--entity-name "+retry+" --add-config retention.ms=") || !lineWith(stderr, "why: ", "") {
		t.Errorf("exit code %d:\n%s", code, stderr)
	}
	e.emit(t, harness.Event(retry, 1, harness.DLRValue(1, 1)))
	out, stderr, code := harness.Run(t, e.options("--retry.schedule=2s", "--retry.drain=9s", "--topics.ensure=true"), "topics", "ensure")
	if code != 0 {
		t.Fatalf("ensure: %s%s", out, stderr)
	}
	out, stderr, code = harness.Run(t, e.options("--retry.schedule=2s", "--retry.drain=9s"), "topics", "check")
	if code != 0 || !lineWith(stderr, retry, "holds 1 records that are not read") || !lineWith(stderr, "type: smshooks serve --topics.partitions=2 --retry.schedule=2s --retry.drain=1s,9s (", "") || !strings.Contains(out, "orphaned delay topics") {
		t.Errorf("exit code %d: %s\n%s", code, out, stderr)
	}
	out, stderr, code = harness.Run(t, e.options("--retry.schedule=2s", "--retry.drain=1s,9s"), "topics", "check")
	if code != 0 || strings.Contains(stderr, "orphaned") || !strings.Contains(out, "all topics are correct") {
		t.Errorf("drained: exit code %d: %s\n%s", code, out, stderr)
	}
}

// TestDeadletterCommands runs a replay dry, interrupts it and resumes it.
func TestDeadletterCommands(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	const letters = 6_000
	records := make([]*kgo.Record, letters)
	for i := range records {
		r := harness.Event(e.topics.DeadLetter, int64(i%50+1), harness.DLRValue(int64(i%50+1), int64(i)))
		for name, value := range map[string]string{
			"id": fmt.Sprintf("%s/%d/%d", e.topics.DLR, i%2, i), "kind": "dlr", "event-time": "2026-02-27T11:00:00.000Z",
			"attempts": "3", "error": "http 503", "reason": "attempts_exhausted",
		} {
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: "smshooks-" + name, Value: []byte(value)})
		}
		records[i] = r
	}
	e.emit(t, records...)
	overflow := harness.Overflow(e.topics.DLR, "1s")

	out, stderr, code := harness.Run(t, e.options(), "deadletter", "replay", "--user", "7", "--dry-run")
	if code != 0 || strings.Count(out, "\n") != letters/50 || !strings.Contains(stderr, fmt.Sprintf("%d would be replayed", letters/50)) {
		t.Errorf("dry run: exit code %d, %d lines, stderr %q", code, strings.Count(out, "\n"), stderr)
	}
	for line := range strings.Lines(out) {
		var letter map[string]any
		if err := json.Unmarshal([]byte(line), &letter); err != nil || letter["user_id"] != 7.0 {
			t.Fatalf("dry run prints %s: %v", line, err)
		}
	}
	if n := len(harness.Consume(t, e.kafka.Addr, overflow)); n != 0 {
		t.Errorf("a dry run sent %d", n)
	}

	file := filepath.Join(t.TempDir(), "position.json")
	command := append([]string{"deadletter", "replay", "--since", "24h", "--position", file, "--kafka.brokers=" + e.kafka.Addr, "--overflow.delays=1s,3s,10s"}, e.topics.Flags()...)
	interrupted := interruptReplay(t, command, file)
	if _, stderr, code := harness.Run(t, e.options(), "deadletter", "replay", "--since", "23h", "--position", file); code != 2 || !strings.Contains(stderr, "--since=24h") {
		t.Errorf("a position of another replay: exit code %d: %s", code, stderr)
	}
	out, stderr, code = harness.Run(t, e.options(), append([]string{"deadletter", "replay"}, command[2:]...)...)
	if want := fmt.Sprintf("%d replayed\n", letters-interrupted); code != 0 || out != want || stderr != "" {
		t.Errorf("resumed: exit code %d, %q, want %q; stderr %q", code, out, want, stderr)
	}
	sent := map[string]int{}
	for _, r := range harness.Consume(t, e.kafka.Addr, overflow) {
		sent[harness.Header(r, "smshooks-id")]++
	}
	for id, n := range sent {
		if n != 1 {
			t.Fatalf("%s was sent %d times", id, n)
		}
	}
	if len(sent) != letters {
		t.Errorf("%d events sent, want %d", len(sent), letters)
	}

	// On a terminal there is a bar, elsewhere none (stderr above is empty).
	list := append([]string{harness.Binary(t), "deadletter", "list", "--user", "7", "--kafka.brokers=" + e.kafka.Addr}, e.topics.Flags()...)
	seen, err := exec.CommandContext(t.Context(), "script", "-qec", strings.Join(list, " ")+" >/dev/null", "/dev/null").CombinedOutput()
	if err != nil || !strings.Contains(string(seen), "reading") {
		t.Errorf("no progress on a terminal: %v: %q", err, seen)
	}
}

// interruptReplay starts a replay, interrupts it when it has sent some events, and returns how many.
func interruptReplay(t *testing.T, command []string, file string) (sent int) {
	t.Helper()
	var out strings.Builder
	cmd := exec.CommandContext(t.Context(), harness.Binary(t), command...)
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); sent == 0; {
		if time.Now().After(deadline) {
			t.Fatal("nothing is sent")
		}
		var position struct{ Sent int }
		if raw, err := os.ReadFile(file); err == nil && json.Unmarshal(raw, &position) == nil {
			sent = position.Sent
		}
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 1 {
		t.Fatalf("interrupted: exit code %d, want 1: %s", code, out.String())
	}
	if _, err := fmt.Sscanf(out.String(), "%d replayed", &sent); err != nil {
		t.Fatalf("interrupted: %q", out.String())
	}
	return sent
}
