package harness_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/smshooks/smshooks/test/real/harness"
)

// useFake replaces the program with the stand-in for one test.
func useFake(t *testing.T) {
	t.Helper()
	harness.Need(t)
	path := filepath.Join(t.TempDir(), "fake")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", path, "./testdata/fake").CombinedOutput(); err != nil {
		t.Fatalf("build the stand-in: %v\n%s", err, out)
	}
	t.Setenv("SMSHOOKS_TEST_BINARY", path)
}

func TestProc(t *testing.T) {
	useFake(t)
	t.Setenv("SMSHOOKS_LOG_LEVEL", "must not reach the child")
	o := harness.Options{
		Brokers: "127.0.0.1:1", RedisAddr: "127.0.0.1:2", Topics: harness.TopicsWith("p"),
		Args: []string{"--retry.window=1s"}, Env: []string{"SMSHOOKS_DISPATCH_ALLOW_NETWORKS=10.0.0.0/8"},
	}
	p := harness.StartReady(t, o)
	if !p.Ready() || !p.Running() {
		t.Error("not ready, not running")
	}
	if got := p.WaitBalanced(t, 3, harness.Patience).Sum("smshooks_settled_total", "kind", "dlr"); got != 3 {
		t.Errorf("settled %v", got)
	}
	for _, want := range []string{
		"serve --retry.window=1s\n", "SMSHOOKS_KAFKA_BROKERS=127.0.0.1:1\n", "SMSHOOKS_REDIS_ADDRS=127.0.0.1:2\n",
		"SMSHOOKS_API_ADDR=" + p.Addr + "\n", "SMSHOOKS_OPS_ADDR=" + p.OpsAddr + "\n",
		"SMSHOOKS_TOPICS_DEAD_LETTER=p-webhook-dead-letter\n", "SMSHOOKS_KAFKA_GROUP=p\n", "SMSHOOKS_REDIS_KEY_PREFIX=p:\n",
		"SMSHOOKS_DISPATCH_ALLOW_NETWORKS=10.0.0.0/8\n",
	} {
		if !strings.Contains(p.Log(), want) {
			t.Errorf("the child did not print %q", want)
		}
	}
	if strings.Contains(p.Log(), "must not reach") || strings.Contains(p.Log(), "127.0.0.0/8") {
		t.Errorf("the child's environment:\n%s", p.Log())
	}
	p.WaitLog(t, harness.Patience, "SMSHOOKS_REDIS_ADDRS")
	if got := p.WaitMetric(t, harness.Patience, harness.AtLeast(3), "smshooks_settled_total", "kind", "dlr"); got != 3 {
		t.Errorf("settled %v", got)
	}
	if code := p.Term(t); code != 0 {
		t.Errorf("SIGTERM: exit code %d", code)
	}

	q := harness.StartReady(t, o)
	q.Kill()
	if code := q.Wait(t, harness.Patience); code != -1 || q.Running() || q.Ready() {
		t.Errorf("SIGKILL: exit code %d", code)
	}
}

func TestOpenFiles(t *testing.T) {
	useFake(t)
	p := harness.Start(t, harness.Options{OpenFiles: 77})
	p.WaitUnready(t, harness.Patience, "the first request")
	limits, err := os.ReadFile("/proc/" + strconv.Itoa(p.Pid()) + "/limits")
	if err != nil {
		t.Skip(err) // not Linux
	}
	if !regexp.MustCompile(`Max open files +77 +77 `).Match(limits) {
		t.Errorf("limits of the child:\n%s", limits)
	}
}

func TestRun(t *testing.T) {
	useFake(t)
	out, stderr, code := harness.Run(t, harness.Options{Brokers: "127.0.0.1:1"}, "topics", "check")
	if out != "topics check\n" || code != 3 || !strings.Contains(stderr, "SMSHOOKS_KAFKA_BROKERS=127.0.0.1:1\n") {
		t.Errorf("%q %q %d", out, stderr, code)
	}
}
