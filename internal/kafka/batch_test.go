package kafka

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

const batchTopic = "batches"

// batchCluster returns a broker with one topic of that many partitions.
func batchCluster(t *testing.T, partitions int32) *kfake.Cluster {
	t.Helper()
	cluster := newCluster(t, kfake.SeedTopics(partitions, batchTopic))
	return cluster
}

// produceBatch stores n records of size zero bytes as one zstd batch.
func produceBatch(t *testing.T, cluster *kfake.Cluster, partition int32, n, size int) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(kgo.ZstdCompression()), kgo.ProducerBatchMaxBytes(96<<20), kgo.ManualFlushing())
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	var stored kgo.FirstErrPromise
	for range n {
		cl.Produce(t.Context(), &kgo.Record{Topic: batchTopic, Partition: partition, Value: make([]byte, size)}, stored.Promise())
	}
	if err := errors.Join(cl.Flush(t.Context()), stored.Err()); err != nil {
		t.Fatal(err)
	}
}

// wireBatch returns a batch in its wire form with that number of records and this content.
func wireBatch(records int, attributes int16, content []byte) []byte {
	b := kmsg.RecordBatch{
		PartitionLeaderEpoch: 3, Magic: 2, Attributes: attributes, LastOffsetDelta: int32(records - 1),
		ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1, FirstTimestamp: 1, MaxTimestamp: 1, Records: content,
	}
	if content != nil {
		b.NumRecords = int32(records)
	}
	wire := b.AppendTo(nil)
	binary.BigEndian.PutUint32(wire[8:], uint32(len(wire)-12))
	binary.BigEndian.PutUint32(wire[17:], crc32.Checksum(wire[21:], crc32.MakeTable(crc32.Castagnoli)))
	return wire
}

// produceWire stores a batch without changing it.
func produceWire(t *testing.T, cluster *kfake.Cluster, partition int32, wire []byte) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	leader, id, err := leaderOf(t.Context(), cl, batchTopic, partition)
	if err != nil {
		t.Fatal(err)
	}
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = -1, 5000
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic, rt.TopicID = batchTopic, id
	rp := kmsg.NewProduceRequestTopicPartition()
	rp.Partition, rp.Records = partition, wire
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	resp, err := cl.Broker(int(leader)).Request(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if err := kerr.ErrorForCode(resp.(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode); err != nil {
		t.Fatal(err)
	}
}

// pollAll polls until want offsets of each partition were read or skipped. It returns a line per record and skip.
func pollAll(t *testing.T, cl *kgo.Client, partitions int32, want int64) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	next := map[int32]int64{}
	var lines []string
	for {
		done := 0
		for _, n := range next {
			if n >= want {
				done++
			}
		}
		if done == int(partitions) {
			return lines
		}
		fetches := Poll(ctx, cl, time.Second, 10, func(_ string, p int32) int64 {
			if n, ok := next[p]; ok {
				return n
			}
			return -1
		})
		if ctx.Err() != nil {
			t.Fatalf("after %v: %v, read up to %v", lines, fetches.Err(), next)
		}
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			for _, r := range p.Records {
				if r.Offset < next[p.Partition] {
					t.Errorf("offset %d again", r.Offset)
				}
				next[p.Partition] = r.Offset + 1
				lines = append(lines, fmt.Sprintf("%d/%d: %d", p.Partition, r.Offset, len(r.Value)))
			}
			if skipped, ok := errors.AsType[*Skipped](p.Err); ok {
				next[p.Partition] = skipped.Next
				lines = append(lines, fmt.Sprintf("%d/%d-%d skipped", p.Partition, skipped.From, skipped.Next-1))
			} else if p.Err != nil && !errors.Is(p.Err, context.DeadlineExceeded) {
				t.Errorf("partition %d: %v", p.Partition, p.Err)
			}
		})
	}
}

func TestBatches(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		most int64
		want string
	}{
		{"read", 64 << 20, "0/0: 5,0/1: 20971520,0/2: 20971520,0/3: 5"},
		{"skipped", 8 << 20, "0/0: 5,0/1-2 skipped,0/3: 5"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cluster := batchCluster(t, 1)
			produceBatch(t, cluster, 0, 1, 5)
			produceBatch(t, cluster, 0, 2, 20<<20)
			produceBatch(t, cluster, 0, 1, 5)
			core, logged := observer.New(zap.ErrorLevel)
			counted := 0
			cfg := Config{Brokers: cluster.ListenAddrs(), MaxBatchBytes: c.most, Skips: NewSkips(zap.New(core), func(topic string) {
				if topic == batchTopic {
					counted++
				}
			})}
			for range 2 { // the second client meets what has been reported
				cl, err := cfg.NewClient(kgo.ConsumeTopics(batchTopic))
				if err != nil {
					t.Fatal(err)
				}
				if got := strings.Join(pollAll(t, cl, 1, 4), ","); got != c.want {
					t.Errorf("got %s, want %s", got, c.want)
				}
				cl.Close()
			}
			want := strings.Count(c.want, "skipped")
			if counted != want || logged.Len() != want {
				t.Errorf("%d counted, %d lines logged, want %d", counted, logged.Len(), want)
			}
			if want == 1 {
				if fields := fmt.Sprint(logged.All()[0].ContextMap()); !strings.Contains(fields, "from:1") || !strings.Contains(fields, "to:2") ||
					!strings.Contains(fields, "partition:0") || !strings.Contains(fields, "topic:"+batchTopic) {
					t.Error(fields)
				}
			}
		})
	}
}

// TestBatchesOfOneResponse checks that a response with many batches of large uncompressed size is read in several
// steps.
func TestBatchesOfOneResponse(t *testing.T) {
	t.Parallel()
	const partitions, batches = 3, 6
	cluster := batchCluster(t, partitions)
	for p := range int32(partitions) {
		for range batches {
			produceBatch(t, cluster, p, 1, 9<<20)
		}
		produceWire(t, cluster, p, wireBatch(2, 4, []byte("no zstd")))
		produceBatch(t, cluster, p, 1, 40<<20)
		produceBatch(t, cluster, p, 1, 1)
	}
	cfg := Config{Brokers: cluster.ListenAddrs()}
	cl, err := cfg.NewClient(kgo.ConsumeTopics(batchTopic))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	perPartition := map[byte][]string{}
	for _, line := range pollAll(t, cl, partitions, batches+4) {
		perPartition[line[0]] = append(perPartition[line[0]], line[2:])
	}
	for p := range byte(partitions) {
		got := strings.Join(perPartition['0'+p], ",")
		want := strings.Repeat("x: 9437184,", batches) + "6-7 skipped,8: 41943040,9: 1"
		for i := range batches {
			want = strings.Replace(want, "x", fmt.Sprint(i), 1)
		}
		if got != want {
			t.Errorf("partition %d: got %s, want %s", p, got, want)
		}
	}
}

func TestFindBatch(t *testing.T) {
	record := []byte{12, 0, 0, 0, 1, 1, 0} // six bytes: no key, no value, no headers
	at := func(base int64, wire []byte) []byte {
		binary.BigEndian.PutUint64(wire, uint64(base))
		return wire
	}
	broken := at(10, wireBatch(3, 0, append(append(append([]byte{}, record...), record...), record...)))
	broken[len(broken)-1]++
	for _, c := range []struct {
		name        string
		wire        []byte
		first, next int64
		records     int
		bad         string
	}{
		{name: "nothing", first: 10, next: 10},
		{name: "a record", wire: at(10, wireBatch(1, 0, record)), first: 10, next: 11, records: 1},
		{name: "one batch of two", wire: append(at(10, wireBatch(1, 0, record)), at(11, wireBatch(1, 0, record))...), first: 10, next: 11, records: 1},
		{name: "one from before", wire: append(at(9, wireBatch(1, 0, record)), at(12, wireBatch(1, 0, record))...), first: 12, next: 13, records: 1},
		{name: "bad checksum", wire: broken, first: 10, next: 13, bad: "crc"},
		{name: "from the middle of a bad one", wire: at(8, wireBatch(5, 4, []byte("?"))), first: 8, next: 13, bad: "decompress"},
		{name: "unknown codec", wire: at(10, wireBatch(2, 7, record)), first: 10, next: 12, bad: "codec"},
		{name: "fewer records than it claims", wire: at(10, wireBatch(4, 0, record)), first: 10, next: 14, bad: "not all"},
		{name: "emptied by compaction", wire: at(10, wireBatch(5, 0, nil)), first: 10, next: 15},
		{name: "cut in the body", wire: at(10, wireBatch(1, 0, record))[:65], first: 10, next: 11, bad: "claims"},
	} {
		answer := kmsg.NewFetchResponseTopicPartition()
		answer.RecordBatches = c.wire
		b, wire := findBatch(&answer, 10)
		if wire != nil {
			b.unpack(kgo.ReadCommitted(), kgo.DefaultDecompressor(), "t", &answer, wire, 10)
		}
		if b.first != c.first || b.next != c.next || len(b.records) != c.records || (b.bad != nil) != (c.bad != "") {
			t.Errorf("%s: offsets %d to %d, %d records, %v", c.name, b.first, b.next, len(b.records), b.bad)
		} else if b.bad != nil && !strings.Contains(b.bad.Error(), c.bad) {
			t.Errorf("%s: %v", c.name, b.bad)
		}
	}
}

// TestNextRecordOfAnEmptyAnswer checks that an answer without records means that there are none only for a compacted
// topic: a broker also returns it while it waits for its remote storage.
func TestNextRecordOfAnEmptyAnswer(t *testing.T) {
	cluster := batchCluster(t, 1)
	produceBatch(t, cluster, 0, 3, 10)
	cl, err := Config{Brokers: cluster.ListenAddrs()}.NewClient()
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	var empty atomic.Bool
	cluster.ControlKey(int16(kmsg.Fetch), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		if !empty.Load() {
			return nil, nil, false
		}
		req := kreq.(*kmsg.FetchRequest)
		resp := req.ResponseKind().(*kmsg.FetchResponse)
		topic := kmsg.NewFetchResponseTopic()
		topic.Topic, topic.TopicID = req.Topics[0].Topic, req.Topics[0].TopicID
		p := kmsg.NewFetchResponseTopicPartition()
		p.HighWatermark, p.LastStableOffset = 3, 3
		topic.Partitions = append(topic.Partitions, p)
		resp.Topics = append(resp.Topics, topic)
		return resp, nil, true
	})
	for _, tc := range []struct {
		empty, compacted bool
		want             int64
	}{{false, false, 1}, {false, true, 1}, {true, false, 1}, {true, true, 3}} {
		empty.Store(tc.empty)
		if got, err := NextRecord(t.Context(), cl, batchTopic, 0, 1, 3, tc.compacted); err != nil || got != tc.want {
			t.Errorf("empty %v, compacted %v: %d, %v; want %d", tc.empty, tc.compacted, got, err, tc.want)
		}
	}
}
