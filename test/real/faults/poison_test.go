package faults_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/test/real/harness"
)

// TestPoison writes records of which a tenth can never be handled. Each of these must be in the dead letter topic once,
// byte for byte. The others, also those that only look wrong, must be delivered or attempted three times. No partition
// may stall.
func TestPoison(t *testing.T) {
	harness.Need(t)
	kinds := poisons()
	total := int64(pick(6_000, 200_000))
	rec := newCase(t, "6", "poison in the source topics", fmt.Sprintf("%s records", count(int(total))))
	rec.did("a tenth of the records was of %d kinds that no event can be made of (no JSON, no UTF-8, wrong types, too deep), some more only looked wrong", len(kinds))
	s := newEnv(t, harness.Kafka(t).Addr, harness.Redis(t).Addr, 300)
	p := s.start(t)
	var bad, good, sound []*kgo.Record // the valid ones that only look wrong
	var all []*kgo.Record
	for n := range total {
		user := n%s.users + 1
		switch {
		case n%10 == 9:
			k := kinds[int(n/10)%len(kinds)]
			if len(k.value(1, 1)) > 10_000 && n > 20*int64(len(kinds)) {
				k = kinds[0] // a few of the large ones are enough
			}
			r := &kgo.Record{Topic: k.topic(s.topics), Partition: harness.ByKey, Key: []byte(strconv.FormatInt(user, 10)), Value: k.value(user, n)}
			switch n / 10 % 7 {
			case 1:
				r.Key = []byte("\xff\x00 no user")
			case 2:
				r.Key, r.Partition = nil, int32(n%6)
			}
			bad, all = append(bad, r), append(all, r)
		case n%100 == 0:
			list := odd(s.topics, user+1, n) // not one whose endpoint always fails
			sound, good, all = append(sound, list...), append(good, list...), append(all, list...)
		default:
			r := harness.Event(s.topics.DLR, user, harness.DLRValue(user, n))
			if n%4 == 0 {
				r = harness.Event(s.topics.Inbound, user, harness.InboundValue(user, n))
			}
			good, all = append(good, r), append(all, r)
		}
	}
	began := time.Now()
	harness.ProduceMany(t, s.brokers, all)
	settled := s.waitFates(t, good, len(bad), 3*time.Minute)
	rec.note("all fates were stored %.1f s after the last record was written", time.Since(began).Seconds())
	delivered, died := settled.count(good)
	missing := wantDeadLetters(t, bad, settled.dead)
	for _, r := range good {
		if id := identity(r); !settled.ok[id] && settled.dead[id] == nil {
			missing++
			t.Errorf("%s is missing: %.200q", id, r.Value)
		}
	}
	for _, r := range sound {
		if id := identity(r); !settled.ok[id] {
			t.Errorf("%s only looks wrong, but was not delivered: %.200q", id, r.Value)
		}
	}
	ledger := ledger{s: s, seen: settled.seen, dead: map[string][]*kgo.Record{}}
	for _, r := range good {
		if id := identity(r); settled.dead[id] != nil {
			ledger.dead[id] = []*kgo.Record{settled.dead[id]}
		}
	}
	if wrong := ledger.deadTooSoon(); len(wrong) > 0 {
		t.Errorf("%d dead letters without three failed attempts, such as %v", len(wrong), wrong[:min(len(wrong), 5)])
	}
	early := ledger.early(judgement{})
	if len(early) > 0 {
		t.Errorf("%d attempts were early, such as %v", len(early), early[:min(len(early), 5)])
	}
	p.WaitBalanced(t, float64(len(all)), patience)
	again, beyond := settled.repeated(s)
	rec.set(func(r *result) {
		r.Produced, r.Delivered, r.Dead, r.Missing = len(all), delivered, died+len(bad), missing
		r.Duplicates, r.Unexplained, r.Beyond, r.Early = again, again, beyond, len(early)
	})
	if again > 0 || beyond > 0 {
		t.Errorf("%d requests were repeated, %d attempts beyond the third", again, beyond)
	}
	for id, n := range settled.copies {
		if n > 1 {
			t.Errorf("%d dead letters of %s", n, id)
		}
	}
	if n := p.Metrics(t).Sum("smshooks_miskeyed_records_total"); n == 0 {
		t.Error("no record was counted as miskeyed")
	}
	if !p.Running() || strings.Contains(p.Log(), "panic") {
		t.Error("it panicked")
	}
}

// fates holds the fates of events, by identity.
type fates struct {
	ok     map[string]bool
	dead   map[string]*kgo.Record
	copies map[string]int // dead letters of one identity
	seen   map[string]*seen
}

// waitFates waits until all valid records are delivered or dead, and all bad ones are dead letters.
func (s *env) waitFates(t testing.TB, good []*kgo.Record, bad int, timeout time.Duration) fates {
	t.Helper()
	var f fates
	for deadline := time.Now().Add(timeout); ; harness.Pass(300 * time.Millisecond) {
		f = fates{dead: map[string]*kgo.Record{}, copies: map[string]int{}}
		for _, r := range harness.Consume(t, s.brokers, s.topics.DeadLetter) {
			id := harness.Header(r, "smshooks-id")
			f.dead[id] = r
			f.copies[id]++
		}
		f.ok, _ = s.judge.succeeded()
		left, invalid := 0, 0
		for _, r := range good {
			if id := identity(r); !f.ok[id] && f.dead[id] == nil {
				left++
			}
		}
		for _, r := range f.dead {
			if harness.Header(r, "smshooks-reason") == "invalid_record" {
				invalid++
			}
		}
		if left == 0 && invalid >= bad {
			break
		}
		if time.Now().After(deadline) {
			t.Errorf("after %v %d events have no fate, and %d of %d dead letters are stored", timeout, left, invalid, bad)
			break
		}
	}
	f.seen = s.judge.events()
	return f
}

func (f fates) count(records []*kgo.Record) (delivered, dead int) {
	for _, r := range records {
		switch id := identity(r); {
		case f.ok[id]:
			delivered++
		case f.dead[id] != nil:
			dead++
		}
	}
	return delivered, dead
}

// repeated returns the number of requests repeated under the same number, and of those beyond the schedule.
func (f fates) repeated(s *env) (again, beyond int) {
	for _, e := range f.seen {
		numbers := map[int32]bool{}
		for _, h := range e.hits {
			if numbers[h.attempt] {
				again++
			}
			numbers[h.attempt] = true
			if int(h.attempt) > len(s.schedule)+1 {
				beyond++
			}
		}
	}
	return again, beyond
}

// wantDeadLetters compares each bad record with its dead letter, and returns how many have none.
func wantDeadLetters(t *testing.T, bad []*kgo.Record, dead map[string]*kgo.Record) (missing int) {
	t.Helper()
	for _, r := range bad {
		d := dead[identity(r)]
		if d == nil {
			missing++
			t.Errorf("%s is not among the dead letters: %.100q", identity(r), r.Value)
			continue
		}
		if !bytes.Equal(d.Value, r.Value) || (d.Value == nil) != (r.Value == nil) || !bytes.Equal(d.Key, r.Key) || (d.Key == nil) != (r.Key == nil) {
			t.Errorf("%s: key %q value %.100q became %q, %.100q", identity(r), r.Key, r.Value, d.Key, d.Value)
		}
		says := harness.Header(d, "smshooks-error")
		if harness.Header(d, "smshooks-reason") != "invalid_record" || harness.Header(d, "smshooks-attempts") != "0" || says == "" || len(says) > 200 {
			t.Errorf("%s: headers %s, want an invalid record with 0 attempts and an error", identity(r), d.Headers)
		}
		if kind := harness.Header(d, "smshooks-kind"); kind == "" {
			t.Errorf("%s: no kind", identity(r))
		}
	}
	return missing
}

// TestPoisonedHeaders checks that records of retry and overflow topics with unreadable headers are handled as far as
// possible, and that the records behind them in their partitions are on time.
func TestPoisonedHeaders(t *testing.T) {
	harness.Need(t)
	s := newEnvOf(t, harness.Kafka(t).Addr, harness.Redis(t).Addr, 40, []time.Duration{time.Second, 2 * time.Second}) // both forms
	records, reasons := wrongHeaders(s.topics, 2)
	rec := newCase(t, "6b", "poisoned headers in waiting topics", fmt.Sprintf("%d records", len(records)))
	rec.did("records with absent, unreadable, doubled and extreme headers were written to a retry and an overflow topic, and one without a user behind them")
	p := s.start(t)
	broken := harness.Event(harness.Retry(s.topics.DLR, "1s"), 2, `{"user_id":2}`)
	harness.ProduceMany(t, s.brokers, append(append([]*kgo.Record(nil), records...), broken))
	behind := harness.Event(s.topics.DLR, 10, harness.DLRValue(10, 1)) // user 10's first attempts fail
	harness.ProduceMany(t, s.brokers, []*kgo.Record{behind})
	id := func(r *kgo.Record) string {
		if own := harness.Header(r, "smshooks-id"); own != "" {
			return own
		}
		return identity(r)
	}
	harness.Eventually(t, patience, func() bool { ok, _ := s.judge.succeeded(); return ok[identity(behind)] }, "the retry behind them")
	dead := map[string]*kgo.Record{}
	left := 0
	harness.Eventually(t, patience, func() bool {
		for _, r := range harness.Consume(t, s.brokers, s.topics.DeadLetter) {
			dead[harness.Header(r, "smshooks-id")] = r
		}
		ok, _ := s.judge.succeeded()
		left = 0
		for i, r := range records {
			if reasons[i] == "" && !ok[id(r)] || reasons[i] != "" && dead[id(r)] == nil {
				left++
			}
		}
		return left == 0 && dead[identity(broken)] != nil
	}, "a fate for all %d", len(records))
	delivered, died := 0, 1
	for i, r := range records {
		if reasons[i] == "" {
			delivered++
			continue
		}
		died++
		if d := dead[id(r)]; harness.Header(d, "smshooks-reason") != reasons[i] || !bytes.Equal(d.Value, r.Value) {
			t.Errorf("%s: %s, want %s", id(r), d.Headers, reasons[i])
		}
	}
	for name, e := range s.judge.events() {
		for _, h := range e.hits {
			if h.attempt < 1 || h.attempt > 3 {
				t.Errorf("%s: attempt %d", name, h.attempt)
			}
		}
	}
	if reason := harness.Header(dead[identity(broken)], "smshooks-reason"); reason != "invalid_record" {
		t.Errorf("a record of a retry topic without sms: %q", reason)
	}
	p.WaitBalanced(t, float64(len(records)), patience)
	rec.set(func(r *result) {
		r.Produced, r.Delivered, r.Dead, r.Missing = len(records)+2, delivered+1, died, left
	})
}

// TestPoisonedSettings checks that unreadable records of the config and keys topics leave the previous ones in effect,
// are counted, and block nothing.
func TestPoisonedSettings(t *testing.T) {
	harness.Need(t)
	s := newEnv(t, harness.Kafka(t).Addr, harness.Redis(t).Addr, 20)
	o := s.options()
	o.Env = append(o.Env, "SMSHOOKS_SECRETS_KEY=MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")
	key, stderr, code := harness.Run(t, o, "keys", "create", "--user", "2")
	if code != 0 {
		t.Fatalf("keys create: %s", stderr)
	}
	key = strings.TrimSpace(key)
	sum := sha256.Sum256([]byte(key))
	config, keys := settingsPoison(s.topics.Config, 2), keysPoison(s.topics.Keys, hex.EncodeToString(sum[:]))
	rec := newCase(t, "6c", "poisoned settings and keys", fmt.Sprintf("%d records", len(config)+len(keys)))
	rec.did("records that cannot be read were written over a user's settings and over an API key, before a start and while the service ran")
	harness.ProduceMany(t, s.brokers, append(append([]*kgo.Record(nil), config...), keys...))
	p := harness.StartReady(t, o) // the service reads them at the start
	harness.ProduceMany(t, s.brokers, append(settingsPoison(s.topics.Config, 3), keysPoison(s.topics.Keys, hex.EncodeToString(sum[:]))...))
	// later records take effect within a second
	changed := harness.WebhookRecord(t, s.topics.Config, 4, harness.Webhook{DLR: s.judge.url("changed", 4)})
	harness.ProduceMany(t, s.brokers, []*kgo.Record{changed})
	harness.Settle()
	var records []*kgo.Record
	for _, user := range []int64{2, 3, 4} {
		records = append(records, harness.Event(s.topics.DLR, user, harness.DLRValue(user, 1)))
	}
	harness.ProduceMany(t, s.brokers, records)
	harness.Eventually(t, patience, func() bool {
		ok, _ := s.judge.succeeded()
		return ok[identity(records[0])] && ok[identity(records[1])] && ok[identity(records[2])]
	}, "events of all three users, by their previous or their new settings")
	s.judge.mu.Lock()
	if _, asked := s.judge.flying["/changed/4"]; !asked {
		t.Error("the settings after the bad ones have no effect")
	}
	s.judge.mu.Unlock()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+p.Addr+"/v1/user/get-webhook", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-API-KEY", key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK || !strings.Contains(string(body), s.judge.url("dlr", 2)) {
		t.Errorf("the previous key: %d %s", resp.StatusCode, body)
	}
	m := p.Metrics(t)
	for topic, n := range map[string]int{s.topics.Config: len(config), s.topics.Keys: len(keys)} {
		// at the start and again while it ran; Kafka does not compact what it still writes to
		if got := m.Sum("smshooks_unreadable_settings_total", "topic", topic); got != float64(2*n) {
			t.Errorf("%s: %v unreadable records are counted, want %d", topic, got, 2*n)
		}
	}
	if m.Sum("smshooks_settled_total", "fate", "not_configured") != 0 {
		t.Error("an event was settled as not configured")
	}
	rec.set(func(r *result) { r.Produced, r.Delivered, r.Missing = 3, 3, 0 })
}
