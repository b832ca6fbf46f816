package app

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/deadletter"
	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/replay"
	"github.com/smshooks/smshooks/pkg/webhook"
	"github.com/smshooks/smshooks/test/fakekafka"
)

// letters is a topic of dead letters whose broker can stop storing records.
type letters struct {
	*deadletter.Store
	mini   *miniredis.Miniredis
	memory *replay.Memory
	down   atomic.Bool
}

// newLetters returns n dead letters. The user of the one with index i is user(i).
func newLetters(t *testing.T, n int, user func(i int) int64) *letters {
	t.Helper()
	cfg := deadletter.Config{Topic: "dead", Patience: 2 * time.Second, Now: time.Now,
		Sources:  [webhook.NumKinds]string{"sms-dlr", "sms-click", "sms-inbound", "click-revocation"},
		Overflow: [webhook.NumKinds]string{"dlr-o", "click-o", "inbound-o", "revocation-o"}}
	cluster := fakekafka.New(t, kfake.SeedTopics(2, append([]string{"dead"}, cfg.Overflow[:]...)...))
	var records []*kgo.Record
	for i := range n {
		key := strconv.FormatInt(user(i), 10)
		records = append(records, &kgo.Record{
			Topic: "dead", Key: []byte(key), Value: fmt.Appendf(nil, `{"user_id":%s,"sms":{"id":%d}}`, key, i),
			Headers: []kgo.RecordHeader{{Key: event.HeaderID, Value: fmt.Appendf(nil, "gw:%d", i)},
				{Key: event.HeaderKind, Value: []byte("dlr")}, {Key: event.HeaderReason, Value: []byte("attempts_exhausted")}},
		})
	}
	if err := cluster.Open().ProduceSync(t.Context(), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	store, err := deadletter.New(cfg, cluster.NewClient)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	l := &letters{Store: store, mini: miniredis.RunT(t)}
	rdb := redis.NewClient(&redis.Options{Addr: l.mini.Addr()})
	t.Cleanup(func() { rdb.Close() })
	l.memory = replay.New(replay.Config{KeyPrefix: "p:", Keep: time.Hour, Limit: n}, rdb, zap.NewNop())
	cluster.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		if l.down.Load() {
			return nil, errors.New("down"), true
		}
		return nil, nil, false
	})
	return l
}

// TestReplayAfterLossOfKafka checks that a replay with a position, run again after Kafka was away, sends what the first
// one did not.
func TestReplayAfterLossOfKafka(t *testing.T) {
	const n = 50
	l := newLetters(t, n, func(i int) int64 { return int64(i + 1) })
	position := &deadletter.Position{}
	run := func() (int, error) {
		return l.Run(t.Context(), deadletter.Run{Position: position, Guard: replayGuard{memory: l.memory}})
	}
	l.down.Store(true)
	if sent, err := run(); sent != 0 || err == nil || position.Done() {
		t.Fatalf("%d sent without Kafka, %v", sent, err)
	}
	l.down.Store(false)
	if sent, err := run(); sent != n || err != nil || !position.Done() {
		t.Errorf("%d of %d events were sent, %v", sent, n, err)
	}
}

// killed is a guard of a process that ends after it has claimed events.
type killed struct{ replayGuard }

func (g killed) Admit(ctx context.Context, events []*deadletter.Candidate) ([]bool, error) {
	if _, err := g.replayGuard.Admit(ctx, events); err != nil {
		return nil, err
	}
	return nil, errors.New("killed")
}

// TestReplayAfterKill checks that a replay with a position does not pass events that a killed one has claimed.
func TestReplayAfterKill(t *testing.T) {
	const n = 50
	l := newLetters(t, n, func(i int) int64 { return int64(i + 1) })
	position, guard := &deadletter.Position{}, replayGuard{memory: l.memory}
	if sent, err := l.Run(t.Context(), deadletter.Run{Position: position, Guard: killed{guard}}); sent != 0 || err == nil {
		t.Fatalf("%d sent, %v", sent, err)
	}
	sent, err := l.Run(t.Context(), deadletter.Run{Position: position, Guard: guard})
	if sent != 0 || !errors.Is(err, replay.ErrUnconfirmed) || position.Done() {
		t.Errorf("%d sent, %v, done %v", sent, err, position.Done())
	}
	l.mini.FastForward(3 * time.Minute)
	if sent, err := l.Run(t.Context(), deadletter.Run{Position: position, Guard: guard}); sent != n || err != nil || !position.Done() {
		t.Errorf("%d of %d events were sent, %v", sent, n, err)
	}
}

// TestFailedReplayOfUser checks that a user can repeat a replay that has failed: its events are not under way, and it
// has not used up the budget.
func TestFailedReplayOfUser(t *testing.T) {
	const n = 50
	l := newLetters(t, n, func(int) int64 { return 42 })
	users := userReplays{l.Store, l.memory}
	l.down.Store(true)
	if sent, err := users.Replay(t.Context(), deadletter.Filter{UserID: 42}); sent != 0 || err == nil {
		t.Fatalf("%d sent without Kafka, %v", sent, err)
	}
	l.down.Store(false)
	if sent, err := users.Replay(t.Context(), deadletter.Filter{UserID: 42}); sent != n || err != nil {
		t.Errorf("%d of %d events were sent, %v", sent, n, err)
	}
	if sent, err := users.Replay(t.Context(), deadletter.Filter{UserID: 42}); sent != 0 || err != nil {
		t.Errorf("%d events whose replay is under way were sent, %v", sent, err)
	}
}
