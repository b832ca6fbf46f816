package release

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap/zaptest"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/webhook"
)

func TestRecovery(t *testing.T) {
	k := newEnv(t)
	k.delay("retry", 1, "42", 50)
	k.delay("retry", 1, "43", 50)
	k.delay("overflow", 2, "42", 5)
	o := k.owner(10) // offsets below 10 are finished
	i := k.start(o)
	id := k.begin(i, Marker{Cause: Customer, User: 42})
	if s := k.done(i, id); s.Released != 40 {
		t.Errorf("%d released, want 40", s.Released)
	}
	if o.woken.Load() == 0 {
		k.Error("the consumer was not woken for the copies")
	}
	for value, records := range k.wantCopies(i, 40) {
		r, e := records[0], &event.Event{}
		for _, h := range r.Headers {
			e.SetHeader(h.Key, h.Value)
		}
		if r.Partition != 1 || string(r.Key) != "42" || e.Attempts != 1 || e.ID == "" || time.Since(e.Due) > time.Minute || len(r.Headers) != 4 {
			t.Errorf("%s: %+v, due %v", value, r, e.Due)
		}
	}
	k.mu.Lock()
	if len(k.notes) != 40 {
		k.Errorf("%d notes, want 40", len(k.notes))
	}
	for _, a := range k.notes {
		if a.UserID != 42 || a.ID == "" || a.Number != 0 || a.Fate != webhook.Overflow || !a.Next.Equal(a.Time) || time.Since(a.Next) > time.Minute {
			k.Errorf("noted %+v", a)
		}
	}
	k.mu.Unlock()
	// No recovery has selected later ones, and a second recovery copies only these.
	k.delay("retry", 1, "42", 3)
	again := k.begin(i, Marker{Cause: Operator})
	if s := k.done(i, again); s.Released != 53 {
		t.Errorf("%d released by the second recovery, want 3 of one user and 50 of the other", s.Released)
	}
}

// TestFailsAgain checks that a released event that is stored again before the worker examines that partition waits for
// its full delay.
func TestFailsAgain(t *testing.T) {
	k := newEnv(t)
	k.delay("retry", 1, "42", 5)
	api := k.start(&owner{})
	asked := time.Now()
	id := k.begin(api, Marker{Cause: Customer, User: 42})
	if took := time.Since(asked); took < retriesSettle {
		t.Errorf("the recovery began after %v: retries that are being stored then are not selected", took)
	}
	k.delay("retry", 1, "42", 3)
	k.delay("retry", 2, "42", 3)
	i := k.start(k.owner(0))
	if s := k.done(i, id); s.Released != 5 {
		t.Errorf("%d released, want the 5 that were delayed when the recovery began", s.Released)
	}
	k.wantCopies(i, 5)
}

// TestOverlap checks that two recoveries that select the same records copy each once, also if both run at the same
// time.
func TestOverlap(t *testing.T) {
	k := newEnv(t)
	k.delay("retry", 0, "42", 18*maxCopies)
	i, other := k.start(k.owner(0)), k.start(&owner{})
	var ids []string
	for n := range 6 {
		from := i
		if n%2 == 1 {
			from = other
		}
		ids = append(ids, k.begin(from, Marker{Cause: Operator, User: []int64{42, 0}[n%2], IDs: nil}))
	}
	released := int64(0)
	for _, id := range ids {
		released += k.done(i, id).Released
	}
	if released != 18*maxCopies {
		t.Errorf("%d released by all, want %d", released, 18*maxCopies)
	}
	k.wantCopies(i, 18*maxCopies)
}

// TestOwnerChanges checks that wherever the owner loses its partitions, the next one copies the rest and nothing twice.
func TestOwnerChanges(t *testing.T) {
	for looks := int64(1); looks <= 25; looks += 3 {
		t.Run(fmt.Sprint(looks), func(t *testing.T) {
			t.Parallel()
			k := newEnv(t)
			const events = 10*maxCopies + 70
			k.delay("retry", 2, "42", events)
			first := k.owner(0)
			first.looks.Store(looks)
			a, b := k.start(first), k.start(&owner{})
			id := k.begin(b, Marker{Cause: Customer, User: 42})
			k.eventually("the first owner has lost its partitions, or is done", func() bool {
				s, _ := a.Status(id)
				return first.revoked.Load() || !s.Ended.IsZero()
			})
			a.stop()
			c := k.start(k.owner(0))
			if s := k.done(c, id); s.Released != events {
				t.Errorf("%d released, want %d", s.Released, events)
			}
			k.wantCopies(c, events)
		})
	}
}

// TestPreviousOwner checks that a previous owner with an open transaction cannot commit it once another owner has begun.
func TestPreviousOwner(t *testing.T) {
	k := newEnv(t)
	k.delay("retry", 0, "42", 10)
	a := k.start(&owner{})
	id := k.begin(a, Marker{Cause: Customer, User: 42})
	previous := &pass{Worker: a.worker, task: &task{job: a.jobs(unit{"retry", 0})[0], owned: k.owner(0).partitions[0]}}
	defer previous.close()
	if _, err := a.worker.locate(t.Context(), []*task{previous.task}); err != nil {
		t.Fatal(err)
	}
	if err := previous.fence(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := previous.client.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	late := &kgo.Record{Topic: "released", Partition: 0, Key: []byte("42"), Value: []byte("late")}
	if err := previous.client.ProduceSync(t.Context(), late).FirstErr(); err != nil {
		t.Fatal(err)
	}
	b := k.start(k.owner(0))
	if s := k.done(b, id); s.Released != 10 {
		t.Errorf("%d released, want 10", s.Released)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := previous.client.EndTransaction(ctx, kgo.TryCommit); err == nil {
		t.Error("the previous owner has committed")
	}
	if copies := k.wantCopies(b, 10); copies["late"] != nil {
		t.Error("the previous owner's copy is read")
	}
}

// TestFurther checks that a new owner that finds a committed span after it has begun starts again after that span.
func TestFurther(t *testing.T) {
	k := newEnv(t)
	k.delay("retry", 0, "42", 10)
	a := k.start(&owner{})
	id := k.begin(a, Marker{Cause: Customer, User: 42})
	j := a.jobs(unit{"retry", 0})[0]
	p := &pass{Worker: a.worker, task: &task{job: j, owned: k.owner(0).partitions[0]}}
	defer p.close()
	a.apply(entry{Progress: &progress{Topic: "retry", Span: Span{Start: 0, Next: 5, End: 10}, Released: map[string]int64{id: 5}}})
	if err := p.fence(t.Context()); !errors.Is(err, errChanged) {
		t.Errorf("fence: %v", err)
	}
}

// TestCopiedForAnother checks that a previous owner's span of another recovery counts even if it is read only after that
// owner's transactions were ended.
func TestCopiedForAnother(t *testing.T) {
	k := newEnv(t)
	k.delay("retry", 0, "42", 10)
	a := k.start(&owner{})
	other, id := k.begin(a, Marker{Cause: Operator}), k.begin(a, Marker{Cause: Customer, User: 42})
	topic, err := kadm.NewClient(k.client).ListTopics(t.Context(), "retry")
	if err != nil {
		t.Fatal(err)
	}
	id16 := topic["retry"].ID
	span := Span{Space: id16[:], Start: 0, Next: 3, End: 10}
	a.apply(entry{Progress: &progress{Topic: "retry", Span: span, Released: map[string]int64{other: 3}}})
	var mine *job
	for _, j := range a.jobs(unit{"retry", 0}) {
		if !j.begun {
			mine = j
		}
	}
	p := &pass{Worker: a.worker, task: &task{job: mine, owned: k.owner(0).partitions[0]}}
	defer p.close()
	if _, err := a.worker.locate(t.Context(), []*task{p.task}); err != nil {
		t.Fatal(err)
	}
	// The previous owner has come to 7, which is not read yet.
	span.Next = 7
	r := record("releases", "retry/0", entry{Progress: &progress{Topic: "retry", Span: span, Released: map[string]int64{other: 7}}})
	r.Partition = 0
	if err := k.client.ProduceSync(t.Context(), r).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := p.work(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(k.copies()); n != 3 {
		t.Errorf("%d copies, want those after the previous owner's span", n)
	}
	if err := a.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s, _ := a.Status(id); s.Released != 3 {
		t.Errorf("%d released", s.Released)
	}
}

// TestHeldIsNotCopied checks that records that the gate has passed on or holds are before the span.
func TestHeldIsNotCopied(t *testing.T) {
	k := newEnv(t)
	k.delay("retry", 0, "42", 10)
	o := k.owner(0)
	for n := range o.partitions {
		if o.partitions[n].Topic == "retry" && o.partitions[n].Number == 0 {
			o.partitions[n].Next, o.partitions[n].Undecided = 4, 2
		}
	}
	i := k.start(o)
	if s := k.done(i, k.begin(i, Marker{Cause: Customer, User: 42})); s.Released != 6 {
		t.Errorf("%d released, want 6", s.Released)
	}
	bounds, err := kadm.NewClient(k.client).ListTopics(t.Context(), "retry")
	if err != nil {
		t.Fatal(err)
	}
	for offset := range int64(10) {
		e := &event.Event{Record: event.Record{
			Topic: "retry", Offset: offset, Epoch: -1, Key: []byte("42"), Namespace: event.NamespaceOf(bounds["retry"].ID, "retry", ""),
		}, Delivery: event.Delivery{ID: "evt_42_1"}}
		if released, undecided := i.Decide(e); released != (offset >= 4) || undecided {
			t.Errorf("the record at %d: %v, %v", offset, released, undecided)
		}
	}
}

// TestRememberedAsLongAsTheTopic checks that a recovery's releases are known as long as the topic holds its marker, at
// any age: the records left behind may be read late.
func TestRememberedAsLongAsTheTopic(t *testing.T) {
	k := newEnv(t)
	k.delay("retry", 0, "42", 3)
	i := k.start(k.owner(0))
	id := k.begin(i, Marker{Cause: Customer, User: 42})
	k.done(i, id)
	if err := i.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	i.cfg.Keep = -time.Hour // the recovery is older
	i.forgetGone(t.Context())
	details, err := kadm.NewClient(k.client).ListTopics(t.Context(), "retry")
	if err != nil {
		t.Fatal(err)
	}
	left := delayedEvent("42", 1)
	left.Topic, left.Partition, left.Epoch = "retry", 0, -1
	left.Namespace = event.NamespaceOf(details["retry"].ID, "retry", "")
	if released, _ := i.Decide(left); !released {
		t.Error("the releases are forgotten although the topic holds the marker")
	}
	ends, err := kadm.NewClient(k.client).ListEndOffsets(t.Context(), "releases")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kadm.NewClient(k.client).DeleteRecords(t.Context(), ends.Offsets()); err != nil {
		t.Fatal(err)
	}
	i.forgetGone(t.Context())
	if _, known := i.Status(id); known {
		t.Error("a recovery whose marker was removed is remembered")
	}
}

func TestCount(t *testing.T) {
	k := newEnv(t)
	k.delay("retry", 0, "42", 10)
	k.delay("overflow", 1, "42", 5)
	k.delay("overflow", 1, "43", 5)
	i := k.start(&owner{})
	describe := func(string) topics.Info { return topics.Info{Kind: webhook.DLR, Class: topics.Retry} }
	count := func(m Marker) int64 {
		t.Helper()
		n, err := i.Count(t.Context(), m, []string{"retry", "overflow"}, "group", "", describe)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	var commit kadm.Offsets
	commit.Add(kadm.Offset{Topic: "retry", Partition: 0, At: 3, LeaderEpoch: -1})
	if err := kadm.NewClient(k.client).CommitAllOffsets(t.Context(), "group", commit); err != nil {
		t.Fatal(err)
	}
	for want, m := range map[int64]Marker{12: {User: 42}, 5: {User: 43}, 17: {}, 0: {User: 44}} {
		if n := count(m); n != want {
			t.Errorf("%+v selects %d, want %d", m, n, want)
		}
	}
	w := k.start(k.owner(3))
	k.done(w, k.begin(w, Marker{Cause: Operator, User: 43}))
	if err := i.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := count(Marker{User: 43}); n != 0 {
		t.Errorf("%d are left to release", n)
	}
}

// allPaused reports every endpoint as paused.
type allPaused struct{}

func (allPaused) Paused(context.Context, int64, webhook.Kind) (bool, error) { return true, nil }

// TestSweepTakesTurns checks that after a restart a recovery does not wait until all paused partitions were searched.
func TestSweepTakesTurns(t *testing.T) {
	k := newEnv(t)
	o := k.owner(0)
	for i := range o.partitions {
		if p := &o.partitions[i]; p.Topic == "overflow" {
			p.Class, p.Lease = topics.Paused, &lease{}
			k.delay(p.Topic, p.Number, "43", 3)
		}
	}
	k.delay("retry", 1, "42", 5)
	i := k.start(&owner{})
	id := k.begin(i, Marker{Cause: Customer, User: 42})
	w := NewWorker(i.worker.cfg, i.Log, o, zaptest.NewLogger(t))
	w.cfg.Pauses = allPaused{}
	for round := 1; round <= 3; round++ {
		if worked, err := w.round(t.Context()); err != nil || !worked || len(w.swept) != round {
			t.Fatalf("round %d: %d partitions swept, worked %v, %v", round, len(w.swept), worked, err)
		}
		if s, _ := i.Status(id); s.Released != 5 {
			t.Fatalf("round %d: %d released", round, s.Released)
		}
	}
}

// lease is never called.
type lease struct{ event.Lease }

// TestWithoutLeader checks that a partition whose end Kafka does not return does not hold up others.
func TestWithoutLeader(t *testing.T) {
	k := newEnv(t)
	k.delay("retry", 1, "42", 5)
	k.delay("retry", 2, "42", 3)
	i := k.start(&owner{})
	id := k.begin(i, Marker{Cause: Customer, User: 42})
	var answers atomic.Bool
	k.cluster.ControlKey(int16(kmsg.ListOffsets), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		k.cluster.KeepControl()
		req := kreq.(*kmsg.ListOffsetsRequest)
		resp := req.ResponseKind().(*kmsg.ListOffsetsResponse)
		for _, rt := range req.Topics {
			topic := kmsg.NewListOffsetsResponseTopic()
			topic.Topic = rt.Topic
			for _, rp := range rt.Partitions {
				p := kmsg.NewListOffsetsResponseTopicPartition()
				if p.Partition = rp.Partition; rt.Topic == "retry" && p.Partition == 1 {
					p.Offset = 5
				}
				if rt.Topic == "retry" && p.Partition == 2 {
					p.ErrorCode = kerr.UnknownServerError.Code
				}
				topic.Partitions = append(topic.Partitions, p)
			}
			resp.Topics = append(resp.Topics, topic)
		}
		retry := slices.ContainsFunc(req.Topics, func(t kmsg.ListOffsetsRequestTopic) bool { return t.Topic == "retry" })
		return resp, nil, retry && !answers.Load()
	})
	other := k.start(k.owner(0))
	k.eventually("the other partitions are done", func() bool {
		s, _ := other.Status(id)
		return s.Released == 5
	})
	answers.Store(true)
	if s := k.done(other, id); s.Released != 8 {
		t.Errorf("%d released, want 8", s.Released)
	}
}
