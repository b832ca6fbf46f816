package kafka

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/smshooks/smshooks/test/fakekafka"
)

// letters is a topic of one partition and a producer.
type letters struct {
	*Producer
	t *testing.T
	k *fakekafka.Cluster
}

func newLetters(t *testing.T) *letters {
	k := fakekafka.New(t, kfake.SeedTopics(1, "letters"))
	p, err := NewProducer(func() (*kgo.Client, error) {
		return k.NewClient(kgo.RequiredAcks(kgo.AllISRAcks()), kgo.MetadataMinAge(50*time.Millisecond))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return &letters{p, t, k}
}

// send produces a record. The channel receives its result.
func (l *letters) send(value string) <-chan error {
	result := make(chan error, 1)
	l.TryProduce(l.t.Context(), &kgo.Record{Topic: "letters", Value: []byte(value)}, func(_ *kgo.Record, err error) { result <- err })
	return result
}

func (l *letters) renew() {
	l.t.Helper()
	if err := l.Renew([]string{"letters"}); err != nil {
		l.t.Fatal(err)
	}
}

// want compares the records of the topic.
func (l *letters) want(values ...string) {
	l.t.Helper()
	var got []string
	r := l.k.Open(kgo.ConsumeTopics("letters"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	ends, err := kadm.NewClient(r).ListEndOffsets(l.t.Context(), "letters")
	if err != nil {
		l.t.Fatal(err)
	}
	end, _ := ends.Lookup("letters", 0)
	ctx, cancel := context.WithTimeout(l.t.Context(), 10*time.Second)
	defer cancel()
	for int64(len(got)) < end.Offset && ctx.Err() == nil {
		r.PollFetches(ctx).EachRecord(func(r *kgo.Record) { got = append(got, string(r.Value)) })
	}
	if !slices.Equal(got, values) {
		l.t.Errorf("the topic has %q, want %q", got, values)
	}
}

// TestRenewLosesNothing checks that what is acknowledged is stored, although the topic that is renewed is the one that
// was written before.
func TestRenewLosesNothing(t *testing.T) {
	l := newLetters(t)
	var want []string
	for n := range 6 {
		want = append(want, fmt.Sprint(n))
		if err := <-l.send(want[n]); err != nil {
			t.Fatal(err)
		}
		if n%2 == 1 {
			l.renew()
		}
	}
	l.want(want...)
}

// TestRenewStoresNothingTwice checks that a record that the broker has received succeeds, so that it is not produced
// again.
func TestRenewStoresNothingTwice(t *testing.T) {
	l := newLetters(t)
	arrived, answer := make(chan struct{}), make(chan struct{})
	var once sync.Once
	l.k.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		once.Do(func() { close(arrived) })
		l.k.SleepControl(func() { <-answer })
		return nil, nil, false
	})
	result := l.send("on its way")
	<-arrived
	l.renew()
	close(answer)
	if err := <-result; err != nil {
		t.Error(err)
	}
	l.want("on its way")
}

// TestRenewEndsWaiting checks that records for a topic that is gone fail, and that further ones reach the new topic.
func TestRenewEndsWaiting(t *testing.T) {
	l := newLetters(t)
	l.patience = 100 * time.Millisecond
	if err := <-l.send("to the topic that is deleted"); err != nil {
		t.Fatal(err)
	}
	admin := kadm.NewClient(l.k.Open())
	if _, err := admin.DeleteTopic(t.Context(), "letters"); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.CreateTopic(t.Context(), 1, 1, nil, "letters"); err != nil {
		t.Fatal(err)
	}
	waiting := l.send("waiting")
	l.renew()
	if err := <-waiting; err == nil {
		t.Error("the fake has stored a record for the topic that was deleted")
	}
	if err := <-l.send("waiting"); err != nil {
		t.Error(err)
	}
	l.want("waiting")
}

// TestCloseEndsFormerClients checks that Close does not wait for records that cannot be stored.
func TestCloseEndsFormerClients(t *testing.T) {
	l := newLetters(t)
	never := make(chan struct{})
	defer close(never)
	arrived := make(chan struct{}, 8)
	l.k.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		l.k.KeepControl()
		arrived <- struct{}{}
		l.k.SleepControl(func() { <-never })
		return nil, nil, false
	})
	former := l.send("of the former client")
	<-arrived
	l.renew()
	l.Close()
	if err := <-former; err == nil {
		t.Error("a record was stored")
	}
	l.renew() // does nothing
	if err := <-l.send("after Close"); err == nil {
		t.Error("no error after Close")
	}
}

// TestLargeProducerHasRoomForOne checks that records wait for each other, and that a record that waits ends with its
// context.
func TestLargeProducerHasRoomForOne(t *testing.T) {
	k := fakekafka.New(t, kfake.SeedTopics(1, "letters"))
	p, err := NewLargeProducer(func() (*kgo.Client, error) { return k.NewClient(LargeOptions(0)...) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	results := make(chan error, 20)
	promise := func(_ *kgo.Record, err error) { results <- err }
	for range 20 {
		p.TryProduce(t.Context(), &kgo.Record{Topic: "letters", Value: []byte("x")}, promise)
	}
	for range 20 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	p.room <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	p.TryProduce(ctx, &kgo.Record{Topic: "letters"}, promise)
	cancel()
	if err := <-results; err == nil {
		t.Error("no error after the context has ended")
	}
}
