package harness

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// ByKey as a partition chooses it by the key's hash, as Kafka's own clients do.
const ByKey int32 = -1

// Produce writes one record, acknowledged by all replicas, and returns it with its partition and offset.
func Produce(t testing.TB, brokers, topic string, partition int32, key, value string, headers ...kgo.RecordHeader) *kgo.Record {
	t.Helper()
	r := &kgo.Record{Topic: topic, Partition: partition, Key: []byte(key), Value: []byte(value), Headers: headers}
	ProduceMany(t, brokers, []*kgo.Record{r})
	return r
}

// Event is a record of a user, in the partition of the user's key.
func Event(topic string, userID int64, value string) *kgo.Record {
	return &kgo.Record{Topic: topic, Partition: ByKey, Key: []byte(strconv.FormatInt(userID, 10)), Value: []byte(value)}
}

// ProduceMany writes records in order, acknowledged by all replicas. A Partition of ByKey is chosen by the key; the
// zero value is partition 0. It sets their partitions and offsets.
func ProduceMany(t testing.TB, brokers string, records []*kgo.Record) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(brokers, ",")...), kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(chosen{kgo.StickyKeyPartitioner(nil)}), kgo.MaxBufferedRecords(len(records)+1))
	if err != nil {
		t.Fatalf("produce: %v", err)
	}
	defer cl.Close()
	if err := cl.ProduceSync(within(t, time.Minute), records...).FirstErr(); err != nil {
		t.Fatalf("produce %d records: %v", len(records), err)
	}
}

// chosen uses the record's partition, or the other partitioner for ByKey.
type chosen struct{ byKey kgo.Partitioner }

func (c chosen) ForTopic(topic string) kgo.TopicPartitioner {
	return chosenFor{c.byKey.ForTopic(topic)}
}

type chosenFor struct{ byKey kgo.TopicPartitioner }

func (chosenFor) RequiresConsistency(*kgo.Record) bool { return true }

func (c chosenFor) Partition(r *kgo.Record, n int) int {
	if r.Partition != ByKey {
		return int(r.Partition)
	}
	return c.byKey.Partition(r, n)
}

// Consume returns all records of a topic up to its end at the time of the call, in order within each partition.
func Consume(t testing.TB, brokers, topic string) []*kgo.Record {
	t.Helper()
	ctx := within(t, time.Minute)
	adm := kadm.NewClient(Client(t, brokers))
	var ends kadm.ListedOffsets
	var err error
	Eventually(t, Patience, func() bool { // a partition may be without a leader for a moment
		if ends, err = adm.ListEndOffsets(ctx, topic); err == nil {
			err = ends.Error()
		}
		return err == nil
	}, "read the end offsets of topic %s: %v", topic, printed(func() string { return fmt.Sprint(err) }))
	starts, err := adm.ListStartOffsets(ctx, topic)
	if err != nil {
		t.Fatalf("start of topic %s: %v", topic, err)
	}
	from, open := map[int32]kgo.Offset{}, map[int32]int64{}
	ends.Each(func(end kadm.ListedOffset) {
		if start, ok := starts.Lookup(topic, end.Partition); ok && start.Offset < end.Offset {
			from[end.Partition] = kgo.NewOffset().At(start.Offset)
			open[end.Partition] = end.Offset
		}
	})
	if len(open) == 0 {
		return nil
	}
	cl := Client(t, brokers, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}))
	defer cl.Close()
	var all []*kgo.Record
	for len(open) > 0 {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatalf("read topic %s: %d records read, partitions not at their ends: %v", topic, len(all), open)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			end, ok := open[r.Partition]
			if !ok {
				return
			}
			all = append(all, r)
			if r.Offset+1 >= end {
				delete(open, r.Partition)
			}
		})
	}
	noLeaksInHeaders(t, topic, all)
	return all
}

// noLeaksInHeaders checks the headers that the program writes. Records of a source have none of them.
func noLeaksInHeaders(t testing.TB, topic string, records []*kgo.Record) {
	t.Helper()
	var written strings.Builder
	for _, r := range records {
		for _, h := range r.Headers {
			written.Write(h.Value)
			written.WriteByte('\n')
		}
	}
	noLeaks(t, "the headers of "+topic, written.String())
}

// Header returns a record's header, "" if it is absent.
func Header(r *kgo.Record, name string) string {
	for _, h := range r.Headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}

// Webhook holds a user's settings in the form of other programs; "" is null.
type Webhook struct {
	DLR, Click, Inbound, Revoke string // URLs
	Auth                        string // user:pass
}

// SetWebhook writes a user's settings to the config topic.
func SetWebhook(t testing.TB, brokers, topic string, userID int64, w Webhook) {
	t.Helper()
	ProduceMany(t, brokers, []*kgo.Record{WebhookRecord(t, topic, userID, w)})
}

// WebhookRecord returns the record that SetWebhook writes, for tests that write many at once.
func WebhookRecord(t testing.TB, topic string, userID int64, w Webhook) *kgo.Record {
	t.Helper()
	Secret(w.Auth)
	null := func(s string) *string {
		if s == "" {
			return nil
		}
		return &s
	}
	value, err := json.Marshal(map[string]any{
		"user_id": userID, "dlr_url": null(w.DLR), "click_url": null(w.Click), "inbound_url": null(w.Inbound),
		"revoke_click_url": null(w.Revoke), "auth": null(w.Auth),
	})
	if err != nil {
		t.Fatal(err)
	}
	return Event(topic, userID, string(value))
}

// RemoveUser writes a user's tombstone to the config topic.
func RemoveUser(t testing.TB, brokers, topic string, userID int64) {
	t.Helper()
	ProduceMany(t, brokers, []*kgo.Record{{Topic: topic, Partition: ByKey, Key: []byte(strconv.FormatInt(userID, 10))}})
}

// DLRValue returns the value of a delivery receipt with a number as id.
func DLRValue(userID, smsID int64) string {
	return fmt.Sprintf(`{"user_id":%d,"sms":%s}`, userID, sms(smsID))
}

// ClickValue returns the value of a click by a person.
func ClickValue(userID, smsID int64) string {
	return fmt.Sprintf(`{"user_id":%d,"sms":%s,"bot":false,"preview":false}`, userID, sms(smsID))
}

// InboundValue returns the value of a received message.
func InboundValue(userID, smsID int64) string {
	return fmt.Sprintf(`{"user_id":%d,"sms":{"id":%d,"from":"4790000000","to":"2001","message":"a & b","received":"2026-01-02 03:04:05"}}`, userID, smsID)
}

// RevocationValue returns the value of a revocation.
func RevocationValue(userID int64, apiIDs, campaignIDs []int64) string {
	value, err := json.Marshal(map[string]any{"user_id": userID, "api_sms_ids": apiIDs, "campaign_sms_ids": campaignIDs})
	if err != nil {
		panic(err) // encoding numbers cannot fail
	}
	return string(value)
}

func sms(id int64) string {
	return fmt.Sprintf(`{"id":%d,"created":"2026-01-02 03:04:05","updated":"2026-01-02 03:04:06","from":"Shop","to":"4790000000",`+
		`"verify_local":null,"shorten_url":false,"list_id":null,"reference":null,"transactional":true,"preferred_route_id":null,`+
		`"campaign_id":null,"delay_time":null,"country_id":1,"country_name":"Norway","country_iso":"NO","clicked":false,"cost":0.0175,`+
		`"parts":1,"original_url":null,"shortened_url":null,"text":"Hi <b> & \u00e9","status":"sent","dlr_status":"delivered"}`, id)
}
