package explain

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/kafka"
	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/offsets"
	"github.com/smshooks/smshooks/pkg/webhook"
)

var plan = topics.New(topics.Settings{
	DLR: "sms-dlr", Click: "sms-click", Inbound: "sms-inbound", Revocation: "click-revocation", DeadLetter: "dead",
	Schedule: []time.Duration{6 * time.Hour}, Tiers: []time.Duration{10 * time.Second},
})

// env is a Kafka with the topics of plan.
type env struct {
	t       *testing.T
	cluster *kfake.Cluster
	client  *kgo.Client
	admin   *kadm.Client
	cfg     Config
}

func newEnv(t *testing.T) *env {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(4, append(plan.Consumed(), plan.DeadLetter)...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	k := kafka.Config{Brokers: cluster.ListenAddrs()}
	client, err := k.NewClient(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return &env{t, cluster, client, kadm.NewClient(client), Config{Plan: plan, Group: "g", NewClient: k.NewClient}}
}

// value returns a record of a message.
func value(user int64, message string) []byte {
	return fmt.Appendf(nil, `{"user_id":%d,"sms":{"id":%s,"from":"Shop","to":4790000000}}`, user, message)
}

// home returns the partition of a user's key.
func home(user int64) int32 {
	t := &topic{name: "sms-dlr", partitions: 4}
	return t.hash(strconv.AppendInt(nil, user, 10))
}

// write writes a record of a user with headers "key", "value" ….
func (e *env) write(topic string, partition int32, user int64, value []byte, headers ...string) *kgo.Record {
	e.t.Helper()
	r := &kgo.Record{Topic: topic, Partition: partition, Key: strconv.AppendInt(nil, user, 10), Value: value}
	for i := 0; i < len(headers); i += 2 {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: headers[i], Value: []byte(headers[i+1])})
	}
	if err := e.client.ProduceSync(e.t.Context(), r).FirstErr(); err != nil {
		e.t.Fatal(err)
	}
	return r
}

// id returns the identity of a source record.
func (e *env) id(r *kgo.Record) string {
	e.t.Helper()
	return e.event(r).Identity()
}

func (e *env) event(r *kgo.Record) *event.Event {
	e.t.Helper()
	details, err := e.admin.ListTopics(e.t.Context(), r.Topic)
	if err != nil {
		e.t.Fatal(err)
	}
	return &event.Event{Record: event.Record{
		Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Namespace: event.NamespaceOf(details[r.Topic].ID, r.Topic, ""),
	}}
}

// finish commits only these records as finished.
func (e *env) finish(records ...*kgo.Record) {
	e.t.Helper()
	type place struct {
		topic     string
		partition int32
	}
	trackers := map[place]*offsets.Tracker{}
	for _, r := range records {
		at := place{r.Topic, r.Partition}
		if trackers[at] == nil {
			trackers[at] = offsets.New(0, "")
		}
		for next := range r.Offset + 1 {
			trackers[at].Track(next)
		}
	}
	for _, r := range records {
		tracker := trackers[place{r.Topic, r.Partition}]
		gen, _ := tracker.Track(r.Offset + 1)
		tracker.Finish(gen, r.Offset)
	}
	var commit kadm.Offsets
	for at, tracker := range trackers {
		next, state := tracker.Snapshot(1000)
		commit.Add(kadm.Offset{Topic: at.topic, Partition: at.partition, At: next, LeaderEpoch: -1, Metadata: state})
	}
	if err := e.admin.CommitAllOffsets(e.t.Context(), "g", commit); err != nil {
		e.t.Fatal(err)
	}
}

func (e *env) find(q Query) []Event {
	e.t.Helper()
	found, err := Find(e.t.Context(), e.cfg, q)
	if err != nil {
		e.t.Fatal(err)
	}
	return found
}

// one returns the only event that is found.
func (e *env) one(q Query) Event {
	e.t.Helper()
	found := e.find(q)
	if len(found) != 1 {
		e.t.Fatalf("%+v: found %d events, want 1: %+v", q, len(found), found)
	}
	return found[0]
}

// records returns the positions of the copies; "+" marks those that are committed.
func (e *Event) records() (list []string) {
	for _, c := range e.Copies {
		text := fmt.Sprintf("%s/%d/%d", c.Topic, c.Partition, c.Offset)
		if c.Committed {
			text += "+"
		}
		list = append(list, text)
	}
	return list
}

func position(r *kgo.Record, suffix string) string {
	return fmt.Sprintf("%s/%d/%d%s", r.Topic, r.Partition, r.Offset, suffix)
}

const due = "2027-01-01T06:00:00.000Z"

// TestFollow follows an event from its source record to its dead letter.
func TestFollow(t *testing.T) {
	e := newEnv(t)
	p := home(42)
	for i := range 5 { // other events
		e.write("sms-dlr", p, 42, value(42, strconv.Itoa(i)))
	}
	source := e.write("sms-dlr", p, 42, value(42, "12345"))
	e.write("sms-dlr", p, 43, value(43, "12345")) // of another user
	id := e.id(source)
	byID, byMessage, byPosition := Query{ID: id}, Query{UserID: 42, MessageID: "12345"}, Query{ID: position(source, "")}
	check := func(state State, attempts int, failure webhook.Failure, records ...string) {
		t.Helper()
		for _, q := range []Query{byID, byMessage, byPosition, {ID: id, UserID: 42}, {ID: id, UserID: 7}} {
			got := e.one(q)
			if want := map[bool]webhook.Reason{true: webhook.AttemptsExhausted}[state == Dead]; got.Reason != want {
				t.Errorf("%+v: %s with the reason %q, want %q", q, got.State, got.Reason, want)
			}
			if got.ID != id || got.UserID != 42 || got.Kind != webhook.DLR || got.MessageID != "12345" || got.To != "4790000000" || got.From != "Shop" {
				t.Errorf("%+v: the event is %+v", q, got)
			}
			if got.State != state || got.Attempts != attempts || got.Failure != failure || !reflect.DeepEqual(got.records(), records) {
				t.Errorf("%+v: %s after %d attempts, %q, %v; want %s after %d, %q, %v", q, got.State, got.Attempts, got.Failure, got.records(),
					state, attempts, failure, records)
			}
			if want := map[bool]string{true: due}[state == Waiting]; want != "" && event.FormatTime(got.Next) != want {
				t.Errorf("%+v: next attempt %v, want %s", q, got.Next, want)
			}
		}
	}
	check(Pending, 0, "", position(source, ""))
	headers := []string{"smshooks-id", id, "smshooks-kind", "dlr", "smshooks-error", "http 503", "smshooks-due", due}
	retry := e.write("sms-dlr-retry-6h", p, 42, source.Value, append(headers, "smshooks-attempts", "1")...)
	check(Waiting, 1, "http 503", position(source, ""), position(retry, "")) // before the commit
	e.finish(source)
	check(Waiting, 1, "http 503", position(source, "+"), position(retry, ""))
	overflow := e.write("sms-dlr-overflow-10s", p, 42, source.Value, append(headers, "smshooks-attempts", "1")...)
	e.finish(source, retry)
	check(Waiting, 1, "http 503", position(source, "+"), position(retry, "+"), position(overflow, ""))
	dead := e.write("dead", p, 42, source.Value, append(headers, "smshooks-attempts", "2", "smshooks-reason", "attempts_exhausted")...)
	e.finish(source, retry, overflow)
	check(Dead, 2, "http 503", position(source, "+"), position(retry, "+"), position(overflow, "+"), position(dead, ""))
	again := e.write("sms-dlr-overflow-10s", p, 42, source.Value, "smshooks-id", id, "smshooks-due", due, "smshooks-replayed", due)
	check(Waiting, 0, "", position(source, "+"), position(retry, "+"), position(overflow, "+"), position(dead, ""), position(again, ""))
	e.finish(source, retry, overflow, again)
	check(Settled, 0, "", position(source, "+"), position(retry, "+"), position(overflow, "+"), position(dead, ""), position(again, "+"))
	e.cfg.Log = func(context.Context, int64) ([]event.LogEntry, error) {
		return []event.LogEntry{{ID: id, Number: 1, Status: 200, Time: time.Now().Add(time.Second)}, {ID: "x", Number: 9}}, nil
	}
	check(Delivered, 1, "", position(source, "+"), position(retry, "+"), position(overflow, "+"), position(dead, ""), position(again, "+"))
}

// TestReplayed checks that the attempts, the failure and the reason are those of the latest replay, also if its records
// are deleted.
func TestReplayed(t *testing.T) {
	e := newEnv(t)
	source := e.write("sms-dlr", 0, 42, value(42, "1"))
	headers := []string{"smshooks-id", e.id(source), "smshooks-kind", "dlr"}
	e.write("dead", 0, 42, source.Value, append(headers, "smshooks-attempts", "3", "smshooks-error", "timeout", "smshooks-reason", "attempts_exhausted")...)
	e.finish(source)
	delivered := event.LogEntry{ID: e.id(source), Kind: webhook.DLR, Message: event.NewText([]byte("1")), Number: 1, Time: time.Now().Add(time.Second)}
	third := delivered
	third.Number, third.Failure, third.Fate, third.Time = 3, webhook.Timeout, webhook.Dead, time.Now().Add(-time.Minute)
	e.cfg.Log = func(context.Context, int64) ([]event.LogEntry, error) { return []event.LogEntry{delivered, third}, nil }
	if got := e.one(Query{ID: e.id(source)}); got.State != Delivered || got.Attempts != 1 || got.Reason != "" || got.Failure != "" || len(got.Log) != 2 {
		t.Errorf("delivered by a replay: %+v", got)
	}
	delivered = third // the log lacks the replay
	headers = append(headers, "smshooks-replayed", "2026-02-27T14:30:00.000Z", "smshooks-attempts")
	e.write("sms-dlr-retry-6h", 0, 42, source.Value, append(headers, "1", "smshooks-error", "http 500", "smshooks-due", due)...)
	if got := e.one(Query{ID: e.id(source)}); got.State != Waiting || got.Attempts != 1 || got.Reason != "" || got.Failure != "http 500" {
		t.Errorf("failed once since a replay: %+v", got)
	}
	e.write("dead", 0, 42, source.Value, append(headers, "2", "smshooks-error", "http 500", "smshooks-reason", "window_expired")...)
	if got := e.one(Query{ID: e.id(source)}); got.State != Dead || got.Attempts != 2 || got.Reason != webhook.WindowExpired {
		t.Errorf("dead again: %+v", got)
	}
}

// TestSharedID gives one gateway id to events of two users, two messages and two kinds, and checks that each is shown
// with its own copies and attempts. Two records of one event stay one event.
func TestSharedID(t *testing.T) {
	e := newEnv(t)
	const id = "gateway:1"
	gateway := []string{"webhook-id", id}
	first := e.write("sms-dlr", home(42), 42, value(42, "1"), gateway...)
	again := e.write("sms-dlr", home(42), 42, value(42, "1"), gateway...)
	second := e.write("sms-dlr", home(42), 42, value(42, "2"), gateway...)
	click := e.write("sms-click", home(42), 42, value(42, "1"), gateway...)
	foreign := e.write("sms-dlr", home(7), 7, value(7, "1"), gateway...)
	retry := e.write("sms-dlr-retry-6h", home(42), 42, second.Value, "smshooks-id", id, "smshooks-attempts", "1", "smshooks-due", due)
	e.finish(again, second)
	e.cfg.Log = func(_ context.Context, userID int64) ([]event.LogEntry, error) {
		if userID != 42 {
			return nil, nil
		}
		return []event.LogEntry{{ID: id, Kind: webhook.DLR, Message: event.NewText([]byte("2")), Number: 1, Status: 503}}, nil
	}
	got := map[string][]string{}
	for _, found := range e.find(Query{ID: id}) {
		if want := map[bool]State{true: Waiting, false: Pending}[found.MessageID == "2"]; found.State != want {
			t.Errorf("%+v is %s, want %s", found, found.State, want)
		}
		got[fmt.Sprintf("%d/%v/%s, %d attempts", found.UserID, found.Kind, found.MessageID, len(found.Log))] = found.records()
	}
	if want := map[string][]string{
		"42/dlr/1, 0 attempts":   {position(first, ""), position(again, "+")},
		"42/dlr/2, 1 attempts":   {position(second, "+"), position(retry, "")},
		"42/click/1, 0 attempts": {position(click, "")},
		"7/dlr/1, 0 attempts":    {position(foreign, "")},
	}; !reflect.DeepEqual(got, want) {
		t.Errorf("found %v, want %v", got, want)
	}
}

// TestLeftBehind checks that a record left behind by a release does not count as waiting.
func TestLeftBehind(t *testing.T) {
	e := newEnv(t)
	p := home(42)
	source := e.write("sms-dlr", p, 42, value(42, "1"))
	headers := []string{"smshooks-id", e.id(source), "smshooks-attempts", "1", "smshooks-due", due}
	e.write("sms-dlr-retry-6h", p, 42, source.Value, headers...)
	copied := e.write("sms-dlr-overflow-0s", p, 42, source.Value, headers...)
	e.finish(source)
	if got := e.one(Query{ID: e.id(source)}); got.State != Waiting {
		t.Errorf("released: %s", got.State)
	}
	e.finish(source, copied)
	if got := e.one(Query{ID: e.id(source)}); got.State != Settled || !got.Next.IsZero() {
		t.Errorf("attempted after the release: %s, next attempt %v", got.State, got.Next)
	}
	e.write("sms-dlr-overflow-10s", p, 42, source.Value, append(headers, "smshooks-replayed", due)...)
	if got := e.one(Query{ID: e.id(source)}); got.State != Waiting {
		t.Errorf("replayed: %s", got.State)
	}
}

// TestElsewhere covers records that are not where they are expected, or deleted.
func TestElsewhere(t *testing.T) {
	e := newEnv(t)
	p := home(42)
	other := (p + 1) % 4
	miskeyed := e.write("sms-inbound", other, 7, value(42, `"m\u00e9ss/1"`), "webhook-id", "gateway:1")
	for _, q := range []Query{{ID: "gateway:1"}, {ID: "gateway:1", UserID: 42}, {UserID: 42, MessageID: "méss/1"}} {
		if got := e.one(q); got.ID != "gateway:1" || got.UserID != 42 || got.Kind != webhook.Inbound || got.Copies[0].Offset != miskeyed.Offset {
			t.Errorf("%+v: %+v", q, got)
		}
	}
	e.write("sms-dlr", p, 42, value(42, `"\u0061b-\u00e9"`))
	escaped := e.write("sms-dlr", p, 42, value(42, `"\u0061b-\u0031"`))
	if got := e.one(Query{UserID: 42, MessageID: "ab-1"}); got.MessageID != "ab-1" || got.Copies[0].Offset != escaped.Offset {
		t.Errorf("escaped id: %+v", got)
	}
	dead := e.write("dead", 3, 42, value(42, "5"), "smshooks-id", "evt_0000000000000000000000", "smshooks-kind", "click", "smshooks-reason", "window_expired")
	for _, q := range []Query{{ID: "evt_0000000000000000000000"}, {UserID: 42, MessageID: "5"}} {
		if got := e.one(q); got.State != Dead || got.Kind != webhook.Click || got.Reason != webhook.WindowExpired || got.Copies[0].Offset != dead.Offset {
			t.Errorf("%+v: %+v", q, got)
		}
	}
	revocation := e.write("click-revocation", p, 42, []byte(`{"user_id":42,"api_sms_ids":[1]}`))
	batch := e.event(revocation).BatchIdentity(2)
	for _, q := range []Query{{ID: batch}, {ID: batch, UserID: 42}} {
		if got := e.one(q); got.ID != batch || got.UserID != 42 || got.Kind != webhook.RevokeClick || got.MessageID != "" {
			t.Errorf("%+v: %+v", q, got)
		}
	}
	invalid := e.write("click-revocation", p, 42, []byte(`{"user_id":42,"api_sms_ids":["x"]}`))
	gone := e.write("dead", p, 42, invalid.Value, "smshooks-id", e.id(invalid), "smshooks-kind", "revoke_click",
		"smshooks-reason", "invalid_record")
	for _, q := range []Query{{ID: e.id(invalid)}, {ID: position(invalid, "")}} {
		got, want := e.one(q), []string{position(invalid, ""), position(gone, "")}
		if got.State != Dead || got.UserID != 42 || !reflect.DeepEqual(got.records(), want) {
			t.Errorf("%+v: %+v", q, got)
		}
	}
	for _, garbage := range []string{`{}`, `[1]`, `null`, `true`} { // an invalid message id is not shown
		r := e.write("sms-dlr", p, 42, []byte(`{"user_id":42,"sms":{"id":`+garbage+`,"from":`+garbage+`,"to":`+garbage+`}}`))
		if got := e.one(Query{ID: e.id(r)}); got.UserID != 42 || got.MessageID != "" || got.From != "" || got.To != "" {
			t.Errorf("%s: %+v", garbage, got)
		}
	}
	click, inbound := webhook.Click, webhook.Inbound
	for _, q := range []Query{
		{UserID: 42, MessageID: "5", Kind: &inbound}, {ID: "evt_0000000000000000000000", Kind: &inbound}, // its dead letter is of a click
		{ID: "evt_0000000000000000000001"}, {ID: "x"}, {ID: "sms-dlr/0/99"}, {UserID: 43, MessageID: "5"}, {UserID: 42, MessageID: "55"},
		{ID: "gateway:1", Since: time.Now().Add(time.Hour)}, {ID: "gateway:1", Kind: &click},
	} {
		if got := e.find(q); len(got) != 0 {
			t.Errorf("%+v: found %+v", q, got)
		}
	}
}

// TestMiskeyedRecord checks that the dead letter of a record whose key is not its user id is found: an event without an
// attempt has a dead letter with the source's key, and one that was delayed has a dead letter with the user id as its key.
func TestMiskeyedRecord(t *testing.T) {
	const user, other = int64(42), int64(7)
	if home(user) == home(other) {
		t.Fatal("the keys hash to the same partition")
	}
	e := newEnv(t)
	for _, key := range []int64{user, other} {
		source := e.write("sms-dlr", home(other), other, value(user, "1"))
		id := e.id(source)
		headers := []string{"smshooks-id", id, "smshooks-kind", "dlr", "smshooks-attempts", "1", "smshooks-due", due}
		committed, copies := []*kgo.Record{source}, []string{position(source, "+")}
		if key == user {
			retry := e.write("sms-dlr-retry-6h", source.Partition, user, source.Value, headers...)
			committed, copies = append(committed, retry), append(copies, position(retry, "+"))
		}
		dead := e.write("dead", home(key), key, source.Value, append(headers, "smshooks-reason", "attempts_exhausted")...)
		copies = append(copies, position(dead, ""))
		e.finish(committed...)
		if got := e.one(Query{ID: id}); got.State != Dead || !reflect.DeepEqual(got.records(), copies) {
			t.Errorf("dead letter with the key %d: %s with %v, want dead with %v", key, got.State, got.records(), copies)
		}
	}
}

// TestWithoutLog checks that the delivery log may be unavailable.
func TestWithoutLog(t *testing.T) {
	e := newEnv(t)
	r := e.write("sms-dlr", 0, 42, value(42, "1"))
	e.finish(r)
	e.cfg.Log = func(context.Context, int64) ([]event.LogEntry, error) { return nil, errors.New("refused") }
	var warned []error
	e.cfg.Warn = func(err error) { warned = append(warned, err) }
	if got := e.one(Query{ID: e.id(r)}); got.State != Settled || len(warned) != 1 {
		t.Errorf("state %s with the warnings %v", got.State, warned)
	}
}

// TestOtherDelays checks that an event is found in a delay topic of other settings: the command has the defaults, and the
// service does not.
func TestOtherDelays(t *testing.T) {
	e := newEnv(t)
	if _, err := e.admin.CreateTopic(t.Context(), 4, 1, nil, "sms-dlr-retry-2h"); err != nil {
		t.Fatal(err)
	}
	source := e.write("sms-dlr", 0, 42, value(42, "1"))
	e.finish(source)
	id := e.id(source)
	delayed := e.write("sms-dlr-retry-2h", 0, 42, source.Value, event.HeaderID, id, event.HeaderKind, "dlr", event.HeaderAttempts, "1",
		event.HeaderError, "timeout", event.HeaderDue, "2026-02-27T16:30:00.000Z")
	var warned []error
	e.cfg.Warn = func(err error) { warned = append(warned, err) }
	inbound := webhook.Inbound
	if got := e.find(Query{UserID: 42, MessageID: "1", Kind: &inbound}); len(got) != 0 {
		t.Errorf("found %+v", got)
	}
	for _, q := range []Query{{ID: id}, {UserID: 42, MessageID: "1"}} {
		got := e.one(q)
		if got.State != Waiting || got.Attempts != 1 || got.Failure != webhook.Timeout || len(got.Copies) != 2 || len(warned) != 1 ||
			!strings.Contains(warned[0].Error(), "retry.drain=2h") {
			t.Errorf("%+v: %+v with the warnings %v", q, got, warned)
		}
		warned = nil
	}
	e.finish(source, delayed)
	if got := e.one(Query{ID: id}); got.State != Settled || warned != nil {
		t.Errorf("finished: %+v with the warnings %v", got, warned)
	}
}

// TestCommitOfADeletedTopic checks that a commit with the mark of another topic is ignored.
func TestCommitOfADeletedTopic(t *testing.T) {
	e := newEnv(t)
	r := e.write("sms-dlr", 0, 42, value(42, "1"))
	var commit kadm.Offsets
	commit.Add(kadm.Offset{Topic: "sms-dlr", Partition: 0, At: 1, LeaderEpoch: -1, Metadata: *kafka.CommitMark([16]byte{1})})
	if err := e.admin.CommitAllOffsets(t.Context(), "g", commit); err != nil {
		t.Fatal(err)
	}
	if got := e.one(Query{ID: e.id(r)}); got.State != Pending || got.Copies[0].Committed {
		t.Errorf("%+v", got)
	}
}

// TestManyReaders reads a partition with several readers.
func TestManyReaders(t *testing.T) {
	e := newEnv(t)
	f := &finder{cfg: e.cfg, client: e.client, found: map[identity]*Event{}}
	const n = 3000
	records := make([]*kgo.Record, n)
	for i := range records {
		records[i] = &kgo.Record{Topic: "sms-dlr", Partition: 1, Value: value(42, strconv.Itoa(i))}
	}
	if err := e.client.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := f.survey(t.Context()); err != nil {
		t.Fatal(err)
	}
	var parts []part
	for _, source := range f.sources() {
		parts = append(parts, source.parts()...)
	}
	if err := f.readIn(t.Context(), parts, 700, func(*topic) matcher { return eventOf }); err != nil {
		t.Fatal(err)
	}
	if len(f.found) != n {
		t.Errorf("%d events, want %d", len(f.found), n)
	}
}

// TestReadsOnlyTheUsersPartitions checks that a search reads the partitions of the user's key and no others, unless
// nothing is found there.
func TestReadsOnlyTheUsersPartitions(t *testing.T) {
	e := newEnv(t)
	for _, name := range append(plan.Consumed(), plan.DeadLetter) {
		for partition := range int32(4) {
			e.write(name, partition, 7, value(7, "70"))
		}
	}
	source := e.write("sms-dlr", home(42), 42, value(42, "1"), "webhook-id", "gateway:1")
	derived := e.write("sms-dlr", home(42), 42, value(42, "2"))
	var (
		mu   sync.Mutex
		read = map[int32]bool{}
	)
	e.cluster.ControlKey(int16(kmsg.Fetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		e.cluster.KeepControl()
		mu.Lock()
		defer mu.Unlock()
		for _, topic := range req.(*kmsg.FetchRequest).Topics {
			for _, p := range topic.Partitions {
				read[p.Partition] = true
			}
		}
		return nil, nil, false
	})
	for _, tc := range []struct {
		query Query
		all   bool
	}{
		{query: Query{UserID: 42, MessageID: "1"}}, {query: Query{ID: "gateway:1", UserID: 42}}, {query: Query{ID: e.id(derived)}},
		{query: Query{ID: position(source, "")}}, {query: Query{ID: "gateway:1", UserID: 43}, all: home(43) != home(42)},
	} {
		e.one(tc.query)
		mu.Lock()
		if only := len(read) == 1 && read[home(42)]; only == tc.all {
			t.Errorf("%+v: partitions %v are read, the user's is %d", tc.query, read, home(42))
		}
		clear(read)
		mu.Unlock()
	}
}

func BenchmarkDerive(b *testing.B) {
	d, _ := event.ParseDerived("evt_0000000000000000000001")
	for b.Loop() {
		d.Is(event.Namespace("0123456789abcdef"), 1, 2, 0)
	}
}

// TestPaused checks that a record in a paused topic is paused until it is due.
func TestPaused(t *testing.T) {
	e := newEnv(t)
	p := home(42)
	source := e.write("sms-dlr", p, 42, value(42, "1"))
	e.write(plan.Paused(webhook.DLR), p, 42, source.Value, "smshooks-id", e.id(source), "smshooks-due", due)
	e.finish(source)
	if got := e.one(Query{UserID: 42, MessageID: "1"}); got.State != Paused || got.Attempts != 0 || len(got.Copies) != 2 {
		t.Errorf("%+v", got)
	}
}
