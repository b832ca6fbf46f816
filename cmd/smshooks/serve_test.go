package main

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/smshooks/smshooks/config"
)

// TestNextSteps checks that the commands name the open ports, not those of the settings.
func TestNextSteps(t *testing.T) {
	cfg := config.Defaults()
	cfg.Kafka.Brokers, cfg.Redis.Addrs, cfg.API.Addr = []string{"127.0.0.1:1001"}, []string{"127.0.0.1:1002"}, ":0"
	for listener, want := range map[string]string{
		"[::]:1003": "http://127.0.0.1:1003/", "0.0.0.0:1003": "http://127.0.0.1:1003/", "127.0.0.2:1003": "http://127.0.0.2:1003/",
		"[::1]:1003": "http://[::1]:1003/",
	} {
		addr, err := net.ResolveTCPAddr("tcp", listener)
		if err != nil {
			t.Fatal(err)
		}
		steps := nextSteps("bin/smshooks", cfg, addr)
		if lines := strings.Split(strings.TrimSpace(steps), "\n"); len(lines) != 4 || !strings.Contains(lines[2], want) ||
			lines[1] != "  KEY=$(bin/smshooks keys create --user 42 --kafka.brokers=127.0.0.1:1001)" ||
			lines[3] != "  bin/smshooks send --user 42 --kind dlr --kafka.brokers=127.0.0.1:1001" {
			t.Errorf("%s: not three commands with %q:\n%s", listener, want, steps)
		}
	}
	cfg.Topics.Keys, cfg.Topics.DLR = "hook-keys", "receipts"
	steps := nextSteps("./my hooks", cfg, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1003})
	for _, part := range []string{"$('./my hooks' keys create --user 42 --kafka.brokers=127.0.0.1:1001 --topics.keys=hook-keys)",
		"  './my hooks' send --user 42 --kind dlr --kafka.brokers=127.0.0.1:1001 --topics.dlr=receipts"} {
		if !strings.Contains(steps, part) {
			t.Errorf("no %s in\n%s", part, steps)
		}
	}
	if steps := nextSteps("smshooks", cfg, nil); steps != "" {
		t.Errorf("without an API:\n%s", steps)
	}
}

// TestReachable checks that a listener on all addresses is queried on the loopback address.
func TestReachable(t *testing.T) {
	for addr, want := range map[string]string{
		":9464": "127.0.0.1:9464", "0.0.0.0:9464": "127.0.0.1:9464", "[::]:9464": "127.0.0.1:9464", "127.0.0.2:9464": "127.0.0.2:9464",
		"[::1]:9464": "[::1]:9464", "localhost:9464": "localhost:9464", "9464": "9464",
	} {
		if got := reachable(addr); got != want {
			t.Errorf("%s: %s, want %s", addr, got, want)
		}
	}
}

// TestReadyUsesNoProxy checks that the health check queries the service itself, although the environment names a proxy.
// The proxy is read once for each process, so the command runs in another one.
func TestReadyUsesNoProxy(t *testing.T) {
	const variable = "SMSHOOKS_TEST_READY"
	if addr := os.Getenv(variable); addr != "" {
		os.Unsetenv(variable)
		os.Exit(run(t.Context(), []string{"ready", "--ops.addr=" + addr}, os.Stdout, os.Stderr))
	}
	asked := func(text string) *httptest.Server {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, text) }))
		t.Cleanup(s.Close)
		return s
	}
	ops, proxy := asked("ready"), asked("proxy")
	_, port, err := net.SplitHostPort(ops.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	// The environment's proxy is never used for the loopback address, so a name that does not exist is tried, too.
	for _, addr := range []string{"0.0.0.0:" + port, ":" + port, "smshooks.invalid:" + port} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestReadyUsesNoProxy$")
		cmd.Env = append(os.Environ(), variable+"="+addr, "HTTP_PROXY="+proxy.URL, "http_proxy="+proxy.URL, "NO_PROXY=", "no_proxy=")
		out, err := cmd.CombinedOutput()
		if invalid := strings.Contains(addr, "invalid"); (err == nil) == invalid || strings.Contains(string(out), "proxy") {
			t.Errorf("--ops.addr=%s: %v: %s", addr, err, out)
		}
	}
}

// TestEmbedded checks that the embedded servers are used although the settings name others, and that one warning names
// the settings without effect.
func TestEmbedded(t *testing.T) {
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	config.Flags(flags)
	given := []string{"kafka.brokers=a:9092", "kafka.tls.enabled=true", "kafka.sasl.mechanism=PLAIN", "kafka.sasl.username=u", "kafka.sasl.password=p",
		"redis.addrs=b:26379", "redis.master_name=m", "redis.username=u", "redis.password=p", "redis.sentinel.password=p", "redis.tls.enabled=true"}
	var names []string
	for _, setting := range append(given, "redis.key_prefix=hooks:", "embedded.dir="+t.TempDir(), "embedded.kafka_addr=127.0.0.1:0", "embedded.redis_addr=127.0.0.1:0") {
		name, value, _ := strings.Cut(setting, "=")
		if err := flags.Set(name, value); err != nil {
			t.Fatal(err)
		}
		if slices.Contains(given, setting) {
			names = append(names, name)
		}
	}
	cfg, err := config.Load("", nil, flags)
	if err != nil {
		t.Fatal(err)
	}
	core, logs := observer.New(zap.WarnLevel)
	stop, err := embed(cfg, zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if k := cfg.Kafka; k.TLS != (config.TLS{}) || k.SASL != (config.KafkaSASL{}) || !strings.HasPrefix(k.Brokers[0], "127.0.0.1:") {
		t.Errorf("kafka: %+v", k)
	}
	if want := (config.Redis{Addrs: cfg.Redis.Addrs, KeyPrefix: "hooks:"}); !reflect.DeepEqual(cfg.Redis, want) || !strings.HasPrefix(want.Addrs[0], "127.0.0.1:") {
		t.Errorf("redis: %+v", cfg.Redis)
	}
	warnings := logs.FilterFieldKey("settings").All()
	if len(warnings) != 1 {
		t.Fatalf("%d warnings", len(warnings))
	}
	if got := fmt.Sprint(warnings[0].ContextMap()["settings"]); got != fmt.Sprint(names) {
		t.Errorf("the warning names %s, want %s", got, names)
	}
}
