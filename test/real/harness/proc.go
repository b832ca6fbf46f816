package harness

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Options configures a run of the program. The harness uses environment variables. Env overrides them, and Args
// overrides Env, in the contract's order.
type Options struct {
	Brokers   string   // kafka.brokers
	RedisAddr string   // redis.addrs, after "<redis.master_name>@" for Sentinels; "" for commands that need none
	Topics    Topics   // the zero value leaves the default names
	Args      []string // flags after the command: "--retry.schedule=1s,1s"
	Env       []string // "SMSHOOKS_RETRY_WINDOW=10s"
	Addr      string   // api.addr; "" = a free loopback port
	OpsAddr   string   // ops.addr; "" = a free loopback port
	Binary    string   // "" = Binary(t)
	OpenFiles int      // limit of open descriptors of Start, as `ulimit -n` sets it; 0 leaves the test's own

	Timeout time.Duration // of Run; 0 = 2 minutes
}

// environ returns the child's environment: the test's own without settings, the harness's, and o.Env.
func (o Options) environ() []string {
	var vars []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "SMSHOOKS_") {
			vars = append(vars, v)
		}
	}
	set := func(setting, value string) {
		if value != "" {
			vars = append(vars, Variable(setting)+"="+value)
		}
	}
	set("kafka.brokers", o.Brokers)
	master, redisAddrs := splitRedisAddr(o.RedisAddr)
	set("redis.addrs", redisAddrs)
	set("redis.master_name", master)
	set("api.addr", o.Addr)
	set("ops.addr", o.OpsAddr)
	// the receivers of tests are on loopback, which is blocked by default
	set("dispatch.allow_networks", "127.0.0.0/8")
	if o.Topics != (Topics{}) {
		vars = append(vars, o.Topics.Env()...)
	}
	return append(vars, o.Env...)
}

// binaries holds the program under test, built once per version and process.
var binaries struct {
	sync.Mutex
	dir  string
	path map[string]string
}

// Binary builds the program and returns its path. It is built as for a release, or with the race detector if
// SMSHOOKS_TEST_RACE is set. SMSHOOKS_TEST_BINARY names an existing binary to use instead.
func Binary(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("SMSHOOKS_TEST_BINARY"); path != "" {
		return path
	}
	return BinaryOf(t, "dev")
}

// BinaryOf is like Binary, with a version that appears in the program's User-Agent.
func BinaryOf(t testing.TB, version string) string {
	t.Helper()
	args := []string{"-ldflags", "-X main.version=" + version}
	if os.Getenv("SMSHOOKS_TEST_RACE") != "" {
		args = append(args, "-race")
	}
	return build(t, "smshooks-"+version, moduleRoot(t), append(args, "./cmd/smshooks")...)
}

// Bench builds the benchmark, once for all tests, and returns its path.
func Bench(t testing.TB) string {
	t.Helper()
	return build(t, "bench", filepath.Join(moduleRoot(t), "tools", "bench"), ".")
}

// build runs go build in a module, unless the program was built before, and returns the program's path.
func build(t testing.TB, name, module string, args ...string) string {
	t.Helper()
	binaries.Lock()
	defer binaries.Unlock()
	if path := binaries.path[name]; path != "" {
		return path
	}
	if binaries.dir == "" {
		dir, err := os.MkdirTemp("", "smshooks-test-")
		if err != nil {
			t.Fatal(err)
		}
		binaries.dir, binaries.path = dir, map[string]string{}
	}
	path := filepath.Join(binaries.dir, name)
	output(t, "go", append([]string{"-C", module, "build", "-buildvcs=false", "-o", path}, args...)...)
	binaries.path[name] = path
	return path
}

func removeBinary() {
	if binaries.dir != "" {
		_ = os.RemoveAll(binaries.dir)
	}
}

// Run runs a command of the program to its end (at most o.Timeout) and returns its output and exit code. args are the
// command and its flags, followed by o.Args.
func Run(t testing.TB, o Options, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	program := Binary(t) // do not count the build as the command's time
	cmd := exec.CommandContext(within(t, cmp.Or(o.Timeout, 2*time.Minute)), program, append(args, o.Args...)...)
	var out, errOut bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = o.environ(), &out, &errOut, diesWithUs()
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("run %v: %v", args, err)
	}
	if len(args) > 1 && args[0] == "keys" && args[1] == "create" {
		Secret(strings.TrimSpace(out.String()))
	} else {
		noLeaks(t, "the output of "+args[0], out.String())
	}
	noLeaks(t, "the errors of "+args[0], errOut.String())
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

// Proc is a running `smshooks serve`.
type Proc struct {
	Addr    string // of the API, 127.0.0.1:port
	OpsAddr string // of /metrics, /healthz, /readyz

	cmd  *exec.Cmd
	log  buffer
	done chan struct{} // closed when the process has ended
}

// Start runs `smshooks serve` until the test ends, and prints its log if the test has failed. Options without Topics
// use the default names. Start does not wait until the service is ready; see WaitReady.
func Start(t testing.TB, o Options) *Proc {
	t.Helper()
	Need(t)
	if o.Addr == "" {
		o.Addr = FreeAddr(t)
	}
	if o.OpsAddr == "" {
		o.OpsAddr = FreeAddr(t)
	}
	p := &Proc{Addr: o.Addr, OpsAddr: o.OpsAddr, done: make(chan struct{})}
	if o.Binary == "" {
		o.Binary = Binary(t)
	}
	command := append([]string{o.Binary, "serve"}, o.Args...)
	if o.OpenFiles > 0 {
		command = append([]string{"sh", "-c", `ulimit -n "$0" && exec "$@"`, strconv.Itoa(o.OpenFiles)}, command...)
	}
	p.cmd = exec.Command(command[0], command[1:]...)
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr, p.cmd.SysProcAttr = o.environ(), &p.log, &p.log, diesWithUs()
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start smshooks serve: %v", err)
	}
	go func() {
		_ = p.cmd.Wait() // the exit code is read from ProcessState
		close(p.done)
	}()
	t.Cleanup(func() {
		p.Kill()
		noLeaks(t, "the log of "+p.Addr, p.Log())
		if strings.Contains(p.Log(), "WARNING: DATA RACE") { // of a binary with the race detector
			t.Errorf("a data race in smshooks (pid %d)", p.cmd.Process.Pid)
		}
		if t.Failed() {
			t.Logf("log of smshooks (pid %d, %s):\n%s", p.cmd.Process.Pid, p.cmd.ProcessState, shown(t, p.Log()))
		}
	})
	return p
}

// StartProgram runs another program until the test ends, and prints its output if the test has failed. env is added to
// the test's own environment. The returned function returns the output so far.
func StartProgram(t testing.TB, env []string, command string, args ...string) (printed func() string) {
	t.Helper()
	Need(t)
	var out buffer
	cmd := exec.Command(command, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = append(os.Environ(), env...), &out, &out, diesWithUs()
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", command, err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // ended by the signal
		if t.Failed() {
			t.Logf("output of %s:\n%s", command, shown(t, out.String()))
		}
	})
	return out.String
}

// Example builds the program of a directory below examples and returns its path.
func Example(t testing.TB, name string) string {
	t.Helper()
	return build(t, "example-"+name, moduleRoot(t), "./examples/"+name)
}

// logTail is the size of the part of a log that a failed test prints.
const logTail = 24 << 10

// shown returns the end of a log, and the path of the complete log if it is longer.
func shown(t testing.TB, log string) string {
	if len(log) <= logTail {
		return log
	}
	tail := log[len(log)-logTail:]
	tail = tail[strings.IndexByte(tail, '\n')+1:]
	f, err := os.CreateTemp("", "smshooks-"+strings.ReplaceAll(t.Name(), "/", "-")+"-*.log")
	if err == nil {
		_, err = f.WriteString(log)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Sprintf("(the last lines; the complete log could not be written: %v)\n%s", err, tail)
	}
	return fmt.Sprintf("(the last lines; the complete log is in %s)\n%s", f.Name(), tail)
}

// StartReady calls Start and WaitReady.
func StartReady(t testing.TB, o Options) *Proc {
	t.Helper()
	p := Start(t, o)
	p.WaitReady(t, time.Minute)
	return p
}

// Kill ends the process with SIGKILL and waits for its end.
func (p *Proc) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// Signal sends a signal. SIGSTOP freezes the process, and SIGCONT resumes it.
func (p *Proc) Signal(t testing.TB, sig syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		t.Fatalf("send %v to smshooks: %v", sig, err)
	}
}

// Term sends SIGTERM, waits for the end and returns the exit code.
func (p *Proc) Term(t testing.TB) int {
	t.Helper()
	p.Signal(t, syscall.SIGTERM)
	return p.Wait(t, time.Minute)
}

// Wait waits for the process to end and returns its exit code, -1 if a signal ended it.
func (p *Proc) Wait(t testing.TB, timeout time.Duration) int {
	t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(timeout):
		t.Fatalf("smshooks is still running after %v", timeout)
		return 0
	}
}

// Running reports whether the process has not ended.
func (p *Proc) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Pid returns the id of the process.
func (p *Proc) Pid() int { return p.cmd.Process.Pid }

// Log returns the output of the process so far.
func (p *Proc) Log() string { return p.log.String() }

// WaitReady waits until /readyz returns 200. It fails at once if the process ends.
func (p *Proc) WaitReady(t testing.TB, timeout time.Duration) {
	t.Helper()
	var last string
	ready := poll(timeout, func() bool {
		status, body, err := p.ops("/readyz")
		last = fmt.Sprint(status, " ", body)
		if err != nil {
			last = err.Error()
		}
		return err == nil && status == http.StatusOK || !p.Running()
	})
	if !p.Running() {
		t.Fatalf("smshooks ended with exit code %d before it was ready", p.cmd.ProcessState.ExitCode())
	}
	if !ready {
		t.Fatalf("smshooks not ready within %v: %s", timeout, last)
	}
}

// WaitUnready waits until /readyz returns 503 with a body that contains text.
func (p *Proc) WaitUnready(t testing.TB, timeout time.Duration, text string) {
	t.Helper()
	var last string
	Eventually(t, timeout, func() bool {
		status, body, err := p.ops("/readyz")
		last = fmt.Sprint(status, " ", body, " ", err)
		return err == nil && status == http.StatusServiceUnavailable && strings.Contains(body, text)
	}, "/readyz returns 503 with %q; the last answer: %v", text, printed(func() string { return last }))
}

// Readyz returns the status and body of /readyz. The status is 0 if there was no answer.
func (p *Proc) Readyz() (status int, text string) {
	status, text, err := p.ops("/readyz")
	if err != nil {
		return 0, err.Error()
	}
	return status, text
}

// WaitLog waits until the log contains a text.
func (p *Proc) WaitLog(t testing.TB, timeout time.Duration, text string) {
	t.Helper()
	Eventually(t, timeout, func() bool { return strings.Contains(p.Log(), text) }, "%q in the log", text)
}

// WaitMetric waits until the sum of a metric's samples with the given labels satisfies ok, and returns the sum.
func (p *Proc) WaitMetric(t testing.TB, timeout time.Duration, ok func(v float64) bool, name string, labels ...string) float64 {
	t.Helper()
	var v float64
	Eventually(t, timeout, func() bool {
		v = p.Metrics(t).Sum(name, labels...)
		return ok(v)
	}, "%s%v as expected; the last value: %v", name, labels, printed(func() string { return fmt.Sprint(v) }))
	return v
}

// printed is a text that is computed when it is printed.
type printed func() string

func (p printed) String() string { return p() }

// AtLeast is a condition for WaitMetric.
func AtLeast(n float64) func(float64) bool { return func(v float64) bool { return v >= n } }

// Exactly is a condition for WaitMetric.
func Exactly(n float64) func(float64) bool { return func(v float64) bool { return v == n } }

// Ready reports whether /readyz returns 200 now.
func (p *Proc) Ready() bool {
	status, _, err := p.ops("/readyz")
	return err == nil && status == http.StatusOK
}

// Alive reports whether /healthz returns 200 now.
func (p *Proc) Alive() bool {
	status, _, err := p.ops("/healthz")
	return err == nil && status == http.StatusOK
}

// Metrics scrapes /metrics.
func (p *Proc) Metrics(t testing.TB) Metrics {
	t.Helper()
	status, body, err := p.ops("/metrics")
	noLeaks(t, "/metrics of "+p.OpsAddr, body)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("status %d", status)
	}
	var m Metrics
	if err == nil {
		m, err = parseMetrics(strings.NewReader(body))
	}
	if err != nil {
		t.Fatalf("metrics of %s: %v", p.OpsAddr, err)
	}
	return m
}

// WaitBalanced waits until the process has settled all records that it consumed, at least n, and returns that scrape.
func (p *Proc) WaitBalanced(t testing.TB, n float64, timeout time.Duration) Metrics {
	t.Helper()
	var m Metrics
	ok := poll(timeout, func() bool {
		m = p.Metrics(t)
		consumed, settled := m.Ledger()
		return consumed >= n && consumed == settled && m.Sum("smshooks_buffered_records") == 0
	})
	if !ok {
		consumed, settled := m.Ledger()
		t.Fatalf("not within %v: %v records consumed (want at least %v), %v settled, %v buffered",
			timeout, consumed, n, settled, m.Sum("smshooks_buffered_records"))
	}
	return m
}

// ops sends a request to the operations listener.
func (p *Proc) ops(path string) (status int, body string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.OpsAddr+path, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	_, err = b.ReadFrom(resp.Body)
	return resp.StatusCode, b.String(), err
}

// buffer is a bytes.Buffer that a process writes while a test reads.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
