package settings

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap/zaptest"

	"github.com/smshooks/smshooks/internal/compacted"
	"github.com/smshooks/smshooks/pkg/webhook"
)

const partitions = 3

// env is a Kafka with the config topic and a Redis.
type env struct {
	t         testing.TB
	cluster   *kfake.Cluster       // nil: a real Kafka
	mini      *miniredis.Miniredis // nil: a real Redis
	options   []kgo.Opt            // of every client
	brokers   []string
	redisAddr string
	topic     string
	prefix    string
	client    *kgo.Client // writes as another program would
	rdb       *redis.Client
}

// newEnv starts kfake and miniredis, unless the environment names real ones.
func newEnv(t testing.TB) *env {
	t.Helper()
	k := &env{t: t, topic: "webhook-config", prefix: "smshooks:"}
	if k.redisAddr = os.Getenv("SMSHOOKS_TEST_REDIS_ADDR"); k.redisAddr == "" {
		k.mini = miniredis.RunT(t)
		k.redisAddr = k.mini.Addr()
	}
	if addr := os.Getenv("SMSHOOKS_TEST_KAFKA_ADDR"); addr != "" {
		k.brokers = []string{addr}
		run := strconv.FormatInt(time.Now().UnixNano(), 36)
		k.topic, k.prefix = "config-"+run, "t"+run+":"
	} else {
		cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cluster.Close)
		k.cluster, k.brokers = cluster, cluster.ListenAddrs()
	}
	k.client = k.open()
	k.createTopic()
	k.rdb = k.newRedis()
	return k
}

// needMini skips the test unless Redis is the one in the process.
func (k *env) needMini() *miniredis.Miniredis {
	k.t.Helper()
	if k.mini == nil {
		k.t.Skip("needs the Redis in the process")
	}
	return k.mini
}

func (k *env) createTopic() {
	k.t.Helper()
	compact := map[string]*string{"cleanup.policy": kadm.StringPtr("compact")}
	if _, err := kadm.NewClient(k.client).CreateTopic(k.t.Context(), partitions, 1, compact, k.topic); err != nil {
		k.t.Fatal(err)
	}
}

func (k *env) deleteTopic() {
	k.t.Helper()
	if _, err := kadm.NewClient(k.client).DeleteTopic(k.t.Context(), k.topic); err != nil {
		k.t.Fatal(err)
	}
}

func (k *env) newClient(extra ...kgo.Opt) (*kgo.Client, error) {
	options := append([]kgo.Opt{kgo.SeedBrokers(k.brokers...), kgo.FetchMaxWait(250 * time.Millisecond)}, k.options...)
	return kgo.NewClient(append(options, extra...)...)
}

// open returns a client that partitions records like the gateway, unless extra changes that.
func (k *env) open(extra ...kgo.Opt) *kgo.Client {
	k.t.Helper()
	client, err := k.newClient(append([]kgo.Opt{kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil))}, extra...)...)
	if err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(client.Close)
	return client
}

func (k *env) newRedis() *redis.Client {
	rdb := redis.NewClient(&redis.Options{
		Addr: k.redisAddr, ContextTimeoutEnabled: true, MaxRetries: 1,
		DialTimeout: busy * 500 * time.Millisecond, ReadTimeout: busy * 500 * time.Millisecond, WriteTimeout: busy * 500 * time.Millisecond,
	})
	k.t.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

// write produces records key, value, key, value…; the value "" is a tombstone.
func (k *env) write(pairs ...string) {
	k.t.Helper()
	var records []*kgo.Record
	for i := 0; i < len(pairs); i += 2 {
		r := &kgo.Record{Topic: k.topic, Key: []byte(pairs[i])}
		if pairs[i+1] != "" {
			r.Value = []byte(pairs[i+1])
		}
		records = append(records, r)
	}
	if err := k.client.ProduceSync(k.t.Context(), records...).FirstErr(); err != nil {
		k.t.Fatal(err)
	}
}

// set writes a document with one URL, http://host.
func (k *env) set(userID int64, host string) {
	k.t.Helper()
	k.write(strconv.FormatInt(userID, 10), fmt.Sprintf(`{"user_id":%d,"dlr_url":"http://%s"}`, userID, host))
}

// end returns the number of records that were ever written to the topic.
func (k *env) end() (n int64) {
	k.t.Helper()
	b, err := compacted.Describe(k.t.Context(), k.client, k.topic)
	if err != nil {
		k.t.Fatal(err)
	}
	for _, span := range b.Spans {
		n += span.End
	}
	return n
}

// newest returns the last value of each key of the topic.
func (k *env) newest() map[string]string {
	k.t.Helper()
	r, err := compacted.Open(k.t.Context(), k.newClient, k.topic)
	if err != nil {
		k.t.Fatal(err)
	}
	defer r.Close()
	values := map[string]string{}
	err = r.ReadAll(k.t.Context(), nil, func(record *kgo.Record) error {
		values[string(record.Key)] = string(record.Value)
		return nil
	})
	if err != nil {
		k.t.Fatal(err)
	}
	return values
}

// observed records the measurements of a store.
type observed struct {
	mu         sync.Mutex
	lag        int64
	users      int
	unreadable int
}

func (o *observed) ConfigLag(_ string, n int64) { o.mu.Lock(); o.lag = n; o.mu.Unlock() }
func (o *observed) ConfigUsers(n int)           { o.mu.Lock(); o.users = n; o.mu.Unlock() }
func (o *observed) UnreadableRecord(string)     { o.mu.Lock(); o.unreadable++; o.mu.Unlock() }

func (o *observed) skipped() int { o.mu.Lock(); defer o.mu.Unlock(); return o.unreadable }

// start runs a store until the test ends or stop is called.
func (k *env) start(change ...func(*Config)) (store *Store, obs *observed, stop func()) {
	k.t.Helper()
	cfg := Config{Topic: k.topic, KeyPrefix: k.prefix, Materialise: true}
	for _, c := range change {
		c(&cfg)
	}
	obs = &observed{}
	store = New(cfg, k.newClient, k.newRedis(), zaptest.NewLogger(k.t), obs)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := store.Run(ctx); !errors.Is(err, context.Canceled) {
			k.t.Errorf("Run ended with %v", err)
		}
	}()
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); <-ended }) }
	k.t.Cleanup(stop)
	return store, obs, stop
}

// loaded starts a store and waits until it is loaded.
func (k *env) loaded(change ...func(*Config)) *Store {
	k.t.Helper()
	store, _, _ := k.start(change...)
	waitLoaded(k.t, store)
	return store
}

func waitLoaded(t testing.TB, stores ...*Store) {
	t.Helper()
	for _, s := range stores {
		select {
		case <-s.Loaded():
		case <-time.After(time.Minute):
			t.Fatal("not loaded in a minute")
		}
	}
}

// small limits the memory, so that Redis is read.
func small(c *Config) { c.MaxUsers = 1 }

func sealedWith(s *Sealer) func(*Config) { return func(c *Config) { c.Secrets = s } }

func testSealer(t *testing.T, fill string, previous ...string) *Sealer {
	t.Helper()
	var keys [][]byte
	for _, p := range previous {
		keys = append(keys, []byte(strings.Repeat(p, 32)))
	}
	s, err := NewSealer([]byte(strings.Repeat(fill, 32)), keys...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func text(s string) *string { return &s }

func setDLR(url string) func(Document) Document {
	return func(d Document) Document { d.DLRURL = &url; return d }
}

func setClick(url string) func(Document) Document {
	return func(d Document) Document { d.ClickURL = &url; return d }
}

// setEach returns four updates, each of one URL.
func setEach(url string) []func(Document) Document {
	return []func(Document) Document{
		setDLR(url), setClick(url),
		func(d Document) Document { d.InboundURL = &url; return d },
		func(d Document) Document { d.RevokeClickURL = &url; return d },
	}
}

// busy is how much longer than the contract's limit a test waits, since other tests and the race detector use the
// machine too. The real floor checks the limits themselves.
const busy = 10

// eventually polls until ok returns true, and returns how long that took.
func eventually(t testing.TB, within time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > busy*within {
			t.Fatalf("not within %v, %d times the limit: %s", busy*within, busy, what)
		}
		<-time.After(5 * time.Millisecond)
	}
	return time.Since(began)
}

// host returns the host of the user's DLR URL: "" without a URL, "?" while the
// settings are unknown.
func host(t testing.TB, s *Store, userID int64) string {
	t.Helper()
	settings, ok := s.Lookup(userID)
	if !ok {
		if s.Load(t.Context(), []int64{userID}) != nil {
			return "?"
		}
		if settings, ok = s.Lookup(userID); !ok {
			return "?"
		}
	}
	if settings.UserID != userID {
		t.Fatalf("settings of user %d for %d", settings.UserID, userID)
	}
	if e := settings.Endpoints[webhook.DLR]; e != nil {
		return e.Host
	}
	return ""
}

func wantHost(t testing.TB, s *Store, userID int64, want string) {
	t.Helper()
	if got := host(t, s, userID); got != want {
		t.Errorf("user %d has %q, want %q", userID, got, want)
	}
}

// url returns the user's DLR URL like the API.
func url(t *testing.T, s *Store, userID int64) string {
	t.Helper()
	var d Document
	var err error
	for began := time.Now(); time.Since(began) < busy*2*time.Second; {
		if d, _, err = s.Document(t.Context(), userID); err == nil {
			return value(d.DLRURL)
		}
	}
	t.Fatalf("user %d: %v", userID, err)
	return ""
}
