package api

import (
	"context"
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/apikey"
	"github.com/smshooks/smshooks/internal/settings"
	"github.com/smshooks/smshooks/test/fakekafka"
)

type noObserver struct{}

func (noObserver) ConfigLag(string, int64) {}
func (noObserver) ConfigUsers(int)         {}
func (noObserver) UnreadableRecord(string) {}

// instances starts n APIs, each with its own store, on one Kafka and one Redis.
func instances(t *testing.T, n int) (servers []*server, key string, cluster *fakekafka.Cluster, mini *miniredis.Miniredis) {
	t.Helper()
	mini = miniredis.RunT(t)
	cluster = fakekafka.New(t, kfake.SeedTopics(3, "config", "keys"))
	key, err := apikey.Create(t.Context(), cluster.Open(), "keys", 42, "test")
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		rdb := redis.NewClient(&redis.Options{
			Addr: mini.Addr(), ContextTimeoutEnabled: true, MaxRetries: 1, DialTimeout: 500 * time.Millisecond,
			ReadTimeout: 500 * time.Millisecond, WriteTimeout: 500 * time.Millisecond,
		})
		store := settings.New(settings.Config{Topic: "config", KeyPrefix: "smshooks:", Materialise: true}, cluster.NewClient, rdb, zap.NewNop(), noObserver{})
		keys := apikey.New("keys", cluster.NewClient, zap.NewNop(), noObserver{})
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() { _ = store.Run(ctx) })
		running.Go(func() { _ = keys.Run(ctx) })
		t.Cleanup(func() { cancel(); running.Wait(); _ = rdb.Close() })
		s := newServer(t, Options{})
		s.service.Keys, s.service.Documents = keys, store
		servers = append(servers, s)
		for _, loaded := range []<-chan struct{}{store.Loaded(), keys.Loaded()} {
			select {
			case <-loaded:
			case <-time.After(20 * time.Second):
				t.Fatal("not loaded in 20 s")
			}
		}
	}
	return servers, key, cluster, mini
}

func (s *server) with(t *testing.T, key, method, path, body string) *httptest.ResponseRecorder {
	t.Helper()
	return s.do(t, method, "/v1/user/"+path, key, formType, body)
}

// TestRacingUpdates checks that concurrent partial updates on two instances lose no field, and that every instance
// returns the result of an update once it was answered.
func TestRacingUpdates(t *testing.T) {
	servers, key, _, _ := instances(t, 2)
	fields := []string{"dlr_url", "click_url", "inbound_url", "revoke_click_url"}
	for round := range 20 {
		var wg sync.WaitGroup
		for i, field := range fields {
			wg.Go(func() {
				w := servers[i%2].with(t, key, "POST", "set-webhook", fmt.Sprintf("%s=http://%s-%d", field, "h", round))
				if w.Code != 200 || !strings.Contains(w.Body.String(), fmt.Sprintf(`"%s":"http://h-%d"`, field, round)) {
					t.Errorf("round %d, %s: %d %s", round, field, w.Code, w.Body)
				}
			})
		}
		wg.Wait()
		for i, s := range servers {
			w := s.with(t, key, "GET", "get-webhook", "")
			if n := strings.Count(w.Body.String(), fmt.Sprintf("h-%d\"", round)); n != len(fields) {
				t.Fatalf("round %d: instance %d lost a field: %d %s", round, i, w.Code, w.Body)
			}
		}
	}
}

// TestOutage checks that without Kafka or Redis a reply comes within 5 s and nothing is changed, and that the same
// request works later.
func TestOutage(t *testing.T) {
	t.Run("redis", func(t *testing.T) {
		servers, key, _, mini := instances(t, 1)
		want(t, servers[0].with(t, key, "POST", "set-webhook", "dlr_url=http://before"), 200, "")
		mini.SetError("LOADING Redis is loading the dataset in memory")
		wantUnavailable(t, servers[0], key)
		mini.SetError("")
		wantUnchanged(t, servers[0], key)
	})
	t.Run("kafka", func(t *testing.T) {
		servers, key, cluster, _ := instances(t, 1)
		want(t, servers[0].with(t, key, "POST", "set-webhook", "dlr_url=http://before"), 200, "")
		cluster.Close()
		wantUnavailable(t, servers[0], key)
	})
}

func wantUnavailable(t *testing.T, s *server, key string) {
	t.Helper()
	began := time.Now()
	want(t, s.with(t, key, "POST", "set-webhook", "dlr_url=http://after"), 503, "")
	if took := time.Since(began); took > 20*time.Second { // 5 s by contract; more on a busy machine
		t.Errorf("503 after %v", took)
	}
}

func wantUnchanged(t *testing.T, s *server, key string) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		w := s.with(t, key, "GET", "get-webhook", "")
		if w.Code == 200 {
			if !strings.Contains(w.Body.String(), `"http://before"`) {
				t.Errorf("something was changed: %s", w.Body)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("still %d", w.Code)
		}
		<-time.After(20 * time.Millisecond)
	}
	want(t, s.with(t, key, "POST", "set-webhook", "dlr_url=http://after"), 200, "")
}
