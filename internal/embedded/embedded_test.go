package embedded

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/smshooks/smshooks/internal/kafka"
	"github.com/smshooks/smshooks/internal/topics"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

func start(t *testing.T, opts Options) *Embedded {
	t.Helper()
	e, err := Start(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func client(t *testing.T, e *Embedded, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(e.Brokers()...))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// fill makes a topic with three records, of which group "g" has finished two.
func fill(t *testing.T, e *Embedded) {
	t.Helper()
	ctx := t.Context()
	cl := client(t, e)
	defer cl.Close()
	admin := kadm.NewClient(cl)
	retention := "3600000"
	if _, err := admin.CreateTopic(ctx, 2, 1, map[string]*string{"retention.ms": &retention}, "events"); err != nil {
		t.Fatal(err)
	}
	for _, value := range []string{"a", "b", "c"} {
		if err := cl.ProduceSync(ctx, &kgo.Record{Topic: "events", Partition: 1, Key: []byte("42"), Value: []byte(value)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	var offsets kadm.Offsets
	offsets.Add(kadm.Offset{Topic: "events", Partition: partitionOf(t, admin), At: 2, LeaderEpoch: -1, Metadata: "above"})
	if err := admin.CommitAllOffsets(ctx, "g", offsets); err != nil {
		t.Fatal(err)
	}
}

// partitionOf returns the partition of the key.
func partitionOf(t *testing.T, admin *kadm.Client) int32 {
	t.Helper()
	ends, err := admin.ListEndOffsets(t.Context(), "events")
	if err != nil {
		t.Fatal(err)
	}
	for p, end := range ends["events"] {
		if end.Offset == 3 {
			return p
		}
	}
	t.Fatalf("no partition holds the three records: %v", ends)
	return 0
}

func verify(t *testing.T, e *Embedded) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cl := client(t, e, kgo.ConsumeTopics("events"))
	defer cl.Close()
	admin := kadm.NewClient(cl)
	var values []string
	for len(values) < 3 {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatalf("after %q: %v", values, err)
		}
		fetches.EachRecord(func(r *kgo.Record) { values = append(values, string(r.Value)) })
	}
	if got := strings.Join(values, ""); got != "abc" {
		t.Errorf("records: %s", got)
	}
	committed, err := admin.FetchOffsets(ctx, "g")
	if err != nil {
		t.Fatal(err)
	}
	offset, ok := committed.Lookup("events", partitionOf(t, admin))
	if !ok || offset.At != 2 || offset.Metadata != "above" {
		t.Errorf("committed: %+v", committed)
	}
	configs, err := admin.DescribeTopicConfigs(ctx, "events")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range configs[0].Configs {
		if c.Key == "retention.ms" && *c.Value != "3600000" {
			t.Errorf("retention.ms: %s", *c.Value)
		}
	}
}

func TestKeepsKafkaOverRestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "there")
	e := start(t, Options{Dir: dir})
	fill(t, e)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		e = start(t, Options{Dir: dir})
		verify(t, e)
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// The files of a running Kafka are what a killed process leaves behind.
func TestKeepsKafkaOverCrash(t *testing.T) {
	dir, crashed := t.TempDir(), t.TempDir()
	e := start(t, Options{Dir: dir})
	fill(t, e)
	copyTree(t, filepath.Join(dir, "kafka"), filepath.Join(crashed, "kafka"))
	verify(t, start(t, Options{Dir: crashed}))
}

func copyTree(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(from, path)
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), data, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestTopicsOfTheServiceSurvive(t *testing.T) {
	dir := t.TempDir()
	plan := topics.New(topics.Settings{
		DLR: "dlr", Click: "click", Inbound: "inbound", Revocation: "revocation", Config: "config", Keys: "keys", DeadLetter: "dead", Events: "events", Releases: "releases",
		Schedule: []time.Duration{6 * time.Hour}, Tiers: []time.Duration{time.Minute}, Window: 24 * time.Hour, Partitions: 12, Replication: -1,
	})
	e := start(t, Options{Dir: dir})
	if _, err := kafka.EnsureTopics(t.Context(), client(t, e), plan); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e = start(t, Options{Dir: dir})
	if problems, err := kafka.CheckTopics(t.Context(), client(t, e), plan); err != nil || len(problems) > 0 {
		t.Errorf("after a restart: %v, %v", problems, err)
	}
}

func TestNothingKeptWithoutDir(t *testing.T) {
	e := start(t, Options{})
	fill(t, e)
	verify(t, e)
	if !strings.HasPrefix(e.Lost(), "all data") {
		t.Error(e.Lost())
	}
}

func TestRedisTimePasses(t *testing.T) {
	e := start(t, Options{})
	rdb := redis.NewClient(&redis.Options{Addr: e.RedisAddr()})
	defer rdb.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	begin := time.Now()
	if err := rdb.Set(ctx, "short", "x", time.Second).Err(); err != nil {
		t.Fatal(err)
	}
	if err := rdb.Set(ctx, "long", "x", time.Hour).Err(); err != nil {
		t.Fatal(err)
	}
	for {
		n, err := rdb.Exists(ctx, "short").Result()
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
	}
	if took := time.Since(begin); took < time.Second-redisTick-50*time.Millisecond || took > 9*time.Second { // 9 s: on a busy machine
		t.Errorf("a second took %v", took)
	}
	if ttl := rdb.TTL(ctx, "long").Val(); ttl < 59*time.Minute {
		t.Errorf("the long one has %v left", ttl)
	}
}

func TestDirectoryBelongsToOneProcess(t *testing.T) {
	dir := t.TempDir()
	e := start(t, Options{Dir: dir})
	// Once more in this process, then from another one.
	if _, err := Start(Options{Dir: dir}); err == nil || !strings.Contains(err.Error(), dir+" is in use by another process") {
		t.Errorf("same process: %v", err)
	}
	out, err := tryInChild(t, dir)
	if err == nil || !strings.Contains(out, "is in use by another process") {
		t.Errorf("another process: %v\n%s", err, out)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if out, err := tryInChild(t, dir); err != nil {
		t.Errorf("after the close: %v\n%s", err, out)
	}
}

const childDir = "SMSHOOKS_TEST_EMBEDDED_DIR"

func tryInChild(t *testing.T, dir string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChild$", "-test.v")
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestChild is the other process; on its own it has no directory and tests a start and a stop.
func TestChild(t *testing.T) {
	if err := start(t, Options{Dir: os.Getenv(childDir)}).Close(); err != nil {
		t.Error(err)
	}
}

func TestAddresses(t *testing.T) {
	e := start(t, Options{KafkaAddr: "localhost:0", RedisAddr: "127.0.0.1:0"})
	dir := t.TempDir()
	for _, c := range []struct {
		name string
		opts Options
		want string
	}{
		{"Kafka's port is taken", Options{Dir: dir, KafkaAddr: e.Brokers()[0]}, "embedded.kafka_addr: start embedded Kafka on " + e.Brokers()[0]},
		{"Redis's port is taken", Options{Dir: dir, RedisAddr: e.RedisAddr()}, "embedded.redis_addr: start embedded Redis on " + e.RedisAddr()},
		{"open to others", Options{KafkaAddr: "0.0.0.0:9092"}, "must be a loopback address"},
		{"open to others", Options{RedisAddr: ":6379"}, "must be a loopback address"},
		{"no port", Options{RedisAddr: "127.0.0.1"}, "missing port"},
		{"no directory", Options{Dir: "/dev/null/x"}, "embedded.dir"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Start(c.opts)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	// A failed start releases the directory.
	start(t, Options{Dir: dir})
}

func TestCloseReportsFailedSave(t *testing.T) {
	dir := t.TempDir()
	e := start(t, Options{Dir: dir})
	fill(t, e)
	// Permissions would not stop root, so the directory becomes a file.
	if err := os.RemoveAll(filepath.Join(dir, "kafka")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "kafka"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("close: %v", err)
	}
	if first, again := e.Close(), e.Close(); !errors.Is(again, first) {
		t.Errorf("closing again: %v, %v", first, again)
	}
}
