package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/tools/bench/receiver"
)

// env is the set of topics of one service, with its users and records.
type env struct {
	b          *bench
	name       string // prefix of its topics, groups and Redis keys
	partitions int
	groups     int // assigned so far
	memories   int // Redis key prefixes assigned so far
}

func (b *bench) connect() (err error) {
	// No linger: for the latencies, the broker must get the record as soon as possible.
	b.client, err = kgo.NewClient(kgo.SeedBrokers(b.kafka.addr), kgo.ProducerLinger(0), kgo.MaxBufferedRecords(50_000))
	if err != nil {
		return fmt.Errorf("kafka client: %w", err)
	}
	b.admin = kadm.NewClient(b.client)
	b.cache = redis.NewClient(&redis.Options{Addr: b.redis.addr})
	return nil
}

// newEnv creates the topics with the service's own `topics ensure`.
func (b *bench) newEnv(ctx context.Context, partitions int) (*env, error) {
	b.envs++
	w := &env{b: b, name: fmt.Sprintf("%s-%d", b.prefix, b.envs), partitions: partitions}
	cmd := exec.CommandContext(ctx, b.service, append([]string{"topics", "ensure"}, w.flags()...)...)
	cmd.Env = environ()
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("topics ensure: %w: %s", err, out)
	}
	return w, nil
}

// flags returns the settings of the service in this env.
func (w *env) flags() []string {
	flags := []string{
		"--kafka.brokers=" + w.b.kafka.addr, "--redis.addrs=" + w.b.redis.addr, "--redis.key_prefix=" + w.name + "-" + strconv.Itoa(w.memories) + ":",
		"--kafka.group=" + w.group(), "--topics.partitions=" + strconv.Itoa(w.partitions),
		"--api.addr=127.0.0.1:0", "--ops.addr=127.0.0.1:0", "--dispatch.allow_networks=127.0.0.0/8",
	}
	for setting, topic := range map[string]string{"dlr": "dlr", "click": "click", "inbound": "inbound", "revocation": "revocation",
		"config": "config", "keys": "keys", "dead_letter": "dead"} {
		flags = append(flags, "--topics."+setting+"="+w.topic(topic))
	}
	return append(flags, w.b.Settings...)
}

func (w *env) topic(kind string) string { return w.name + "-" + kind }
func (w *env) group() string            { return w.name + "-" + strconv.Itoa(w.groups) }

// again sets a new group for the next subject, so that it reads the sources from their beginning.
func (w *env) again() { w.groups++ }

// forget empties Redis for the next service.
func (w *env) forget() { w.memories++ }

// skip sets a new group for the next subject, which starts at the end of the DLR topic.
func (w *env) skip(ctx context.Context) error {
	w.again()
	ends, err := w.b.admin.ListEndOffsets(ctx, w.topic("dlr"))
	if err == nil {
		err = w.b.admin.CommitAllOffsets(ctx, w.group(), ends.Offsets())
	}
	if err != nil {
		return fmt.Errorf("skipping what is in %s: %w", w.topic("dlr"), err)
	}
	return nil
}

// configure writes the settings of users 1 to n. url returns the DLR URL of one.
func (w *env) configure(ctx context.Context, n int, url func(user int) string) error {
	return w.b.produce(ctx, n, func(i int) *kgo.Record {
		user := strconv.Itoa(i + 1)
		return &kgo.Record{Topic: w.topic("config"), Key: []byte(user), Value: []byte(`{"user_id":` + user + `,"dlr_url":"` + url(i+1) + `"}`)}
	})
}

// fill writes n delivery receipts, the users taking turns.
func (w *env) fill(ctx context.Context, n, users int) error {
	return w.b.produce(ctx, n, func(i int) *kgo.Record { return w.dlr(i, 1+i%users, "") })
}

// dlr returns a delivery receipt of about 700 bytes.
func (w *env) dlr(i, user int, reference string) *kgo.Record {
	return &kgo.Record{Topic: w.topic("dlr"), Key: strconv.AppendInt(nil, int64(user), 10), Value: newRecord(i, user, reference)}
}

// newRecord writes a delivery receipt of about 700 bytes; an empty reference means a default one.
func newRecord(id, user int, reference string) []byte {
	if reference == "" {
		reference = "api-0227-abc123xyz-7f3e1c"
	}
	v := make([]byte, 0, 768)
	v = append(v, `{"user_id":`...)
	v = strconv.AppendInt(v, int64(user), 10)
	v = append(v, `,"sms":{"id":`...)
	v = strconv.AppendInt(v, int64(1_000_000_000+id), 10)
	v = append(v, `,"created":"2026-02-27 14:30:00","updated":"2026-02-27 14:35:00","from":"SenderID","to":15551234567,"verify_local":0,"shorten_url":1,"list_id":456,"reference":"`...)
	v = append(v, reference...)
	v = append(v, `","transactional":0,"preferred_route_id":789,"campaign_id":100,"delay_time":null,"country_id":226,"country_name":"United States","country_iso":"US","clicked":false,"cost":0.0175,"parts":1,"original_url":"https://example.com/offer/spring-2026?campaign=100&list=456","shortened_url":"https://short.example.com/abc123","text":"Check out this offer: https://short.example.com/abc123 Reply STOP to opt out. Terms apply.","status":"sent","dlr_status":"Delivered"}}`...)
	return v
}

// produce writes n records and waits until all are acknowledged.
func (b *bench) produce(ctx context.Context, n int, record func(i int) *kgo.Record) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	for i := range n {
		b.client.Produce(ctx, record(i), func(r *kgo.Record, err error) {
			if err != nil {
				cancel(fmt.Errorf("producing to %s: %w", r.Topic, err))
			}
		})
	}
	if err := b.client.Flush(ctx); err != nil {
		return errors.Join(context.Cause(ctx), err)
	}
	return context.Cause(ctx)
}

// pace writes n delivery receipts at a rate per second, each with the time of its production in the body. user returns
// the user of the next one.
func (w *env) pace(ctx context.Context, n int, rate float64, user func(i int) int) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	began := time.Now()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for sent := 0; sent < n; {
		for due := min(n, int(time.Since(began).Seconds()*rate)); sent < due; sent++ {
			w.b.client.Produce(ctx, w.dlr(sent, user(sent), receiver.Mark+strconv.FormatInt(time.Now().UnixNano(), 10)), func(_ *kgo.Record, err error) {
				if err != nil {
					cancel(fmt.Errorf("producing at a pace: %w", err))
				}
			})
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return w.b.client.Flush(ctx)
}

// park writes n records into the retry topic of the first step that are due in hours.
func (w *env) park(ctx context.Context, n, users int) error {
	due := []byte(event.FormatTime(time.Now().Add(6 * time.Hour)))
	at := []byte(event.FormatTime(time.Now()))
	topic := w.topic("dlr-retry-6h")
	return w.b.produce(ctx, n, func(i int) *kgo.Record {
		r := w.dlr(i, 1+i%users, "")
		r.Topic = topic
		r.Headers = []kgo.RecordHeader{
			{Key: event.HeaderID, Value: fmt.Appendf(nil, "evt_%022d", i)},
			{Key: event.HeaderOrigin, Value: fmt.Appendf(nil, "%s/0/%d", w.topic("dlr"), i)}, {Key: event.HeaderKind, Value: []byte("dlr")},
			{Key: event.HeaderTime, Value: at}, {Key: event.HeaderAttempts, Value: []byte("1")}, {Key: event.HeaderDue, Value: due},
			{Key: event.HeaderError, Value: []byte("http 503")},
		}
		return r
	})
}

// written counts the records of the env's topics whose names start with kind.
func (w *env) written(ctx context.Context, kind string) (int64, error) {
	topics, err := w.b.topics(ctx, w.topic(kind))
	if err != nil || len(topics) == 0 {
		return 0, err
	}
	ends, err := w.b.admin.ListEndOffsets(ctx, topics...)
	if err != nil {
		return 0, fmt.Errorf("counting %s: %w", w.topic(kind), err)
	}
	sum := int64(0)
	ends.Each(func(o kadm.ListedOffset) { sum += o.Offset })
	return sum, ends.Error()
}

// topics lists those whose names start with prefix.
func (b *bench) topics(ctx context.Context, prefix string) ([]string, error) {
	// Not by the admin client, whose cache may be some seconds old: a service creates topics, too.
	all, err := kmsg.NewPtrMetadataRequest().RequestWith(ctx, b.client)
	if err != nil {
		return nil, fmt.Errorf("listing topics: %w", err)
	}
	var names []string
	for _, t := range all.Topics {
		if t.Topic != nil && strings.HasPrefix(*t.Topic, prefix) {
			names = append(names, *t.Topic)
		}
	}
	return names, nil
}

// remove deletes the topics, groups and Redis keys whose names start with name. In containers of ours only the
// topics, for their disk space.
func (b *bench) remove(ctx context.Context, name string) error {
	topics, err := b.topics(ctx, name+"-")
	if err == nil && len(topics) > 0 {
		var replies kadm.DeleteTopicResponses
		if replies, err = b.admin.DeleteTopics(ctx, topics...); err == nil {
			for _, r := range replies {
				if !errors.Is(r.Err, kerr.UnknownTopicOrPartition) { // the list was older than an earlier removal
					err = errors.Join(err, r.Err)
				}
			}
		}
	}
	if b.kafka.container == "" && err == nil {
		err = b.removeGroups(ctx, name+"-")
	}
	if b.redis.container == "" {
		err = errors.Join(err, b.removeKeys(ctx, name+"-*"))
	}
	if err != nil {
		return fmt.Errorf("removing %s: %w", name, err)
	}
	return nil
}

// removeGroups deletes groups. Their members were killed and cannot leave, so it removes them first.
func (b *bench) removeGroups(ctx context.Context, prefix string) error {
	groups, err := b.admin.ListGroups(ctx)
	if err != nil {
		return err
	}
	names := slices.DeleteFunc(groups.Groups(), func(name string) bool { return !strings.HasPrefix(name, prefix) })
	if len(names) == 0 {
		return nil
	}
	described, err := b.admin.DescribeGroups(ctx, names...)
	if err != nil {
		return err
	}
	for _, g := range described.Sorted() {
		if len(g.Members) == 0 {
			continue
		}
		req := kmsg.NewPtrLeaveGroupRequest()
		req.Group = g.Group
		for _, m := range g.Members {
			member := kmsg.NewLeaveGroupRequestMember()
			member.MemberID, member.InstanceID = m.MemberID, m.InstanceID
			req.Members = append(req.Members, member)
		}
		if _, err := req.RequestWith(ctx, b.client); err != nil {
			return fmt.Errorf("making the members of %s leave: %w", g.Group, err)
		}
	}
	deleted, err := b.admin.DeleteGroups(ctx, names...)
	return errors.Join(err, deleted.Error())
}

func (b *bench) removeKeys(ctx context.Context, pattern string) error {
	keys := b.cache.Scan(ctx, 0, pattern, 1000).Iterator()
	var batch []string
	for keys.Next(ctx) {
		if batch = append(batch, keys.Val()); len(batch) == 1000 {
			if err := b.cache.Unlink(ctx, batch...).Err(); err != nil {
				return err
			}
			batch = batch[:0]
		}
	}
	if err := keys.Err(); err != nil || len(batch) == 0 {
		return err
	}
	return b.cache.Unlink(ctx, batch...).Err()
}
