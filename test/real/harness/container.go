package harness

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/wait"
)

// ownerLabel identifies the test process of a container, so that a later run can remove what a killed run left behind.
const ownerLabel = "smshooks.test.owner"

// startTakes limits the start of a server. A broker takes 3 s on a quiet machine, and more than 90 s on one with a load
// of 60.
const startTakes = 4 * time.Minute

// server is a container with ports at fixed loopback addresses, which stay the same across stop and start.
type server struct {
	addr   string   // of its first port
	addrs  []string // of all
	name   string   // "kafka" or "redis", for messages
	c      *testcontainers.DockerContainer
	ready  func(ctx context.Context, addr string) error
	shared bool
}

// spec describes the container of a server.
type spec struct {
	name, image string
	ports       []string // inside the container; readiness is checked at the first one
	env         func(addrs []string) map[string]string
	ready       func(ctx context.Context, addr string) error
	more        []testcontainers.ContainerCustomizer
	// command, if set, returns the container's command. The container is then on the host's network: it listens on the
	// addresses themselves, and ports only tell them apart.
	command func(addrs []string) []string
}

// run starts a container. Another process may take the port before the start, so it tries three times.
func (s spec) run(ctx context.Context) (*server, error) {
	var err error
	for range 3 {
		var srv *server
		if srv, err = s.try(ctx); err == nil {
			return srv, nil
		}
		if !strings.Contains(err.Error(), "already allocated") && !strings.Contains(err.Error(), "address already in use") {
			break
		}
	}
	return nil, fmt.Errorf("%s did not start from image %s (test/stack/up.sh makes images available): %w", s.name, s.image, err)
}

func (s spec) try(ctx context.Context) (*server, error) {
	srv := &server{name: s.name, ready: s.ready}
	bindings, exposed := network.PortMap{}, []string(nil)
	for _, inside := range s.ports {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		srv.addrs = append(srv.addrs, loopback(port))
		if s.command != nil {
			continue
		}
		exposed = append(exposed, inside+"/tcp")
		bindings[network.MustParsePort(inside+"/tcp")] = []network.PortBinding{{HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: strconv.Itoa(port)}}
	}
	srv.addr = srv.addrs[0]
	reached := []testcontainers.ContainerCustomizer{
		testcontainers.WithExposedPorts(exposed...),
		testcontainers.WithHostConfigModifier(func(h *container.HostConfig) { h.PortBindings = bindings }),
	}
	if s.command != nil {
		reached = []testcontainers.ContainerCustomizer{
			testcontainers.WithCmd(s.command(srv.addrs)...),
			testcontainers.WithHostConfigModifier(func(h *container.HostConfig) { h.NetworkMode = "host" }),
		}
	}
	var err error
	srv.c, err = testcontainers.Run(ctx, s.image, slices.Concat([]testcontainers.ContainerCustomizer{
		testcontainers.WithEnv(s.env(srv.addrs)),
		testcontainers.WithLabels(map[string]string{ownerLabel: owner(os.Getpid())}),
		testcontainers.WithWaitStrategyAndDeadline(startTakes, asked{srv}),
	}, reached, s.more)...)
	if err != nil {
		if srv.c != nil {
			err = fmt.Errorf("%w\n%s", err, srv.logs())
			_ = testcontainers.TerminateContainer(srv.c)
		}
		return nil, err
	}
	return srv, nil
}

// asked waits until the server itself answers. A log line may be older than a restart, and a listening port proves
// nothing: Docker's proxy accepts connections as soon as the container exists.
type asked struct{ srv *server }

// WaitUntilReady implements testcontainers' wait.Strategy.
func (a asked) WaitUntilReady(ctx context.Context, target wait.StrategyTarget) error {
	ctx, cancel := context.WithTimeout(ctx, startTakes)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		try, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := a.srv.ready(try, a.srv.addr)
		cancel()
		if err == nil {
			return nil
		}
		if state, stateErr := target.State(ctx); stateErr == nil && !state.Running {
			return fmt.Errorf("the container ended with exit code %d", state.ExitCode)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no answer at %s: %w", a.srv.addr, err)
		case <-tick.C:
		}
	}
}

func (s *server) logs() string {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	r, err := s.c.Logs(ctx)
	if err != nil {
		return ""
	}
	defer r.Close()
	buf := make([]byte, 0, 64<<10)
	for chunk := make([]byte, 4<<10); ; {
		n, err := r.Read(chunk)
		if buf = append(buf, chunk[:n]...); len(buf) > 32<<10 {
			buf = buf[len(buf)-(16<<10):]
		}
		if err != nil {
			return string(buf)
		}
	}
}

// own fails the test if it is about to disturb a shared server.
func (s *server) own(t testing.TB, what string) {
	t.Helper()
	if s.shared {
		t.Fatalf("%s of the shared %s: use one of your own (OwnKafka, OwnRedis)", what, s.name)
	}
}

func (s *server) stop(t testing.TB) {
	t.Helper()
	s.own(t, "stop")
	grace := 10 * time.Second
	if err := s.c.Stop(within(t, Patience), &grace); err != nil {
		t.Fatalf("stop %s: %v", s.name, err)
	}
}

// start starts a stopped server. Kafka ends itself if a very busy machine delays its start, so it tries three times.
func (s *server) start(t testing.TB) {
	t.Helper()
	s.own(t, "start")
	ctx := within(t, 2*startTakes)
	var err error
	for range 3 {
		if err = s.c.Start(ctx); err == nil {
			return
		}
	}
	t.Fatalf("restart %s: %v\n%s", s.name, err, s.logs())
}

// docker runs f with a client of the Docker daemon, where testcontainers has no method.
func (s *server) docker(t testing.TB, what string, f func(ctx context.Context, cli *testcontainers.DockerClient, id string) error) {
	t.Helper()
	s.own(t, what)
	ctx := within(t, Patience)
	cli, err := testcontainers.NewDockerClientWithOpts(ctx)
	if err != nil {
		t.Fatalf("%s %s: %v", what, s.name, err)
	}
	defer cli.Close()
	if err := f(ctx, cli, s.c.GetContainerID()); err != nil {
		t.Fatalf("%s %s: %v", what, s.name, err)
	}
}

func (s *server) kill(t testing.TB) {
	t.Helper()
	s.docker(t, "kill", func(ctx context.Context, cli *testcontainers.DockerClient, id string) error {
		if _, err := cli.ContainerKill(ctx, id, client.ContainerKillOptions{Signal: "KILL"}); err != nil {
			return err
		}
		ended := poll(10*time.Second, func() bool {
			state, err := s.c.State(ctx)
			return err == nil && !state.Running
		})
		if !ended {
			return fmt.Errorf("still running after 10 s")
		}
		return nil
	})
}

func (s *server) pause(t testing.TB) {
	t.Helper()
	s.docker(t, "pause", func(ctx context.Context, cli *testcontainers.DockerClient, id string) error {
		var err error
		poll(20*time.Second, func() bool { // freezing sometimes fails on a busy machine
			_, err = cli.ContainerPause(ctx, id, client.ContainerPauseOptions{})
			return err == nil
		})
		return err
	})
}

func (s *server) unpause(t testing.TB) {
	t.Helper()
	s.docker(t, "unpause", func(ctx context.Context, cli *testcontainers.DockerClient, id string) error {
		_, err := cli.ContainerUnpause(ctx, id, client.ContainerUnpauseOptions{})
		return err
	})
}

// lazy is a server that the first test that needs it starts and Main ends.
type lazy struct {
	mu  sync.Mutex
	srv *server
	err error
}

// The shared servers of the process. They are package state because `go test` has no other place for what outlives a
// test.
var (
	sharedKafka lazy
	sharedRedis lazyRedis
)

func (l *lazy) get(t testing.TB, s spec) *server {
	t.Helper()
	Need(t)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.srv == nil && l.err == nil {
		began := time.Now()
		if l.srv, l.err = s.run(context.Background()); l.err == nil {
			l.srv.shared = true
			t.Logf("%s: %s at %s, ready in %v", s.name, s.image, l.srv.addr, time.Since(began).Round(time.Millisecond))
		}
	}
	if l.err != nil {
		t.Fatal(l.err)
	}
	return l.srv
}

func (l *lazy) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.srv != nil {
		l.srv.end()
	}
}

// end removes a shared server.
func (s *server) end() {
	if err := testcontainers.TerminateContainer(s.c, testcontainers.StopTimeout(0)); err != nil {
		fmt.Fprintf(os.Stderr, "harness: end %s: %v\n", s.name, err)
	}
}

// lazyRedis is like lazy for a Redis of one or more servers.
type lazyRedis struct {
	mu  sync.Mutex
	r   *RedisServer
	err error
}

func (l *lazyRedis) get(t testing.TB) *RedisServer {
	t.Helper()
	Need(t)
	kind := redisKind(t)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.r == nil && l.err == nil {
		run := func(s spec) (*server, error) { return s.run(context.Background()) }
		switch kind {
		case "cluster":
			var c *RedisCluster
			if c, l.err = clusterOf(t, run); l.err == nil {
				l.r = &c.RedisServer
			}
		case "sentinel":
			var s *RedisSentinel
			if s, l.err = sentinelOf(t, run, ""); l.err == nil {
				l.r = &s.RedisServer
			}
		default:
			var srv *server
			if srv, l.err = run(redisSpec()); l.err == nil {
				l.r = single(srv)
			}
		}
		if l.err == nil {
			l.r.each(func(s *server) { s.shared = true })
			t.Logf("redis: %s at %s", redisSpec().image, l.r.Addr)
		}
	}
	if l.err != nil {
		t.Fatal(l.err)
	}
	return l.r
}

func (l *lazyRedis) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.r != nil {
		l.r.each(func(s *server) { s.end() })
	}
}

func endShared() {
	measuredPace.end()
	sharedKafka.end()
	sharedRedis.end()
}

// runOwn starts a server for one test.
func runOwn(t testing.TB, s spec) *server {
	t.Helper()
	Need(t)
	srv, err := s.run(within(t, startTakes+Patience))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := testcontainers.TerminateContainer(srv.c, testcontainers.StopTimeout(0)); err != nil {
			t.Errorf("end %s: %v", s.name, err)
		}
	})
	return srv
}

func owner(pid int) string {
	host, _ := os.Hostname()
	return host + ":" + strconv.Itoa(pid)
}

// reap removes containers of test processes of this host that have ended. It only cleans up: errors do not fail tests.
func reap() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cli, err := testcontainers.NewDockerClientWithOpts(ctx)
	if err != nil {
		return
	}
	defer cli.Close()
	list, err := cli.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: make(client.Filters).Add("label", ownerLabel)})
	if err != nil {
		return
	}
	for _, c := range list.Items {
		if abandoned(c.Labels[ownerLabel]) {
			_, _ = cli.ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
		}
	}
	reapNetworks(ctx, cli)
}

func reapNetworks(ctx context.Context, cli *testcontainers.DockerClient) {
	list, err := cli.NetworkList(ctx, client.NetworkListOptions{Filters: make(client.Filters).Add("label", ownerLabel)})
	if err != nil {
		return
	}
	for _, n := range list.Items {
		if abandoned(n.Labels[ownerLabel]) {
			_, _ = cli.NetworkRemove(ctx, n.ID, client.NetworkRemoveOptions{})
		}
	}
}

// abandoned reports whether a label identifies a test process of this host that has ended.
func abandoned(label string) bool {
	host, pid, ok := strings.Cut(label, ":")
	n, err := strconv.Atoi(pid)
	return ok && err == nil && owner(n) == host+":"+pid && !alive(n)
}
