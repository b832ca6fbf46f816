package revocation

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/webhook"
)

const (
	topic    = "click-revocation"
	interval = time.Minute
)

// lease records how records end.
type lease struct {
	mu       sync.Mutex
	closed   bool
	lost     bool
	acquired int
	fates    map[int64]string // by offset
}

func newLease() *lease { return &lease{fates: map[int64]string{}} }

func (l *lease) Acquire() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.acquired++
	}
	return !l.closed
}

func (l *lease) end(e *event.Event, how string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fates[e.Offset] != "" {
		how = "twice: " + l.fates[e.Offset] + ", " + how
	}
	l.fates[e.Offset] = how
}

func (l *lease) Settle(e *event.Event, fate webhook.Fate) { l.end(e, fate.String()) }
func (l *lease) Abandon(e *event.Event)                   { l.end(e, fmt.Sprintf("abandoned (%v)", e.Acquired())) }
func (l *lease) Context() context.Context                 { return context.Background() }

func (l *lease) State() event.State {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case !l.closed:
		return event.Held
	case !l.lost:
		return event.Draining
	}
	return event.Revoked
}

func (l *lease) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
}

func (l *lease) want(t *testing.T, want map[int64]string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !reflect.DeepEqual(l.fates, want) {
		t.Errorf("fates of the records: %v, want %v", l.fates, want)
	}
}

// rec returns a source record of partition 3; ids are comma-separated.
func rec(l event.Lease, offset, userID int64, api, campaign string) *event.Event {
	value := fmt.Sprintf(`{"user_id":%d,"api_sms_ids":[%s],"campaign_sms_ids":[%s]}`, userID, api, campaign)
	e := &event.Event{
		Record:   event.Record{Topic: topic, Partition: 3, Offset: offset, Key: []byte(fmt.Sprint(userID)), Value: []byte(value), Size: int64(len(value))},
		Delivery: event.Delivery{Kind: webhook.RevokeClick, Time: time.Unix(1000+offset, 0), UserID: userID, Arrived: time.Now()},
		Lease:    l,
	}
	if err := webhook.DecodeRevocation(e.Value, &e.Batch); err != nil {
		panic(err)
	}
	return e
}

// sent is a batch that was submitted.
type sent struct {
	At    time.Duration // since the bubble's beginning
	ID    string
	Value string
}

// env is a collector with its source, and a record of its actions.
type env struct {
	*Collector
	began   time.Time
	mu      sync.Mutex
	batches []*event.Event
	sent    []sent
	pauses  []bool
	commits int
	commit  func(context.Context)
	stop    context.CancelFunc
}

// readable is the position of a batch's first record and the batch's number, from which its id must be derived.
func readable(b *event.Event) string {
	for n := range 10 {
		if b.ID == b.BatchIdentity(n) {
			return b.SourcePosition() + "/" + strconv.Itoa(n)
		}
	}
	return b.ID
}

func newEnv(cfg Config, commit func(context.Context)) *env {
	return &env{Collector: New(cfg, zap.NewNop()), began: time.Now(), commit: commit}
}

func (s *env) CommitNow(ctx context.Context) {
	s.mu.Lock()
	s.commits++
	s.mu.Unlock()
	if s.commit != nil {
		s.commit(ctx)
	}
}

func (s *env) PauseTopic(string)  { s.paused(true) }
func (s *env) ResumeTopic(string) { s.paused(false) }

func (s *env) paused(paused bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pauses = append(s.pauses, paused)
}

func (s *env) submit(batches []*event.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range batches {
		s.batches = append(s.batches, b)
		s.sent = append(s.sent, sent{time.Since(s.began), readable(b), string(b.Value)})
	}
}

func (s *env) run() {
	var ctx context.Context
	ctx, s.stop = context.WithCancel(context.Background())
	go s.Run(ctx, s, s.submit)
}

func (s *env) rest(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (s *env) pausedSoFar() []bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.pauses)
}

func (s *env) want(t *testing.T, want ...sent) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	got := slices.Clone(s.sent)
	slices.SortStableFunc(got, func(a, b sent) int {
		if a.At != b.At {
			return int(a.At - b.At)
		}
		return strings.Compare(a.ID, b.ID)
	})
	if !slices.Equal(got, want) {
		t.Errorf("batches:\n%v\nwant:\n%v", got, want)
	}
}

func usual() Config { return Config{Interval: interval, MaxIDs: 10_000, MaxBytes: 1 << 30} }

func TestOneBatchPerUserAndMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, l := newEnv(usual(), nil), newLease()
		time.Sleep(17300 * time.Millisecond)
		s.run()
		defer s.stop()
		s.Add(rec(l, 10, 42, "1,2", ""))
		s.Add(rec(l, 11, 43, "", "7"))
		s.Add(rec(l, 12, 42, "2,3,2", "1"))
		s.rest(42 * time.Second)
		s.want(t)
		s.rest(time.Second)
		first := []sent{
			{time.Minute, topic + "/3/10/0", `{"user_id":42,"api_sms_ids":[1,2,3],"campaign_sms_ids":[1]}`},
			{time.Minute, topic + "/3/11/0", `{"user_id":43,"api_sms_ids":[],"campaign_sms_ids":[7]}`},
		}
		s.want(t, first...)
		s.Add(rec(l, 13, 42, "1", ""))
		s.rest(time.Minute)
		s.want(t, append(first, sent{2 * time.Minute, topic + "/3/13/0", `{"user_id":42,"api_sms_ids":[1],"campaign_sms_ids":[]}`})...)
		s.rest(time.Hour)
		if len(s.sent) != 3 || s.commits != 2 {
			t.Errorf("%d batches, %d commits, want 3 and 2, and none for an empty minute", len(s.sent), s.commits)
		}
	})
}

func TestBatchIsARecordOfItsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, l := newEnv(usual(), nil), newLease()
		s.run()
		defer s.stop()
		s.Add(rec(l, 10, 42, "1", ""))
		s.Add(rec(l, 12, 42, "2", ""))
		s.rest(time.Minute)
		b := s.batches[0]
		if b.Kind != webhook.RevokeClick || b.Class != topics.Source || b.Topic != topic || b.Partition != 3 || b.Offset != 10 ||
			string(b.Key) != "42" || !b.Time.Equal(time.Unix(1010, 0)) || b.UserID != 42 || b.Attempts != 0 || b.Batch.Count() != 2 ||
			b.Identity() != (&event.Event{Record: event.Record{Partition: 3, Offset: 10}}).BatchIdentity(0) || b.SourcePosition() != topic+"/3/10" || time.Since(b.Arrived) != 0 {
			t.Errorf("the batch: %+v", b)
		}
	})
}

func TestNextTick(t *testing.T) {
	tests := []struct {
		now      string
		interval time.Duration
		want     string
	}{
		{"2026-03-01T12:00:00Z", time.Minute, "2026-03-01T12:01:00Z"},
		{"2026-03-01T12:00:59.999999999Z", time.Minute, "2026-03-01T12:01:00Z"},
		{"2026-03-01T12:00:00.000000001Z", time.Minute, "2026-03-01T12:01:00Z"},
		{"2026-03-01T12:00:07Z", 5 * time.Second, "2026-03-01T12:00:10Z"},
		{"2026-03-01T12:00:07+05:30", time.Hour, "2026-03-01T07:00:00Z"},
		{"2026-03-01T12:00:07Z", 24 * time.Hour, "2026-03-02T00:00:00Z"},
		{"1970-01-01T00:00:10Z", 7 * time.Second, "1970-01-01T00:00:14Z"}, // of Unix time
	}
	for _, test := range tests {
		now, err := time.Parse(time.RFC3339, test.now)
		if err != nil {
			t.Fatal(err)
		}
		if got := nextTick(now, test.interval).UTC().Format(time.RFC3339Nano); got != test.want {
			t.Errorf("nextTick(%s, %v) = %s, want %s", test.now, test.interval, got, test.want)
		}
	}
}

func TestChunks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := usual()
		cfg.MaxIDs = 3
		s, l := newEnv(cfg, nil), newLease()
		s.run()
		defer s.stop()
		s.Add(rec(l, 1, 42, "1,2,3,4", "5"))
		s.Add(rec(l, 2, 42, "4", "6,7,8"))
		s.Add(rec(l, 3, 43, "1,2,3", ""))
		s.rest(time.Minute)
		s.want(t,
			sent{time.Minute, topic + "/3/1/0", `{"user_id":42,"api_sms_ids":[1,2,3],"campaign_sms_ids":[]}`},
			sent{time.Minute, topic + "/3/1/1", `{"user_id":42,"api_sms_ids":[4],"campaign_sms_ids":[5,6]}`},
			sent{time.Minute, topic + "/3/1/2", `{"user_id":42,"api_sms_ids":[],"campaign_sms_ids":[7,8]}`},
			sent{time.Minute, topic + "/3/3/0", `{"user_id":43,"api_sms_ids":[1,2,3],"campaign_sms_ids":[]}`})
	})
}

// Records are settled when the last of their batches is, with one fate.
func TestFateOfTheRecords(t *testing.T) {
	tests := []struct {
		ends []string // of the batches, in the order in which they end
		want string
	}{
		{[]string{"delivered", "delivered"}, "batched"},
		{[]string{"retry", "overflow"}, "batched"},
		{[]string{"not_configured", "not_configured"}, "not_configured"},
		{[]string{"delivered", "not_configured"}, "not_configured"},
		{[]string{"dead", "delivered"}, "dead"},
		{[]string{"not_configured", "dead"}, "dead"},
		{[]string{"dead", "not_configured"}, "dead"},
		{[]string{"delivered", "abandon"}, "abandoned (true)"},
		{[]string{"abandon", "dead"}, "abandoned (true)"},
	}
	fates := map[string]webhook.Fate{}
	for _, f := range webhook.Fates() {
		fates[f.String()] = f
	}
	for _, test := range tests {
		t.Run(strings.Join(test.ends, "_"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := usual()
				cfg.MaxIDs = 2
				s, l := newEnv(cfg, nil), newLease()
				s.run()
				defer s.stop()
				s.Add(rec(l, 1, 42, "1", ""))
				s.Add(rec(l, 2, 42, "2,3", ""))
				s.rest(time.Minute)
				for i, b := range s.batches {
					l.want(t, map[int64]string{})
					if !b.Acquire() {
						t.Fatal("Acquire returned false")
					}
					if test.ends[i] == "abandon" {
						b.Abandon()
					} else {
						b.Settle(fates[test.ends[i]])
					}
				}
				l.want(t, map[int64]string{1: test.want, 2: test.want})
				if l.acquired != 2 {
					t.Errorf("acquired %d times for 2 records", l.acquired)
				}
			})
		})
	}
}

func TestRevokedAfterTheTick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, l := newEnv(usual(), nil), newLease()
		s.run()
		defer s.stop()
		s.Add(rec(l, 1, 42, "1", ""))
		s.rest(time.Minute)
		l.close()
		b := s.batches[0]
		if b.Lease.State() == event.Held || b.Acquire() {
			t.Error("a batch of a revoked partition was acquired")
		}
		b.Abandon()
		l.want(t, map[int64]string{1: "abandoned (false)"})
	})
}

func TestPurge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, gone, kept := newEnv(usual(), nil), newLease(), newLease()
		s.run()
		defer s.stop()
		s.Add(rec(gone, 1, 42, "1", ""))
		s.Add(rec(gone, 2, 43, "1", ""))
		other := rec(kept, 3, 42, "9", "")
		other.Partition = 4
		s.Add(other)
		gone.close()
		s.Purge()
		gone.want(t, map[int64]string{1: "abandoned (false)", 2: "abandoned (false)"})
		s.rest(time.Minute)
		s.want(t, sent{time.Minute, topic + "/4/3/0", `{"user_id":42,"api_sms_ids":[9],"campaign_sms_ids":[]}`})
		if s.records != 0 || s.bytes != 0 {
			t.Errorf("%d records, %d bytes are counted as collected", s.records, s.bytes)
		}
	})
}

func TestPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := usual()
		l := newLease()
		cfg.MaxBytes = 3 * rec(l, 0, 42, "1", "").Size
		s := newEnv(cfg, nil)
		s.run()
		defer s.stop()
		s.Add(rec(l, 1, 42, "1", ""))
		s.Add(rec(l, 2, 42, "2", ""))
		synctest.Wait()
		if len(s.pausedSoFar()) != 0 {
			t.Error("the topic was paused too early")
		}
		s.Add(rec(l, 3, 42, "3", ""))
		s.Add(rec(l, 4, 42, "4", "")) // was fetched already
		synctest.Wait()
		if !slices.Equal(s.pausedSoFar(), []bool{true}) {
			t.Errorf("pauses: %v, want one", s.pausedSoFar())
		}
		s.rest(time.Minute)
		if !slices.Equal(s.pausedSoFar(), []bool{true, false}) {
			t.Errorf("pauses: %v, want it to end at the tick", s.pausedSoFar())
		}
		s.want(t, sent{time.Minute, topic + "/3/1/0", `{"user_id":42,"api_sms_ids":[1,2,3,4],"campaign_sms_ids":[]}`})
		s.Add(rec(l, 5, 42, "5", ""))
		s.rest(time.Minute)
		if len(s.pausedSoFar()) != 2 {
			t.Errorf("pauses: %v", s.pausedSoFar())
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s, l := newEnv(usual(), nil), newLease()
		s.run()
		defer s.stop()
		for i := range int64(maxRecords) {
			s.Add(rec(l, i, i%100+1, "1", ""))
		}
		synctest.Wait()
		if !slices.Equal(s.pausedSoFar(), []bool{true}) {
			t.Errorf("pauses after %d records: %v, want one", maxRecords, s.pausedSoFar())
		}
	})
}

// A cut that cannot be stored delays a batch by half a second, and loses no revocation.
func TestCommitThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, l := newEnv(usual(), func(ctx context.Context) { <-ctx.Done() }), newLease()
		s.run()
		defer s.stop()
		s.Add(rec(l, 1, 42, "1", ""))
		s.rest(time.Minute + commitTimeout)
		s.want(t, sent{time.Minute + commitTimeout, topic + "/3/1/0", `{"user_id":42,"api_sms_ids":[1],"campaign_sms_ids":[]}`})
	})
}

// Records that arrive while the cuts are stored belong to the next tick.
func TestRecordsWhileTheCutsAreStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLease()
		var s *env
		n := int64(1)
		s = newEnv(usual(), func(context.Context) {
			n++
			s.Add(rec(l, n, 42, fmt.Sprint(n), ""))
		})
		s.run()
		s.Add(rec(l, 1, 42, "1", ""))
		s.rest(2 * time.Minute)
		s.stop()
		s.want(t, sent{time.Minute, topic + "/3/1/0", `{"user_id":42,"api_sms_ids":[1],"campaign_sms_ids":[]}`},
			sent{2 * time.Minute, topic + "/3/2/0", `{"user_id":42,"api_sms_ids":[2],"campaign_sms_ids":[]}`})
	})
}

// Batches are also split by the length of their ids, so that each fits into a topic.
func TestChunksOfLongIDs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, l := newEnv(usual(), nil), newLease()
		s.run()
		defer s.stop()
		const ids, digits = 1300, 900
		var list []string
		for i := range ids {
			list = append(list, fmt.Sprintf("1%0*d", digits-1, i))
		}
		s.Add(rec(l, 1, 42, strings.Join(list[:1000], ","), strings.Join(list[1000:], ",")))
		s.rest(time.Minute)
		var got []string
		for n, b := range s.batches {
			size := 0
			for _, id := range slices.Concat(b.Batch.APISMSIDs, b.Batch.CampaignSMSIDs) {
				size += len(id)
				got = append(got, string(id))
			}
			if last := n == len(s.batches)-1; size > webhook.MaxBatchBytes || !last && size <= webhook.MaxBatchBytes-digits {
				t.Errorf("batch %d has %d bytes of ids, want as many as fit into %d", n, size, webhook.MaxBatchBytes)
			}
		}
		if !slices.Equal(got, list) || len(s.batches) != 3 {
			t.Errorf("%d ids in %d batches, want %d in 3, in order", len(got), len(s.batches), ids)
		}
	})
}

// Once a batch is in progress the others must end before the partition is released.
func TestRevokedBetweenBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := usual()
		cfg.MaxIDs = 1
		s, l := newEnv(cfg, nil), newLease()
		s.run()
		defer s.stop()
		s.Add(rec(l, 1, 42, "1,2", ""))
		s.rest(time.Minute)
		first, second := s.batches[0], s.batches[1]
		if first.Lease.State() != event.Held || !first.Acquire() || second.Lease.State() != event.Held {
			t.Fatal("the lease is not held before the partition is revoked")
		}
		l.close()
		if second.Lease.State() != event.Draining || !second.Acquire() {
			t.Error("the second batch may not be stored")
		}
		l.mu.Lock()
		l.lost = true
		l.mu.Unlock()
		if second.Lease.State() != event.Held {
			t.Error("the second batch must be stored though another instance has the partition already")
		}
		second.Settle(webhook.Overflow)
		first.Settle(webhook.Delivered)
		l.want(t, map[int64]string{1: "batched"})
	})
}
