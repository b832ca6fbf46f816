package faults_test

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/smshooks/smshooks/test/real/harness"
)

// mixed is a case in which customers, operators and faults act at random at the same time.
type mixed struct {
	*env
	t      *testing.T
	chance *rand.Rand
	kafka  *harness.Broker
	redis  *harness.RedisServer
	// instances that run now
	members []*harness.Proc
	leaving sync.WaitGroup
	keys    []string // of the API, by user id

	mu      sync.Mutex
	failing map[endpoint]bool // answers 503 until it is repaired

	pausedAt map[endpoint]time.Time // since when no attempt may start
	pauses   []pause
	replayed map[int64]bool // users whose attempts may begin again
	faults   []span
	did      map[string]int
}

// endpoint is a user's endpoint of a kind.
type endpoint struct {
	kind string
	user int64
}

// pause is a time in which no attempt at an endpoint may start.
type pause struct {
	endpoint
	from, to time.Time
}

// customersOfMixed have API keys; other users are load.
const customersOfMixed = 20

// deed is what may happen, and how often beside the others.
type deed struct {
	name   string
	weight int
	do     func(m *mixed, user int64, kind string)
}

// deeds are those of the short form. Faults that would disturb other cases are in rough.
var deeds = []deed{
	{"pause", 20, func(m *mixed, user int64, kind string) { m.pause(user, kind, true) }},
	{"end of the pauses", 20, func(m *mixed, user int64, _ string) { m.unpause(user) }},
	{"endpoint fails", 15, func(m *mixed, user int64, kind string) { m.fail(user, kind) }},
	{"endpoints repaired", 10, func(m *mixed, user int64, _ string) { m.repair(user) }},
	{"recover", 15, func(m *mixed, user int64, _ string) { m.call("POST", "recover", user, "") }},
	{"replay", 5, (*mixed).replay},
	{"dlr_order", 3, func(m *mixed, user int64, _ string) {
		m.call("PATCH", "webhook-settings", user, "dlr_order="+[]string{"all", "latest"}[m.chance.IntN(2)])
	}},
	{"new secret", 2, func(m *mixed, user int64, _ string) { m.call("POST", "webhook-secret/rotate", user, "") }},
	{"retry release --all", 2, func(m *mixed, _ int64, _ string) { m.release() }},
	{"SIGTERM", 3, func(m *mixed, _ int64, _ string) { m.restart() }},
	{"kill -9", 3, func(m *mixed, _ int64, _ string) { m.kill() }},
}

var rough = []deed{
	{"frozen instance", 3, func(m *mixed, _ int64, _ string) { m.freeze() }},
	{"broker killed", 2, func(m *mixed, _ int64, _ string) { m.killBroker() }},
	{"FLUSHALL", 2, func(m *mixed, _ int64, _ string) { m.redis.FlushAll(m.t) }},
	{"Redis paused", 2, func(m *mixed, _ int64, _ string) {
		m.redis.Pause(m.t)
		harness.Pass(3 * time.Second)
		m.redis.Unpause(m.t)
	}},
}

// TestMixed lets customers pause, recover and replay, endpoints fail, operators release, and instances stop and die, all
// by chance at the same time. Other cases show one thing at a time; this one looks for what they do to each other.
func TestMixed(t *testing.T) {
	inTurn(t)
	rate, lasts := pick(100, 1000), pick(15*time.Second, 5*time.Minute)
	rec := newCase(t, "20", "everything at once", loadRate(rate, lasts))
	m := newMixed(t)
	l := m.load(t, rate)
	m.judge.wait(t, rate, patience)
	all := deeds
	if long() {
		all = slices.Concat(deeds, rough)
	}
	for began := time.Now(); time.Since(began) < lasts; harness.Pass(time.Duration(m.chance.IntN(400)) * time.Millisecond) {
		m.act(all)
	}
	m.leaving.Wait()
	acked := l.end(t)
	for user := int64(1); user <= customersOfMixed; user++ {
		m.repair(user)
		harness.Eventually(t, patience, func() bool { return m.unpause(user) }, "user %d has no paused kind", user)
	}
	var did []string
	for _, name := range slices.Sorted(maps.Keys(m.did)) {
		did = append(did, fmt.Sprintf("%s %d×", name, m.did[name]))
	}
	rec.did("three instances; by chance: %s", strings.Join(did, ", "))
	m.close(rec, m.drain(t, acked, backlog()))
}

func newMixed(t *testing.T) *mixed {
	t.Helper()
	m := &mixed{
		t: t, chance: rand.New(rand.NewPCG(20, 1)), kafka: harness.Kafka(t), redis: harness.Redis(t), keys: make([]string, customersOfMixed+1),
		failing: map[endpoint]bool{}, pausedAt: map[endpoint]time.Time{}, replayed: map[int64]bool{}, did: map[string]int{},
	}
	if long() {
		m.kafka, m.redis = harness.OwnKafka(t), harness.OwnRedis(t)
	}
	m.env = newEnvOf(t, m.kafka.Addr, m.redis.Addr, 100, []time.Duration{15 * time.Second, 20 * time.Second},
		"--kafka.session_timeout=6s", "--api.replay_limit=1000000")
	for user := int64(1); user <= customersOfMixed; user++ {
		out, stderr, code := harness.Run(t, m.options(), "keys", "create", fmt.Sprint("--user=", user))
		if code != 0 {
			t.Fatalf("keys create: exit code %d, %s", code, stderr)
		}
		m.keys[user] = strings.TrimSpace(out)
	}
	m.judge.behave(func(kind string, user int64, attempt int) (int, time.Duration) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.failing[endpoint{kind, user}] {
			return http.StatusServiceUnavailable, time.Duration(user%5) * 20 * time.Millisecond
		}
		return usual(kind, user, attempt)
	})
	m.members = m.env.members(t, 3)
	return m
}

// act does one of the deeds, chosen by chance.
func (m *mixed) act(all []deed) {
	total := 0
	for _, d := range all {
		total += d.weight
	}
	n := m.chance.IntN(total)
	for _, d := range all {
		if n -= d.weight; n < 0 {
			m.did[d.name]++
			d.do(m, m.chance.Int64N(customersOfMixed)+1, kindsOfMixed[m.chance.IntN(len(kindsOfMixed))])
			return
		}
	}
}

var kindsOfMixed = []string{"dlr", "click", "inbound", "revoke_click"}

// at returns the endpoint as the judge names it.
func at(user int64, kind string) endpoint { return endpoint{strings.TrimSuffix(kind, "_click"), user} }

// call sends a request to any instance and returns its status, 0 without a reply.
func (m *mixed) call(method, path string, user int64, form string) int {
	m.t.Helper()
	url := "http://" + m.members[m.chance.IntN(len(m.members))].Addr + "/v1/user/" + path
	req, err := http.NewRequest(method, url, strings.NewReader(form))
	if err != nil {
		m.t.Fatal(err)
	}
	req.Header.Set("X-API-KEY", m.keys[user])
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := (&http.Client{Timeout: 20 * time.Second}).Do(req)
	if err != nil {
		return 0 // the instance was killed, or stops
	}
	defer func() { _ = resp.Body.Close() }()
	body, _ := io.ReadAll(resp.Body)
	switch resp.StatusCode {
	case http.StatusOK, http.StatusTooManyRequests, http.StatusServiceUnavailable:
	default:
		m.t.Errorf("%s %s of user %d: status %d, %s", method, path, user, resp.StatusCode, body)
	}
	return resp.StatusCode
}

// pause pauses a kind or ends its pause, and reports whether that is certain.
func (m *mixed) pause(user int64, kind string, on bool) bool {
	e, asked := at(user, kind), time.Now()
	done := m.call("PATCH", "webhook-settings", user, fmt.Sprintf("%s_paused=%v", kind, on)) == http.StatusOK
	from, known := m.pausedAt[e]
	switch {
	case on && done && !known:
		m.pausedAt[e] = time.Now().Add(time.Second) // within which it takes effect
	case !on && known:
		m.pauses = append(m.pauses, pause{e, from, asked})
		delete(m.pausedAt, e)
	}
	return done
}

// unpause ends all pauses of a user, and reports whether that is certain.
func (m *mixed) unpause(user int64) bool {
	all := true
	for _, kind := range kindsOfMixed {
		all = m.pause(user, kind, false) && all
	}
	return all
}

func (m *mixed) fail(user int64, kind string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failing[at(user, kind)] = true
}

func (m *mixed) repair(user int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, kind := range kindsOfMixed {
		delete(m.failing, at(user, kind))
	}
}

func (m *mixed) replay(user int64, _ string) {
	m.replayed[user] = true
	m.call("POST", "replay", user, "since="+m.judge.began.UTC().Format(time.RFC3339))
}

// release runs the operator's command, which may find another one that runs.
func (m *mixed) release() {
	m.leaving.Go(func() { harness.Run(m.t, m.options(), "retry", "release", "--all") })
}

func (m *mixed) restart() {
	n := m.chance.IntN(len(m.members))
	leaver := m.members[n]
	m.leaving.Go(func() { wantExit(m.t, leaver, 0) })
	m.members[n] = m.start(m.t)
}

func (m *mixed) kill() {
	n, began := m.chance.IntN(len(m.members)), time.Now()
	m.members[n].Kill()
	m.fault(began)
	m.members[n] = m.start(m.t)
}

// freeze stops an instance, for longer than its session by chance.
func (m *mixed) freeze() {
	p, began := m.members[m.chance.IntN(len(m.members))], time.Now()
	p.Signal(m.t, syscall.SIGSTOP)
	harness.Pass(time.Duration(m.chance.IntN(12)) * time.Second)
	p.Signal(m.t, syscall.SIGCONT)
	m.fault(began)
}

func (m *mixed) killBroker() {
	began := time.Now()
	m.kafka.Kill(m.t)
	harness.Pass(time.Duration(m.chance.IntN(3000)) * time.Millisecond)
	m.kafka.Start(m.t)
	m.fault(began)
}

// fault notes a fault that ends now. Until the session of a lost member has ended, and what it left is read again, events
// may be repeated.
func (m *mixed) fault(began time.Time) {
	m.faults = append(m.faults, span{from: began, to: time.Now().Add(m.session + 2*time.Second)})
}

// close judges the ledger. Replays begin with attempt 1 again, and an event that was stored twice because of a fault is
// sent twice.
func (m *mixed) close(rec *caseRecord, b *ledger) {
	m.t.Helper()
	b.slack = harness.Slack(m.judge.began)
	faults := append(m.faults, m.lost(m.t)...)
	for _, source := range m.sources() {
		for _, r := range harness.Consume(m.t, m.brokers, harness.Paused(source, "24h")) {
			b.waiting[harness.Header(r, "smshooks-id")] = append(b.waiting[harness.Header(r, "smshooks-id")], r)
		}
	}
	r := result{Produced: len(b.produced)}
	var missing, unexplained, purposeless []string
	for id, p := range b.produced {
		e := cmp.Or(b.seen[id], &seen{})
		switch {
		case p.purpose != "":
			r.OnPurpose++
			forgotten := p.purpose == duplicate && m.did["FLUSHALL"] > 0
			if len(e.hits) > 0 && !forgotten {
				purposeless = append(purposeless, id+" ("+p.purpose+")")
			}
		case e.ok || allIn(p.ids, b.revoked):
			r.Delivered++
		case b.dead[id] != nil:
			r.Dead++
		default:
			missing = append(missing, id)
		}
	}
	for id, e := range b.seen {
		n, repeat := m.repeats(b, id, e, faults)
		r.Duplicates += n
		unexplained = append(unexplained, repeat...)
	}
	beyond, whilePaused := b.beyond(), m.whilePaused(b)
	rec.set(func(to *result) {
		to.Produced, to.Delivered, to.Dead, to.Waiting, to.OnPurpose = r.Produced, r.Delivered, r.Dead, 0, r.OnPurpose
		to.Missing, to.Duplicates, to.Unexplained, to.Beyond = len(missing), r.Duplicates, len(unexplained), len(beyond)
		to.Why = "in flight or not yet committed when an instance or the broker was killed or frozen"
	})
	rec.note("%d pauses, in which %d attempts started", len(m.pauses), len(whilePaused))
	for what, ids := range map[string][]string{
		"missing": missing, "repeated without a reason": unexplained, "beyond the third attempt": beyond, "sent but should not be": purposeless,
		"attempted while paused": whilePaused,
	} {
		if len(ids) > 0 {
			m.t.Errorf("%d %s, such as %v", len(ids), what, ids[:min(len(ids), 5)])
		}
	}
}

// repeats returns the number of requests about an event that were repeated under their number, or came after a success,
// and describes them unless a fault or a replay explains them.
func (m *mixed) repeats(b *ledger, id string, e *seen, faults []span) (n int, unexplained []string) {
	if m.replayed[e.hits[0].user] && b.dead[id] != nil {
		return 0, nil
	}
	earlier, delivered, excused := map[int32]bool{}, false, b.storedTwice(id, -1, faults)
	for _, h := range e.hits {
		if earlier[h.attempt] || delivered {
			n++
			if !excused {
				unexplained = append(unexplained, fmt.Sprintf("%s of user %d, attempt %d at %v", id, h.user, h.attempt, h.start))
			}
		}
		earlier[h.attempt], delivered = true, delivered || h.ok
		excused = excused || b.explained(h, faults)
	}
	return n, unexplained
}

// whilePaused describes the attempts that started while their endpoint was paused.
func (m *mixed) whilePaused(b *ledger) (ids []string) {
	byEndpoint := map[endpoint][]pause{}
	for _, p := range m.pauses {
		byEndpoint[p.endpoint] = append(byEndpoint[p.endpoint], p)
	}
	for id, e := range b.seen {
		for _, h := range e.hits {
			start := m.judge.began.Add(h.start)
			for _, p := range byEndpoint[endpoint{m.judge.kindOf[h.id], h.user}] {
				if start.After(p.from.Add(b.slack)) && start.Before(p.to) {
					ids = append(ids, fmt.Sprintf("%s of user %d, attempt %d at %v", id, h.user, h.attempt, h.start))
				}
			}
		}
	}
	return ids
}
