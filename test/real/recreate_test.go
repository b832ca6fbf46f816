package real_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/test/real/harness"
)

// noticed is the time within which a recreated topic is in use, by contract.
const noticed = 30 * time.Second

// deleteTopics deletes topics and waits until the broker no longer lists them.
func deleteTopics(t testing.TB, e *env, topics ...string) {
	t.Helper()
	adm := kadm.NewClient(harness.Client(t, e.kafka.Addr))
	deleted, err := adm.DeleteTopics(t.Context(), topics...)
	if err == nil {
		err = deleted.Error()
	}
	if err != nil {
		t.Fatalf("delete %v: %v", topics, err)
	}
	harness.Eventually(t, harness.Patience, func() bool {
		listed, err := adm.ListTopics(t.Context())
		if err != nil {
			return false
		}
		for _, topic := range topics {
			if listed.Has(topic) {
				return false
			}
		}
		return true
	}, "topics %v are gone", topics)
}

// TestRecreatedTopics deletes a source, a delay topic and the dead letter topic under a running service. /readyz must
// name them, and once recreated they must be read and written again without a restart.
func TestRecreatedTopics(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.configure(t, map[int64]harness.Webhook{1: e.all(1, ""), 2: e.all(2, "")})
	e.recv.On(path("dlr", 2), harness.Status(500))
	p := e.serve(t)
	// Offsets that the new topic does not reach at first. They must not apply to it.
	var records []int64
	for sms := range int64(20) {
		records = append(records, sms)
		e.emit(t, e.dlr(1, sms))
	}
	e.emit(t, e.dlr(2, 100))
	e.recv.WaitCount(t, path("dlr", 1), len(records), harness.Patience)
	e.dead(t, 2, 1, harness.Patience)
	e.recv.Forget()

	topics := []string{e.topics.DLR, e.topics.DLR + "-retry-1s", e.topics.DLR + "-retry-2s", e.topics.DeadLetter}
	deleteTopics(t, e, topics...)
	gone := time.Now()
	harness.Eventually(t, noticed, func() bool {
		text := readyz(p)
		for _, topic := range topics {
			if !strings.Contains(text, "topic "+topic+" does not exist") {
				return false
			}
		}
		return true
	}, "/readyz names the deleted topics")
	t.Logf("named after %v", time.Since(gone).Round(time.Millisecond))
	e.ensure(t)
	created := time.Now()
	want := []int64{}
	for sms := range int64(30) { // more than before, the first ones before the new topic is read
		want = append(want, 1000+sms)
		e.emit(t, e.dlr(1, 1000+sms))
	}
	e.emit(t, e.dlr(2, 2000))
	e.recv.WaitCount(t, path("dlr", 1), len(want), noticed)
	t.Logf("read after %v", time.Since(created).Round(time.Millisecond))
	p.WaitReady(t, noticed-time.Since(created)+harness.Slack(created))
	got := map[string]int{}
	for _, r := range e.recv.Requests(path("dlr", 1)) {
		got[field(t, r.Body, "id")]++
	}
	for _, sms := range want {
		if n := got[fmt.Sprint(sms)]; n != 1 {
			t.Errorf("message %d was received %d times, want once", sms, n)
		}
	}
	e.recv.WaitCount(t, path("dlr", 2), 3, noticed)
	e.dead(t, 2, 1, harness.Patience)
	p.WaitBalanced(t, 1, harness.Patience)
	for _, line := range []string{"cannot fetch", "cannot store a record", "cannot commit"} {
		if n := strings.Count(p.Log(), line); n > 2*len(topics) {
			t.Errorf("%d lines %q, want one line per topic", n, line)
		}
	}
}

// TestRecreatedSettings deletes the topics of settings, keys and releases while the service runs, and creates them
// again. From the moment /readyz returns 200, only the content of the new ones counts. A pause that has ended with them
// releases the waiting events.
func TestRecreatedSettings(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.configure(t, map[int64]harness.Webhook{1: e.all(1, ""), 2: e.all(2, "")})
	e.emit(t, e.pausedDocument(t, 3, "dlr"))
	previous := e.newKey(t, 1)
	p := e.serve(t)
	e.emit(t, e.dlr(1, 1), e.dlr(3, 1))
	e.recv.WaitCount(t, path("dlr", 1), 1, harness.Patience)
	e.waitStored(t, harness.Paused(e.topics.DLR, "24h"), 3, 1, harness.Patience)
	topics := []string{e.topics.Config, e.topics.Keys, e.topics.Releases}
	deleteTopics(t, e, topics...)
	e.ensure(t)
	created := time.Now()
	e.configure(t, map[int64]harness.Webhook{1: {DLR: e.recv.URL(path("again", 1))}, 3: {DLR: e.recv.URL(path("resumed", 3))}})
	key := e.newKey(t, 1)
	harness.Eventually(t, noticed, func() bool {
		return strings.Contains(p.Log(), "switched to the topics that were created again")
	}, "the topics are adopted")
	p.WaitReady(t, noticed)
	t.Logf("ready after %v", time.Since(created).Round(time.Millisecond))
	for name, c := range map[string]struct {
		key  string
		want int
	}{"new": {key, http.StatusOK}, "previous": {previous, http.StatusUnauthorized}} {
		if status := ask(t, p, http.MethodGet, c.key, "/v1/user/get-webhook", "", nil); status != c.want {
			t.Errorf("the %s key: %d, want %d", name, status, c.want)
		}
	}
	e.emit(t, e.dlr(1, 2), e.dlr(2, 2))
	e.recv.WaitCount(t, path("again", 1), 1, harness.Patience)
	var begun recovery
	if status := ask(t, p, http.MethodPost, key, "/v1/user/recover", "", &begun); status != http.StatusOK {
		t.Errorf("recover: %d", status)
	}
	harness.Eventually(t, harness.Patience, func() bool {
		var latest recovery
		return ask(t, p, http.MethodGet, key, "/v1/user/recover", "", &latest) == http.StatusOK &&
			latest.ID == begun.ID && latest.State == "done"
	}, "the recovery is done")
	e.recv.WaitCount(t, path("resumed", 3), 1, harness.Patience)
	if n := e.recv.Count(path("dlr", 1)) + e.recv.Count(path("dlr", 2)); n != 1 {
		t.Errorf("%d requests to URLs of deleted topics, want none but the first", n-1)
	}
}

// steady writes a delivery receipt for each user every 50 ms, each batch with its own client, and records the numbers of
// the acknowledged messages with the time before they were written.
type steady struct {
	stop chan struct{}
	done chan struct{}

	mu    sync.Mutex
	acked map[int64]time.Time
}

func startSteady(t *testing.T, e *env, users int64) *steady {
	s := &steady{stop: make(chan struct{}), done: make(chan struct{}), acked: map[int64]time.Time{}}
	go func() {
		defer close(s.done)
		for sms := int64(1_000_000); ; {
			select {
			case <-s.stop:
				return
			case <-time.After(50 * time.Millisecond):
			}
			at := time.Now()
			cl, err := kgo.NewClient(kgo.SeedBrokers(e.kafka.Addr), kgo.RecordDeliveryTimeout(2*time.Second), kgo.ProducerLinger(0))
			if err != nil {
				t.Error(err)
				return
			}
			first := sms
			var records []*kgo.Record
			for user := int64(1); user <= users; user++ {
				records = append(records, e.dlr(user, sms))
				sms++
			}
			for i, result := range cl.ProduceSync(context.Background(), records...) {
				if result.Err == nil {
					s.mu.Lock()
					s.acked[first+int64(i)] = at
					s.mu.Unlock()
				}
			}
			cl.Close()
		}
	}()
	return s
}

// since stops the load and returns the messages that were written since a time.
func (s *steady) since(at time.Time) (messages []int64) {
	close(s.stop)
	<-s.done
	for sms, written := range s.acked {
		if written.After(at) {
			messages = append(messages, sms)
		}
	}
	return messages
}

// TestRecreatedUnderLoad deletes a source and its delay topics under the load of two members and creates them again,
// with more partitions: what is written from then on is delivered, failed attempts included.
func TestRecreatedUnderLoad(t *testing.T) {
	const users = 10 // the first attempts of user 10 fail
	e := newEnv(t)
	crowd(t, e, users)
	members := []*harness.Proc{harness.Start(t, e.options()), harness.Start(t, e.options())}
	for _, p := range members {
		p.WaitReady(t, harness.Patience)
	}
	l := startSteady(t, e, users)
	e.recv.WaitCount(t, "", 10*users, harness.Patience)
	topics := []string{e.topics.DLR, e.topics.DLR + "-retry-1s", e.topics.DLR + "-retry-2s", e.topics.DLR + "-overflow-1s"}
	deleteTopics(t, e, topics...)
	e.flags[0] = "--topics.partitions=" + fmt.Sprint(partitions+1)
	e.ensure(t)
	created := time.Now()
	before := e.recv.Count("")
	e.recv.WaitCount(t, "", before+20*users, noticed)
	t.Logf("read again after %v", time.Since(created).Round(time.Millisecond))
	for _, p := range members {
		p.WaitReady(t, noticed)
	}
	messages := l.since(created)
	delivered := func() map[int64]int {
		n := map[int64]int{}
		for _, r := range e.recv.Requests("") {
			if r.Path != path("dlr", users) || r.Header.Get("Webhook-Attempt") != "1" {
				sms, _ := strconv.ParseInt(field(t, r.Body, "id"), 10, 64)
				n[sms]++
			}
		}
		return n
	}
	missing := func() (n int) {
		got := delivered()
		for _, sms := range messages {
			if got[sms] == 0 {
				n++
			}
		}
		return n
	}
	harness.Eventually(t, harness.Patience, func() bool { return missing() == 0 }, "all %d messages delivered", len(messages))
	again := 0
	for _, n := range delivered() {
		again += n - 1
	}
	t.Logf("%d messages written to the new topics, %d requests repeated", len(messages), again)
	// Records that a member has not committed when it loses its partitions are sent again. A machine that is too busy for
	// heartbeats makes it lose them.
	lost := slices.ContainsFunc(members, func(p *harness.Proc) bool { return strings.Contains(p.Log(), "partitions lost") })
	if again > 0 && !lost {
		t.Errorf("%d messages were delivered more than once", again)
	}
	for _, p := range members {
		if !p.Running() {
			t.Error("a member ended")
		}
	}
}
