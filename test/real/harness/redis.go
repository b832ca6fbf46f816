package harness

import (
	"context"
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/testcontainers/testcontainers-go"
)

// RedisServer is a Redis in a container with the image's persistence: a clean stop saves the data, a kill loses them.
// If SMSHOOKS_TEST_REDIS is cluster or sentinel, it is a cluster, or a master with a replica and Sentinels, and methods
// apply to all of its nodes.
type RedisServer struct {
	Addr  string // for Options.RedisAddr; the same across stop and start
	nodes []*server
	// settled returns nil once restarted nodes work together.
	settled func(ctx context.Context) error
}

// Redis returns the server that all tests of the process share. It cannot be stopped or flushed.
func Redis(t testing.TB) *RedisServer {
	t.Helper()
	return sharedRedis.get(t)
}

// OwnRedis starts a server for the test, which may stop, kill, pause and flush it.
func OwnRedis(t testing.TB) *RedisServer {
	t.Helper()
	switch redisKind(t) {
	case "cluster":
		return &OwnRedisCluster(t).RedisServer
	case "sentinel":
		return &OwnRedisSentinel(t).RedisServer
	}
	return single(runOwn(t, redisSpec()))
}

// SingleRedis is like Redis for tests that need the address of a single server. It skips the test if Redis is not one.
func SingleRedis(t testing.TB) *RedisServer {
	t.Helper()
	if kind := redisKind(t); kind != "" {
		t.Skipf("needs a single Redis, this is a %s", kind)
	}
	return Redis(t)
}

func single(srv *server) *RedisServer { return &RedisServer{Addr: srv.addr, nodes: []*server{srv}} }

// redisKind returns SMSHOOKS_TEST_REDIS: "" for a single server, cluster or sentinel.
func redisKind(t testing.TB) string {
	t.Helper()
	kind := env("SMSHOOKS_TEST_REDIS", "")
	if kind != "" && kind != "cluster" && kind != "sentinel" {
		t.Fatalf("SMSHOOKS_TEST_REDIS: %q is neither cluster nor sentinel", kind)
	}
	return kind
}

// Stop shuts the server down cleanly. Its data are kept.
func (r *RedisServer) Stop(t testing.TB) {
	t.Helper()
	r.each(func(s *server) { s.stop(t) })
}

// Start starts a stopped or killed server at the same address and returns when it answers.
func (r *RedisServer) Start(t testing.TB) {
	t.Helper()
	r.each(func(s *server) { s.start(t) })
	r.settle(t)
}

// Kill ends the server with SIGKILL. Unsaved data are lost.
func (r *RedisServer) Kill(t testing.TB) {
	t.Helper()
	r.each(func(s *server) { s.kill(t) })
}

// Pause freezes the server: connections stay open and nothing answers.
func (r *RedisServer) Pause(t testing.TB) {
	t.Helper()
	r.each(func(s *server) { s.pause(t) })
}

// Unpause resumes a paused server.
func (r *RedisServer) Unpause(t testing.TB) {
	t.Helper()
	r.each(func(s *server) { s.unpause(t) })
	r.settle(t)
}

func (r *RedisServer) each(f func(*server)) {
	for _, s := range r.nodes {
		f(s)
	}
}

func (r *RedisServer) settle(t testing.TB) {
	t.Helper()
	if r.settled == nil {
		return
	}
	var err error
	if !poll(Patience, func() bool { err = r.settled(within(t, 10*time.Second)); return err == nil }) {
		t.Fatalf("the nodes of Redis do not work together again: %v", err)
	}
}

// FlushAll empties the server.
func (r *RedisServer) FlushAll(t testing.TB) {
	t.Helper()
	r.each(func(s *server) { s.own(t, "flush") })
	ctx := within(t, Patience)
	var err error
	switch cl := r.Client(t).(type) {
	case *redis.ClusterClient:
		err = cl.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error { return c.FlushAll(ctx).Err() })
	default:
		err = cl.FlushAll(ctx).Err()
	}
	if err != nil {
		t.Fatalf("FLUSHALL: %v", err)
	}
}

// Client returns a client of the server. It is closed when the test ends.
func (r *RedisServer) Client(t testing.TB) redis.UniversalClient {
	cl := newRedisClient(r.Addr)
	t.Cleanup(func() { _ = cl.Close() })
	return cl
}

// Keys returns the keys of all nodes that match pattern.
func (r *RedisServer) Keys(t testing.TB, pattern string) []string {
	t.Helper()
	var (
		mu   sync.Mutex
		keys []string
	)
	read := func(ctx context.Context, cl redis.Cmdable) error {
		found, err := cl.Keys(ctx, pattern).Result()
		mu.Lock()
		defer mu.Unlock()
		keys = append(keys, found...)
		return err
	}
	ctx := within(t, Patience)
	var err error
	switch cl := r.Client(t).(type) {
	case *redis.ClusterClient:
		err = cl.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error { return read(ctx, c) })
	default:
		err = read(ctx, cl)
	}
	if err != nil {
		t.Fatalf("KEYS %s: %v", pattern, err)
	}
	return keys
}

// AnyAddr returns the address of one server: of a node of a cluster, or of a Sentinel.
func (r *RedisServer) AnyAddr() string {
	_, addrs := splitRedisAddr(r.Addr)
	addr, _, _ := strings.Cut(addrs, ",")
	return addr
}

// newRedisClient returns a client for an Options.RedisAddr.
func newRedisClient(addr string) redis.UniversalClient {
	o := redisOptions("")
	master, addrs := splitRedisAddr(addr)
	return redis.NewUniversalClient(&redis.UniversalOptions{
		Addrs: strings.Split(addrs, ","), MasterName: master, DialTimeout: o.DialTimeout, ReadTimeout: o.ReadTimeout, MaxRetries: o.MaxRetries, ContextTimeoutEnabled: true,
	})
}

// splitRedisAddr splits an Options.RedisAddr: <master name>@<addresses of Sentinels>, or addresses alone.
func splitRedisAddr(addr string) (master, addrs string) {
	if name, sentinels, ok := strings.Cut(addr, "@"); ok {
		return name, sentinels
	}
	return "", addr
}

func redisOptions(addr string) *redis.Options {
	return &redis.Options{Addr: addr, DialTimeout: time.Second, ReadTimeout: 2 * time.Second, MaxRetries: -1, ContextTimeoutEnabled: true}
}

func redisSpec() spec {
	return spec{
		name: "redis", image: env("SMSHOOKS_TEST_REDIS_IMAGE", "redis:7"), ports: []string{"6379"},
		env:   func([]string) map[string]string { return nil },
		ready: askRedis,
	}
}

// RedisArgs starts a server for the test with additional arguments: "--maxmemory", "10mb".
func RedisArgs(t testing.TB, args ...string) *RedisServer {
	t.Helper()
	return single(runOwn(t, redisNode("redis", args...)))
}

// TLSRedis starts a server for the test that accepts only TLS and requires a client certificate of the authority.
func TLSRedis(t testing.TB, caFile, certFile, keyFile string) *RedisServer {
	t.Helper()
	s := redisSpec()
	s.name = "redis-tls"
	s.ports = []string{"server"}
	s.command = func(addrs []string) []string {
		return []string{
			"redis-server", "--bind", "127.0.0.1", "--port", "0", "--tls-port", port(addrs[0]), "--tls-auth-clients", "yes",
			"--tls-ca-cert-file", "/tls/ca.pem", "--tls-cert-file", "/tls/server.pem", "--tls-key-file", "/tls/server.key",
		}
	}
	for inside, outside := range map[string]string{"ca.pem": caFile, "server.pem": certFile, "server.key": keyFile} {
		s.more = append(s.more, testcontainers.WithFiles(testcontainers.ContainerFile{HostFilePath: outside, ContainerFilePath: "/tls/" + inside, FileMode: 0o644}))
	}
	// It is ready once it answers a handshake, which it refuses because the client has no certificate.
	s.ready = func(ctx context.Context, addr string) error {
		conn, err := (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}).DialContext(ctx, "tcp", addr) //nolint:gosec // only checks whether it answers
		if err != nil {
			return err
		}
		return conn.Close()
	}
	return single(runOwn(t, s))
}

// redisNode is a Redis on the host's network, so that the addresses that nodes announce are valid everywhere.
func redisNode(name string, args ...string) spec {
	s := redisSpec()
	s.name = name
	s.ports = []string{"server", "bus"}
	s.command = func(addrs []string) []string {
		own := []string{"redis-server", "--bind", "127.0.0.1", "--port", port(addrs[0])}
		if slices.Contains(args, "--cluster-enabled") {
			own = append(own, "--cluster-port", port(addrs[1]))
		}
		return append(own, args...)
	}
	return s
}

func port(addr string) string { return addr[strings.LastIndex(addr, ":")+1:] }

func askRedis(ctx context.Context, addr string) error {
	cl := redis.NewClient(redisOptions(addr))
	defer cl.Close()
	err := cl.Ping(ctx).Err()
	if err != nil && strings.HasPrefix(err.Error(), "NOAUTH") {
		return nil // it answers, and the test has the password
	}
	return err
}

// RedisNode is one node of a cluster or of a master with replicas.
type RedisNode struct {
	Addr string
	srv  *server
}

// Kill ends the node with SIGKILL. Start starts it again at the same address.
func (n *RedisNode) Kill(t testing.TB) { t.Helper(); n.srv.kill(t) }

// Start restarts a killed node.
func (n *RedisNode) Start(t testing.TB) { t.Helper(); n.srv.start(t) }

// Pause freezes the node: connections stay open and nothing answers. Its peers consider it failed.
func (n *RedisNode) Pause(t testing.TB) { t.Helper(); n.srv.pause(t) }

// Unpause resumes a paused node.
func (n *RedisNode) Unpause(t testing.TB) { t.Helper(); n.srv.unpause(t) }

// Client returns a client of this node alone. It is closed when the test ends.
func (n *RedisNode) Client(t testing.TB) *redis.Client {
	cl := redis.NewClient(redisOptions(n.Addr))
	t.Cleanup(func() { _ = cl.Close() })
	return cl
}

func nodesOf(servers []*server) []*RedisNode {
	var nodes []*RedisNode
	for _, s := range servers {
		nodes = append(nodes, &RedisNode{s.addr, s})
	}
	return nodes
}

// RedisCluster is a cluster of three masters, each with a replica.
type RedisCluster struct {
	RedisServer
	Nodes []*RedisNode // the initial masters, then their replicas in the same order
}

// nodeTimeout is the silence after which a node of a cluster, or a Sentinel's master, is replaced.
const nodeTimeout = time.Second

// OwnRedisCluster starts a cluster for the test, which may kill and pause its nodes. It takes about five seconds.
func OwnRedisCluster(t testing.TB) *RedisCluster {
	t.Helper()
	c, err := clusterOf(t, func(s spec) (*server, error) { return runOwn(t, s), nil })
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func clusterOf(t testing.TB, run func(spec) (*server, error)) (*RedisCluster, error) {
	t.Helper()
	const masters, nodes = 3, 6
	c := &RedisCluster{}
	var addrs []string
	for i := range nodes {
		srv, err := run(redisNode(fmt.Sprintf("redis-%d", i+1), "--cluster-enabled", "yes", "--cluster-node-timeout", fmt.Sprint(nodeTimeout.Milliseconds())))
		if err != nil {
			return nil, err
		}
		c.nodes, addrs = append(c.nodes, srv), append(addrs, srv.addr)
	}
	c.Addr, c.Nodes = strings.Join(addrs, ","), nodesOf(c.nodes)
	c.settled = func(ctx context.Context) error { return clusterWhole(ctx, c.Nodes) }
	ctx := within(t, Patience)
	// Introduce the other nodes to the first one; gossip does the rest.
	first := redis.NewClient(redisOptions(addrs[0]))
	defer first.Close()
	for _, srv := range c.nodes[1:] {
		if err := first.Do(ctx, "CLUSTER", "MEET", "127.0.0.1", port(srv.addrs[0]), port(srv.addrs[1])).Err(); err != nil {
			return nil, fmt.Errorf("CLUSTER MEET: %w", err)
		}
	}
	for i := range masters {
		cl := redis.NewClient(redisOptions(addrs[i]))
		defer cl.Close()
		if err := cl.ClusterAddSlotsRange(ctx, 16384*i/masters, 16384*(i+1)/masters-1).Err(); err != nil {
			return nil, fmt.Errorf("CLUSTER ADDSLOTSRANGE: %w", err)
		}
		id, err := cl.ClusterMyID(ctx).Result()
		if err != nil {
			return nil, fmt.Errorf("CLUSTER MYID: %w", err)
		}
		replica := redis.NewClient(redisOptions(addrs[i+masters]))
		defer replica.Close()
		// The replica must know its master.
		if !poll(15*time.Second, func() bool { err = replica.ClusterReplicate(ctx, id).Err(); return err == nil }) {
			return nil, fmt.Errorf("CLUSTER REPLICATE: %w", err)
		}
	}
	var err error
	if !poll(Patience, func() bool { err = c.settled(ctx); return err == nil }) {
		return nil, fmt.Errorf("form the cluster: %w", err)
	}
	return c, nil
}

// clusterWhole returns nil if every node sees all slots served and every replica is in sync with its master.
func clusterWhole(ctx context.Context, nodes []*RedisNode) error {
	for _, n := range nodes {
		cl := redis.NewClient(redisOptions(n.Addr))
		defer cl.Close()
		info, err := cl.ClusterInfo(ctx).Result()
		if err != nil {
			return err
		}
		if !strings.Contains(info, "cluster_state:ok") || !strings.Contains(info, "cluster_slots_ok:16384") || !strings.Contains(info, "cluster_known_nodes:6") {
			return fmt.Errorf("%s: %s", n.Addr, info)
		}
		if err := inStep(ctx, cl); err != nil {
			return fmt.Errorf("%s: %w", n.Addr, err)
		}
	}
	return nil
}

// inStep returns nil unless the server is a replica that is not in sync with its master.
func inStep(ctx context.Context, cl *redis.Client) error {
	info, err := cl.Info(ctx, "replication").Result()
	if err == nil && strings.Contains(info, "role:slave") && !strings.Contains(info, "master_link_status:up") {
		err = fmt.Errorf("the link to the master is down")
	}
	return err
}

// MasterOf returns the node that serves a key now, according to the nodes that are not in gone.
func (c *RedisCluster) MasterOf(t testing.TB, key string, gone ...*RedisNode) *RedisNode {
	t.Helper()
	var found *RedisNode
	Eventually(t, Patience, func() bool { found = c.masterOf(within(t, 10*time.Second), key, gone); return found != nil }, "a master serves %q", key)
	return found
}

func (c *RedisCluster) masterOf(ctx context.Context, key string, gone []*RedisNode) *RedisNode {
	for _, n := range c.Nodes {
		if slices.Contains(gone, n) {
			continue
		}
		cl := redis.NewClient(redisOptions(n.Addr))
		defer cl.Close()
		// A master answers only for its own slots.
		if role, err := cl.Do(ctx, "ROLE").Slice(); err != nil || len(role) == 0 || role[0] != "master" {
			continue
		}
		if err := cl.Exists(ctx, key).Err(); err == nil {
			return n
		}
	}
	return nil
}

// SentinelMaster is the name of the master in the Sentinels of tests.
const SentinelMaster = "main"

// RedisSentinel is a master, its replica, and three Sentinels.
type RedisSentinel struct {
	RedisServer
	Nodes     []*RedisNode // the initial master, then its replica
	Sentinels []*RedisNode
	password  string // of the Sentinels
}

// OwnRedisSentinel starts servers with Sentinels for the test, which may kill and pause all of them. It takes about
// five seconds.
func OwnRedisSentinel(t testing.TB) *RedisSentinel {
	t.Helper()
	s, err := sentinelOf(t, func(s spec) (*server, error) { return runOwn(t, s), nil }, "")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// OwnRedisSentinelWithPassword is like OwnRedisSentinel with Sentinels that require a password.
func OwnRedisSentinelWithPassword(t testing.TB, password string) *RedisSentinel {
	t.Helper()
	s, err := sentinelOf(t, func(s spec) (*server, error) { return runOwn(t, s), nil }, password)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func sentinelOf(t testing.TB, run func(spec) (*server, error), password string) (*RedisSentinel, error) {
	t.Helper()
	s := &RedisSentinel{password: password}
	master, err := run(redisNode("redis-1"))
	if err != nil {
		return nil, err
	}
	replica, err := run(redisNode("redis-2", "--replicaof", "127.0.0.1 "+port(master.addr)))
	if err != nil {
		return nil, err
	}
	s.nodes = []*server{master, replica}
	s.Nodes = nodesOf(s.nodes)
	var addrs []string
	for i := range 3 {
		srv, err := run(sentinelSpec(fmt.Sprintf("sentinel-%d", i+1), port(master.addr), password))
		if err != nil {
			return nil, err
		}
		s.nodes, addrs = append(s.nodes, srv), append(addrs, srv.addr)
		s.Sentinels = append(s.Sentinels, &RedisNode{srv.addr, srv})
	}
	s.Addr = SentinelMaster + "@" + strings.Join(addrs, ",")
	s.settled = s.whole
	if !poll(Patience, func() bool { err = s.settled(within(t, 10*time.Second)); return err == nil }) {
		return nil, fmt.Errorf("connect the Sentinels: %w", err)
	}
	return s, nil
}

// whole returns nil if each Sentinel knows the two others and the replica, and the replica is in sync.
func (s *RedisSentinel) whole(ctx context.Context) error {
	for _, n := range s.Sentinels {
		o := redisOptions(n.Addr)
		o.Password = s.password
		cl := redis.NewSentinelClient(o)
		defer cl.Close()
		state, err := cl.Master(ctx, SentinelMaster).Result()
		if err != nil {
			return err
		}
		if state["flags"] != "master" || state["num-other-sentinels"] != "2" || state["num-slaves"] != "1" {
			return fmt.Errorf("%s: flags %s, %s other Sentinels, %s replicas", n.Addr, state["flags"], state["num-other-sentinels"], state["num-slaves"])
		}
		if err := cl.CkQuorum(ctx, SentinelMaster).Err(); err != nil {
			return err
		}
	}
	for _, n := range s.Nodes {
		cl := redis.NewClient(redisOptions(n.Addr))
		defer cl.Close()
		if err := inStep(ctx, cl); err != nil {
			return fmt.Errorf("%s: %w", n.Addr, err)
		}
	}
	return nil
}

func sentinelSpec(name, masterPort, password string) spec {
	s := redisSpec()
	s.name = name
	s.ports = []string{"sentinel"}
	s.command = func(addrs []string) []string {
		conf := "bind 127.0.0.1\nport " + port(addrs[0]) + "\ndir /tmp\n" +
			"sentinel monitor " + SentinelMaster + " 127.0.0.1 " + masterPort + " 2\n" +
			"sentinel down-after-milliseconds " + SentinelMaster + " " + fmt.Sprint(nodeTimeout.Milliseconds()) + "\n" +
			"sentinel failover-timeout " + SentinelMaster + " 5000\n"
		if password != "" {
			conf += "requirepass " + password + "\nsentinel sentinel-pass " + password + "\n"
		}
		// A Sentinel stores its state in its file, so the file is created only once.
		return []string{"sh", "-c", "test -e /tmp/sentinel.conf || printf '%s' \"$0\" >/tmp/sentinel.conf; exec redis-server /tmp/sentinel.conf --sentinel", conf}
	}
	return s
}

// Master returns the node that the Sentinels not in gone report as the master, once it works as one.
func (s *RedisSentinel) Master(t testing.TB, gone ...*RedisNode) *RedisNode {
	t.Helper()
	var found *RedisNode
	Eventually(t, Patience, func() bool { found = s.master(within(t, 10*time.Second), gone); return found != nil }, "the Sentinels report a master")
	return found
}

func (s *RedisSentinel) master(ctx context.Context, gone []*RedisNode) *RedisNode {
	named := ""
	for _, n := range s.Sentinels {
		if slices.Contains(gone, n) {
			continue
		}
		o := redisOptions(n.Addr)
		o.Password = s.password
		cl := redis.NewSentinelClient(o)
		defer cl.Close()
		addr, err := cl.GetMasterAddrByName(ctx, SentinelMaster).Result()
		if err != nil || named != "" && named != loopbackAddr(addr) {
			return nil
		}
		named = loopbackAddr(addr)
	}
	for _, n := range s.Nodes {
		if n.Addr != named || slices.Contains(gone, n) {
			continue
		}
		cl := redis.NewClient(redisOptions(n.Addr))
		defer cl.Close()
		if role, err := cl.Do(ctx, "ROLE").Slice(); err == nil && len(role) > 0 && role[0] == "master" {
			return n
		}
	}
	return nil
}

// Settle waits until all nodes are in sync again after one was unpaused or started.
func (s *RedisSentinel) Settle(t testing.TB) { t.Helper(); s.settle(t) }

// Asked returns the Sentinel at which a client subscribes to changes of the master.
func (s *RedisSentinel) Asked(t testing.TB) *RedisNode {
	t.Helper()
	for _, n := range s.Sentinels {
		o := redisOptions(n.Addr)
		o.Password = s.password
		cl := redis.NewClient(o)
		defer cl.Close()
		list, err := cl.Do(within(t, 10*time.Second), "CLIENT", "LIST", "TYPE", "pubsub").Text()
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(list, "\n") {
			// The other Sentinels' connections have names.
			if strings.Contains(line, " name= ") {
				return n
			}
		}
	}
	t.Fatal("no client has subscribed at a Sentinel")
	return nil
}

func loopbackAddr(addr []string) string { return strings.Join(addr, ":") }
