package release

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/kafka"
	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// member joins the group of the workers and subscribes to topics until the test ends.
func (k *env) member(names ...string) {
	k.Helper()
	client, err := k.newClient(kgo.ConsumerGroup("group"), kgo.ConsumeTopics(names...), kgo.DisableAutoCommit())
	if err != nil {
		k.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			client.PollFetches(ctx)
		}
	}()
	k.Cleanup(func() { stop(); <-done; client.Close() })
	k.eventually("the member has joined", func() bool {
		subscribed, err := kafka.Subscribed(k.Context(), k.client, "group")
		return err == nil && len(subscribed) >= len(names)
	})
}

// withCopies adds the partitions of copies to an owner's partitions.
func (o *owner) withCopies() *owner {
	for n := range int32(3) {
		o.partitions = append(o.partitions, event.Partition{
			Topic: "released", Number: n, Kind: webhook.DLR, Class: topics.Overflow, Owned: o.owned,
			Finished: func([16]byte, int64, int32) bool { return false },
		})
	}
	return o
}

// TestUnread checks that a recovery ends although it names a topic that no member reads, a deleted topic, and
// partitions that no longer exist. It releases events in other topics; events in the topic that nobody reads are sent
// when they are due. A topic that a member reads keeps the recovery running until that member has done the work.
func TestUnread(t *testing.T) {
	k := newEnv(t)
	admin := kadm.NewClient(k.client)
	if _, err := admin.CreateTopics(t.Context(), 2, 1, nil, "other", "deleted", "slow"); err != nil {
		t.Fatal(err)
	}
	k.delay("retry", 1, "42", 5)
	k.delay("other", 1, "42", 3)
	k.member("retry", "overflow", "released")
	api := k.start(&owner{})
	ids, err := api.Begin(t.Context(), Marker{Cause: Customer, User: 42}, []string{"retry", "overflow", "other", "deleted"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := admin.DeleteTopics(t.Context(), "deleted"); err != nil {
		t.Fatal(err)
	}
	i := k.start(k.owner(0).withCopies())
	k.eventually("the work is done", func() bool {
		units := i.pending(0)
		return len(units) == 4 && units[0] == unit{"deleted", 0} && units[2] == unit{"other", 0}
	})
	i.stop()
	w := i.worker
	look := func(after time.Duration) (ended bool, err error) {
		w.unreadAfter, w.lookedUnread = after, time.Time{}
		return w.endUnread(t.Context())
	}
	// The log of a stopped instance reads nothing, so the worker gets that of the other.
	w.releases = api.Log
	k.eventually("the other instance knows", func() bool { return len(api.pending(0)) == 4 })
	if ended, err := look(time.Hour); ended || err != nil {
		t.Errorf("a recovery that has just begun: %v, %v", ended, err)
	}
	for n := range 4 {
		if ended, err := look(0); !ended || err != nil {
			t.Fatalf("unit %d: %v, %v", n, ended, err)
		}
	}
	if s := k.done(api, ids[0]); s.Released != 5 {
		t.Errorf("%d released, want only those of the topic with a reader", s.Released)
	}
	e := delayedEvent("42", 0)
	e.Topic, e.Partition = "other", 1
	if released, undecided := api.Decide(e); released || undecided {
		t.Errorf("the record without a copy: released %v, undecided %v", released, undecided)
	}
	if ended, err := look(0); ended || err != nil {
		t.Errorf("nothing is left: %v, %v", ended, err)
	}

	k.member("slow")
	slow, err := api.Begin(t.Context(), Marker{Cause: Customer, User: 43}, []string{"slow"})
	if err != nil {
		t.Fatal(err)
	}
	k.eventually("both members have joined", func() bool {
		subscribed, err := kafka.Subscribed(t.Context(), k.client, "group")
		return err == nil && slices.Contains(subscribed, "slow") && slices.Contains(subscribed, "retry")
	})
	if ended, err := look(0); ended || err != nil {
		t.Errorf("a topic that a member reads: %v, %v", ended, err)
	}
	if s, _ := api.Status(slow[0]); !s.Ended.IsZero() {
		t.Error("the recovery has ended before the work was done")
	}
}

// TestUnreadFences checks that a worker that ends a unit and an owner that works on it exclude each other.
func TestUnreadFences(t *testing.T) {
	k := newEnv(t)
	k.delay("retry", 0, "42", 3)
	i := k.start(&owner{})
	id := k.begin(i, Marker{Cause: Customer, User: 42})
	w := i.worker
	p := &pass{Worker: w, task: &task{job: i.jobs(unit{"retry", 0})[0], owned: k.owner(0).partitions[0]}}
	defer p.close()
	if _, err := w.locate(t.Context(), []*task{p.task}); err != nil {
		t.Fatal(err)
	}
	if err := p.fence(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.endUnit(t.Context(), unit{"retry", 0}); err != nil {
		t.Fatal(err)
	}
	if err := p.work(t.Context()); err == nil || errors.Is(err, errChanged) {
		t.Errorf("an owner that began before the unit was ended has copied: %v", err)
	}
	if jobs := i.jobs(unit{"retry", 0}); len(jobs) != 0 {
		t.Errorf("%d jobs are left of recovery %s", len(jobs), id)
	}
	if n := len(k.copies()); n != 0 {
		t.Errorf("%d copies", n)
	}
}
