package faults_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/test/real/harness"
)

// env is the environment of one case: Kafka, Redis, its own topics, users and the judge.
type env struct {
	brokers  string // for clients of the test
	serve    string // brokers of the instances, possibly through a proxy
	redis    string
	topics   harness.Topics
	judge    *judge
	users    int64
	schedule []time.Duration
	session  time.Duration // kafka.session_timeout
	flags    []string

	mu    sync.Mutex
	procs []*harness.Proc // all instances that were started
}

// overflowTiers are the delays of the overflow topics.
var overflowTiers = []string{"1s", "3s", "10s"}

// Users beyond this have no settings.
const stranger = 1_000_000

// newEnv creates the topics of a case and configures its users. Flags are for `topics ensure` and every instance.
func newEnv(t testing.TB, brokers, redis string, users int64, flags ...string) *env {
	t.Helper()
	schedule := pick([]time.Duration{time.Second, 2 * time.Second}, []time.Duration{3 * time.Second, 5 * time.Second})
	return newEnvOf(t, brokers, redis, users, schedule, flags...)
}

// newEnvOf is like newEnv with a retry.schedule of two delays.
func newEnvOf(t testing.TB, brokers, redis string, users int64, schedule []time.Duration, flags ...string) *env {
	t.Helper()
	harness.Kafka(t) // start it even if the case has its own: it measures the machine's pace
	// In the short form, sessions are shorter than the default only in cases that kill instances: a busy machine
	// may hold an instance up for seconds, which must not cost it its partitions.
	s := &env{brokers: brokers, serve: brokers, redis: redis, topics: harness.TopicsFor(t), users: users, schedule: schedule, session: pick(45*time.Second, 6*time.Second)}
	for _, flag := range flags {
		if v, ok := strings.CutPrefix(flag, "--kafka.session_timeout="); ok {
			s.session, _ = time.ParseDuration(v)
		}
	}
	s.judge = newJudge(t, usual)
	s.flags = append([]string{
		"--topics.partitions=6", fmt.Sprintf("--retry.schedule=%v,%v", s.schedule[0], s.schedule[1]), "--overflow.delays=" + strings.Join(overflowTiers, ","),
		"--revocation.interval=2s", "--kafka.session_timeout=" + s.session.String(),
	}, flags...)
	harness.Ensure(t, s.options())
	harness.Secret(envToken)
	harness.Secret(envPassword)
	var records []*kgo.Record
	for user := int64(1); user <= users; user++ {
		records = append(records, harness.WebhookRecord(t, s.topics.Config, user, harness.Webhook{
			DLR: s.judge.url("dlr", user), Click: s.judge.url("click", user), Inbound: s.judge.url("inbound", user), Revoke: s.judge.url("revoke", user),
			Auth: "env:" + envPassword,
		}))
	}
	harness.ProduceMany(t, s.brokers, records)
	return s
}

// usual returns the answer of a user's endpoint, after some milliseconds. Endpoints of every tenth user fail the first
// attempt of each event, those of one user in twenty fail always.
func usual(_ string, user int64, attempt int) (int, time.Duration) {
	after := time.Duration(user%5) * 2 * time.Millisecond
	if user%20 == 1 || user%10 == 0 && attempt == 1 {
		return http.StatusInternalServerError, after
	}
	return http.StatusOK, after
}

// options returns the options of an instance, with its own flags last.
func (s *env) options(flags ...string) harness.Options {
	args := append(append([]string(nil), s.flags...), flags...)
	return harness.Options{Brokers: s.serve, RedisAddr: s.redis, Topics: s.topics, Args: args}
}

// launch starts an instance and does not wait for it.
func (s *env) launch(t testing.TB, o harness.Options) *harness.Proc {
	t.Helper()
	p := harness.Start(t, o)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.procs = append(s.procs, p)
	return p
}

// start starts an instance and waits until it is ready.
func (s *env) start(t testing.TB, flags ...string) *harness.Proc {
	t.Helper()
	p := s.launch(t, s.options(flags...))
	p.WaitReady(t, patience)
	return p
}

// lost returns when instances lost partitions because the machine held them up. What was not committed by then may be
// repeated by the next owner.
func (s *env) lost(t testing.TB) (spans []span) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.procs {
		for line := range strings.Lines(p.Log()) {
			if !strings.Contains(line, "partitions lost") {
				continue
			}
			var said struct {
				Time string `json:"time"`
			}
			if err := json.Unmarshal([]byte(line), &said); err != nil {
				t.Fatalf("log line %q: %v", line, err)
			}
			at, err := time.Parse("2006-01-02T15:04:05.000Z0700", said.Time)
			if err != nil {
				t.Fatalf("log line %q: %v", line, err)
			}
			began := at.Add(-2 * s.session)
			if harness.Slack(began) > s.session {
				spans = append(spans, span{from: began, to: at})
			}
		}
	}
	return spans
}

// load writes events in the background at a steady rate, whatever happens to Kafka.
type load struct {
	stop context.CancelFunc
	done chan struct{}
	cl   *kgo.Client

	mu    sync.Mutex
	acked map[string]bool // identities of the acknowledged events
	wrong error
}

// loadRate describes a load for the report.
func loadRate(perSecond int, d time.Duration) string {
	return fmt.Sprintf("%s events/s, %v", count(perSecond), d)
}

// load writes perSecond events of all kinds until it is ended.
func (s *env) load(t testing.TB, perSecond int) *load {
	t.Helper()
	return s.loadOf(t, perSecond, s.event)
}

// loadOf writes perSecond events until it is ended. event returns the n-th one.
func (s *env) loadOf(t testing.TB, perSecond int, event func(n int64) *kgo.Record) *load {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	l := &load{stop: stop, done: make(chan struct{}), acked: map[string]bool{}}
	l.cl = harness.Client(t, s.brokers, kgo.RequiredAcks(kgo.AllISRAcks()), kgo.ProducerLinger(5*time.Millisecond), kgo.AlwaysRetryEOF(),
		kgo.MaxBufferedRecords(5_000_000), kgo.MetadataMinAge(250*time.Millisecond))
	go func() {
		defer close(l.done)
		const beat = 10 * time.Millisecond
		tick := time.NewTicker(beat)
		defer tick.Stop()
		began, n := time.Now(), int64(0)
		for ctx.Err() == nil {
			for due := int64(float64(perSecond) * time.Since(began).Seconds()); n < due; n++ {
				l.cl.Produce(context.Background(), event(n), l.promised)
			}
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
		flush, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		if err := l.cl.Flush(flush); err != nil {
			l.fail(fmt.Errorf("events are still not written 2 minutes after the load: %w", err))
		}
	}()
	t.Cleanup(func() { stop(); <-l.done })
	return l
}

func (l *load) promised(r *kgo.Record, err error) {
	// A broker whose disk is full may answer with this error, which the client does not retry. A gateway would write the
	// event again.
	if errors.Is(err, kerr.UnknownServerError) {
		again := &kgo.Record{Topic: r.Topic, Partition: r.Partition, Key: r.Key, Value: r.Value, Headers: r.Headers}
		l.cl.Produce(context.Background(), again, l.promised)
		return
	}
	if err != nil {
		l.fail(fmt.Errorf("produce: %w", err))
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked[identity(r)] = true
}

func (l *load) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wrong == nil {
		l.wrong = err
	}
}

// written returns the number of events that Kafka has acknowledged.
func (l *load) written() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acked)
}

// end stops the load and returns the events that Kafka acknowledged.
func (l *load) end(t testing.TB) map[string]bool {
	t.Helper()
	l.stop()
	<-l.done
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wrong != nil {
		t.Errorf("load: %v", l.wrong)
	}
	return l.acked
}

// event returns the n-th event of a load: mostly delivery receipts, some clicks (including bots' and repeated ones),
// received messages and revocations, and some events of users without settings.
func (s *env) event(n int64) *kgo.Record {
	user := s.user(n)
	switch {
	case n%50 == 3:
		return harness.Event(s.topics.DLR, stranger+user, harness.DLRValue(stranger+user, n))
	case n%100 == 17:
		return harness.Event(s.topics.Click, user, botValue(user, n))
	case n%20 == 7:
		return harness.Event(s.topics.Click, user, harness.ClickValue(user, n))
	case n%100 == 48: // repeat the click of 41 events ago, which is of the same user
		n -= 41
		user = s.user(n)
		return harness.Event(s.topics.Click, user, harness.ClickValue(user, n))
	case n%20 == 12:
		return harness.Event(s.topics.Inbound, user, harness.InboundValue(user, n))
	case n%100 == 1:
		return harness.Event(s.topics.Revocation, user, harness.RevocationValue(user, []int64{2 * n}, []int64{2*n + 1}))
	}
	return harness.Event(s.topics.DLR, user, harness.DLRValue(user, n))
}

// user returns the user of the n-th event. Users take turns, and one turn in 20 is skipped, so that each has all kinds.
func (s *env) user(n int64) int64 { return (n+n/20+2*(n/100))%s.users + 1 }

func botValue(user, sms int64) string {
	return fmt.Sprintf(`{"user_id":%d,"sms":{"id":%d},"bot":true}`, user, sms)
}

// identity returns the identity of the event of a source record.
func identity(r *kgo.Record) string { return harness.Identity(r) }
