package settings

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/smshooks/smshooks/test/fakekafka"
)

// TestLateRecord checks that an update that ended with ErrUnavailable, because its instance was cut off from Kafka, does
// not undo an update that another instance has acknowledged meanwhile. The client keeps sending a record that it has
// sent once, whatever its context says, and here the lock has expired, as it does if Redis is cut off, too.
func TestLateRecord(t *testing.T) {
	k := newEnv(t)
	mini := k.needMini()
	k.set(1, "before")
	network := new(fakekafka.Network)
	k.options = []kgo.Opt{kgo.Dialer(network.Dial)}
	a, _, _ := k.start()
	waitLoaded(t, a)
	if _, err := a.Update(t.Context(), 2, setDLR("http://warm")); err != nil { // the client gets its producer id
		t.Fatal(err)
	}
	k.options = nil
	b, _, _ := k.start()
	waitLoaded(t, b)

	network.CutAtProduce()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	inbound := "http://a"
	if _, err := a.Update(ctx, 1, func(d Document) Document {
		d.InboundURL = &inbound
		return setDLR("http://a")(d)
	}); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("update without an answer: %v, want ErrUnavailable", err)
	}
	mini.FastForward(lockKept + time.Second)
	for _, change := range []func(Document) Document{setClick("http://b"), setDLR("http://b")} {
		if _, err := b.Update(t.Context(), 1, change); err != nil {
			t.Fatal(err)
		}
	}
	written := k.end()
	network.Mend()
	eventually(t, 5*time.Second, "the late record and the one that restores settings", func() bool { return k.end() == written+2 })
	for name, s := range map[string]*Store{"a": a, "b": b} {
		eventually(t, time.Second, "the settings of instance "+name, func() bool {
			d, _, err := s.Document(t.Context(), 1)
			return err == nil && value(d.ClickURL) == "http://b" && value(d.DLRURL) == "http://b" &&
				value(d.InboundURL) == "http://a"
		})
	}
}

// TestLockIsRenewed checks that the lock of an update whose record is still under way neither expires nor stays lost.
func TestLockIsRenewed(t *testing.T) {
	k := newEnv(t)
	mini := k.needMini()
	if k.cluster == nil {
		t.Skip("needs the Kafka in the process, to hold back a produce request")
	}
	s := k.loaded()
	s.renewPeriod = 10 * time.Millisecond
	answer := make(chan struct{})
	k.cluster.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		k.cluster.SleepControl(func() { <-answer })
		return nil, nil, false
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := s.Update(ctx, 1, setDLR("http://a")); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("update without an answer: %v, want ErrUnavailable", err)
	}
	name := s.rdb.key("lock:1")
	for range 2 {
		mini.FastForward(lockKept - time.Second)
		eventually(t, time.Second, "the lock renewed", func() bool { return mini.TTL(name) == lockKept })
	}
	mini.FastForward(lockKept + time.Second)
	eventually(t, time.Second, "the lock taken again", func() bool { return mini.TTL(name) == lockKept })
	if err := mini.Set(name, "another"); err != nil {
		t.Fatal(err)
	}
	<-time.After(5 * s.renewPeriod)
	if got, _ := mini.Get(name); got != "another" {
		t.Error("the lock of another instance was taken")
	}
	mini.Del(name)
	close(answer)
	eventually(t, time.Second, "the lock released", func() bool { return !mini.Exists(name) && host(t, s, 1) == "a" })
}
