package settings

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap/zaptest"

	"github.com/smshooks/smshooks/pkg/webhook"
)

const partitions = 3

// stack is a Kafka with both topics, and a Redis.
type stack struct {
	t            *testing.T
	cluster      *kfake.Cluster // nil: a real Kafka
	options      []kgo.Opt      // of every client
	brokers      []string
	redisAddr    string
	config, keys string
	prefix       string
	client       *kgo.Client // writes as another program would
	rdb          *redis.Client
}

// newStack starts kfake and miniredis, unless the environment names real ones.
func newStack(t *testing.T) (*stack, *miniredis.Miniredis) {
	t.Helper()
	s := &stack{t: t, config: "webhook-config", keys: "webhook-keys", prefix: "smshooks:"}
	var mini *miniredis.Miniredis
	if s.redisAddr = os.Getenv("SMSHOOKS_TEST_REDIS_ADDR"); s.redisAddr == "" {
		mini = miniredis.RunT(t)
		s.redisAddr = mini.Addr()
	}
	if addr := os.Getenv("SMSHOOKS_TEST_KAFKA_ADDR"); addr != "" {
		s.brokers = []string{addr}
		run := strconv.FormatInt(time.Now().UnixNano(), 36)
		s.config, s.keys, s.prefix = "config-"+run, "keys-"+run, "t"+run+":"
	} else {
		cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cluster.Close)
		s.cluster, s.brokers = cluster, cluster.ListenAddrs()
	}
	var err error
	if s.client, err = s.newClient(kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil))); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.client.Close)
	s.createTopics()
	s.rdb = s.newRedis()
	return s, mini
}

func (s *stack) createTopics() {
	s.t.Helper()
	req := kmsg.NewPtrCreateTopicsRequest()
	for _, topic := range []string{s.config, s.keys} {
		t := kmsg.NewCreateTopicsRequestTopic()
		t.Topic, t.NumPartitions, t.ReplicationFactor = topic, partitions, 1
		compact := kmsg.NewCreateTopicsRequestTopicConfig()
		compact.Name, compact.Value = "cleanup.policy", kmsg.StringPtr("compact")
		t.Configs = append(t.Configs, compact)
		req.Topics = append(req.Topics, t)
	}
	resp, err := req.RequestWith(s.t.Context(), s.client)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, t := range resp.Topics {
		if t.ErrorCode != 0 {
			s.t.Fatalf("creating %s: code %d", t.Topic, t.ErrorCode)
		}
	}
}

func (s *stack) deleteTopics() {
	s.t.Helper()
	req := kmsg.NewPtrDeleteTopicsRequest()
	for _, topic := range []string{s.config, s.keys} {
		req.TopicNames = append(req.TopicNames, topic)
		t := kmsg.NewDeleteTopicsRequestTopic()
		t.Topic = kmsg.StringPtr(topic)
		req.Topics = append(req.Topics, t)
	}
	if _, err := req.RequestWith(s.t.Context(), s.client); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stack) newClient(extra ...kgo.Opt) (*kgo.Client, error) {
	options := append([]kgo.Opt{kgo.SeedBrokers(s.brokers...), kgo.FetchMaxWait(250 * time.Millisecond)}, s.options...)
	return kgo.NewClient(append(options, extra...)...)
}

func (s *stack) newRedis() *redis.Client {
	rdb := redis.NewClient(&redis.Options{
		Addr: s.redisAddr, ContextTimeoutEnabled: true, MaxRetries: 1,
		DialTimeout: busy * 500 * time.Millisecond, ReadTimeout: busy * 500 * time.Millisecond, WriteTimeout: busy * 500 * time.Millisecond,
	})
	s.t.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

// write produces records key, value, key, value…; the value "" is a tombstone.
func (s *stack) write(topic string, pairs ...string) {
	s.t.Helper()
	var records []*kgo.Record
	for i := 0; i < len(pairs); i += 2 {
		r := &kgo.Record{Topic: topic, Key: []byte(pairs[i])}
		if pairs[i+1] != "" {
			r.Value = []byte(pairs[i+1])
		}
		records = append(records, r)
	}
	if err := s.client.ProduceSync(s.t.Context(), records...).FirstErr(); err != nil {
		s.t.Fatal(err)
	}
}

// set writes a document with one URL, http://host.
func (s *stack) set(userID int64, host string) {
	s.t.Helper()
	s.write(s.config, strconv.FormatInt(userID, 10), fmt.Sprintf(`{"user_id":%d,"dlr_url":"http://%s"}`, userID, host))
}

// observed counts what a store reports.
type observed struct {
	mu         sync.Mutex
	lag        int64
	users      int
	unreadable map[string]int
}

func (o *observed) ConfigLag(n int64) { o.mu.Lock(); o.lag = n; o.mu.Unlock() }
func (o *observed) ConfigUsers(n int) { o.mu.Lock(); o.users = n; o.mu.Unlock() }
func (o *observed) UnreadableRecord(topic string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.unreadable == nil {
		o.unreadable = map[string]int{}
	}
	o.unreadable[topic]++
}

// start runs a store until the test ends or stop is called.
func (s *stack) start(change ...func(*Config)) (store *Store, obs *observed, stop func()) {
	s.t.Helper()
	cfg := Config{ConfigTopic: s.config, KeysTopic: s.keys, KeyPrefix: s.prefix, Materialise: true}
	for _, c := range change {
		c(&cfg)
	}
	obs = &observed{}
	store = New(cfg, s.newClient, s.newRedis(), zaptest.NewLogger(s.t), obs)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := store.Run(ctx); !errors.Is(err, context.Canceled) {
			s.t.Errorf("Run ended with %v", err)
		}
	}()
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); <-ended }) }
	s.t.Cleanup(stop)
	return store, obs, stop
}

func waitLoaded(t *testing.T, stores ...*Store) {
	t.Helper()
	for _, s := range stores {
		select {
		case <-s.Loaded():
		case <-time.After(time.Minute):
			t.Fatal("not loaded in a minute")
		}
	}
}

// busy is how much longer than by contract a test waits: other tests, and the race detector, have the machine too. The real
// floor holds what is promised in seconds.
const busy = 10

// eventually polls until ok, and returns how long it took.
func eventually(t *testing.T, within time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > busy*within {
			t.Fatalf("not within %v, %d times what it may take: %s", busy*within, busy, what)
		}
		<-time.After(5 * time.Millisecond)
	}
	return time.Since(began)
}

// host is the user's DLR host: "" without a URL, "?" when nothing may be
// concluded now.
func host(t *testing.T, s *Store, userID int64) string {
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

func wantHost(t *testing.T, s *Store, userID int64, want string) {
	t.Helper()
	if got := host(t, s, userID); got != want {
		t.Errorf("user %d has %q, want %q", userID, got, want)
	}
}
