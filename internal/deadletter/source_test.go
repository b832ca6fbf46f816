package deadletter

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// source writes a source record of user 42 and returns the origin of its event.
func (k *fakeKafka) source(message int, headers ...kgo.RecordHeader) (Origin, *kgo.Record) {
	k.t.Helper()
	topic := testConfig.Sources[webhook.DLR]
	details, err := kadm.NewClient(k.client).ListTopics(k.t.Context(), topic)
	if err != nil {
		k.t.Fatal(err)
	}
	r := &kgo.Record{Topic: topic, Key: []byte("42"), Headers: headers, Value: fmt.Appendf(nil, `{"user_id":42,"sms":{"id":%d}}`, message)}
	if err := k.client.ProduceSync(k.t.Context(), r).FirstErr(); err != nil {
		k.t.Fatal(err)
	}
	e := event.Event{Record: event.Record{
		Class: topics.Source, Topic: topic, Partition: r.Partition, Offset: r.Offset, Namespace: event.NamespaceOf(details[topic].ID, topic, ""),
	}}
	return Origin{ID: e.Identity(), UserID: 42, Kind: webhook.DLR, Partition: r.Partition, Offset: r.Offset}, r
}

func TestSource(t *testing.T) {
	k := newKafka(t)
	s := k.store()
	o, want := k.source(1)
	named, _ := k.source(2, kgo.RecordHeader{Key: event.HeaderGatewayID, Value: []byte("gateway:1")})
	old := o
	old.ID = fmt.Sprintf("%s/%d/%d", want.Topic, want.Partition, want.Offset) // as earlier versions named it
	byGateway := named
	byGateway.ID = "gateway:1"
	for name, o := range map[string]Origin{"derived": o, "position": old, "gateway's": byGateway} {
		if r, err := s.Source(t.Context(), o); err != nil || r == nil || r.Offset != o.Offset {
			t.Errorf("%s: %v, %v", name, r, err)
		}
	}
	change := func(f func(*Origin)) Origin { c := o; f(&c); return c }
	for name, o := range map[string]Origin{
		"of another user": change(func(o *Origin) { o.UserID = 43 }), "of another event": change(func(o *Origin) { o.ID = "evt_0000000000000000000000" }),
		"behind the end": change(func(o *Origin) { o.Offset = 1e6 }), "unknown": change(func(o *Origin) { o.Offset = -1 }),
		"of a deleted topic": change(func(o *Origin) { o.Kind = webhook.Inbound }), "a batch": change(func(o *Origin) { o.Kind = webhook.RevokeClick }),
		"the position's id, the gateway's counts": named,
	} {
		if r, err := s.Source(t.Context(), o); err != nil || r != nil {
			t.Errorf("%s: %v, %v", name, r, err)
		}
	}
	k.cluster.Close()
	if r, err := s.Source(t.Context(), o); err == nil || r != nil {
		t.Errorf("Kafka away: %v, no error", r)
	}
}

// The body of a batch comes from the record that was stored when its attempt failed.
func TestSourceOfABatch(t *testing.T) {
	k := newKafka(t)
	s := k.store()
	now := time.Now()
	write := func(topic, id string, user int64, at time.Time) *kgo.Record {
		r := &kgo.Record{Topic: topic, Key: []byte("42"), Value: fmt.Appendf(nil, `{"user_id":%d,"api_sms_ids":[1],"campaign_sms_ids":[]}`, user),
			Headers: []kgo.RecordHeader{{Key: event.HeaderID, Value: []byte(id)}}, Timestamp: at}
		if err := k.client.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
		return r
	}
	write("rev-r", "evt_1", 42, now.Add(-time.Hour)) // of an earlier attempt
	write("rev-r", "evt_2", 42, now)
	retry := write("rev-r", "evt_1", 42, now)
	write("rev-r", "evt_3", 43, now)
	dead := write("dead", "evt_4", 42, now)
	late := write("rev-r", "evt_5", 42, now.Add(time.Hour))
	origin := Origin{ID: "evt_1", UserID: 42, Kind: webhook.RevokeClick, Partition: retry.Partition, Failed: now}
	change := func(f func(*Origin)) Origin { c := origin; f(&c); return c }
	for name, c := range map[string]struct {
		o    Origin
		want *kgo.Record
	}{
		"retry":            {origin, retry},
		"dead letter":      {change(func(o *Origin) { o.ID = "evt_4" }), dead},
		"later":            {change(func(o *Origin) { o.ID, o.Failed = "evt_5", now.Add(time.Hour) }), late},
		"of another time":  {change(func(o *Origin) { o.ID = "evt_5" }), nil},
		"of another user":  {change(func(o *Origin) { o.ID = "evt_3" }), nil},
		"unknown":          {change(func(o *Origin) { o.ID = "evt_9" }), nil},
		"never failed":     {change(func(o *Origin) { o.Failed = time.Time{} }), nil},
		"in another place": {change(func(o *Origin) { o.Partition = retry.Partition + 1 }), nil},
	} {
		got, err := s.Source(t.Context(), c.o)
		if err != nil || (got == nil) != (c.want == nil) || got != nil && (got.Topic != c.want.Topic || got.Offset != c.want.Offset) {
			t.Errorf("%s: found %+v, %v", name, got, err)
		}
	}
}

// TestBatchIsMerged checks that the body of a batch that was delivered at once is merged again from its records.
func TestBatchIsMerged(t *testing.T) {
	k := newKafka(t)
	s := k.store()
	s.cfg.MaxIDs = 3
	var first, last *kgo.Record
	for i, value := range []string{`{"user_id":42,"api_sms_ids":[1,2]}`, `{"user_id":43,"api_sms_ids":[9]}`, `{"user_id":42}`, `garbage`,
		`{"user_id":42,"api_sms_ids":[2,3],"campaign_sms_ids":[4]}`, `{"user_id":42,"api_sms_ids":[5]}`} {
		r := &kgo.Record{Topic: testConfig.Sources[webhook.RevokeClick], Key: []byte("42"), Value: []byte(value)}
		if err := k.client.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = r
		}
		if i < 5 {
			last = r // the next one belongs to the next batch
		}
	}
	details, err := kadm.NewClient(k.client).ListTopics(t.Context(), first.Topic)
	if err != nil {
		t.Fatal(err)
	}
	e := event.Event{Record: event.Record{Partition: first.Partition, Offset: first.Offset, Namespace: event.NamespaceOf(details[first.Topic].ID, first.Topic, "")}}
	origin := func(n int, change func(*Origin)) Origin {
		o := Origin{ID: e.BatchIdentity(n), UserID: 42, Kind: webhook.RevokeClick, Partition: first.Partition, Offset: first.Offset, End: last.Offset + 1}
		change(&o)
		return o
	}
	for name, c := range map[string]struct {
		o    Origin
		want string
	}{
		"first":            {origin(0, func(*Origin) {}), `{"user_id":42,"api_sms_ids":[1,2,3],"campaign_sms_ids":[]}`},
		"second":           {origin(1, func(*Origin) {}), `{"user_id":42,"api_sms_ids":[],"campaign_sms_ids":[4]}`},
		"third":            {origin(2, func(*Origin) {}), ""},
		"as it was cut":    {origin(0, func(o *Origin) { o.IDs = 3 }), `{"user_id":42,"api_sms_ids":[1,2,3],"campaign_sms_ids":[]}`},
		"cut otherwise":    {origin(0, func(o *Origin) { o.IDs = 4 }), ""},
		"of another user":  {origin(0, func(o *Origin) { o.UserID = 43 }), ""},
		"unknown end":      {origin(0, func(o *Origin) { o.End = 0 }), ""},
		"behind the end":   {origin(0, func(o *Origin) { o.End = last.Offset + 10 }), ""},
		"too long to read": {origin(0, func(o *Origin) { o.End = last.Offset + mergedRecords }), ""},
	} {
		got, err := s.Source(t.Context(), c.o)
		if err != nil || (got == nil) != (c.want == "") || got != nil && string(got.Value) != c.want {
			t.Errorf("%s: %+v, %v, want %s", name, got, err, c.want)
		}
	}
}

// refusing admits no event with one of these ids.
type refusing struct {
	ids    map[string]bool
	asked  []*Candidate
	stored int
}

func (g *refusing) Admit(_ context.Context, events []*Candidate) (admitted []bool, err error) {
	g.asked = append(g.asked, events...)
	for _, e := range events {
		admitted = append(admitted, !g.ids[e.ID])
	}
	return admitted, nil
}

func (g *refusing) Stored(_ context.Context, events []*Candidate) { g.stored += len(events) }

func (g *refusing) Failed(context.Context, []*Candidate) {}

func TestResend(t *testing.T) {
	k := newKafka(t)
	s := k.store()
	var notes []event.LogEntry
	s.cfg.Note = func(a event.LogEntry) { notes = append(notes, a) }
	first, record := k.source(1, kgo.RecordHeader{Key: event.HeaderTrace, Value: []byte("00-1")})
	second, _ := k.source(2)
	lost := second
	lost.Offset = 1e6
	lost.ID = "evt_0000000000000000000000"
	guard := &refusing{ids: map[string]bool{second.ID: true}}
	n, err := s.Resend(t.Context(), []Origin{first, lost, second, first}, guard)
	if n != 1 || err != nil || guard.stored != 1 || len(guard.asked) != 2 {
		t.Fatalf("%d sent again, %v; the guard was asked about %d events and saw %d stored", n, err, len(guard.asked), guard.stored)
	}
	for _, c := range guard.asked {
		if c.Partition != -1 || c.UserID != 42 {
			t.Errorf("the guard was asked about %+v", c)
		}
	}
	records := k.overflowed(1)
	r := records[first.ID]
	if len(records) != 1 || r == nil || string(r.Value) != string(record.Value) || string(r.Key) != "42" || r.Partition != record.Partition ||
		r.Topic != testConfig.Overflow[webhook.DLR] {
		t.Fatalf("stored %+v", records)
	}
	if len(notes) != 1 || notes[0].ID != first.ID || notes[0].UserID != 42 || notes[0].Message.String() == "" || notes[0].Fate != webhook.Overflow ||
		!notes[0].Next.Equal(notes[0].Time) || notes[0].Partition != record.Partition || notes[0].Offset != record.Offset {
		t.Errorf("noted %+v", notes)
	}
	headers := map[string]string{}
	for _, h := range r.Headers {
		headers[h.Key] = string(h.Value)
	}
	if headers[event.HeaderOrigin] != record.Topic+"/"+strconv.Itoa(int(record.Partition))+"/"+strconv.FormatInt(record.Offset, 10) ||
		headers[event.HeaderAttempts] != "0" || headers[event.HeaderReplayed] == "" || headers[event.HeaderTime] != event.FormatTime(record.Timestamp) || headers[event.HeaderTrace] != "00-1" {
		t.Errorf("headers %v", headers)
	}
}

// TestResendBatch checks that a batch of revocations is sent again from its source records, or else from the record that
// was stored when its attempt failed, with the origin and the time of its first record.
func TestResendBatch(t *testing.T) {
	k := newKafka(t)
	s := k.store()
	s.cfg.MaxIDs = 3
	source := testConfig.Sources[webhook.RevokeClick]
	at := time.Now().Add(-time.Hour).Truncate(time.Millisecond)
	record := &kgo.Record{Topic: source, Key: []byte("42"), Value: []byte(`{"user_id":42,"api_sms_ids":[1]}`), Timestamp: at}
	stored := &kgo.Record{Topic: "rev-r", Key: []byte("42"), Value: []byte(`{"user_id":42,"api_sms_ids":[2],"campaign_sms_ids":[]}`),
		Headers: []kgo.RecordHeader{
			{Key: event.HeaderID, Value: []byte("evt_2")}, {Key: event.HeaderOrigin, Value: []byte(source + "/3/7")},
			{Key: event.HeaderTime, Value: []byte(event.FormatTime(at))}, {Key: event.HeaderAttempts, Value: []byte("1")},
		}}
	if err := k.client.ProduceSync(t.Context(), record, stored).FirstErr(); err != nil {
		t.Fatal(err)
	}
	details, err := kadm.NewClient(k.client).ListTopics(t.Context(), source)
	if err != nil {
		t.Fatal(err)
	}
	first := event.Event{Record: event.Record{Partition: record.Partition, Offset: record.Offset, Namespace: event.NamespaceOf(details[source].ID, source, "")}}
	merged := Origin{ID: first.BatchIdentity(0), UserID: 42, Kind: webhook.RevokeClick, Partition: record.Partition, Offset: record.Offset,
		End: record.Offset + 1}
	failed := Origin{ID: "evt_2", UserID: 42, Kind: webhook.RevokeClick, Partition: stored.Partition, Offset: -1, Failed: stored.Timestamp}
	if n, err := s.Resend(t.Context(), []Origin{merged, failed}, nil); n != 2 || err != nil {
		t.Fatalf("%d sent again, %v", n, err)
	}
	records := k.overflowed(2)
	for id, want := range map[string]struct{ value, origin string }{
		merged.ID: {`{"user_id":42,"api_sms_ids":[1],"campaign_sms_ids":[]}`, fmt.Sprintf("%s/%d/%d", source, record.Partition, record.Offset)},
		"evt_2":   {string(stored.Value), source + "/3/7"},
	} {
		e := event.Event{Record: event.Record{Class: topics.Overflow}}
		r := records[id]
		if r == nil {
			t.Fatalf("%s was not sent", id)
		}
		for _, h := range r.Headers {
			e.SetHeader(h.Key, h.Value)
		}
		if r.Topic != testConfig.Overflow[webhook.RevokeClick] || string(r.Value) != want.value || e.Origin != want.origin || !e.Time.Equal(at) ||
			e.Attempts != 0 || !e.IsReplay() {
			t.Errorf("%s: %s to %s, %+v", id, r.Value, r.Topic, e.Delivery)
		}
	}
}
