package real_test

import (
	"context"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/smshooks/smshooks/test/real/harness"
)

// TestBench runs all scenarios of the benchmark with small counts on given servers, and checks its output and that it
// leaves nothing behind. The figures themselves have no meaning here.
func TestBench(t *testing.T) {
	t.Parallel()
	kafka, redis := harness.Kafka(t), harness.SingleRedis(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "figures.json")
	// Half a minute on a quiet machine; longer than harness.Run allows on a busy one.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	want := map[string]string{ // the main figure of each scenario
		"throughput": "per_second", "users": "cpu_us", "partitions": "cpu_us", "parked": "idle_cpu_pct", "latency": "p99_ms", "outage": "per_second",
		"start": "start_s", "tls": "handshakes", "fleet": "p99_ms",
	}
	args := []string{"--quick", "--binary=" + harness.Binary(t), "--kafka=" + kafka.Addr, "--redis=" + redis.Addr, "--json=" + file, "--report=" + dir}
	if os.Geteuid() != 0 {
		t.Log("without the fleet scenario, which needs root")
		delete(want, "fleet")
		args = append(args, "--scenarios="+strings.Join(slices.Collect(maps.Keys(want)), ","))
	}
	cmd := exec.CommandContext(ctx, harness.Bench(t), args...)
	cmd.Cancel, cmd.WaitDelay = func() error { return cmd.Process.Signal(syscall.SIGTERM) }, 20*time.Second
	printed, err := cmd.CombinedOutput()
	out := string(printed)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var report struct {
		Quick     bool
		Scenarios []struct {
			Name string
			Rows []struct {
				Subject, Case string
				Median        map[string]float64
			}
			Goals []struct{ Text string }
		}
	}
	data, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(data, &report)
	}
	if err != nil {
		t.Fatal(err)
	}
	subjects := make(map[string]bool)
	for _, s := range report.Scenarios {
		figure := want[s.Name]
		delete(want, s.Name)
		if len(s.Rows) == 0 || s.Name != "tls" && len(s.Goals) == 0 {
			t.Errorf("%s: %d rows, %d goals", s.Name, len(s.Rows), len(s.Goals))
		}
		for _, r := range s.Rows {
			subjects[r.Subject] = true
			if r.Case == "nothing comes" {
				continue // it has a figure of its own
			}
			if v, ok := r.Median[figure]; r.Subject != "limit" && (!ok || v < 0 || v == 0 && figure != "idle_cpu_pct" && figure != "cpu_us") {
				t.Errorf("%s: %s, %s: %s is %v", s.Name, r.Subject, r.Case, figure, v)
			}
		}
		if !strings.Contains(out, "\n"+s.Name+": ") {
			t.Errorf("%s is not printed", s.Name)
		}
	}
	if len(want) > 0 || !report.Quick || len(subjects) != 6 {
		t.Errorf("missing scenarios %v; quick %v; subjects %v", want, report.Quick, subjects)
	}
	if page, err := os.ReadFile(filepath.Join(dir, "performance.md")); err != nil || !strings.Contains(string(page), "images/perf-throughput-cpu-us.svg") {
		t.Errorf("the page: %v", err)
	}
	leftovers(t, kafka, redis)
}

// leftovers fails if the benchmark left topics, groups or keys behind. A broker may list a topic for a moment after its
// deletion.
func leftovers(t *testing.T, kafka *harness.Broker, redis *harness.RedisServer) {
	t.Helper()
	admin, cache := kadm.NewClient(harness.Client(t, kafka.Addr)), redis.Client(t)
	var left []string
	harness.Eventually(t, harness.Patience, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
		defer cancel()
		topics, err := admin.ListTopics(ctx)
		if err != nil {
			t.Fatal(err)
		}
		groups, err := admin.ListGroups(ctx)
		if err != nil {
			t.Fatal(err)
		}
		keys, err := cache.Keys(ctx, "bench-*").Result()
		if err != nil {
			t.Fatal(err)
		}
		left = slices.DeleteFunc(slices.Concat(topics.Names(), groups.Groups(), keys), func(name string) bool { return !strings.HasPrefix(name, "bench-") })
		return len(left) == 0
	}, "the benchmark left %v behind", &left)
}
