package consumer

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/kafka"
	"github.com/smshooks/smshooks/internal/metrics"
	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/offsets"
	"github.com/smshooks/smshooks/pkg/webhook"
)

func sized(n int64) *event.Event { return &event.Event{Record: event.Record{Size: n}} }

func TestBufferBounds(t *testing.T) {
	b := newBuffer(3, 100)
	b.add(sized(10))
	b.add(sized(10))
	if b.full() {
		t.Error("full with 2 of 3 records")
	}
	b.add(sized(10))
	if !b.full() {
		t.Error("not full with 3 of 3 records")
	}
	b.subtract(sized(10))
	b.add(&event.Event{Record: event.Record{Size: 10}, Delivery: event.Delivery{Kind: webhook.RevokeClick}}) // collected for a minute, with a bound of their own
	if b.full() {
		t.Error("a collected record counts")
	}
	b.add(&event.Event{
		Record:   event.Record{Class: topics.Retry, Size: 10},
		Delivery: event.Delivery{Kind: webhook.RevokeClick},
	})
	if !b.full() {
		t.Error("a returned batch does not count")
	}
	b.subtract(&event.Event{
		Record:   event.Record{Class: topics.Retry, Size: 10},
		Delivery: event.Delivery{Kind: webhook.RevokeClick},
	})
	b.add(sized(70))
	if !b.full() {
		t.Error("not full with 100 of 100 bytes")
	}
}

func TestBufferWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBuffer(2, 100)
		b.wait(context.Background()) // there is room
		b.add(sized(1))
		b.add(sized(1))
		var passed time.Time
		var done sync.WaitGroup
		at := time.Now()
		done.Go(func() {
			b.wait(context.Background())
			passed = time.Now()
		})
		time.Sleep(time.Minute)
		b.subtract(sized(1))
		done.Wait()
		if passed.Sub(at) != time.Minute {
			t.Errorf("waited %v, want until there was room", passed.Sub(at))
		}
		b.add(sized(1))
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		b.wait(ctx)
		if ctx.Err() == nil {
			t.Error("wait returned although there is no room")
		}
	})
}

// TestBufferRace checks that no wake-up is lost and no goroutine blocks, in whatever order releases happen.
func TestBufferRace(t *testing.T) {
	b := newBuffer(4, 1<<40)
	events := make(chan *event.Event, 1000)
	var done sync.WaitGroup
	for range 4 {
		done.Go(func() {
			for e := range events {
				b.subtract(e)
			}
		})
	}
	for range 20_000 {
		b.wait(context.Background())
		e := sized(1)
		b.add(e)
		events <- e
	}
	close(events)
	done.Wait()
	if b.records.Load() != 0 || b.bytes.Load() != 0 {
		t.Errorf("%d records, %d bytes while idle", b.records.Load(), b.bytes.Load())
	}
}

// handler stores the events it receives.
type handler struct{ events []*event.Event }

func (h *handler) Handle(events []*event.Event) { h.events = append(h.events, events...) }
func (h *handler) Purge()                       {}
func (h *handler) Behind() bool                 { return false }

// pure is a consumer without a client that holds partition 3 of the source, committed up to committed.
func pure(h *handler, committed int64) (*Consumer, *assignment) {
	topics := []string{source, delayed, revocations}
	c := New(Config{Topics: topics, MaxBufferedBytes: 1 << 30}, Parts{Topics: kinds{}, Handler: h, Log: zap.NewNop(),
		Metrics: metrics.New(prometheus.NewRegistry(), metrics.Topics{Consumed: topics, Delayed: topics[1:2]})})
	a := c.newAssignment(topicPartition{source, 3})
	a.restore(offsets.New(committed, ""), committed, -1, "")
	c.assignments[a.topicPartition] = a
	return c, a
}

func fetch(topic string, records ...*kgo.Record) kgo.Fetches {
	for _, r := range records {
		r.Topic, r.Partition = topic, 3
	}
	return kgo.Fetches{{Topics: []kgo.FetchTopic{{Topic: topic, Partitions: []kgo.FetchPartition{{Partition: 3, Records: records}}}}}}
}

func records(epoch int32, offsets ...int64) (rs []*kgo.Record) {
	for _, o := range offsets {
		rs = append(rs, &kgo.Record{Offset: o, LeaderEpoch: epoch})
	}
	return rs
}

// TestRewind checks that after a truncation the offsets are read again with other records, and that records of the old
// log that end late do not count.
func TestRewind(t *testing.T) {
	h := &handler{}
	c, a := pure(h, 5)
	c.ingest(fetch(source, records(1, 5, 6, 7)...))
	old := h.events
	old[0].Acquire()
	old[0].Settle(webhook.Delivered)
	c.ingest(fetch(source, records(2, 6, 7)...))
	if len(h.events) != 5 {
		t.Fatalf("%d events, want 3 and 2 after the rewind", len(h.events))
	}
	for _, e := range old[1:] {
		e.Acquire()
		e.Settle(webhook.Delivered)
	}
	if at := a.tracker.Committable(); at != 6 {
		t.Errorf("committable %d, want 6: the old records do not count", at)
	}
	for _, e := range h.events[3:] {
		e.Acquire()
		e.Settle(webhook.Delivered)
	}
	if at := a.tracker.Committable(); at != 8 {
		t.Errorf("committable %d, want 8", at)
	}
	if c.buffer.records.Load() != 0 {
		t.Errorf("%d records are counted while idle", c.buffer.records.Load())
	}
}

// Offsets that an earlier assignment finished stay finished, unless the log was truncated in between.
func TestFinishedByAnEarlierAssignment(t *testing.T) {
	for epoch, want := range map[int32]int{1: 1, 2: 3} {
		h := &handler{}
		c, a := pure(h, 5)
		c.ingest(fetch(source, records(1, 5, 6, 7)...))
		for _, e := range h.events {
			e.Acquire()
		}
		h.events[0].Settle(webhook.Delivered)
		a.lose()
		a.drain()
		c.remove([]*assignment{a})
		h.events[2].Settle(webhook.Delivered) // late
		h.events = nil

		again := c.newAssignment(a.topicPartition)
		again.restore(offsets.New(5, ""), 5, -1, "")
		c.assignments[a.topicPartition] = again
		c.ingest(fetch(source, records(epoch, 5, 6, 7)...))
		if len(h.events) != want {
			t.Errorf("epoch %d: %d events repeated, want %d", epoch, len(h.events), want)
		}
	}
}

// If nothing is committed for a topic, it may be a new one of the same name. An earlier assignment then counts only if
// the topic has the same id.
func TestPreviousAssignmentsWithoutACommit(t *testing.T) {
	one, other, none := [16]byte{1}, [16]byte{2}, [16]byte{}
	for _, tc := range []struct {
		name          string
		before, after [16]byte
		committed     int64
		want          int
	}{
		{"the same topic", one, one, -1, 0},
		{"a new topic", one, other, -1, 1},
		{"a new topic, and offsets of the old one", one, other, 5, 1},
		{"no ids", none, none, -1, 1},
		{"no ids, committed", none, none, 5, 0},
	} {
		h := &handler{}
		c, a := pure(h, 5)
		poll := func(id [16]byte) {
			fetches := fetch(source, records(0, 5)...)
			fetches[0].Topics[0].TopicID = id
			c.ingest(fetches)
		}
		poll(tc.before)
		h.events[0].Acquire()
		h.events[0].Settle(webhook.Delivered)
		c.remove([]*assignment{a})
		h.events = nil
		again := c.newAssignment(a.topicPartition)
		again.restore(offsets.New(tc.committed, ""), tc.committed, -1, "")
		c.assignments[a.topicPartition] = again
		poll(tc.after)
		if len(h.events) != tc.want {
			t.Errorf("%s: %d events repeated, want %d", tc.name, len(h.events), tc.want)
		}
	}
}

// TestPreviousAssignmentsThatReadNothing checks that assignments without records, in a group that keeps rebalancing, do
// not displace the state of earlier ones.
func TestPreviousAssignmentsThatReadNothing(t *testing.T) {
	h := &handler{}
	c, a := pure(h, 5)
	c.ingest(fetch(source, records(0, 5)...))
	h.events[0].Acquire()
	h.events[0].Settle(webhook.Delivered)
	h.events = nil
	for range 3 * maxHistory {
		c.remove([]*assignment{a})
		a = c.newAssignment(a.topicPartition)
		a.restore(offsets.New(5, ""), 5, -1, "")
		c.assignments[a.topicPartition] = a
	}
	c.ingest(fetch(source, records(0, 5)...))
	if len(h.events) != 0 {
		t.Error("a finished record is dispatched again")
	}
}

// TestLateCommits checks that a last commit that cannot run still ends the commits of its partitions, and that a
// refusal applies to the partitions that were held when the commit was sent.
func TestLateCommits(t *testing.T) {
	h := &handler{}
	c, a := pure(h, 5)
	c.ingest(fetch(source, records(1, 5)...))
	h.events[0].Acquire()
	h.events[0].Settle(webhook.Delivered)
	c.committing <- struct{}{} // another commit is still under way
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c.commitLast(ctx, []*assignment{a})
	if _, changed := c.snapshot(a); changed {
		t.Error("a revoked partition would be committed")
	}

	c.remove([]*assignment{a})
	again := c.newAssignment(a.topicPartition)
	c.assignments[a.topicPartition] = again
	c.commitRefused(kerr.IllegalGeneration, []*assignment{a})
	if a.State() != event.Revoked || again.State() != event.Held {
		t.Errorf("the old assignment's state is %v, the new one's %v; want revoked and held", a.State(), again.State())
	}
}

// Offsets that the committed metadata lists stay finished, unless the log was truncated above the committed offset.
func TestFinishedByTheCommittedMetadata(t *testing.T) {
	previous := offsets.New(5, "")
	for o := range int64(4) {
		previous.Track(5 + o)
	}
	previous.Finish(0, 6)
	previous.Finish(0, 8)
	committed, state := previous.Snapshot(100)
	for _, c := range []struct {
		name      string
		committed int32
		epochs    [4]int32
		want      []int64
	}{
		{"the same records", 3, [4]int32{2, 2, 3, 3}, []int64{5, 7}},
		{"truncated to 7", 3, [4]int32{2, 3, 4, 4}, []int64{5, 7, 8}},
		{"all new", 3, [4]int32{4, 4, 4, 4}, []int64{5, 6, 7, 8}},
		{"committed by a version without epochs", -1, [4]int32{4, 4, 4, 5}, []int64{5, 7, 8}},
	} {
		h := &handler{}
		k, a := pure(h, -1)
		a.restore(offsets.New(committed, state), committed, c.committed, state)
		for i, epoch := range c.epochs {
			k.ingest(fetch(source, records(epoch, committed+int64(i))...))
		}
		var got []int64
		for _, e := range h.events {
			got = append(got, e.Offset)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: offsets %v dispatched, want %v", c.name, got, c.want)
		}
		if s, _ := k.snapshot(a); s.epoch != c.epochs[3] {
			t.Errorf("%s: epoch %d would be committed, want %d", c.name, s.epoch, c.epochs[3])
		}
	}
}

// Skipped batches and lost records advance the position.
func TestSkippedAndLost(t *testing.T) {
	h := &handler{}
	c, a := pure(h, 5)
	c.ingest(fetch(source, records(1, 5)...))
	c.fetchFailed(source, 3, &kafka.Skipped{From: 6, Next: 20, Epoch: 2, Err: errors.New("too large")})
	if at := c.next(source, 3); at != 20 {
		t.Errorf("next %d after the skip, want 20", at)
	}
	h.events[0].Acquire()
	h.events[0].Settle(webhook.Delivered)
	if s, _ := c.snapshot(a); s.next != 20 || s.epoch != 2 {
		t.Errorf("%d with epoch %d would be committed, want 20 with 2", s.next, s.epoch)
	}
	c.fetchFailed(source, 3, &kgo.ErrDataLoss{Topic: source, Partition: 3, ConsumedTo: 20, ResetTo: 10, ConsumedToEpoch: 2, ResetToEpoch: 1})
	if at := c.next(source, 3); at != 10 {
		t.Errorf("next %d after the loss, want 10", at)
	}
	if s, _ := c.snapshot(a); s.next != 10 || s.epoch != 2 {
		t.Errorf("%d with epoch %d would be committed after the loss, want 10 with 2", s.next, s.epoch)
	}
	c.ingest(fetch(source, records(3, 10)...))
	if s, _ := c.snapshot(a); len(h.events) != 2 || s.next != 10 || s.epoch != 3 {
		t.Errorf("%d events, %d with epoch %d would be committed, want 2, 10 with 3", len(h.events), s.next, s.epoch)
	}
}

func TestLostIsNotCommitted(t *testing.T) {
	h := &handler{}
	c, a := pure(h, 5)
	c.ingest(fetch(source, records(1, 5)...))
	h.events[0].Acquire()
	h.events[0].Settle(webhook.Delivered)
	if s, changed := c.snapshot(a); !changed || s.next != 6 {
		t.Errorf("snapshot %+v, %v, want 6", s, changed)
	}
	a.lose()
	if _, changed := c.snapshot(a); changed {
		t.Error("a lost partition would be committed")
	}
}

func TestMetadataTooLarge(t *testing.T) {
	c, a := pure(&handler{}, 5)
	answer := func(code int16) {
		t.Helper()
		resp := kmsg.NewOffsetCommitResponse()
		topic := kmsg.NewOffsetCommitResponseTopic()
		topic.Topic = source
		p := kmsg.NewOffsetCommitResponseTopicPartition()
		p.Partition, p.ErrorCode = 3, code
		topic.Partitions = append(topic.Partitions, p)
		resp.Topics = append(resp.Topics, topic)
		err := c.committed([]*assignment{a}, map[topicPartition]snapshot{a.topicPartition: {a, 9, -1, "", "state"}}, &resp)
		if want := kerr.ErrorForCode(code); !errors.Is(err, want) {
			t.Errorf("error %v, want %v", err, want)
		}
	}
	answer(kerr.OffsetMetadataTooLarge.Code)
	answer(kerr.OffsetMetadataTooLarge.Code)
	if a.maxMetadataBytes != maxMetadata/4 || a.committed != 5 {
		t.Errorf("room %d, committed %d, want a quarter and 5 as before", a.maxMetadataBytes, a.committed)
	}
	answer(kerr.NotCoordinator.Code)
	if a.committed != 5 || a.maxMetadataBytes != maxMetadata/4 {
		t.Error("a refused commit was accepted")
	}
	answer(0)
	if a.committed != 9 || a.committedMetadata != "state" {
		t.Errorf("committed %d with %q, want 9 with state", a.committed, a.committedMetadata)
	}
}

func TestNewEvent(t *testing.T) {
	at, now := time.UnixMilli(1700000000123), time.UnixMilli(1800000000000)
	c, a := pure(&handler{}, 5)
	w := c.newAssignment(topicPartition{delayed, 3})
	w.restore(offsets.New(0, ""), 0, -1, "")
	headers := []kgo.RecordHeader{
		{Key: event.HeaderID, Value: []byte("evt_1")}, {Key: event.HeaderOrigin, Value: []byte("sms-dlr/3/1")}, {Key: event.HeaderAttempts, Value: []byte("2")}, {Key: event.HeaderError, Value: []byte("timeout")},
		{Key: event.HeaderTime, Value: []byte("2023-11-14T22:13:20.123Z")}, {Key: event.HeaderDue, Value: []byte("2023-11-15T04:13:20.123Z")},
	}
	tests := []struct {
		name string
		a    *assignment
		r    *kgo.Record
		want event.Event
	}{
		{"source", a, &kgo.Record{Offset: 5, Key: []byte("k"), Value: []byte("v"), Timestamp: at, Headers: headers},
			event.Event{
				Record:   event.Record{Topic: source, Partition: 3, Offset: 5, Key: []byte("k"), Value: []byte("v"), Size: 2 + overhead},
				Delivery: event.Delivery{Time: at},
				Lease:    a,
			}},
		{"null", a, &kgo.Record{Offset: 6, Timestamp: at},
			event.Event{
				Record:   event.Record{Topic: source, Partition: 3, Offset: 6, Size: overhead},
				Delivery: event.Delivery{Time: at},
				Lease:    a,
			}},
		{"empty", a, &kgo.Record{Offset: 7, Key: []byte{}, Value: []byte{}, Timestamp: at},
			event.Event{
				Record:   event.Record{Topic: source, Partition: 3, Offset: 7, Key: []byte{}, Value: []byte{}, Size: overhead},
				Delivery: event.Delivery{Time: at},
				Lease:    a,
			}},
		{"no timestamp", a, &kgo.Record{Offset: 8, Timestamp: time.UnixMilli(-1)},
			event.Event{
				Record:   event.Record{Topic: source, Partition: 3, Offset: 8, Size: overhead},
				Delivery: event.Delivery{Time: now},
				Lease:    a,
			}},
		{"delayed", w, &kgo.Record{Offset: 0, Timestamp: now, Headers: headers},
			event.Event{
				Record:   event.Record{Class: topics.Retry, Topic: delayed, Partition: 3, Size: 72 + overhead, Origin: "sms-dlr/3/1"},
				Delivery: event.Delivery{Time: at.UTC(), ID: "evt_1", Attempts: 2, Failure: webhook.Timeout, Due: at.UTC().Add(6 * time.Hour)},
				Lease:    w,
			}},
		{"delayed without headers", w, &kgo.Record{Offset: 1, Timestamp: at},
			event.Event{
				Record:   event.Record{Class: topics.Retry, Topic: delayed, Partition: 3, Offset: 1, Size: overhead},
				Delivery: event.Delivery{Time: at, Due: now},
				Lease:    w,
			}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := c.newEvent(test.a, test.r, now)
			got.Memory = nil
			if !reflect.DeepEqual(got, &test.want) {
				t.Errorf("%+v, want %+v", got, &test.want)
			}
		})
	}
}

func TestEventDoesNotKeepTheFetch(t *testing.T) {
	c, a := pure(&handler{}, 5)
	fetched := []byte("kv")
	e := c.newEvent(a, &kgo.Record{Offset: 5, Key: fetched[:1], Value: fetched[1:]}, time.Now())
	fetched[0], fetched[1] = 'x', 'x'
	if string(e.Key) != "k" || string(e.Value) != "v" {
		t.Error("the event shares the fetch's memory")
	}
	if _ = append(e.Key, 'y'); string(e.Value) != "v" {
		t.Error("appending to the key overwrites the value")
	}
}

func TestWaitIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, a := pure(&handler{}, 5)
		defer c.stopWork()
		b := c.newAssignment(topicPartition{source, 4})
		for range 2 {
			if !a.Acquire() {
				t.Fatal("Acquire returned false")
			}
		}
		a.drain()
		a.drain()
		b.drain()
		if a.Acquire() {
			t.Error("Acquire returned true after close")
		}
		at := time.Now()
		if waitIdle(t.Context(), []*assignment{b, a}, time.Second) || time.Since(at) != time.Second {
			t.Errorf("reported idle after %v with an event in progress", time.Since(at))
		}
		go func() {
			time.Sleep(time.Second)
			a.done()
			time.Sleep(time.Second)
			a.done()
		}()
		if !waitIdle(t.Context(), []*assignment{b, a}, time.Minute) || time.Since(at) != 3*time.Second {
			t.Errorf("not idle after %v", time.Since(at))
		}
		if !waitIdle(t.Context(), []*assignment{b, a}, -1) {
			t.Error("not idle")
		}
	})
}

func TestOverdue(t *testing.T) {
	c, _ := pure(&handler{}, 5)
	now := time.Now()
	a := c.newAssignment(topicPartition{delayed, 0})
	a.restore(offsets.New(0, ""), 0, -1, "")
	g := &gate{a: a, paused: true}
	for i := range int64(3) {
		a.tracker.Track(i)
		g.buffered = append(g.buffered, &event.Event{
			Record:   event.Record{Offset: i},
			Delivery: event.Delivery{Due: now.Add(time.Duration(i) * time.Second)},
			Lease:    a,
		})
	}
	c.gates.open[a.topicPartition] = g
	if late := c.gates.overdue(now.Add(-time.Minute))[delayed]; late != 0 {
		t.Errorf("overdue by %v, want 0 before it is due", late)
	}
	if late := c.gates.overdue(now.Add(5 * time.Second))[delayed]; late != 5*time.Second {
		t.Errorf("overdue by %v, want 5s", late)
	}
}

// TestIdentityOfPolledRecords checks that a source record has the gateway's id or one derived from its topic's id, and
// that its origin is its position.
func TestIdentityOfPolledRecords(t *testing.T) {
	h := &handler{}
	c, a := pure(h, 5)
	c.assignments[a.topicPartition] = a
	topic := [16]byte{1, 2, 3}
	poll := func(id [16]byte, offset int64, headers ...kgo.RecordHeader) *event.Event {
		t.Helper()
		r := &kgo.Record{Offset: offset, Timestamp: time.UnixMilli(1), Headers: headers}
		got := c.ingestPartition(kgo.FetchTopic{Topic: a.topic, TopicID: id}, kgo.FetchPartition{Partition: a.partition, Records: []*kgo.Record{r}}, time.Now())
		if len(got) != 1 {
			t.Fatalf("%d events, want 1", len(got))
		}
		return got[0]
	}
	named := func(id string) kgo.RecordHeader { return kgo.RecordHeader{Key: "webhook-id", Value: []byte(id)} }
	derived := func(space event.Namespace, offset int64) string {
		return (&event.Event{Record: event.Record{Namespace: space, Partition: a.partition, Offset: offset}}).Identity()
	}
	byID := event.NamespaceOf(topic, "", "")
	for offset, test := range []struct {
		id      [16]byte
		headers []kgo.RecordHeader
		want    string
	}{
		{[16]byte{}, nil, derived(event.Namespace(source), 5)},
		{topic, nil, derived(byID, 6)},
		{[16]byte{}, nil, derived(byID, 7)}, // a broker that does not know it yet
		{topic, []kgo.RecordHeader{named("gateway/1")}, "gateway/1"},
		{topic, []kgo.RecordHeader{named("not fit"), named("")}, derived(byID, 9)},
		{topic, []kgo.RecordHeader{{Key: "smshooks-id", Value: []byte("x")}, {Key: "Webhook-Id", Value: []byte("x")}}, derived(byID, 10)},
	} {
		e := poll(test.id, int64(5+offset), test.headers...)
		if e.Identity() != test.want || e.SourcePosition() != fmt.Sprintf("%s/%d/%d", source, a.partition, e.Offset) {
			t.Errorf("offset %d: %s of %s, want %s", e.Offset, e.Identity(), e.SourcePosition(), test.want)
		}
	}
	bad := func() float64 {
		var m dto.Metric
		if err := c.Metrics.BadIDs.Write(&m); err != nil {
			t.Fatal(err)
		}
		return m.GetCounter().GetValue()
	}
	if n := bad(); n != 2 {
		t.Errorf("%v bad ids counted, want 2", n)
	}
	a.info.Kind = webhook.RevokeClick
	if e := poll(topic, 11, named("x"), named("not fit")); e.Identity() != derived(byID, 11) || bad() != 2 {
		t.Errorf("a revocation is named %s", e.Identity())
	}
}
