package real_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/test/real/harness"
)

// Users of the mirror test, by what happens to their events.
const (
	mirrorHealthy = 1 // delivered at once
	mirrorFailing = 2 // the first attempt fails
	mirrorClicks  = 3 // two clicks of each message
	mirrorNobody  = 9 // without settings; this user's records make the offsets of two clusters differ
)

const mirrorDelay = 5 * time.Second // of a retry: longer than a change of clusters, unless the machine is slow

// TestMirror carries out docs/upgrade.md's section on disaster recovery: instances are killed under load, MirrorMaker 2
// copies the topics to another cluster, where their offsets are others, and translates the committed offsets, and the
// instances go on there. Then a program of the test does the same in the other direction, to topics that were created
// again, with translated offsets that lag behind. Half of the events have an id of the gateway's.
func TestMirror(t *testing.T) {
	t.Parallel()
	here, there := harness.Kafka(t), harness.OwnKafka(t)
	a := &env{kafka: here, redis: harness.Redis(t), topics: harness.TopicsFor(t)}
	a.begin(t, []string{"--retry.schedule=" + mirrorDelay.String(), "--overflow.delays=1s,10s"})
	b := &env{kafka: there, redis: a.redis, topics: a.topics, recv: a.recv, flags: a.flags}
	b.ensure(t)
	b.precede(t)
	judge := newMirrorJudge(a.recv)
	a.configure(t, map[int64]harness.Webhook{mirrorHealthy: a.all(mirrorHealthy, ""), mirrorFailing: a.all(mirrorFailing, ""), mirrorClicks: a.all(mirrorClicks, "")})
	gateway := &mirrorGateway{}

	p := a.serve(t)
	a.beginTransaction(t, harness.Event(a.topics.Inbound, mirrorHealthy, harness.InboundValue(mirrorHealthy, 1))).end(kgo.TryAbort)
	maker := startMaker(t, a, b)
	maker.drain(t) // it runs before the first event, as in production
	gateway.write(t, a, 60)
	harness.Eventually(t, harness.Patience, func() bool { return judge.requests() > 40 && a.committed(t) > 10 }, "requests and commits on the first cluster")
	p.Kill()
	gateway.write(t, a, 20) // no service reads them there any more
	maker.drain(t)
	maker.translate(t)
	maker.Stop(t)

	p = b.serve(t)
	gateway.write(t, b, 60)
	harness.Eventually(t, harness.Patience, func() bool { return judge.delivered(mirrorHealthy) > 30 && b.committed(t) > 20 }, "deliveries from the other cluster")
	p.Kill()
	gateway.write(t, b, 20)

	deleteTopics(t, a, allTopics(t, a)...)
	a.ensure(t)
	a.precede(t)
	a.precede(t)
	copier := startMirror(t, b, a)
	copier.drain(t)
	copier.translate(t)
	a.serve(t)
	gateway.write(t, a, 60)
	harness.Eventually(t, 40*time.Second, func() bool { return len(judge.missing(gateway)) == 0 }, "an answer of 200 to every event")
	harness.Pass(2 * time.Second) // for surplus requests
	judge.report(t, gateway)
}

// mirrorGateway writes numbered events. Those with odd numbers have an id from the gateway.
type mirrorGateway struct{ events atomic.Int64 }

func (g *mirrorGateway) write(t *testing.T, e *env, n int) {
	t.Helper()
	var records []*kgo.Record
	for range n {
		number := g.events.Add(1)
		user := int64(mirrorHealthy)
		topic := e.topics.DLR
		switch number % 4 {
		case 1, 2:
			user = mirrorFailing
		case 3:
			user, topic = mirrorClicks, e.topics.Click
		}
		add := func(text, id string) {
			r := harness.Event(topic, user, fmt.Sprintf(`{"user_id":%d,"sms":{"id":%d,"text":%q}}`, user, number, text))
			if number%8 < 4 {
				r.Headers = []kgo.RecordHeader{{Key: "webhook-id", Value: []byte(id)}}
			}
			records = append(records, r)
		}
		add("first", gatewayID(number))
		if user == mirrorClicks {
			add("second", gatewayID(number)+"/second")
		}
	}
	e.emit(t, records...)
}

func gatewayID(number int64) string { return "gw-" + strconv.FormatInt(number, 10) }

// mirrorJudge is the customers' server. It identifies an event by its number, whatever its id is.
type mirrorJudge struct {
	mu     sync.Mutex
	ids    map[int64]map[string]bool // by event
	events map[string]map[int64]bool // by id
	ok     map[int64]int64           // event: user
	failed map[string]time.Time      // id: when its first attempt failed
	wrong  []string
}

func newMirrorJudge(recv *harness.Receiver) *mirrorJudge {
	j := &mirrorJudge{ids: map[int64]map[string]bool{}, events: map[string]map[int64]bool{}, ok: map[int64]int64{}, failed: map[string]time.Time{}}
	for path, user := range map[string]int64{path("dlr", mirrorHealthy): mirrorHealthy, path("dlr", mirrorFailing): mirrorFailing, path("click", mirrorClicks): mirrorClicks} {
		recv.On(path, func(rw http.ResponseWriter, _ *http.Request, req harness.Request) {
			rw.WriteHeader(j.answer(user, req))
		})
	}
	return j
}

func (j *mirrorJudge) answer(user int64, req harness.Request) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	var sms struct {
		ID   int64  `json:"id"`
		Text string `json:"text"`
	}
	form, err := url.ParseQuery(string(req.Body))
	if err == nil {
		err = json.Unmarshal([]byte(form.Get("sms")), &sms)
	}
	id := req.Header.Get("Webhook-Id")
	switch {
	case err != nil:
		j.wrong = append(j.wrong, err.Error())
	case sms.Text != "first":
		j.wrong = append(j.wrong, fmt.Sprintf("the second click of message %d was sent as %s", sms.ID, id))
	}
	if j.ids[sms.ID] == nil {
		j.ids[sms.ID] = map[string]bool{}
	}
	if j.events[id] == nil {
		j.events[id] = map[int64]bool{}
	}
	j.ids[sms.ID][id], j.events[id][sms.ID] = true, true
	if user == mirrorFailing && req.Header.Get("Webhook-Attempt") == "1" {
		if j.failed[id].IsZero() {
			j.failed[id] = time.Now()
		}
		return http.StatusServiceUnavailable
	}
	if at := j.failed[id]; user == mirrorFailing && !at.IsZero() && time.Since(at) < mirrorDelay-50*time.Millisecond {
		j.wrong = append(j.wrong, fmt.Sprintf("%s: the second attempt came %v after the first", id, time.Since(at)))
	}
	j.ok[sms.ID] = user
	return http.StatusOK
}

func (j *mirrorJudge) requests() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.events)
}

func (j *mirrorJudge) delivered(user int64) (n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, of := range j.ok {
		if of == user {
			n++
		}
	}
	return n
}

func (j *mirrorJudge) missing(g *mirrorGateway) (events []int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for n := int64(1); n <= g.events.Load(); n++ {
		if j.ok[n] == 0 {
			events = append(events, n)
		}
	}
	return events
}

func (j *mirrorJudge) report(t *testing.T, g *mirrorGateway) {
	t.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, w := range j.wrong {
		t.Error(w)
	}
	changed := 0
	for event, ids := range j.ids {
		if len(ids) > 1 {
			changed++
		}
		if event%8 < 4 && (len(ids) != 1 || !ids[gatewayID(event)]) {
			t.Errorf("event %d has the ids %v, want the gateway's alone", event, ids)
		}
	}
	for id, events := range j.events {
		if len(events) != 1 {
			t.Errorf("%s is the id of the events %v", id, events)
		}
	}
	t.Logf("%d events, %d of them under more than one id", g.events.Load(), changed)
}

// maker is MirrorMaker 2 between two clusters.
type maker struct {
	*harness.MirrorMaker
	from, to *env
	topics   []string
	target   *kadm.Client
	before   kadm.ListedOffsets // the ends of the topics on the other cluster before it started
}

func startMaker(t *testing.T, from, to *env) *maker {
	t.Helper()
	m := &maker{from: from, to: to, topics: allTopics(t, from), target: kadm.NewClient(harness.Client(t, to.kafka.Addr))}
	m.before = ends(t, m.target, m.topics)
	m.MirrorMaker = harness.StartMirrorMaker(t, from.kafka, to.kafka, m.topics, from.topics.Group)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(m.Log())
		}
	})
	return m
}

// drain waits until all records are copied, except the aborted one.
func (m *maker) drain(t *testing.T) {
	t.Helper()
	wanted := ends(t, kadm.NewClient(harness.Client(t, m.from.kafka.Addr)), m.topics)
	left := func() (left []string) {
		copied := ends(t, m.target, m.topics)
		wanted.Each(func(o kadm.ListedOffset) {
			now, _ := copied.Lookup(o.Topic, o.Partition)
			before, _ := m.before.Lookup(o.Topic, o.Partition)
			if n := now.Offset - before.Offset; n < o.Offset && o.Topic != m.from.topics.Inbound {
				left = append(left, fmt.Sprintf("%s/%d: %d of %d", o.Topic, o.Partition, n, o.Offset))
			}
		})
		return left
	}
	harness.Eventually(t, 2*time.Minute, func() bool { return len(left()) == 0 }, "MirrorMaker has copied all records: %v", lastly{func() string { return fmt.Sprint(left()) }})
	if n := len(harness.Consume(t, m.to.kafka.Addr, m.to.topics.Inbound)); n != 0 {
		t.Errorf("MirrorMaker has copied %d records of an aborted transaction", n)
	}
}

// translate waits until the group has an offset on the other cluster, and checks that none is ahead. MirrorMaker does not
// translate an offset below the last record of its first batch of a partition, which is then read from its start.
func (m *maker) translate(t *testing.T) {
	t.Helper()
	committed, err := kadm.NewClient(harness.Client(t, m.from.kafka.Addr)).FetchOffsets(t.Context(), m.from.topics.Group)
	if err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, 2*time.Minute, func() bool {
		translated, _ := m.target.FetchOffsets(t.Context(), m.to.topics.Group)
		found := false
		translated.Each(func(o kadm.OffsetResponse) {
			at, _ := committed.Lookup(o.Topic, o.Partition)
			before, _ := m.before.Lookup(o.Topic, o.Partition)
			found = found || o.At > before.Offset
			if o.At > before.Offset+at.At {
				t.Errorf("%s/%d: the translated offset %d is beyond that of the record %d", o.Topic, o.Partition, o.At, at.At)
			}
		})
		return found
	}, "MirrorMaker has translated a committed offset")
}

// ends returns the ends of topics.
func ends(t *testing.T, cluster *kadm.Client, topics []string) kadm.ListedOffsets {
	t.Helper()
	ends, err := cluster.ListEndOffsets(t.Context(), topics...)
	if err = errors.Join(err, ends.Error()); err != nil {
		t.Fatal(err)
	}
	return ends
}

// mirror copies topics to another cluster: keys, values, headers and timestamps, to the same partitions. It records the
// new offset of each copy.
type mirror struct {
	from, to *env
	topics   []string
	stop     func()

	mu     sync.Mutex
	copied map[string]map[int32][]pair
}

type pair struct{ from, to int64 }

func startMirror(t *testing.T, from, to *env) *mirror {
	t.Helper()
	m := &mirror{from: from, to: to, topics: allTopics(t, from), copied: map[string]map[int32][]pair{}}
	reader := harness.Client(t, from.kafka.Addr, kgo.ConsumeTopics(m.topics...), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(100*time.Millisecond))
	writer := harness.Client(t, to.kafka.Addr, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	m.stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(m.stop)
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			var batch []*kgo.Record
			var offsets []int64
			reader.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
				batch = append(batch, &kgo.Record{Topic: r.Topic, Partition: r.Partition, Key: r.Key, Value: r.Value, Headers: r.Headers, Timestamp: r.Timestamp})
				offsets = append(offsets, r.Offset)
			})
			if err := writer.ProduceSync(context.Background(), batch...).FirstErr(); err != nil {
				t.Errorf("copy: %v", err)
				return
			}
			m.note(batch, offsets)
		}
	}()
	return m
}

func (m *mirror) note(batch []*kgo.Record, offsets []int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, r := range batch {
		if m.copied[r.Topic] == nil {
			m.copied[r.Topic] = map[int32][]pair{}
		}
		m.copied[r.Topic][r.Partition] = append(m.copied[r.Topic][r.Partition], pair{offsets[i], r.Offset})
	}
}

// drain waits until everything is copied, and stops.
func (m *mirror) drain(t *testing.T) {
	t.Helper()
	ends := ends(t, kadm.NewClient(harness.Client(t, m.from.kafka.Addr)), m.topics)
	harness.Eventually(t, harness.Patience, func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		behind := false
		ends.Each(func(end kadm.ListedOffset) {
			pairs := m.copied[end.Topic][end.Partition]
			behind = behind || end.Offset > 0 && (len(pairs) == 0 || pairs[len(pairs)-1].from < end.Offset-1)
		})
		return !behind
	}, "all records are copied")
	m.stop()
}

// translate commits the group's offsets on the other cluster like a mirror: up to a few records behind, and without the
// metadata. The group accepts them once it has no members.
func (m *mirror) translate(t *testing.T) {
	t.Helper()
	committed, err := kadm.NewClient(harness.Client(t, m.from.kafka.Addr)).FetchOffsets(t.Context(), m.from.topics.Group)
	if err != nil {
		t.Fatal(err)
	}
	translated := kadm.Offsets{}
	committed.Each(func(o kadm.OffsetResponse) {
		pairs := m.copied[o.Topic][o.Partition]
		n, _ := slices.BinarySearchFunc(pairs, o.At, func(p pair, at int64) int { return int(p.from - at) })
		if n -= n % 4; n > 0 {
			translated.AddOffset(o.Topic, o.Partition, pairs[n-1].to+1, -1)
		}
	})
	if len(translated) == 0 {
		t.Fatal("nothing was committed")
	}
	adm := kadm.NewClient(harness.Client(t, m.to.kafka.Addr))
	harness.Eventually(t, harness.Patience, func() bool {
		return adm.CommitAllOffsets(t.Context(), m.to.topics.Group, translated) == nil
	}, "the group accepts the translated offsets")
}

// committed returns how many records of the sources the group has committed.
func (e *env) committed(t *testing.T) (n int64) {
	t.Helper()
	offsets, err := kadm.NewClient(harness.Client(t, e.kafka.Addr)).FetchOffsets(t.Context(), e.topics.Group)
	if err != nil {
		return 0
	}
	offsets.Each(func(o kadm.OffsetResponse) {
		if o.Topic == e.topics.DLR || o.Topic == e.topics.Click {
			n += max(o.At, 0)
		}
	})
	return n
}

// allTopics returns the topics that the service reads and writes.
func allTopics(t *testing.T, e *env) (topics []string) {
	t.Helper()
	for line := range strings.Lines(harness.Ensure(t, e.options())) {
		topic, _, _ := strings.Cut(line, ": ")
		topics = append(topics, topic)
	}
	return topics
}

// precede writes a record into each partition of the sources, so that the offsets of the copies differ.
func (e *env) precede(t *testing.T) {
	t.Helper()
	var records []*kgo.Record
	for _, topic := range []string{e.topics.DLR, e.topics.Click} {
		for p := range int32(partitions) {
			r := harness.Event(topic, mirrorNobody, harness.DLRValue(mirrorNobody, 1))
			r.Partition = p
			records = append(records, r)
		}
	}
	e.emit(t, records...)
}
