package real_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/test/real/harness"
)

func TestVersion(t *testing.T) {
	harness.Need(t)
	out, _, code := harness.Run(t, harness.Options{}, "version")
	if code != 0 || !strings.HasPrefix(out, "smshooks ") || strings.Count(out, "\n") != 1 || strings.Count(out, " ") != 1 {
		t.Errorf("exit code %d, %q", code, out)
	}
}

// TestSettings checks the sources of settings, their precedence and errors. It needs no server.
func TestSettings(t *testing.T) {
	harness.Need(t)
	dir := t.TempDir()
	write := func(name, text string) string {
		at := filepath.Join(dir, name)
		if err := os.WriteFile(at, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return at
	}
	file := write("good.yaml", "retry:\n  window: 20h\nkafka:\n  group: from-file\n  brokers: [a:1, b:2]\n  sasl: {mechanism: PLAIN, username: u, password: very-secret}\ndispatch:\n  max_buffered_bytes: 8MiB\n")
	o := harness.Options{Env: []string{"SMSHOOKS_KAFKA_GROUP=from-env", "SMSHOOKS_RETRY_SCHEDULE=1h,2h30m", "SMSHOOKS_TEST_ANYTHING=x", "SMSHOOKS_REDIS_PASSWORD=hush"}}
	out, stderr, code := harness.Run(t, o, "config", "print", "--config", file, "--retry.window=30h", "--log.level=warn")
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	for _, want := range []string{"group: from-env", "30h", "1h", "2h30m", "a:1", "b:2", "level: warn", "********", "interval: 1m", "max_in_flight: 2000", "key_prefix: "} {
		if !strings.Contains(out, want) {
			t.Errorf("config print lacks %q", want)
		}
	}
	if strings.Contains(out+stderr, "very-secret") || strings.Contains(out+stderr, "hush") {
		t.Error("config print shows a secret")
	}
	if t.Failed() {
		t.Log(out)
	}
	// its output is a settings file
	again, stderr, code := harness.Run(t, harness.Options{}, "config", "print", "--config", write("printed.yaml", strings.ReplaceAll(out, "********", "x")))
	if code != 0 || again == "" {
		t.Errorf("config print of its own output: exit code %d: %s", code, stderr)
	}

	for name, test := range map[string]struct {
		env, args []string
		want      []string // on stderr
	}{
		"unknown flag":     {args: []string{"--no.such=1"}, want: []string{"no.such"}},
		"bad flag":         {args: []string{"--retry.window=soon"}, want: []string{"retry.window", "flag"}},
		"unknown variable": {env: []string{"SMSHOOKS_RETRY_WINDOWS=1h"}, want: []string{"SMSHOOKS_RETRY_WINDOWS"}},
		"bad variable":     {env: []string{"SMSHOOKS_DISPATCH_PARALLEL=many"}, want: []string{"dispatch.parallel", "SMSHOOKS_DISPATCH_PARALLEL"}},
		"unknown key":      {args: []string{"--config", write("unknown.yaml", "retry:\n  windo: 1h\n")}, want: []string{"retry.windo", "unknown.yaml"}},
		"bad value":        {args: []string{"--config", write("bad.yaml", "dispatch:\n  timeout: [1]\n")}, want: []string{"dispatch.timeout", "bad.yaml"}},
		"not YAML":         {args: []string{"--config", write("no.yaml", "retry: {\n")}, want: []string{"no.yaml"}},
		"no file":          {args: []string{"--config", filepath.Join(dir, "absent.yaml")}, want: []string{"absent.yaml"}},
		"negative":         {args: []string{"--retry.schedule=-1s"}, want: []string{"retry.schedule"}},
		"zero interval":    {args: []string{"--revocation.interval=0s"}, want: []string{"revocation.interval"}},
		"bad choice":       {args: []string{"--dispatch.success=3xx"}, want: []string{"dispatch.success"}},
		"bad network":      {args: []string{"--dispatch.allow_networks=10.0.0.0/33"}, want: []string{"dispatch.allow_networks"}},
		"bad key":          {args: []string{"--secrets.key=c2hvcnQ="}, want: []string{"secrets.key"}},
		"bad mechanism":    {args: []string{"--kafka.sasl.mechanism=GSSAPI"}, want: []string{"kafka.sasl.mechanism"}},
		"same topic":       {args: []string{"--topics.dlr=x", "--topics.click=x"}, want: []string{"topics.click"}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, command := range [][]string{{"serve"}, {"config", "print"}} {
				_, stderr, code := harness.Run(t, harness.Options{Env: test.env}, append(command, test.args...)...)
				if code != 2 {
					t.Errorf("%v: exit code %d, want 2: %s", command, code, stderr)
				}
				for _, want := range test.want {
					if !strings.Contains(stderr, want) {
						t.Errorf("%v: %q lacks %q", command, stderr, want)
					}
				}
				if strings.Contains(stderr, "c2hvcnQ=") {
					t.Errorf("shows a secret: %s", stderr)
				}
			}
		})
	}
	for _, args := range [][]string{{"nonsense"}, {"topics"}, {"topics", "nonsense"}, {"keys", "create"}, {"keys", "revoke"}, {"serve", "--roles=cook"}, {"serve", "extra"}, {"version", "extra"}} {
		if _, stderr, code := harness.Run(t, harness.Options{}, args...); code != 2 || stderr == "" {
			t.Errorf("%v: exit code %d, want 2: %s", args, code, stderr)
		}
	}
}

// TestTopics runs topics check, and serve without topics, and then topics ensure.
func TestTopics(t *testing.T) {
	t.Parallel()
	b, r := harness.Kafka(t), harness.Redis(t)
	n := harness.TopicsFor(t)
	o := harness.Options{Brokers: b.Addr, RedisAddr: r.Addr, Topics: n, Env: quick(), Args: []string{"--topics.partitions=2"}}
	_, stderr, code := harness.Run(t, o, "topics", "check")
	if code != 1 {
		t.Errorf("check without topics: exit code %d", code)
	}
	all := []string{n.Config, n.Keys, n.DeadLetter, n.Events, n.Releases}
	for _, source := range []string{n.DLR, n.Click, n.Inbound, n.Revocation} {
		all = append(all, source, harness.Retry(source, "1s"), harness.Retry(source, "2s"), harness.Paused(source, "24h"))
		for _, tier := range []string{"0s", "1s", "3s", "10s"} {
			all = append(all, harness.Overflow(source, tier))
		}
	}
	for _, topic := range all {
		if !strings.Contains(stderr, topic) {
			t.Errorf("check does not name %s", topic)
		}
	}
	p := harness.Start(t, o)
	if code := p.Wait(t, harness.Patience); code != 1 || !strings.Contains(p.Log(), n.DLR) || !strings.Contains(p.Log(), "missing") {
		t.Errorf("serve without topics: exit code %d\n%s", code, p.Log())
	}
	out, stderr, code := harness.Run(t, o, "topics", "ensure")
	if code != 0 || strings.Count(out, "\n") != len(all) {
		t.Fatalf("ensure: exit code %d, %d lines, want %d: %s%s", code, strings.Count(out, "\n"), len(all), out, stderr)
	}
	for _, topic := range all {
		if !strings.Contains(out, topic) {
			t.Errorf("ensure does not name %s", topic)
		}
	}
	out, stderr, code = harness.Run(t, o, "topics", "ensure")
	if code != 0 || strings.Count(out, "\n") != len(all) || strings.Contains(out, "created") {
		t.Errorf("ensure again: exit code %d: %s%s", code, out, stderr)
	}
	if out, stderr, code = harness.Run(t, o, "topics", "check"); code != 0 {
		t.Errorf("check after ensure: exit code %d: %s%s", code, out, stderr)
	}
	wantConfigs(t, n, describe(t, b, all))
}

// wantConfigs checks the settings of topics that topics ensure has created.
func wantConfigs(t testing.TB, n harness.Topics, configs map[string]map[string]string) {
	t.Helper()
	want := func(topic, config, value string) {
		t.Helper()
		if got := configs[topic][config]; got != value {
			t.Errorf("%s: %s is %q, want %s", topic, config, got, value)
		}
	}
	window, slack := 24*time.Hour, 72*time.Hour
	for _, source := range []string{n.DLR, n.Click, n.Inbound, n.Revocation} {
		want(source, "cleanup.policy", "delete")
		want(harness.Retry(source, "2s"), "retention.ms", millis(2*time.Second+window+slack))
		want(harness.Retry(source, "2s"), "message.timestamp.type", "LogAppendTime")
		want(harness.Overflow(source, "10s"), "retention.ms", millis(10*time.Second+window+slack))
		want(harness.Overflow(source, "10s"), "message.timestamp.type", "LogAppendTime")
		want(harness.Paused(source, "24h"), "retention.ms", millis(2*window+slack))
		want(harness.Paused(source, "24h"), "message.timestamp.type", "LogAppendTime")
	}
	want(n.Config, "cleanup.policy", "compact")
	want(n.Keys, "cleanup.policy", "compact")
	want(n.DeadLetter, "cleanup.policy", "delete")
	want(n.DeadLetter, "retention.ms", millis(30*24*time.Hour))
	want(n.Events, "cleanup.policy", "delete")
	want(n.Events, "retention.ms", millis(7*24*time.Hour))
}

// TestWrongTopics runs topics check and serve with a retention that is too short, a wrong cleanup policy, and unequal
// partition counts.
func TestWrongTopics(t *testing.T) {
	t.Parallel()
	b, r := harness.Kafka(t), harness.Redis(t)
	bad := harness.TopicsFor(t)
	harness.CreateTopic(t, b.Addr, bad.DLR, 3)
	harness.CreateTopic(t, b.Addr, harness.Retry(bad.DLR, "1s"), 2)
	harness.CreateTopic(t, b.Addr, harness.Retry(bad.Click, "1s"), 2, "retention.ms", "3600000")
	harness.CreateTopic(t, b.Addr, bad.Config, 1, "cleanup.policy", "delete")
	o := harness.Options{Brokers: b.Addr, RedisAddr: r.Addr, Topics: bad, Env: quick(), Args: []string{"--topics.partitions=2"}}
	_, stderr, code := harness.Run(t, o, "topics", "check")
	if code != 1 {
		t.Errorf("check of bad topics: exit code %d", code)
	}
	for topic, what := range map[string]string{harness.Retry(bad.DLR, "1s"): "partition", harness.Retry(bad.Click, "1s"): "retention.ms", bad.Config: "cleanup.policy"} {
		if !lineWith(stderr, topic, what) {
			t.Errorf("check does not report what is wrong with %s (%s):\n%s", topic, what, stderr)
		}
	}
	p := harness.Start(t, o)
	if code := p.Wait(t, harness.Patience); code != 1 || !lineWith(p.Log(), bad.Config, "cleanup.policy") {
		t.Errorf("serve with bad topics: exit code %d\n%s", code, p.Log())
	}
}

// TestServeEnsuresTopics checks that serve creates the topics if topics.ensure is true.
func TestServeEnsuresTopics(t *testing.T) {
	t.Parallel()
	p := harness.StartReady(t, harness.Options{
		Brokers: harness.Kafka(t).Addr, RedisAddr: harness.Redis(t).Addr, Topics: harness.TopicsFor(t), Env: quick(),
		Args: []string{"--topics.partitions=2", "--topics.ensure=true"},
	})
	if code := p.Term(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func lineWith(text, topic, what string) bool {
	for line := range strings.Lines(text) {
		if strings.Contains(line, topic) && strings.Contains(line, what) {
			return true
		}
	}
	return false
}

// TestKeys checks that keys create prints only the key, which is stored as its hash, and that revoke writes a
// tombstone.
func TestKeys(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	out, stderr, code := harness.Run(t, e.options(), "keys", "create", "--user", "42", "--name", "back office")
	key := strings.TrimSuffix(out, "\n")
	if code != 0 || key == "" || strings.ContainsAny(key, " \n\t") {
		t.Fatalf("keys create: exit code %d, %q %s", code, out, stderr)
	}
	if strings.Contains(stderr, key) {
		t.Error("the log shows the key")
	}
	sum := sha256.Sum256([]byte(key))
	hash := hex.EncodeToString(sum[:])
	records := harness.Consume(t, e.kafka.Addr, e.topics.Keys)
	if len(records) != 1 || string(records[0].Key) != hash {
		t.Fatalf("records %v", records)
	}
	var doc map[string]any
	if err := json.Unmarshal(records[0].Value, &doc); err != nil || doc["user_id"] != 42.0 || doc["name"] != "back office" {
		t.Errorf("value %s", records[0].Value)
	}
	if bytes.Contains(records[0].Value, []byte(key)) {
		t.Error("the key is stored in clear")
	}
	for range 2 {
		_, stderr, code = harness.Run(t, e.options(), "keys", "revoke", key)
		if strings.Contains(stderr, key) {
			t.Errorf("stderr shows the key: %s", stderr)
		}
		if len(harness.Consume(t, e.kafka.Addr, e.topics.Keys)) != 2 {
			t.Error("want one tombstone")
		}
		t.Logf("revoke: exit code %d %s", code, stderr)
	}
	if code != 1 {
		t.Errorf("revoking a revoked key: exit code %d, want 1", code)
	}
	records = harness.Consume(t, e.kafka.Addr, e.topics.Keys)
	if last := records[len(records)-1]; string(last.Key) != hash || last.Value != nil {
		t.Errorf("last record %s=%s", last.Key, last.Value)
	}
	if _, stderr, code = harness.Run(t, e.options(), "keys", "revoke", "no-such-key"); code != 1 || strings.Contains(stderr, "no-such-key") {
		t.Errorf("unknown key: exit code %d: %s", code, stderr)
	}
}

// TestStop checks that requests may end within the grace, and that a second signal ends the process at once.
func TestStop(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.configure(t, map[int64]harness.Webhook{1: e.all(1, ""), 2: e.all(2, "")})
	e.recv.On("/dlr/1", harness.Slow(2*time.Second, 200))
	e.recv.On("/dlr/2", harness.Hang())
	p := e.serve(t)
	e.emit(t, e.dlr(1, 1), e.dlr(1, 2), e.dlr(1, 3))
	e.recv.WaitCount(t, "/dlr/1", 3, harness.Patience)
	if code := p.Term(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	for _, r := range e.recv.Requests("/dlr/1") {
		if took := r.End.Sub(r.Start); took < 1900*time.Millisecond {
			t.Errorf("a request was cut off after %v", took)
		}
	}
	p = e.serve(t)
	// requests that ended during the stop are not sent again
	e.emit(t, e.dlr(1, 4))
	e.recv.WaitCount(t, "/dlr/1", 4, harness.Patience)
	e.recv.Quiet(t, 2500*time.Millisecond, 10*time.Second)
	if n := e.recv.Count("/dlr/1"); n != 4 {
		t.Errorf("%d requests, want 4", n)
	}
	// a request that outlasts the grace is repeated under its number
	e.emit(t, e.dlr(2, 1))
	e.recv.WaitCount(t, "/dlr/2", 1, harness.Patience)
	p.Signal(t, syscall.SIGINT)
	harness.Pass(500 * time.Millisecond)
	if !p.Running() {
		t.Fatal("ended with a request in flight")
	}
	began := time.Now()
	p.Signal(t, syscall.SIGINT)
	code := p.Wait(t, 2*time.Second)
	t.Logf("second signal: exit code %d after %v", code, time.Since(began))
	p = e.serve(t, "--shutdown.grace=1s")
	e.recv.WaitCount(t, "/dlr/2", 2, harness.Patience)
	began = time.Now()
	code = p.Term(t)
	if took := time.Since(began); took > 2*time.Second+harness.Slack(began) {
		t.Errorf("the stop took %v, the grace is 1 s", took)
	}
	t.Logf("a request outlasts the grace: exit code %d", code)
	e.serve(t)
	for i, r := range e.recv.WaitCount(t, "/dlr/2", 3, harness.Patience) {
		if n := r.Header.Get("Webhook-Attempt"); n != "1" {
			t.Errorf("request %d has attempt %s, want 1", i+1, n)
		}
	}
}

// TestEmbedded runs the program with its embedded Kafka and Redis.
func TestEmbedded(t *testing.T) {
	t.Parallel()
	harness.Need(t)
	dir := t.TempDir()
	recv := harness.NewReceiver(t)
	o := harness.Options{Env: quick(), Args: []string{
		"--embedded", "--embedded.kafka_addr=127.0.0.1:0", "--embedded.redis_addr=127.0.0.1:0", "--embedded.dir=" + dir, "--topics.partitions=2",
		"--api.addr=127.0.0.1:0",
		// of other servers: ignored
		"--kafka.brokers=127.0.0.1:1", "--kafka.tls.enabled", "--kafka.sasl.mechanism=PLAIN", "--kafka.sasl.username=a", "--kafka.sasl.password=b",
		"--redis.addrs=127.0.0.1:1", "--redis.tls.enabled", "--redis.password=b", "--redis.cluster",
	}}
	p := harness.StartReady(t, o)
	wantFirstWebhook(t, p, recv)
	_, broker, _ := nextSteps(t, p)
	harness.SetWebhook(t, broker, "webhook-config", 7, harness.Webhook{DLR: recv.URL("/dlr"), Click: recv.URL("/click"), Revoke: recv.URL("/revoke")})
	harness.Settle()
	recv.On("/dlr", harness.Codes(500, 200))
	harness.ProduceMany(t, broker, []*kgo.Record{
		harness.Event("sms-dlr", 7, harness.DLRValue(7, 1)), harness.Event("sms-click", 7, harness.ClickValue(7, 1)), harness.Event("sms-click", 7, harness.ClickValue(7, 1)),
		harness.Event("click-revocation", 7, harness.RevocationValue(7, []int64{1}, nil)),
	})
	wantAttempts(t, recv.WaitCount(t, "/dlr", 2, harness.Patience), time.Second)
	recv.WaitCount(t, "/click", 1, harness.Patience)
	recv.WaitCount(t, "/revoke", 1, harness.Patience)
	p.WaitBalanced(t, 5, harness.Patience)
	if code := p.Term(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	// its data are kept
	p = harness.StartReady(t, o)
	_, broker, _ = nextSteps(t, p)
	harness.ProduceMany(t, broker, []*kgo.Record{harness.Event("sms-dlr", 7, harness.DLRValue(7, 2))})
	recv.WaitCount(t, "/dlr", 3, harness.Patience)
	recv.Quiet(t, 1500*time.Millisecond, 10*time.Second)
	if n := recv.Count("/dlr"); n != 3 {
		t.Errorf("%d requests, want 3", n)
	}
}

// nextSteps returns the commands that an embedded service prints, and its addresses of Kafka and Redis.
func nextSteps(t testing.TB, p *harness.Proc) (steps, broker, redis string) {
	t.Helper()
	found := regexp.MustCompile(`(?m)^Next, .*\n((?:  .*\n)+)`).FindStringSubmatch(p.Log())
	if found == nil {
		t.Fatalf("no next steps were printed:\n%s", p.Log())
	}
	brokers := regexp.MustCompile(`--kafka.brokers=([0-9.:]+)`).FindStringSubmatch(found[1])
	addr := regexp.MustCompile(`"redis":"([^"]+)"`).FindStringSubmatch(p.Log())
	if brokers == nil || addr == nil {
		t.Fatalf("the next steps or the log do not name the servers:\n%s", p.Log())
	}
	return found[1], brokers[1], addr[1]
}

// wantFirstWebhook runs the three commands that an embedded service prints, and checks that an event is delivered and
// that explain shows its attempt.
func wantFirstWebhook(t *testing.T, p *harness.Proc, recv *harness.Receiver) {
	t.Helper()
	steps, broker, redis := nextSteps(t, p)
	if n := strings.Count(steps, "\n"); n != 3 {
		t.Fatalf("%d next steps were printed, want 3:\n%s", n, steps)
	}
	steps = strings.ReplaceAll(steps, "127.0.0.1:8090/dlr", recv.Addr()+"/first")
	out, err := exec.CommandContext(t.Context(), "bash", "-e", "-c", steps).Output()
	id := regexp.MustCompile(`evt_\w+`).Find(out)
	if err != nil || id == nil {
		t.Fatalf("%s\n%v: %s", steps, err, out)
	}
	recv.WaitCount(t, "/first", 1, harness.Patience)
	harness.Eventually(t, harness.Patience, func() bool {
		out, _, _ := harness.Run(t, harness.Options{Brokers: broker, RedisAddr: redis}, "explain", string(id), "--user=42", "--json")
		return strings.Contains(out, `"state":"delivered","attempts":1`)
	}, "explain shows the attempt")
}
