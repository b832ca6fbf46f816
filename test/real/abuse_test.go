package real_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/test/real/harness"
)

// TestClosedStderr checks that the service continues when the reader of its log ends.
func TestClosedStderr(t *testing.T) {
	t.Parallel()
	harness.Need(t)
	cmd := exec.CommandContext(t.Context(), harness.Binary(t), "serve", "--kafka.brokers="+harness.FreeAddr(t), "--redis.addrs="+harness.FreeAddr(t),
		"--api.addr=127.0.0.1:0", "--ops.addr=127.0.0.1:0", "--log.level=debug") // at least one line a second
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stderr)
	for range 2 {
		if _, err := lines.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	stderr.Close()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		t.Fatalf("it ended: %v", err)
	case <-time.After(4 * time.Second):
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("SIGTERM: %v, want exit code 0", err)
	}
}

// TestHangUp checks that SIGHUP ends neither the service nor a request.
func TestHangUp(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.configure(t, map[int64]harness.Webhook{1: e.all(1, "")})
	harness.Settle()
	e.recv.On("/dlr/1", harness.Slow(2*time.Second, 200))
	p := e.serve(t)
	e.emit(t, e.dlr(1, 1), e.dlr(1, 2), e.dlr(1, 3))
	e.recv.WaitCount(t, "/dlr/1", 3, harness.Patience)
	p.Signal(t, syscall.SIGHUP)
	p.WaitLog(t, harness.Patience, "certificates and keys reloaded")
	e.waitCommitted(t, e.topics.DLR)
	if n := e.recv.Count("/dlr/1"); n != 3 || !p.Running() {
		t.Errorf("%d requests, want 3; running: %v", n, p.Running())
	}
}

// TestConnectionErrors checks that a command that cannot use Kafka ends within seconds and names the setting, and so
// does a service with a setting that the broker refuses.
func TestConnectionErrors(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	for _, tc := range []struct {
		name, want string
		flags      []string
	}{
		{"closed port", "kafka.brokers: ", []string{"--kafka.brokers=" + harness.FreeAddr(t)}},
		{"port of Redis", "kafka.brokers: ", []string{"--kafka.brokers=" + e.redis.AnyAddr()}},
		{"TLS to a plaintext port", "kafka.tls.enabled: ", []string{"--kafka.tls.enabled"}},
	} {
		began := time.Now()
		_, stderr, code := harness.Run(t, e.options(), append([]string{"topics", "check"}, tc.flags...)...)
		if took := time.Since(began); code != 1 || !strings.Contains(stderr, tc.want) || strings.Count(stderr, "\n") != 1 || took > 20*time.Second+harness.Slack(began) {
			t.Errorf("%s: exit code %d after %v: %s", tc.name, code, took, stderr)
		}
	}
	p := harness.Start(t, e.options("--kafka.session_timeout=200ms"))
	if code := p.Wait(t, harness.Patience); code != 1 || strings.Count(p.Log(), `"level":"error"`) != 1 || !strings.Contains(p.Log(), "kafka.session_timeout: ") {
		t.Errorf("session timeout: exit code %d:\n%s", code, p.Log())
	}
}

// TestReplayOnceWhileUnderWay checks that an event is replayed only once at a time, however often replay is called. A
// user with concurrent calls gets 429, and others do not.
func TestReplayOnceWhileUnderWay(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	const letters = 100
	var records []*kgo.Record
	for i := range letters {
		r := harness.Event(e.topics.DeadLetter, 1, harness.DLRValue(1, int64(i)))
		for name, value := range map[string]string{
			"id": fmt.Sprintf("%s/0/%d", e.topics.DLR, i), "kind": "dlr", "event-time": "2026-02-27T11:00:00.000Z",
			"attempts": "3", "error": "http 503", "reason": "attempts_exhausted",
		} {
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: "smshooks-" + name, Value: []byte(value)})
		}
		records = append(records, r)
	}
	e.emit(t, records...)
	e.configure(t, map[int64]harness.Webhook{1: e.all(1, "")})
	harness.Settle()
	e.recv.On("/dlr/1", harness.Hang())
	p := e.serve(t)
	key, _, _ := harness.Run(t, e.options(), "keys", "create", "--user", "1")
	replay := func() (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+p.Addr+"/v1/user/replay", strings.NewReader("kind=dlr"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-API-KEY", strings.TrimSpace(key))
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	harness.Eventually(t, harness.Patience, func() bool {
		code, body := replay()
		return code == http.StatusOK && strings.Contains(body, fmt.Sprintf(`"replayed":%d`, letters))
	}, "the first replay sends all")
	for range 5 {
		if code, body := replay(); code != http.StatusOK || !strings.Contains(body, `"replayed":0`) {
			t.Errorf("replayed while under way: %d %s", code, body)
		}
	}
	// Once they are delivered, they may be sent again.
	e.recv.On("/dlr/1", harness.Status(200))
	harness.Eventually(t, 60*time.Second, func() bool {
		code, body := replay()
		return code == http.StatusOK && !strings.Contains(body, `"replayed":0`)
	}, "a delivered event is replayed again")
}

// TestUnknownKeysLimited checks that a client that tries keys is limited, but not a valid key from the same address.
func TestUnknownKeysLimited(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	p := e.serve(t)
	out, _, _ := harness.Run(t, e.options(), "keys", "create", "--user", "1")
	ask := func(key string) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+p.Addr+"/v1/user/get-webhook", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-API-KEY", key)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	key := strings.TrimSpace(out)
	harness.Eventually(t, harness.Patience, func() bool { return ask(key) == http.StatusOK }, "the key works")
	codes := map[int]int{}
	began := time.Now()
	for i := range 500 {
		codes[ask(fmt.Sprint("smsh_wrong_", i))]++
		if i%100 == 0 && ask(key) != http.StatusOK {
			t.Error("a valid key is refused")
		}
	}
	if most := 20 * (2 + int(time.Since(began)/time.Second)); codes[401] < 20 || codes[401] > most || codes[401]+codes[429] != 500 {
		t.Errorf("replies %v, want at most %d times 401, otherwise 429", codes, most)
	}
}
