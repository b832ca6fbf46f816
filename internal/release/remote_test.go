package release

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap/zaptest"
)

// TestRemoteStorage checks that the log does not count as read to its end while a broker waits for its remote storage
// and answers without records: delayed events would be sent beside their copies.
func TestRemoteStorage(t *testing.T) {
	k := newEnv(t)
	k.delay("retry", 0, "42", 3)
	first := k.start(&owner{}) // owns nothing, so the recovery stays open
	id := k.begin(first, Marker{Cause: Customer, User: 42})
	first.stop()
	ends, err := kadm.NewClient(k.client).ListEndOffsets(t.Context(), "releases")
	if err != nil {
		t.Fatal(err)
	}
	details, err := kadm.NewClient(k.client).ListTopics(t.Context(), "releases")
	if err != nil {
		t.Fatal(err)
	}
	var waits atomic.Bool
	waits.Store(true)
	k.cluster.ControlKey(int16(kmsg.Fetch), func(r kmsg.Request) (kmsg.Response, error, bool) {
		k.cluster.KeepControl()
		req := r.(*kmsg.FetchRequest)
		if !waits.Load() || len(req.Topics) == 0 || req.Topics[0].TopicID != [16]byte(details["releases"].ID) {
			return nil, nil, false
		}
		time.Sleep(20 * time.Millisecond)
		resp := req.ResponseKind().(*kmsg.FetchResponse)
		topic := kmsg.NewFetchResponseTopic()
		topic.TopicID = req.Topics[0].TopicID
		for _, asked := range req.Topics[0].Partitions {
			p := kmsg.NewFetchResponseTopicPartition()
			p.Partition, p.HighWatermark = asked.Partition, ends["releases"][asked.Partition].Offset
			p.LastStableOffset = p.HighWatermark
			topic.Partitions = append(topic.Partitions, p)
		}
		resp.Topics = append(resp.Topics, topic)
		return resp, nil, true
	})
	log := NewLog(Config{Topic: "releases", Keep: time.Hour, Now: time.Now}, k.newClient, zaptest.NewLogger(t), nothing{})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = log.Run(ctx) })
	defer running.Wait()
	defer cancel()

	waiting, stop := context.WithTimeout(ctx, 3*time.Second)
	defer stop()
	if err := log.AwaitEnd(waiting); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the log counts as read: %v", err)
	}
	waits.Store(false)
	if err := log.AwaitEnd(ctx); err != nil {
		t.Fatal(err)
	}
	if _, known := log.Status(id); !known {
		t.Error("the recovery is not known")
	}
}
