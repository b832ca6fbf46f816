package faults_test

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/test/real/harness"
)

// TestTransactionsUnderLoad runs a producer that aborts every third transaction, and leaves one open at the end, on a
// source and on the config topic. Only committed records must be sent, and a second instance must be able to start
// meanwhile.
func TestTransactionsUnderLoad(t *testing.T) {
	inTurn(t)
	const users = 20
	each, d := pick(50, 500), pick(8*time.Second, time.Minute)
	brokers, topics, recv := harness.Kafka(t).Addr, harness.TopicsFor(t), harness.NewReceiver(t)
	o := harness.Options{Brokers: brokers, RedisAddr: harness.Redis(t).Addr, Topics: topics,
		Args: []string{"--topics.partitions=6", "--retry.schedule=1s,2s", "--overflow.delays=1s,3s,10s"}}
	harness.Ensure(t, o)
	var settings []*kgo.Record
	for user := int64(1); user <= users; user++ {
		settings = append(settings, harness.WebhookRecord(t, topics.Config, user, harness.Webhook{DLR: recv.URL("/dlr")}))
	}
	harness.ProduceMany(t, brokers, settings)
	p := harness.StartReady(t, o)

	cl := harness.Client(t, brokers, kgo.TransactionalID(topics.Group), kgo.TransactionTimeout(time.Minute))
	committed := map[int64]bool{}
	message := int64(0)
	for n, began := 0, time.Now(); time.Since(began) < d; n++ {
		var records []*kgo.Record
		for range each {
			message++
			records = append(records, harness.Event(topics.DLR, 1+message%users, harness.DLRValue(1+message%users, message)))
		}
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := cl.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
			t.Fatalf("produce: %v", err)
		}
		end := kgo.TransactionEndTry(n%3 != 2)
		if err := cl.EndTransaction(t.Context(), end); err != nil {
			t.Fatalf("end a transaction: %v", err)
		}
		for i := range int64(each) {
			if end == kgo.TryCommit {
				committed[message-i] = true
			}
		}
	}
	hang := harness.Client(t, brokers, kgo.TransactionalID(topics.Group+"-hangs"), kgo.TransactionTimeout(10*time.Minute))
	if err := hang.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := hang.ProduceSync(t.Context(), harness.Event(topics.DLR, 1, harness.DLRValue(1, message+1)),
		harness.WebhookRecord(t, topics.Config, 1, harness.Webhook{})).FirstErr(); err != nil {
		t.Fatalf("produce: %v", err)
	}

	second := harness.StartReady(t, o)
	got := map[int64]int{}
	harness.Eventually(t, patience, func() bool {
		clear(got)
		for _, r := range recv.Requests("/dlr") {
			text, _ := strings.CutPrefix(string(r.Body), "sms=")
			var sms struct{ ID int64 }
			if plain, err := url.QueryUnescape(text); err != nil || json.Unmarshal([]byte(plain), &sms) != nil {
				t.Fatalf("body %q", r.Body)
			}
			got[sms.ID]++
		}
		for m := range committed {
			if got[m] == 0 {
				return false
			}
		}
		return true
	}, "all %d committed messages are sent", len(committed))
	for m := range got {
		if !committed[m] {
			t.Errorf("message %d was sent, but its transaction was not committed", m)
		}
	}
	for _, one := range []*harness.Proc{p, second} {
		one.WaitMetric(t, patience, harness.Exactly(0), "smshooks_group_lag_records", "topic", topics.DLR)
	}
	wantAlive(t, []*harness.Proc{p, second})
	if err := hang.EndTransaction(t.Context(), kgo.TryAbort); err != nil {
		t.Errorf("end the open transaction: %v", err)
	}
	t.Logf("%d messages of %d were committed and sent", len(committed), message)
}
