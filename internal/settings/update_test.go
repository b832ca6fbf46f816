package settings

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestLockOutlivesUnansweredRecord checks that an update whose record is still under way when it gives up keeps the
// user's lock: another update would be based on a document without that record, and undo it.
func TestLockOutlivesUnansweredRecord(t *testing.T) {
	k := newEnv(t)
	if k.cluster == nil {
		t.Skip("needs the Kafka in the process, to hold back a produce request")
	}
	k.set(1, "before")
	a, _, _ := k.start()
	b, _, _ := k.start()
	waitLoaded(t, a, b)
	answer := make(chan struct{})
	k.cluster.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		k.cluster.SleepControl(func() { <-answer })
		return nil, nil, false
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := a.Update(ctx, 1, setDLR("http://a")); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("update without an answer: %v, want ErrUnavailable", err)
	}
	if n := k.rdb.Exists(t.Context(), a.rdb.key("lock:1")).Val(); n != 1 {
		t.Error("the lock was released while the record was under way")
	}
	ctx, cancel = context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := b.Update(ctx, 1, setClick("http://b")); !errors.Is(err, ErrUnavailable) {
		t.Errorf("update of a locked user: %v, want ErrUnavailable", err)
	}
	close(answer)
	eventually(t, time.Second, "the lock released", func() bool {
		return k.rdb.Exists(t.Context(), a.rdb.key("lock:1")).Val() == 0
	})
	d, err := b.Update(t.Context(), 1, setClick("http://b"))
	if err != nil || value(d.DLRURL) != "http://a" || value(d.ClickURL) != "http://b" {
		t.Errorf("updated to %s, %v", d.AppendJSON(nil, nil), err)
	}
}

// TestUpdatesBehindOpenTransaction checks that updates continue and see each other while an open transaction holds back
// the records of the topic.
func TestUpdatesBehindOpenTransaction(t *testing.T) {
	k := newEnv(t)
	k.options = []kgo.Opt{kgo.FetchIsolationLevel(kgo.ReadCommitted())}
	k.set(1, "before")
	a, _, _ := k.start(small)
	b, _, _ := k.start(small)
	waitLoaded(t, a, b)
	writer := k.open(kgo.TransactionalID("open"))
	if err := writer.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	open := &kgo.Record{Topic: k.topic, Key: []byte("1"), Value: []byte(`{"user_id":1,"dlr_url":"http://uncommitted"}`)}
	if err := writer.ProduceSync(t.Context(), open).FirstErr(); err != nil {
		t.Fatal(err)
	}
	for i, s := range []*Store{a, b, a} {
		d, err := s.Update(t.Context(), 1, []func(Document) Document{setDLR("http://a"), setClick("http://b"), setDLR("http://c")}[i])
		if err != nil || value(d.DLRURL) != []string{"http://a", "http://a", "http://c"}[i] || value(d.ClickURL) != []string{"", "http://b", "http://b"}[i] {
			t.Fatalf("update %d: %s, %v", i, d.AppendJSON(nil, nil), err)
		}
	}
	if err := writer.EndTransaction(t.Context(), kgo.TryAbort); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Store{a, b} {
		if got := url(t, s, 1); got != "http://c" {
			t.Errorf("after the transaction user 1 gets %q", got)
		}
	}
}

// TestOrphanedLockIsReleased checks that a lock whose grant was not answered does not stay until it expires.
func TestOrphanedLockIsReleased(t *testing.T) {
	k := newEnv(t)
	store := k.loaded()
	name := store.rdb.key("lock:1")
	if err := k.rdb.Set(t.Context(), name, "token", lockKept).Err(); err != nil {
		t.Fatal(err)
	}
	store.orphans.add(name, "token")
	eventually(t, time.Second, "the lock released", func() bool { return k.rdb.Exists(t.Context(), name).Val() == 0 })
}
