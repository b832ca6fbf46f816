package real_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/smshooks/smshooks/test/real/harness"
)

// TestCompose brings up docker-compose.yml with an image built by `make image` and the Kafka, Redis and Prometheus of
// test/stack, and checks that an event of Kafka's console producer arrives at a receiver. It leaves out Grafana, of
// which Debian has no package to build an image from. TestDashboards tests the dashboards.
func TestCompose(t *testing.T) {
	t.Parallel()
	harness.Need(t)
	c := newCompose(t)
	c.up(t)

	const user = 42
	c.wantLicences(t)
	got := c.receive(t)
	key := strings.TrimSpace(c.compose(t, time.Minute, "", "exec", "-T", "smshooks", "/smshooks", "keys", "create", fmt.Sprint("--user=", user)))
	harness.Eventually(t, harness.Patience, func() bool { return c.setWebhook(t, key, "http://"+c.receiver+"/dlr") }, "the webhook is set")

	c.compose(t, 2*time.Minute, fmt.Sprintf("%d|%s\n", user, harness.DLRValue(user, 4711)), "exec", "-T", "kafka", "/opt/kafka/bin/kafka-console-producer.sh",
		"--bootstrap-server", "kafka:9092", "--topic", "sms-dlr", "--property", "parse.key=true", "--property", "key.separator=|")
	harness.Eventually(t, harness.Patience, func() bool { return len(got.all()) > 0 }, "the event arrives; metrics:\n%s", lastly{func() string { return fetch("http://" + c.ops + "/metrics") }})
	harness.Pass(time.Second)
	all := got.all()
	if len(all) != 1 || !strings.Contains(all[0], "POST /dlr evt_") || !strings.Contains(all[0], "4711") {
		t.Errorf("the receiver received %q", all)
	}
	harness.Eventually(t, harness.Patience, func() bool {
		return strings.Contains(fetch("http://"+c.prometheus+`/api/v1/query?query=sum(smshooks_settled_total{fate="delivered"})`), `,"1"]`)
	}, "Prometheus has scraped the delivery: %s", lastly{func() string { return fetch("http://" + c.prometheus + "/api/v1/targets") }})
	if rules := fetch("http://" + c.prometheus + "/api/v1/rules"); !strings.Contains(rules, "SmshooksOverdue") {
		t.Errorf("Prometheus has not read the rules: %s", rules)
	}
}

// wantLicences checks that the image contains the licences of the program and of what is compiled in.
func (c *composed) wantLicences(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	id := strings.TrimSpace(c.compose(t, time.Minute, "", "ps", "-q", "smshooks"))
	if out, err := exec.Command("docker", "cp", id+":/usr/share/doc/smshooks/.", dir).CombinedOutput(); err != nil {
		t.Fatalf("docker cp: %v\n%s", err, out)
	}
	for file, want := range map[string]string{"LICENSE": "MIT", "THIRD_PARTY_LICENSES": "github.com/twmb/franz-go v"} {
		if text, err := os.ReadFile(filepath.Join(dir, file)); err != nil || !strings.Contains(string(text), want) {
			t.Errorf("%s of the image does not contain %q: %v", file, want, err)
		}
	}
}

// lastly is a text that is computed when it is printed.
type lastly struct{ text func() string }

func (l lastly) String() string { return l.text() }

// composed is docker-compose.yml with a network, ports and images of this test.
type composed struct {
	tool                           []string // docker compose, or docker-compose
	dir, project, override         string
	env                            []string
	receiver, api, ops, prometheus string // host:port
}

// subnet of the test's containers; the receiver, on this machine, is its gateway.
const subnet, gateway = "10.231.77.0/24", "10.231.77.1"

func newCompose(t *testing.T) *composed {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	c := &composed{tool: []string{"docker-compose"}, dir: dir, project: fmt.Sprint("smshooks-test-", os.Getpid())}
	if exec.Command("docker", "compose", "version").Run() == nil {
		c.tool = []string{"docker", "compose"}
	}
	_, port, _ := net.SplitHostPort(harness.FreeAddr(t))
	c.receiver = net.JoinHostPort(gateway, port)
	set := func(name, value string) { c.env = append(c.env, name+"="+value) }
	for name, addr := range map[string]*string{"API_PORT": &c.api, "OPS_PORT": &c.ops, "PROMETHEUS_PORT": &c.prometheus, "KAFKA_PORT": new(string), "REDIS_PORT": new(string)} {
		*addr = harness.FreeAddr(t)
		_, port, _ := net.SplitHostPort(*addr)
		set(name, port)
	}
	image := "local/smshooks:test"
	set("SMSHOOKS_IMAGE", image)
	for name, otherwise := range map[string]string{"KAFKA": "apache/kafka:4.1.1", "REDIS": "redis:7", "PROMETHEUS": "prom/prometheus:v3.5.0"} {
		if v := os.Getenv("SMSHOOKS_TEST_" + name + "_IMAGE"); v != "" {
			otherwise = v
		}
		set("SMSHOOKS_"+name+"_IMAGE", otherwise)
	}
	// The receiver's address is private, so it is blocked unless it is allowed by name: this one, and no other.
	c.override = filepath.Join(t.TempDir(), "override.yml")
	text := fmt.Sprintf("version: '3.8'\nservices:\n  smshooks:\n    environment:\n      SMSHOOKS_DISPATCH_ALLOW_NETWORKS: %s/32\nnetworks:\n  default:\n    ipam:\n      config: [{subnet: %s}]\n", gateway, subnet)
	if err := os.WriteFile(c.override, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c.command(t, 10*time.Minute, "", "make", "image", "VERSION=compose-test", "IMAGE="+image)
	return c
}

func (c *composed) up(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(c.compose(t, time.Minute, "", "logs", "--tail=40"))
		}
		c.compose(t, 2*time.Minute, "", "down", "-v", "--timeout=20")
	})
	c.compose(t, 5*time.Minute, "", "up", "-d", "kafka", "redis", "smshooks", "prometheus")
}

// compose runs docker compose with the given input and returns its output.
func (c *composed) compose(t *testing.T, limit time.Duration, stdin string, args ...string) string {
	t.Helper()
	line := slices.Concat(c.tool, []string{"-p", c.project, "-f", filepath.Join(c.dir, "docker-compose.yml"), "-f", c.override}, args)
	return c.command(t, limit, stdin, line...)
}

func (c *composed) command(t *testing.T, limit time.Duration, stdin string, line ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	cmd.Dir, cmd.Env, cmd.Stdin = c.dir, append(os.Environ(), c.env...), strings.NewReader(stdin)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("%v: %v\n%s%s", line, err, out, errs.String())
	}
	return string(out)
}

func (c *composed) setWebhook(t *testing.T, key, dlr string) bool {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+c.api+"/v1/user/set-webhook", strings.NewReader("dlr_url="+dlr))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-API-KEY", key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// received holds method, path, Webhook-Id and body of each request to the receiver.
type received struct {
	mu    sync.Mutex
	lines []string
}

func (r *received) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.lines)
}

// receive listens on the network's gateway, which exists once compose is up.
func (c *composed) receive(t *testing.T) *received {
	t.Helper()
	l, err := net.Listen("tcp", c.receiver)
	if err != nil {
		t.Fatal(err)
	}
	got := &received{}
	server := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		got.mu.Lock()
		defer got.mu.Unlock()
		got.lines = append(got.lines, fmt.Sprintf("%s %s %s %s", req.Method, req.URL.Path, req.Header.Get("Webhook-Id"), body))
	})}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	return got
}

// fetch returns the body of a reply, or the error.
func fetch(url string) string {
	resp, err := http.Get(url)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return string(body)
}
