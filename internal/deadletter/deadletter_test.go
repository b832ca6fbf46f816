package deadletter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/webhook"
	"github.com/smshooks/smshooks/test/fakekafka"
)

const partitions = 6

var testConfig = Config{
	Topic:    "dead",
	Sources:  [webhook.NumKinds]string{"sms-dlr", "sms-click", "sms-inbound", "click-revocation"},
	Overflow: [webhook.NumKinds]string{"dlr-o", "click-o", "inbound-o", "rev-o"},
	Batches:  []string{"rev-o", "rev-r"},
	Patience: 2 * time.Second,
}

type fakeKafka struct {
	t       *testing.T
	cluster *fakekafka.Cluster
	client  *kgo.Client
}

func newKafka(t *testing.T) *fakeKafka {
	t.Helper()
	topics := append([]string{testConfig.Topic, testConfig.Sources[webhook.DLR], testConfig.Sources[webhook.RevokeClick], "rev-r"}, testConfig.Overflow[:]...)
	cluster := fakekafka.New(t, kfake.SeedTopics(partitions, topics...))
	return &fakeKafka{t: t, cluster: cluster, client: cluster.Open()}
}

func (k *fakeKafka) store() *Store {
	k.t.Helper()
	s, err := New(testConfig, k.cluster.NewClient)
	if err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(s.Close)
	return s
}

var noon = time.Date(2026, 2, 27, 12, 0, 0, 0, time.UTC)

// letter returns a dead letter that was given up after that many hours.
type letter struct {
	id, kind, reason, failure string
	user                      int64
	hour                      int
	value                     string
}

func (l letter) record() *kgo.Record {
	r := &kgo.Record{Topic: testConfig.Topic, Key: strconv.AppendInt(nil, l.user, 10), Timestamp: noon.Add(time.Duration(l.hour) * time.Hour)}
	header := func(key, value string) {
		if value != "" {
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: key, Value: []byte(value)})
		}
	}
	header(event.HeaderID, l.id)
	header(event.HeaderKind, l.kind)
	header(event.HeaderTime, "2026-02-27T11:00:00.000Z")
	header(event.HeaderAttempts, "3")
	header(event.HeaderError, l.failure)
	header(event.HeaderReason, l.reason)
	if r.Value = []byte(l.value); l.value == "" {
		r.Value = fmt.Appendf(nil, `{"user_id":%d,"sms":{"id":%d}}`, l.user, l.hour)
		if l.kind == "revoke_click" {
			r.Value = fmt.Appendf(nil, `{"user_id":%d,"api_sms_ids":[1],"campaign_sms_ids":[]}`, l.user)
		}
	}
	return r
}

var letters = []letter{
	{id: "sms-dlr/2/10", kind: "dlr", reason: "attempts_exhausted", failure: "http 503", user: 42, hour: 0},
	{id: "sms-click/5/11", kind: "click", reason: "window_expired", user: 42, hour: 1},
	{id: "sms-inbound/0/12", kind: "inbound", reason: "attempts_exhausted", failure: "timeout", user: 43, hour: 2},
	{id: "click-revocation/1/13/0", kind: "revoke_click", reason: "attempts_exhausted", failure: "dns", user: 42, hour: 3},
	{id: "sms-dlr/3/14", kind: "dlr", reason: "invalid_record", failure: "no object", user: 42, hour: 4, value: "no \xff JSON"},
	{id: "sms-dlr/99/15", kind: "dlr", reason: "attempts_exhausted", failure: "network", user: 44, hour: 5}, // no such partition
	{user: 42, hour: 6, value: "of another program"},
	{id: "sms-dlr/2/10", kind: "dlr", reason: "attempts_exhausted", failure: "http 500", user: 42, hour: 7}, // died again
}

func (k *fakeKafka) fill() {
	k.t.Helper()
	for _, l := range letters {
		if err := k.client.ProduceSync(k.t.Context(), l.record()).FirstErr(); err != nil {
			k.t.Fatal(err)
		}
	}
}

func TestList(t *testing.T) {
	k := newKafka(t)
	s := k.store()
	if err := s.List(t.Context(), Filter{}, func(*Letter) error { return errors.New("nothing is there") }); err != nil {
		t.Errorf("of an empty topic: %v", err)
	}
	k.fill()
	for _, tc := range []struct {
		name string
		f    Filter
		want []int // indices of letters
	}{
		{"all", Filter{}, []int{0, 1, 2, 3, 4, 5, 6, 7}},
		{"user", Filter{UserID: 42}, []int{0, 1, 3, 4, 6, 7}},
		{"kind", Filter{Kind: "dlr"}, []int{0, 4, 5, 7}},
		{"reason", Filter{Reason: "window_expired"}, []int{1}},
		{"since", Filter{Since: noon.Add(3 * time.Hour)}, []int{3, 4, 5, 6, 7}},
		{"until", Filter{Until: noon.Add(3 * time.Hour)}, []int{0, 1, 2}},
		{"between", Filter{Since: noon.Add(time.Hour), Until: noon.Add(4 * time.Hour), UserID: 42}, []int{1, 3}},
		{"since the future", Filter{Since: noon.Add(time.Hour * 9999)}, nil},
		{"ids", Filter{IDs: []string{"sms-dlr/2/10", "nonsense"}, UserID: 42}, []int{0, 7}},
		{"another user's id", Filter{IDs: []string{"sms-dlr/2/10"}, UserID: 43}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got []int
			if err := s.List(t.Context(), tc.f, func(l *Letter) error {
				got = append(got, int(l.Time.Sub(noon)/time.Hour))
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			slices.Sort(got)
			if !slices.Equal(got, tc.want) {
				t.Errorf("letters %v, want %v", got, tc.want)
			}
		})
	}
	enough := errors.New("enough")
	if err := s.List(t.Context(), Filter{}, func(*Letter) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("stopped with %v", err)
	}
}

func TestJSON(t *testing.T) {
	for i, want := range map[int]string{
		0: `{"id":"sms-dlr/2/10","user_id":42,"kind":"dlr","reason":"attempts_exhausted","attempts":3,"error":"http 503","event_time":"2026-02-27T11:00:00.000Z","value":"{\"user_id\":42,\"sms\":{\"id\":0}}"}`,
		4: `{"id":"sms-dlr/3/14","user_id":42,"kind":"dlr","reason":"invalid_record","attempts":3,"error":"no object","event_time":"2026-02-27T11:00:00.000Z","value":"no \ufffd JSON","value_base64":"bm8g/yBKU09O"}`,
		6: `{"id":null,"user_id":42,"kind":null,"reason":null,"attempts":3,"error":null,"event_time":"2026-02-27T11:00:00.000Z","value":"of another program"}`,
	} {
		l := newMatcher(Filter{}).match(letters[i].record())
		got, err := json.Marshal(l)
		if err != nil || string(got) != want {
			t.Errorf("letter %d: %v\n%s, want\n%s", i, err, got, want)
		}
	}
}

func TestReplay(t *testing.T) {
	k := newKafka(t)
	k.fill()
	s := k.store()
	began := time.Now().Truncate(time.Millisecond)
	n, err := s.Replay(t.Context(), Filter{})
	if err != nil || n != 5 {
		t.Fatalf("%d replayed, %v; want 5", n, err)
	}
	got := k.overflowed(5)
	for id, topic := range map[string]string{
		"sms-dlr/2/10": "dlr-o", "sms-click/5/11": "click-o", "sms-inbound/0/12": "inbound-o",
		"click-revocation/1/13/0": "rev-o", "sms-dlr/99/15": "dlr-o",
	} {
		r := got[id]
		if r == nil || r.Topic != topic {
			t.Errorf("%s: not in %s", id, topic)
			continue
		}
		if p, _ := strconv.Atoi(strings.Split(id, "/")[1]); p < partitions && r.Partition != int32(p) {
			t.Errorf("%s: in partition %d", id, r.Partition)
		}
		e := event.Event{}
		for _, h := range r.Headers {
			e.SetHeader(h.Key, h.Value)
		}
		if e.Attempts != 0 || !e.Claimed || e.Failure != "" || !e.Time.Equal(noon.Add(-time.Hour)) || e.Replayed.Before(began) ||
			e.Replayed.After(time.Now()) || !e.Due.Equal(e.Replayed) {
			t.Errorf("%s: %+v", id, e)
		}
	}
	if r := got["sms-dlr/2/10"]; string(r.Key) != "42" || string(r.Value) != `{"user_id":42,"sms":{"id":7}}` && string(r.Value) != `{"user_id":42,"sms":{"id":0}}` {
		t.Errorf("key %s, value %s", r.Key, r.Value)
	}
	if n, err := s.Replay(t.Context(), Filter{UserID: 43, IDs: []string{"sms-dlr/2/10", "sms-inbound/0/12"}}); n != 1 || err != nil {
		t.Errorf("%d of user 43 replayed, %v; want 1", n, err)
	}
	if n, err := s.Replay(t.Context(), Filter{Reason: "invalid_record"}); n != 0 || err != nil {
		t.Errorf("%d invalid ones replayed, %v", n, err)
	}
}

// TestReplayOfUsersWithOneID checks that an id which the gateway gave to events of two users stands for both.
func TestReplayOfUsersWithOneID(t *testing.T) {
	k := newKafka(t)
	for _, user := range []int64{42, 43, 42} { // the first died again
		l := letter{id: "order-7", kind: "dlr", reason: "attempts_exhausted", user: user}
		if err := k.client.ProduceSync(t.Context(), l.record()).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := k.store().Replay(t.Context(), Filter{}); n != 2 || err != nil {
		t.Errorf("%d replayed, %v; want 2", n, err)
	}
}

// leaving is a guard that first cancels the caller's context and then admits everything.
type leaving struct {
	leave  context.CancelFunc
	stored int
}

func (g *leaving) Admit(_ context.Context, events []*Candidate) ([]bool, error) {
	g.leave()
	admitted := make([]bool, len(events))
	for i := range admitted {
		admitted[i] = true
	}
	return admitted, nil
}

func (g *leaving) Stored(ctx context.Context, events []*Candidate) {
	if ctx.Err() == nil {
		g.stored += len(events)
	}
}

func (g *leaving) Failed(context.Context, []*Candidate) {}

// TestReplayOutlastsCaller checks that the fate of admitted events is recorded even if the caller leaves.
func TestReplayOutlastsCaller(t *testing.T) {
	k := newKafka(t)
	k.fill()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	guard := &leaving{leave: cancel}
	n, err := k.store().Run(ctx, Run{Guard: guard})
	if n != 5 || err != nil || guard.stored != 5 {
		t.Errorf("%d sent, %d of them known, %v; want 5", n, guard.stored, err)
	}
}

// overflowed reads n records of the overflow topics, by identity.
func (k *fakeKafka) overflowed(n int) map[string]*kgo.Record {
	k.t.Helper()
	client, err := k.cluster.NewClient(kgo.ConsumeTopics(testConfig.Overflow[:]...))
	if err != nil {
		k.t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(k.t.Context(), 20*time.Second)
	defer cancel()
	got := map[string]*kgo.Record{}
	for read := 0; read < n; {
		fetches := client.PollFetches(ctx)
		if err := ctx.Err(); err != nil {
			k.t.Fatalf("%d of %d records: %v", read, n, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			for _, h := range r.Headers {
				if h.Key == event.HeaderID {
					got[string(h.Value)] = r
				}
			}
			read++
		})
	}
	return got
}

func TestKafkaUnreachable(t *testing.T) {
	k := newKafka(t)
	k.fill()
	s := k.store()
	if err := s.List(t.Context(), Filter{}, func(*Letter) error { return nil }); err != nil {
		t.Fatal(err)
	}
	k.cluster.Close()
	began := time.Now()
	if _, err := s.Replay(t.Context(), Filter{}); err == nil {
		t.Error("Replay: no error")
	}
	if err := s.List(t.Context(), Filter{}, func(*Letter) error { return nil }); err == nil {
		t.Error("List: no error")
	}
	if took := time.Since(began); took > 2*testConfig.Patience+20*time.Second { // 20 s: on a busy machine
		t.Errorf("took %v", took)
	}
}

func TestTopicMissing(t *testing.T) {
	k := newKafka(t)
	cfg := testConfig
	cfg.Topic = "missing"
	s, err := New(cfg, k.cluster.NewClient)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.List(t.Context(), Filter{}, func(*Letter) error { return nil }); err == nil {
		t.Error("no error")
	}
}

// TestLargeLetter checks that a dead letter that does not fit into a usual batch is replayed too, with its origin.
func TestLargeLetter(t *testing.T) {
	k := newKafka(t)
	value := `{"user_id":42,"sms":{"id":1,"text":"` + strings.Repeat("x", 3<<20) + `"}}`
	r := letter{id: "evt_1", kind: "dlr", reason: "attempts_exhausted", user: 42, value: value}.record()
	r.Headers = append(r.Headers, kgo.RecordHeader{Key: event.HeaderOrigin, Value: []byte("sms-dlr/2/10")})
	writer, err := k.cluster.NewClient(kgo.ProducerBatchMaxBytes(8 << 20))
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	if err := writer.ProduceSync(t.Context(), r).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if n, err := k.store().Replay(t.Context(), Filter{}); n != 1 || err != nil {
		t.Fatalf("%d replayed, %v", n, err)
	}
	got := k.overflowed(1)["evt_1"]
	if got == nil || string(got.Value) != value || got.Partition != 2 {
		t.Fatal("the record differs from the letter's, or is in another partition")
	}
	e := event.Event{Record: event.Record{Class: topics.Overflow}}
	for _, h := range got.Headers {
		e.SetHeader(h.Key, h.Value)
	}
	if e.SourcePosition() != "sms-dlr/2/10" {
		t.Errorf("origin %s", e.SourcePosition())
	}
}
