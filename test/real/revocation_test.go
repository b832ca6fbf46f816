package real_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/test/real/harness"
)

// interval of the quick settings.
const interval = 2 * time.Second

type revoked struct {
	Event    string  `json:"event"`
	Count    int     `json:"count"`
	API      []int64 `json:"api_sms_ids"`
	Campaign []int64 `json:"campaign_sms_ids"`
}

// batchOf reads a batch and checks what holds for all batches.
func batchOf(t testing.TB, r harness.Request) revoked {
	t.Helper()
	var b revoked
	if err := json.Unmarshal(r.Body, &b); err != nil {
		t.Fatalf("%s: %v", r.Body, err)
	}
	if b.Event != "clicks_revoked" || b.Count != len(b.API)+len(b.Campaign) || b.Count == 0 || b.API == nil || b.Campaign == nil {
		t.Errorf("batch %s", r.Body)
	}
	return b
}

// onTick reports whether a request began within a second, plus the slack of a busy machine, after a multiple of the
// interval.
func onTick(r harness.Request) bool {
	after := time.Duration(r.Start.UnixNano()) % interval
	return after <= late || after <= late+harness.Slack(r.Start.Add(-interval))
}

// afterTick returns a moment after a tick, with nearly a whole interval ahead.
func afterTick() {
	now := time.Duration(time.Now().UnixNano())
	harness.Pass(interval - now%interval + 100*time.Millisecond)
}

func TestRevocation(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	users := map[int64]harness.Webhook{}
	for user := int64(1); user <= 9; user++ {
		users[user] = e.all(user, "u:p")
	}
	users[8] = harness.Webhook{DLR: e.recv.URL("/dlr/8")}
	e.configure(t, users)
	p := e.serve(t, "--revocation.max_ids=5")
	afterTick()

	e.recv.On("/revoke/3", harness.Codes(500, 200))
	e.recv.On("/revoke/4", harness.Status(500))
	records := e.emit(t,
		e.revocation(1, []int64{3, 1, 3}, nil), e.revocation(1, []int64{1, 2}, []int64{3, 9}), // one batch of five, in the order first seen
		e.revocation(2, numbers(10, 8), numbers(100, 4)),           // 5 + 3,2 + 2
		e.revocation(3, []int64{7}, []int64{8}),                    // fails once
		e.revocation(4, []int64{7}, nil),                           // fails for good
		e.revocation(5, nil, nil), e.revocation(5, []int64{}, nil), // empty: never sent
		e.revocation(8, []int64{1}, nil), // no URL
		harness.Event(e.topics.Revocation, 6, `{"user_id":6,"api_sms_ids":9007199254740993,"campaign_sms_ids":null}`),
	)
	e.recv.WaitCount(t, "/revoke/1", 1, harness.Patience)
	chunks := e.recv.WaitCount(t, "/revoke/2", 3, harness.Patience)
	e.recv.WaitCount(t, "/revoke/3", 2, harness.Patience)
	dead := e.dead(t, 4, 1, harness.Patience)[0]
	if got := string(e.recv.WaitCount(t, "/revoke/6", 1, harness.Patience)[0].Body); got != `{"event":"clicks_revoked","count":1,"api_sms_ids":[9007199254740993],"campaign_sms_ids":[]}` {
		t.Errorf("single id: %s", got)
	}
	for _, r := range e.recv.Requests("") {
		batchOf(t, r)
		if r.Header.Get("Webhook-Attempt") == "1" && !onTick(r) {
			t.Errorf("%s began %v after a tick", r.Path, time.Duration(r.Start.UnixNano())%interval)
		}
		if r.Header.Get("Authorization") != "" {
			t.Errorf("%s has an Authorization", r.Path)
		}
	}
	one := e.recv.Requests("/revoke/1")[0]
	if b := batchOf(t, one); !slices.Equal(b.API, []int64{3, 1, 2}) || !slices.Equal(b.Campaign, []int64{3, 9}) {
		t.Errorf("batch %s", one.Body)
	}
	if id := one.Header.Get("Webhook-Id"); id != harness.BatchIdentity(records[0], 0) {
		t.Errorf("id %s, want %s", id, harness.BatchIdentity(records[0], 0))
	}
	wantSplit(t, chunks, records[2])
	wantAttempts(t, e.recv.Requests("/revoke/3"), time.Second)
	e.wantStoredBatch(t, records[4], dead)
	m := p.WaitBalanced(t, float64(len(records)), harness.Patience)
	if n := e.recv.Count("/revoke/5") + e.recv.Count("/revoke/8"); n != 0 {
		t.Errorf("%d surplus batches", n)
	}
	for fate, want := range map[string]float64{"batched": 8, "not_configured": 1, "retry": 1, "delivered": 1, "dead": 1} {
		if n := m.Sum("smshooks_settled_total", "kind", "revoke_click", "fate", fate); n != want {
			t.Errorf("%v records %s, want %v", n, fate, want)
		}
	}
}

// wantSplit checks three requests of one user's ids, whose first record is first: 8 ids of the API and 4 of campaigns, at
// most 5 in a batch.
func wantSplit(t testing.TB, chunks []harness.Request, first *kgo.Record) {
	t.Helper()
	var api, campaign []int64
	ids := map[string]bool{}
	number := func(r harness.Request) int {
		return slices.IndexFunc([]int32{0, 1, 2}, func(n int32) bool { return harness.BatchIdentity(first, n) == r.Header.Get("Webhook-Id") })
	}
	slices.SortFunc(chunks, func(a, b harness.Request) int { return number(a) - number(b) }) // three at once: their order on the wire is free
	for i, c := range chunks {
		b := batchOf(t, c)
		if b.Count > 5 {
			t.Errorf("a batch of %d", b.Count)
		}
		api, campaign = append(api, b.API...), append(campaign, b.Campaign...)
		ids[c.Header.Get("Webhook-Id")] = true
		if number(c) != i {
			t.Errorf("id %s, want %s", c.Header.Get("Webhook-Id"), harness.BatchIdentity(first, int32(i)))
		}
	}
	if len(ids) != 3 || !slices.Equal(api, numbers(10, 8)) || !slices.Equal(campaign, numbers(100, 4)) {
		t.Errorf("ids %v, api %v, campaign %v", ids, api, campaign)
	}
}

// wantStoredBatch checks the retry record and the dead letter of user 4's batch, whose first record is first.
func (e *env) wantStoredBatch(t testing.TB, first, dead *kgo.Record) {
	t.Helper()
	stored := e.waitStored(t, harness.Retry(e.topics.Revocation, "1s"), 4, 1, harness.Patience)[0]
	if string(stored.Value) != `{"user_id":4,"api_sms_ids":[7],"campaign_sms_ids":[]}` {
		t.Errorf("batch in the retry topic: %s", stored.Value)
	}
	wantHeaders(t, stored, map[string]string{"kind": "revoke_click", "attempts": "1", "error": "http 500", "id": harness.BatchIdentity(first, 0), "origin": harness.Position(first)})
	headerTime(t, stored, "due")
	if string(dead.Value) != string(stored.Value) {
		t.Errorf("dead letter %s", dead.Value)
	}
	wantHeaders(t, dead, map[string]string{"kind": "revoke_click", "attempts": "3", "reason": "attempts_exhausted", "id": harness.BatchIdentity(first, 0), "origin": harness.Position(first)})
}

// TestRevocationTicks checks that a user's records over several ticks become one batch per tick.
func TestRevocationTicks(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.configure(t, map[int64]harness.Webhook{1: e.all(1, ""), 2: e.all(2, "")})
	p := e.serve(t)
	afterTick()
	began := time.Now()
	next := int64(0)
	for time.Since(began) < 3*interval {
		e.emit(t, e.revocation(1, []int64{next}, nil), e.revocation(2, nil, []int64{next}))
		next++
		harness.Pass(50 * time.Millisecond)
	}
	ended := time.Now()
	last := e.recv.Count("")
	harness.Eventually(t, harness.Patience, func() bool { return e.recv.Count("") > last }, "the batch of the last tick")
	p.WaitBalanced(t, float64(2*next), harness.Patience)
	for _, at := range []string{"/revoke/1", "/revoke/2"} {
		var got []int64
		batches := 0
		for _, r := range e.recv.Requests(at) {
			b := batchOf(t, r)
			got = append(append(got, b.API...), b.Campaign...)
			batches++
			if !onTick(r) {
				t.Errorf("%s began %v after a tick", at, time.Duration(r.Start.UnixNano())%interval)
			}
		}
		if !slices.Equal(got, numbers(0, int(next))) {
			t.Errorf("%s: ids %v, want %d in order", at, got, next)
		}
		if most := int(ended.Sub(began)/interval) + 1; batches < 3 || batches > most {
			t.Errorf("%s: %d batches, want one for each of at most %d ticks", at, batches, most)
		}
	}
}

// TestRevocationCrash kills the member before, at and after a tick, repeatedly. No id may be lost, and a repeated batch
// must have the same id and content.
func TestRevocationCrash(t *testing.T) {
	t.Parallel()
	e := newEnv(t, "--kafka.session_timeout=2s")
	users := map[int64]harness.Webhook{}
	for user := int64(1); user <= 8; user++ {
		users[user] = e.all(user, "")
	}
	e.configure(t, users)
	e.recv.On("/revoke/8", harness.Slow(400*time.Millisecond, 200))
	p := e.serve(t)
	sent := int64(0)
	for round := range 6 {
		var records []*kgo.Record
		for range 20 {
			for user := range users {
				records = append(records, e.revocation(user, []int64{sent}, []int64{sent}))
			}
			sent++
		}
		e.emit(t, records...)
		now := time.Duration(time.Now().UnixNano())
		// kill from 300 ms before the tick to 600 ms after it
		harness.Pass(interval - now%interval + time.Duration(round*180-300)*time.Millisecond)
		p.Kill()
		p = e.serve(t)
	}
	harness.Eventually(t, harness.Patience, func() bool {
		for user := range users {
			if len(seen(t, e, user)) < int(sent) {
				return false
			}
		}
		return true
	}, "all %d ids of each user", sent)
	m := p.WaitBalanced(t, 0, harness.Patience)
	t.Logf("settled by the last member: %v", m.Sum("smshooks_settled_total"))
	bodies := map[string]string{}
	again, differ := 0, 0
	for _, r := range e.recv.Requests("") {
		batchOf(t, r)
		id := r.Header.Get("Webhook-Id")
		if body, ok := bodies[id]; ok {
			again++
			if body != string(r.Body) {
				differ++
			}
		}
		bodies[id] = string(r.Body)
	}
	t.Logf("%d batches repeated, %d of them with different content", again, differ)
	if differ > 0 {
		t.Errorf("%d ids stand for two different batches", differ)
	}
}

// seen returns the ids that a user's endpoint received, each once.
func seen(t testing.TB, e *env, user int64) map[int64]bool {
	ids := map[int64]bool{}
	for _, r := range e.recv.Requests(fmt.Sprintf("/revoke/%d", user)) {
		if r.End.IsZero() {
			continue
		}
		for _, id := range batchOf(t, r).API {
			ids[id] = true
		}
	}
	return ids
}
