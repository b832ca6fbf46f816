package consumer

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// TestRefusedOffsetIsAskedForAgain checks that a partition is read once the broker returns its committed offset, and
// that the member is not ready before. The client drops a partition whose offset was refused, and never asks again.
func TestRefusedOffsetIsAskedForAgain(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"classic": func(*Config) {}, "consumer": serverAssigned, "static": withID("a"),
	} {
		for _, answer := range []int16{kerr.TopicAuthorizationFailed.Code, omitted} {
			t.Run(name+"/"+refusalName(answer), func(t *testing.T) { askedForAgain(t, answer, change) })
		}
	}
}

func askedForAgain(t *testing.T, answer int16, change func(*Config)) {
	t.Helper()
	withEnv(t, 2, func(t *testing.T, w *env) {
		core, logged := observer.New(zap.InfoLevel)
		w.log = zap.New(core)
		for p := range int32(2) {
			w.write(source, p, 3, time.Time{})
			w.write(delayed, p, 3, time.Now())
		}
		allow := refuseOffset(w, answer)
		m := w.join(all, change)
		rest(time.Minute)
		if got, want := m.ids(source), offsetsOf(1, 0, 3); !slices.Equal(got, want) {
			t.Errorf("while the offset of partition 0 is refused, dispatched %v, want %v", got, want)
		}
		if err := m.Joined(); err == nil || !strings.Contains(err.Error(), source) {
			t.Errorf("ready while an offset is refused: %v", err)
		}
		if n := logged.FilterMessage("records are fetched again").Len(); n != 0 {
			t.Error("logged as fetched again while the offset is refused")
		}
		if n := logged.FilterMessage("partitions assigned").Len(); n != 1 {
			t.Errorf("%d rebalances while the offset is refused", n-1)
		}
		allow()
		rest(30 * time.Second)
		if err := m.Joined(); err != nil {
			t.Errorf("not ready although no offset is refused: %v", err)
		}
		if n := logged.FilterMessage("records are fetched again").Len(); n != 1 {
			t.Errorf("logged %d times that records are fetched again", n)
		}
		w.write(source, 1, 1, time.Time{})
		rest(2 * time.Second)
		got := m.ids(source)
		slices.Sort(got)
		if want := append(offsetsOf(0, 0, 3), offsetsOf(1, 0, 4)...); !slices.Equal(got, want) {
			t.Errorf("dispatched %v, want %v", got, want)
		}
		if n := len(m.ids(delayed)); n != 6 {
			t.Errorf("%d events of 6 records of the other topic", n)
		}
		m.leave()
	})
}

// TestRefusedOffsetIsNotRewound checks that no lower offset is committed for a partition whose offset was refused.
func TestRefusedOffsetIsNotRewound(t *testing.T) {
	withEnv(t, 1, func(t *testing.T, w *env) {
		writer, err := w.newClient(kgo.TransactionalID("gateway"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
		if err != nil {
			t.Fatal(err)
		}
		defer writer.Close()
		if err := writer.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		aborted := &kgo.Record{Topic: source, Key: []byte("42"), Value: []byte("aborted")}
		if err := writer.ProduceSync(t.Context(), aborted).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if err := writer.EndTransaction(t.Context(), kgo.TryAbort); err != nil {
			t.Fatal(err)
		}
		w.write(source, 0, 3, time.Time{})
		// Retention has removed the transaction's records, but not its end.
		var upto kadm.Offsets
		upto.AddOffset(source, 0, 1, -1)
		if _, err := w.admin.DeleteRecords(t.Context(), upto); err != nil {
			t.Fatal(err)
		}
		first := w.join(all)
		rest(6 * time.Second)
		first.leave()
		before, _ := w.committed(source, 0)
		w.write(source, 0, 3, time.Time{})
		allow := refuseOffset(w, kerr.TopicAuthorizationFailed.Code)
		second := w.join(all)
		rest(6 * time.Second)
		allow()
		rest(time.Minute)
		second.leave()
		if at, _ := w.committed(source, 0); at < before {
			t.Errorf("committed %d, before it was %d", at, before)
		}
		third := w.join(all)
		rest(6 * time.Second)
		got := append(second.ids(source), third.ids(source)...)
		if want := offsetsOf(0, int(before), int(before)+3); !slices.Equal(got, want) {
			t.Errorf("dispatched after the first member had left %v, want %v", got, want)
		}
		third.leave()
	})
}

// omitted stands for an answer without the partition.
const omitted = -2

func refusalName(answer int16) string {
	if answer == omitted {
		return "omitted"
	}
	return kerr.TypedErrorForCode(answer).Message
}

// refuseOffset makes the broker answer with an error code, or omit the partition, when it is asked for the offset of
// partition 0 of the source topic, until allow is called.
func refuseOffset(w *env, answer int16) (allow func()) {
	var allowed atomic.Bool
	id := w.kafka.TopicInfo(source).TopicID
	w.kafka.ControlKey(int16(kmsg.OffsetFetch), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		w.kafka.KeepControl()
		req := kreq.(*kmsg.OffsetFetchRequest)
		if allowed.Load() || len(req.Groups) == 0 || req.Groups[0].Topics == nil { // all offsets, for the lag
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.OffsetFetchResponse)
		for _, g := range req.Groups {
			rg := kmsg.NewOffsetFetchResponseGroup()
			rg.Group = g.Group
			for _, rt := range g.Topics {
				at := kmsg.NewOffsetFetchResponseGroupTopic()
				at.Topic, at.TopicID = rt.Topic, rt.TopicID
				for _, n := range rt.Partitions {
					p := kmsg.NewOffsetFetchResponseGroupTopicPartition()
					p.Partition, p.Offset, p.LeaderEpoch = n, -1, -1
					if n == 0 && (rt.Topic == source || rt.TopicID == id) {
						if answer == omitted {
							continue
						}
						p.ErrorCode = answer
					}
					at.Partitions = append(at.Partitions, p)
				}
				rg.Topics = append(rg.Topics, at)
			}
			resp.Groups = append(resp.Groups, rg)
		}
		return resp, nil, true
	})
	return func() { allowed.Store(true) }
}
