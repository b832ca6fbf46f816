package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	records = 20
	half    = records / 2 // in each of two partitions
	body    = `{"id":12345678901234567,"text":"a b&c"}`
)

// TestPipeline delivers two partitions while the first request of one gets no reply. It checks that the offsets of the
// other are committed, and none of the first.
func TestPipeline(t *testing.T) {
	client, kafka := source(t)
	reply := make(chan struct{})
	server, seen := customer(t, reply)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	values := map[string]string{"KAFKA": kafka, "GROUP": "g", "TOPIC": "dlr", "BASE": server, "COMMIT": "100ms"}
	go func() { ended <- run(ctx, values) }()
	for range records - 1 {
		select {
		case <-seen:
		case err := <-ended:
			t.Fatalf("the pipeline ended: %v", err)
		}
	}
	for committed(t, client, 1) < half {
		time.Sleep(5 * time.Millisecond)
	}
	if at := committed(t, client, 0); at > 0 {
		t.Errorf("offset %d was committed before record 0 was delivered", at)
	}
	close(reply)
	<-seen
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if at := committed(t, client, 0); at != half {
		t.Errorf("offset %d was committed in the end, want %d", at, half)
	}
}

// source returns a Kafka with two partitions of ten records, one per user.
func source(t *testing.T) (client *kgo.Client, addr string) {
	t.Helper()
	cluster := kfake.MustCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, "dlr"))
	t.Cleanup(cluster.Close)
	addr = cluster.ListenAddrs()[0]
	client, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	for user := range records {
		r := &kgo.Record{Topic: "dlr", Partition: int32(user / half), Key: strconv.AppendInt(nil, int64(user), 10)}
		r.Value = []byte(`{"user_id":1,"sms":` + body + `}`)
		if err := client.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	return client, addr
}

// customer answers requests, that of user 0 after reply is closed. It sends the path of each answered one to seen.
func customer(t *testing.T, reply <-chan struct{}) (url string, seen <-chan string) {
	var once sync.Map
	paths := make(chan string, records)
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if got := r.PostFormValue("sms"); got != body {
			t.Errorf("%s: the form has %q", r.URL.Path, got)
		}
		if _, again := once.LoadOrStore(r.URL.Path, true); again {
			t.Errorf("%s: a second request", r.URL.Path)
			return
		}
		if r.URL.Path == "/dlr/0" {
			<-reply
		}
		paths <- r.URL.Path
	}))
	t.Cleanup(s.Close)
	return s.URL, paths
}

func committed(t *testing.T, client *kgo.Client, partition int32) int64 {
	t.Helper()
	offsets, err := kadm.NewClient(client).FetchOffsets(t.Context(), "g")
	if err != nil {
		t.Fatal(err)
	}
	o, _ := offsets.Lookup("dlr", partition)
	return o.At
}
