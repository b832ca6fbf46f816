package dispatcher

import (
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/webhook"
)

func status(code int) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

func slow(d time.Duration) func(http.ResponseWriter, *http.Request) {
	return func(http.ResponseWriter, *http.Request) { time.Sleep(d) }
}

func hung(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// wants returns a change: the user selects receipts with one status, and the event's record is value.
func wants(status, value string) func(*env, *event.Event) {
	return func(s *env, e *event.Event) {
		s.memory[1].Endpoints[webhook.DLR].Statuses, _ = webhook.ParseStatuses([]string{status})
		e.Value = []byte(value)
	}
}

// latest returns a change: the user selects the latest receipt of each message, and a later one than the event's was
// delivered.
func latest(class topics.Class) func(*env, *event.Event) {
	return func(s *env, e *event.Event) {
		s.newer, e.Class, s.memory[1].Endpoints[webhook.DLR].Latest = true, class, true
	}
}

func TestFates(t *testing.T) {
	tests := []struct {
		name    string
		change  func(s *env, e *event.Event)
		kind    webhook.Kind
		user    int64
		want    string
		request bool
	}{
		{"delivered", nil, webhook.DLR, 1, "delivered", true},
		{"click", nil, webhook.Click, 1, "delivered", true},
		{"inbound", nil, webhook.Inbound, 1, "delivered", true},
		{"failed", func(s *env, _ *event.Event) { s.answers(status(503)) }, webhook.DLR, 1, "retry after 1: http 503", true},
		{"failed again", func(s *env, e *event.Event) { s.answers(status(301)); e.Attempts = 2; e.Class = topics.Retry }, webhook.DLR, 1, "retry after 3: http 301", true},
		{"no settings", nil, webhook.DLR, 8, "not_configured", false},
		{"click without settings", nil, webhook.Click, 8, "not_configured", false},
		{"unknown user without settings", nil, webhook.DLR, 77, "not_configured", false},
		{"too old", func(s *env, e *event.Event) { s.dead[e.Identity()] = webhook.WindowExpired }, webhook.DLR, 1, "dead: window_expired", false},
		{"exhausted", func(s *env, e *event.Event) { s.dead[e.Identity()] = webhook.AttemptsExhausted }, webhook.DLR, 1, "dead: attempts_exhausted", false},
		{"no settings and too old", func(s *env, e *event.Event) { s.dead[e.Identity()] = webhook.WindowExpired }, webhook.DLR, 8, "not_configured", false},
		{"not JSON", func(_ *env, e *event.Event) { e.Value = []byte("{") }, webhook.DLR, 1, "invalid: not JSON: ends early", false},
		{"bad revocation", func(_ *env, e *event.Event) { e.Value = []byte(`{"user_id":1,"api_sms_ids":["x"]}`) }, webhook.RevokeClick, 1,
			"invalid: api_sms_ids contains a value that is not an integer", false},
		{"bot", func(_ *env, e *event.Event) { e.Value = []byte(`{"user_id":1,"bot":true,"sms":{"id":1}}`) }, webhook.Click, 1, "filtered", false},
		{"preview", func(_ *env, e *event.Event) { e.Value = []byte(`{"user_id":1,"preview":true,"sms":{"id":1}}`) }, webhook.Click, 1, "filtered", false},
		{"revoked", func(s *env, _ *event.Event) { s.lease.closed = true }, webhook.DLR, 1, "abandoned", false},
		{"revoked bot", func(s *env, e *event.Event) {
			s.lease.closed = true
			e.Value = []byte(`{"user_id":1,"bot":true,"sms":{"id":1}}`)
		}, webhook.Click, 1, "abandoned", false},
		{"empty revocation", func(_ *env, e *event.Event) { e.Value = []byte(`{"user_id":1,"api_sms_ids":[]}`) }, webhook.RevokeClick, 1, "batched", false},
		{"revoked empty revocation", func(s *env, e *event.Event) {
			s.lease.closed = true
			e.Value = []byte(`{"user_id":1,"api_sms_ids":[]}`)
		}, webhook.RevokeClick, 1, "abandoned", false},
		{"returned batch", func(_ *env, e *event.Event) { e.Class = topics.Retry; e.Attempts = 1 }, webhook.RevokeClick, 1, "delivered", true},
		{"selected status", wants("Failed", `{"user_id":1,"sms":{"id":1,"dlr_status":"Failed"}}`), webhook.DLR, 1, "delivered", true},
		{"unselected status", wants("Failed", `{"user_id":1,"sms":{"id":1,"dlr_status":"Pending"}}`), webhook.DLR, 1, "filtered", false},
		{"null status", wants("Unknown", `{"user_id":1,"sms":{"id":1,"dlr_status":null}}`), webhook.DLR, 1, "filtered", false},
		{"retry with an unselected status", func(s *env, e *event.Event) {
			wants("Failed", `{"user_id":1,"sms":{"id":1,"dlr_status":"Delivered"}}`)(s, e)
			e.Class, e.Attempts = topics.Retry, 1
		}, webhook.DLR, 1, "filtered", false},
		{"unselected, too old", func(s *env, e *event.Event) {
			wants("Failed", `{"user_id":1,"sms":{"id":1,"dlr_status":"Delivered"}}`)(s, e)
			s.dead[e.Identity()] = webhook.WindowExpired
		}, webhook.DLR, 1, "filtered", false},
		{"superseded retry", latest(topics.Retry), webhook.DLR, 1, "superseded", false},
		{"superseded overflow", latest(topics.Overflow), webhook.DLR, 1, "superseded", false},
		{"receipt that did not wait", latest(topics.Source), webhook.DLR, 1, "delivered", true},
		{"superseded dead letter", func(s *env, e *event.Event) { latest(topics.Overflow)(s, e); e.Replayed = "now" }, webhook.DLR, 1, "delivered", true},
		{"superseded, too old", func(s *env, e *event.Event) {
			latest(topics.Retry)(s, e)
			s.dead[e.Identity()] = webhook.WindowExpired
		}, webhook.DLR, 1, "superseded", false},
		{"superseded, all wanted", func(s *env, e *event.Event) { s.newer, e.Class = true, topics.Retry }, webhook.DLR, 1, "delivered", true},
		{"inbound is never superseded", latest(topics.Retry), webhook.Inbound, 1, "delivered", true},
		{"inbound has no status", wants("Failed", `{"user_id":1,"sms":{"id":1}}`), webhook.Inbound, 1, "delivered", true},
		{"invalid URL", func(s *env, _ *event.Event) { s.memory[1].Endpoints[webhook.DLR] = &webhook.Endpoint{} }, webhook.DLR, 1, "retry after 1: network", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			withEnv(t, func(t *testing.T, s *env) {
				e := s.newEvent(test.kind, 7, test.user, "1")
				if test.change != nil {
					test.change(s, e)
				}
				s.Handle([]*event.Event{e})
				s.rest(time.Second)
				s.want(e.Identity(), test.want)
				if got := len(s.seen()) == 1; got != test.request {
					t.Errorf("requests %v, want one: %v", s.seen(), test.request)
				}
			})
		})
	}
}

// TestLatestIsStored checks that a delivered receipt is stored before it ends, for users with dlr_order latest.
func TestLatestIsStored(t *testing.T) {
	withEnv(t, func(t *testing.T, s *env) {
		s.memory[1].Endpoints[webhook.DLR].Latest = true
		s.Handle([]*event.Event{s.newEvent(webhook.DLR, 1, 1, "1"), s.newEvent(webhook.DLR, 2, 2, "2"), s.newEvent(webhook.Inbound, 3, 1, "3")})
		s.rest(time.Second)
		s.answers(status(503))
		s.Handle([]*event.Event{s.newEvent(webhook.DLR, 4, 1, "4")})
		s.rest(time.Second)
		if !slices.Equal(s.receipts, []string{"dlr/0/1"}) {
			t.Errorf("stored %v", s.receipts)
		}
	})
}

func TestRevocationsAreCollected(t *testing.T) {
	withEnv(t, func(t *testing.T, s *env) {
		e := s.newEvent(webhook.RevokeClick, 7, 99, "1")
		s.Handle([]*event.Event{e})
		if len(s.batches) != 1 || s.batches[0] != e || e.Batch.Count() != 1 || e.UserID != 99 {
			t.Errorf("passed to the collector: %v", s.batches)
		}
		s.Purge()
		if s.purged != 1 {
			t.Error("the collector was not asked to purge revoked records")
		}
	})
}

func TestAttemptsAreLogged(t *testing.T) {
	withEnv(t, func(t *testing.T, s *env) {
		s.answers(func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(250 * time.Millisecond)
			w.WriteHeader(http.StatusTeapot)
			_, _ = w.Write([]byte("short and stout"))
		})
		at := time.Now()
		s.Handle([]*event.Event{s.newEvent(webhook.DLR, 7, 1, "1")})
		s.rest(time.Second)
		want := []event.Attempt{{
			UserID: 1, Kind: webhook.DLR, ID: "dlr/0/7", Message: event.NewText([]byte("1")), EventTime: at, Offset: 7, Number: 1, Time: at, Host: "user1",
			Status: 418, Failure: "http 418", Took: 250 * time.Millisecond, Reply: "short and stout", Fate: webhook.Retry,
			Next: at.Add(6*time.Hour + 250*time.Millisecond),
		}}
		if !reflect.DeepEqual(s.attempts, want) {
			t.Errorf("%+v, want %+v", s.attempts, want)
		}
	})
}

func TestMiskeyedRecordIsHandled(t *testing.T) {
	for key, miskeyed := range map[string]float64{"1": 0, "2": 1, "": 1, "01": 1, "+1": 1, "1 ": 1} {
		withEnv(t, func(t *testing.T, s *env) {
			e := s.newEvent(webhook.DLR, 7, 1, "1")
			e.Key = []byte(key)
			s.Handle([]*event.Event{e})
			s.rest(time.Second)
			s.want("dlr/0/7", "delivered")
			families, _ := s.registry.Gather()
			for _, f := range families {
				if f.GetName() == "smshooks_miskeyed_records_total" && f.GetMetric()[0].GetCounter().GetValue() != miskeyed {
					t.Errorf("key %q: counted %v, want %v", key, f.GetMetric()[0].GetCounter().GetValue(), miskeyed)
				}
			}
		})
	}
}

func TestThreeWideAndOrderPerMessage(t *testing.T) {
	withEnv(t, func(t *testing.T, s *env) {
		s.answers(slow(time.Second))
		var events []*event.Event
		for i := range int64(12) { // 4 messages, 3 events each
			events = append(events, s.newEvent(webhook.DLR, i, 1, fmt.Sprint(i%4)))
		}
		s.Handle(events)
		s.Handle(s.dlrs(100, 1, 2))
		s.rest(10 * time.Millisecond)
		if got := s.seen(); len(got) != 4 {
			t.Errorf("requests at once: %v, want 3 and one of another user", got)
		}
		s.rest(time.Minute)
		if s.most["user1"] != 3 {
			t.Errorf("%d requests at once, want 3", s.most["user1"])
		}
		for message := range 4 {
			var order []int
			for _, id := range s.seen() {
				for _, offset := range []int{message, message + 4, message + 8} {
					if id == fmt.Sprintf("dlr/0/%d", offset) {
						order = append(order, offset)
					}
				}
			}
			if want := []int{message, message + 4, message + 8}; !slices.Equal(order, want) {
				t.Errorf("message %d: order %v, want %v", message, order, want)
			}
		}
	})
}

// Events of unknown users wait in order while Redis is unreachable; those of other users are delivered.
func TestUnknownUsersWait(t *testing.T) {
	withEnv(t, func(t *testing.T, s *env) {
		s.redis(true)
		s.stored[42] = settings(42)
		for i := range int64(5) {
			s.Handle([]*event.Event{s.newEvent(webhook.DLR, i, 42, "1")})
		}
		s.Handle(s.dlrs(100, 1, 1))
		s.rest(5 * time.Second)
		s.want("dlr/0/100", "delivered")
		if got := s.seen(); len(got) != 1 {
			t.Errorf("requests %v, want the known user's", got)
		}
		if s.loads < 10 || s.loads > 40 {
			t.Errorf("Redis was asked %d times in 5s", s.loads)
		}
		s.redis(false)
		s.rest(time.Second)
		if got, want := s.seen()[1:], []string{"dlr/0/0", "dlr/0/1", "dlr/0/2", "dlr/0/3", "dlr/0/4"}; !slices.Equal(got, want) {
			t.Errorf("order %v, want %v", got, want)
		}
		loads := s.loads
		s.Handle([]*event.Event{s.newEvent(webhook.DLR, 5, 42, "1")})
		s.rest(time.Second)
		s.want("dlr/0/5", "delivered")
		if s.loads != loads {
			t.Error("Redis was asked for a user that is known")
		}
	})
}

func TestClicksWaitForTheMemory(t *testing.T) {
	withEnv(t, func(t *testing.T, s *env) {
		s.redis(true)
		known := s.newEvent(webhook.Click, 5, 1, "7")
		known.Claimed = true
		again := s.newEvent(webhook.Click, 6, 2, "8")
		again.Attempts, again.Class = 1, topics.Retry
		s.Handle([]*event.Event{s.newEvent(webhook.Click, 0, 1, "1"), s.newEvent(webhook.Click, 1, 1, "1"), s.newEvent(webhook.Click, 2, 1, "2"),
			s.newEvent(webhook.Click, 3, 3, "1"), s.newEvent(webhook.Click, 4, 8, "1"), again})
		s.Handle(s.dlrs(100, 1, 1))
		s.rest(5 * time.Second)
		s.want("dlr/0/100", "delivered")
		s.want("click/0/4", "not_configured") // needs no memory
		s.want("click/0/6", "delivered")      // it was attempted before, so it is the first
		for _, offset := range []int{0, 1, 2, 3} {
			s.want(fmt.Sprint("click/0/", offset), "")
		}
		s.Handle([]*event.Event{known}) // an earlier click of its endpoint waits, and must not be overtaken
		s.redis(false)
		s.rest(time.Second)
		for identity, want := range map[string]string{"click/0/0": "delivered", "click/0/1": "duplicate", "click/0/2": "delivered",
			"click/0/3": "delivered", "click/0/5": "delivered"} {
			s.want(identity, want)
		}
		s.Handle([]*event.Event{s.newEvent(webhook.Click, 0, 1, "1"), s.newEvent(webhook.Click, 9, 1, "1")})
		s.rest(time.Second)
		s.want("click/0/0", "delivered, delivered") // a redelivery is not a second click
		s.want("click/0/9", "duplicate")
	})
}

// A click whose URL is set while it is in its lane is claimed then.
func TestURLSetWhileAClickWaits(t *testing.T) {
	withEnv(t, func(t *testing.T, s *env) {
		s.memory[1].Endpoints[webhook.Click] = nil
		s.answers(slow(time.Second))
		var events []*event.Event
		for i := range int64(2) {
			e := s.newEvent(webhook.Click, i, 1, "7")
			if v := s.decode(e); v.kind != proceed {
				t.Fatalf("decode returned %+v", v)
			}
			events = append(events, e)
		}
		s.mu.Lock() // as if the setting came between Submit and attempt
		s.memory[1].Endpoints[webhook.Click] = settings(1).Endpoints[webhook.Click]
		s.mu.Unlock()
		for _, e := range events {
			s.finish(e, s.enqueue(e))
		}
		s.rest(time.Minute)
		s.want("click/0/0", "delivered")
		s.want("click/0/1", "duplicate")
	})
}

// A user who is evicted from memory while an event is in its lane is looked up again.
func TestUserEvictedFromMemory(t *testing.T) {
	withEnv(t, func(t *testing.T, s *env) {
		s.answers(slow(time.Second))
		s.stored[1] = settings(1)
		s.Handle(s.dlrs(0, 4, 1))
		s.rest(500 * time.Millisecond)
		s.mu.Lock()
		delete(s.memory, 1)
		s.mu.Unlock()
		s.rest(time.Minute)
		s.want("dlr/0/3", "delivered")
	})
}

func TestLongRedisOutage(t *testing.T) {
	withEnv(t, func(t *testing.T, s *env) {
		s.redis(true)
		var events []*event.Event
		for i := range int64(10) {
			events = append(events, s.newEvent(webhook.DLR, i, 1000+i, "1"), s.newEvent(webhook.Click, i, 1, fmt.Sprint(i)))
		}
		s.Handle(events)
		s.rest(14 * time.Second)
		if n := len(s.counts()); n != 0 {
			t.Errorf("ends after 14s: %v", s.counts())
		}
		s.rest(4 * time.Second)
		if got := s.counts(); got["overflow 0"] != 20 || len(got) != 1 {
			t.Errorf("ends after 18s: %v, want 20 in the shortest tier", got)
		}
		// They return, and are queued in memory again.
		s.redis(false)
		back := s.newEvent(webhook.Click, 3, 1, "3")
		back.Class = topics.Overflow
		s.Handle([]*event.Event{back})
		s.rest(time.Second)
		s.want("click/0/3", "overflow 0, delivered")
	})
}

// TestLockedUsers checks that events of users whose settings cannot be opened do not delay those of others who wait for
// Redis.
func TestLockedUsers(t *testing.T) {
	withEnv(t, func(t *testing.T, s *env) {
		var events []*event.Event
		for i := range int64(3 * lookupBatch) {
			events = append(events, s.newEvent(webhook.DLR, i, locked+i, fmt.Sprint(i)))
		}
		s.Handle(events)
		first, second := s.newEvent(webhook.Click, 1, 1, "7"), s.newEvent(webhook.Click, 2, 1, "7")
		s.Handle([]*event.Event{first, second})
		s.rest(3 * time.Second)
		s.want("click/0/1", "delivered")
		s.want("click/0/2", "duplicate")
		s.rest(time.Minute)
		if got := s.counts(); got["overflow 0"] != 3*lookupBatch {
			t.Errorf("ends %v, want those of the locked users in the shortest tier", got)
		}
	})
}

// TestLookupQueueKeepsOrder checks that an event that could not be looked up goes behind the others, but not behind
// later events of its endpoint.
func TestLookupQueueKeepsOrder(t *testing.T) {
	p := newLookupQueue()
	for i, user := range []int64{1, 2, 1, 3, 2} {
		p.add(&event.Event{Record: event.Record{Offset: int64(i)}, Delivery: event.Delivery{UserID: user}})
	}
	batch := p.take()
	for i, user := range []int64{4, 1, 5, 2} {
		p.add(&event.Event{Record: event.Record{Offset: int64(10 + i)}, Delivery: event.Delivery{UserID: user}})
	}
	p.putBack([]*event.Event{batch[0], batch[2], batch[4]})
	var got []int64
	for _, e := range p.take() {
		got = append(got, e.Offset)
	}
	if want := []int64{10, 12, 0, 2, 4, 11, 13}; !slices.Equal(got, want) {
		t.Errorf("order %v, want %v", got, want)
	}
}

// parted is a lease shared by several events, one of which is in progress.
type parted struct {
	event.Lease
	leaves atomic.Bool
}

func (p *parted) State() event.State {
	if p.leaves.Load() {
		return event.Draining
	}
	return event.Held
}

// TestPurgeStoresParts checks that an event that shares its lease with one in progress is stored when the partition is
// revoked.
func TestPurgeStoresParts(t *testing.T) {
	withEnv(t, func(t *testing.T, s *env) {
		s.answers(func(http.ResponseWriter, *http.Request) { time.Sleep(5 * time.Second) })
		lease := &parted{Lease: s.lease}
		events := s.dlrs(0, 5, 1)
		for _, e := range events {
			e.Lease = lease
		}
		s.Handle(events)
		s.rest(time.Second)
		s.Purge()
		if got := s.counts(); len(got) != 0 {
			t.Errorf("ended before: %v", got)
		}
		lease.leaves.Store(true)
		s.Purge()
		if got := s.counts(); got["overflow 0"] != 2 || len(got) != 1 {
			t.Errorf("ends %v, want the two that are not in progress in an overflow topic", got)
		}
		s.rest(10 * time.Second)
		if got := s.counts(); got["delivered"] != 3 || got["overflow 0"] != 2 {
			t.Errorf("ends %v, want three delivered", got)
		}
	})
}

// TestPurgeAbandonsAcquired checks that an event that was acquired, and is queued again because its user was evicted
// from memory, goes to the next owner of its partition at once and not to an overflow topic.
func TestPurgeAbandonsAcquired(t *testing.T) {
	withEnv(t, func(_ *testing.T, s *env) {
		s.redis(true)
		s.mu.Lock()
		delete(s.memory, 1)
		s.mu.Unlock()
		e := s.newEvent(webhook.DLR, 7, 1, "1")
		s.decode(e)
		s.attempt(e) // as its lane does
		s.rest(time.Second)
		s.want("dlr/0/7", "")
		s.mu.Lock()
		s.lease.closed = true
		s.mu.Unlock()
		s.Purge()
		s.want("dlr/0/7", "abandoned")
	})
}

func TestFullLookupQueue(t *testing.T) {
	withEnv(t, func(t *testing.T, s *env) {
		s.redis(true)
		var events []*event.Event
		for i := range int64(20_000) {
			events = append(events, s.newEvent(webhook.DLR, i, 1000+i%100, fmt.Sprint(i)))
		}
		s.Handle(events)
		got, waits := s.counts(), 20_000
		for _, n := range got {
			waits -= n
		}
		if waits < maxLookups || waits > maxLookups+lookupBatch {
			t.Errorf("%d events in memory, want %d", waits, maxLookups)
		}
		// At 500 events a second, the 10s tier may hold 5,000 and the 1m tier 30,000.
		if got["overflow 0"] != 5000 || got["overflow 1"] == 0 || len(got) != 2 {
			t.Errorf("ends %v, want 5000 in the shortest tier and the rest in the next", got)
		}
		s.rest(time.Minute)
		total := 0
		for how, n := range s.counts() {
			if total += n; how != "overflow 0" && how != "overflow 1" {
				t.Errorf("%d ended %s", n, how)
			}
		}
		if total != 20_000 {
			t.Errorf("%d of 20,000 ended", total)
		}
	})
}

// An endpoint that hangs takes its three slots and a short queue; the rest goes to tiers by its rate. The others are
// not delayed.
func TestEndpointThatHangs(t *testing.T) {
	withEnv(t, func(t *testing.T, s *env) {
		s.answers(func(w http.ResponseWriter, r *http.Request) {
			if r.Host == "user1" {
				hung(w, r)
			}
		})
		at := time.Now()
		s.Handle(s.dlrs(0, 3000, 1))
		s.Handle(s.dlrs(5000, 1, 2))
		if time.Since(at) != 0 {
			t.Errorf("Handle was blocked for %v", time.Since(at))
		}
		s.rest(10 * time.Millisecond)
		s.want("dlr/0/5000", "delivered")
		got := s.counts()
		// Its rate is unknown, so 100 a second are assumed: the 10s tier may hold 1,000.
		want := map[string]int{"delivered": 1, "overflow 0": 1000, "overflow 1": 3000 - 3 - 1024 - 1000}
		if !maps.Equal(got, want) {
			t.Errorf("ends %v, want %v", got, want)
		}
		s.rest(5 * time.Second)
		waits := 3001
		for _, n := range s.counts() {
			waits -= n
		}
		if waits > 3+10 {
			t.Errorf("%d events of an endpoint that has hung for 5s are in memory", waits)
		}
		s.rest(5*time.Second + afterTimeout/2)
		if n := s.counts()["retry after 1: timeout"]; n != 3 {
			t.Errorf("%d timed out after 10s, want 3", n)
		}
		if n := len(s.seen()); n != 4 {
			t.Errorf("%d requests, want 4: a slot is kept a moment after a time-out", n)
		}
		s.rest(afterTimeout)
		if n := len(s.seen()); n != 7 {
			t.Errorf("%d requests, want 7", n)
		}
		s.rest(time.Minute)
		total := 0
		for _, n := range s.counts() {
			total += n
		}
		if total != 3001 || s.most["user1"] != 3 {
			t.Errorf("%d of 3001 events ended, %d requests at once", total, s.most["user1"])
		}
	})
}

func TestBacklog(t *testing.T) {
	withEnv(t, func(t *testing.T, _ *env) { // for its clock
		b, ep := newBacklog(tiers), endpoint{1, webhook.DLR}
		key := backlogKey{endpoint: ep}
		fill := func(rate float64, n int) (got [4]int) {
			for range n {
				to := b.choose(key, rate)
				b.added(key, to)
				got[to]++
			}
			return got
		}
		if got := fill(2, 800); got != [4]int{20, 120, 600, 60} {
			t.Errorf("tiers %v, want 20, 120, 600 and the rest", got)
		}
		if got := b.choose(backlogKey{endpoint: endpoint{2, webhook.DLR}}, 2); got != 0 {
			t.Errorf("another endpoint goes to tier %d", got)
		}
		for range 5 {
			b.returned(ep, 0)
		}
		if got := fill(2, 6); got != [4]int{5, 0, 0, 1} {
			t.Errorf("tiers %v, want 5 in the room that became free", got)
		}
		b.returned(endpoint{9, webhook.DLR}, 2) // never seen here: another instance stored it
		time.Sleep(10*time.Second + returnGrace + time.Second)
		if got := fill(2, 1); got != [4]int{1} {
			t.Errorf("tiers %v: events that must have returned long ago still count", got)
		}
		time.Sleep(time.Hour)
		b.forget(time.Now())
		if len(b.tiers) != 0 {
			t.Errorf("%d endpoints are remembered", len(b.tiers))
		}
	})
}

func TestQueuedForTooLong(t *testing.T) {
	withEnv(t, func(t *testing.T, s *env) {
		s.answers(slow(9 * time.Second))
		s.Handle(s.dlrs(0, 7, 1))
		s.rest(maxWait + 2*time.Second)
		for offset, want := range map[int]string{0: "delivered", 2: "delivered", 5: "", 6: "overflow 0"} {
			s.want(fmt.Sprint("dlr/0/", offset), want)
		}
	})
}

func TestRevokedPartition(t *testing.T) {
	withEnv(t, func(t *testing.T, s *env) {
		s.answers(hung)
		s.redis(true)
		s.Handle(s.dlrs(0, 5, 1))
		s.Handle(s.dlrs(10, 2, 42)) // unknown
		s.rest(time.Second)
		s.mu.Lock()
		s.lease.closed = true
		s.mu.Unlock()
		s.Purge()
		for _, offset := range []int{3, 4, 10, 11} {
			s.want(fmt.Sprint("dlr/0/", offset), "abandoned")
		}
		s.want("dlr/0/0", "")
		s.lease.cancel() // cancels events in progress
		s.rest(time.Second)
		for _, offset := range []int{0, 1, 2} {
			s.want(fmt.Sprint("dlr/0/", offset), "abandoned")
		}
		if len(s.attempts) != 0 || len(s.seen()) != 3 {
			t.Errorf("attempts %v of requests %v, want none counted of 3", s.attempts, s.seen())
		}
		s.Handle(s.dlrs(20, 1, 1)) // arrived late
		s.rest(time.Minute)
		s.want("dlr/0/20", "abandoned")
	})
}

// A quarter of the slots is reserved for healthy endpoints and another for first calls, whatever hangs.
func TestManyEndpointsThatHang(t *testing.T) {
	withEnv(t, func(t *testing.T, s *env) {
		s.Handle(s.dlrs(0, 1, 1)) // becomes healthy
		s.rest(time.Second)
		s.answers(func(w http.ResponseWriter, r *http.Request) {
			if r.Host != "user1" {
				hung(w, r)
			}
		})
		for user := int64(100); user < 140; user++ {
			s.mu.Lock()
			s.memory[user] = settings(user)
			s.mu.Unlock()
			s.Handle(s.dlrs(user*100, 3, user))
		}
		s.rest(time.Second)
		// 20 of any endpoint, half of the 10 for first calls, and the first that is let in after these.
		if n := s.lanes.Running(); n != 26 {
			t.Errorf("%d requests that hang, want 26", n)
		}
		s.Handle(s.dlrs(1, 100, 1))
		s.rest(time.Second)
		if n := s.counts()["delivered"]; n != 101 {
			t.Errorf("%d of 101 delivered", n)
		}
	})
}

// TestFirstAttempt checks that the time to the first attempt is measured only for events from sources: those from delay
// topics are late because of their endpoint.
func TestFirstAttempt(t *testing.T) {
	for name, c := range map[string]struct {
		class    topics.Class
		attempts int
		want     float64
	}{
		"source": {topics.Source, 0, 1}, "retry": {topics.Retry, 1, 0}, "overflow": {topics.Overflow, 0, 0}, "paused": {topics.Paused, 0, 0},
	} {
		withEnv(t, func(t *testing.T, s *env) {
			e := s.newEvent(webhook.DLR, 7, 1, "1")
			e.Class, e.Attempts = c.class, c.attempts
			s.Handle([]*event.Event{e})
			s.rest(time.Second)
			if n := s.counted("smshooks_first_attempt_seconds", "dlr"); n != c.want {
				t.Errorf("%s: %v first attempts were counted, want %v", name, n, c.want)
			}
		})
	}
}

// The state of an event without an attempt is logged, unless it is settled at its source.
func TestEndsAreLogged(t *testing.T) {
	first := func(e *event.Event) { e.Class, e.Attempts = topics.Source, 0 }
	for _, test := range []struct {
		name   string
		change func(*env, *event.Event)
		want   string // state
		noted  bool   // that it waits, or that it was never attempted
	}{
		{"no URL any more", func(s *env, _ *event.Event) { s.memory[1].Endpoints[webhook.DLR] = nil }, "not_configured", false},
		{"too old", func(s *env, e *event.Event) { s.dead[e.Identity()] = webhook.WindowExpired }, "dead", false},
		{"paused", func(s *env, _ *event.Event) { s.memory[1] = paused(1, webhook.DLR) }, "paused", true},
		{"exhausted process", func(s *env, _ *event.Event) { s.noDial = syscall.EMFILE }, "waiting", true},
		{"too old, never attempted", func(s *env, e *event.Event) { e.Attempts, s.dead[e.Identity()] = 0, webhook.WindowExpired }, "dead", true},
		{"too old, replayed", func(s *env, e *event.Event) {
			e.Attempts, e.Replayed, s.dead[e.Identity()] = 0, "now", webhook.WindowExpired
		}, "dead", true},
		{"never attempted, paused", func(s *env, e *event.Event) { first(e); s.memory[1] = paused(1, webhook.DLR) }, "paused", true},
		{"never attempted, exhausted process", func(s *env, e *event.Event) { first(e); s.noDial = syscall.EMFILE }, "waiting", true},
		{"never attempted, too old", func(s *env, e *event.Event) { first(e); s.dead[e.Identity()] = webhook.WindowExpired }, "dead", true},
		{"never attempted, no URL", func(s *env, e *event.Event) { first(e); s.memory[1].Endpoints[webhook.DLR] = nil }, "", false},
		{"waited, no URL any more", func(s *env, e *event.Event) {
			e.Class, e.Attempts, s.memory[1].Endpoints[webhook.DLR] = topics.Overflow, 0, nil
		}, "not_configured", true},
		{"left behind", func(_ *env, e *event.Event) { e.Released = true }, "", false},
		{"invalid", func(_ *env, e *event.Event) { e.Value = []byte(`{"user_id":1,"sms":{"id":{}}}`) }, "", false},
		{"revoked", func(s *env, _ *event.Event) { s.lease.closed = true }, "", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			withEnv(t, func(t *testing.T, s *env) {
				s.memory[1] = settings(1)
				e := s.newEvent(webhook.DLR, 44, 1, "1")
				e.Class, e.Attempts, e.Origin = topics.Retry, 1, "source/0/44"
				test.change(s, e)
				s.Handle([]*event.Event{e})
				s.rest(time.Second)
				rows, others := s.attempts, s.notes
				if test.noted {
					rows, others = others, rows
				}
				if test.want == "" || len(rows) != 1 || len(others) != 0 {
					if test.want != "" || len(rows)+len(others) != 0 {
						t.Errorf("attempts %+v, notes %+v, want one row", s.attempts, s.notes)
					}
					return
				}
				a := rows[0]
				if waits := test.want == "waiting"; a.Number != 0 || a.Fate.State() != test.want || a.ID != "dlr/0/44" || a.Message.String() != "1" ||
					a.Partition != 0 || a.Offset != 44 || a.Next.IsZero() == waits || !a.Time.Equal(time.Now().Add(-time.Second)) {
					t.Errorf("logged %+v, want that it is %s", a, test.want)
				}
			})
		})
	}
}

// TestManyUsersToLookUp hands over events of many users who are not in memory, as after a start with more users than
// memory holds. While Redis answers, the dispatcher must report that it is behind, and not let events overflow. While
// Redis does not answer, events of known users must not wait.
func TestManyUsersToLookUp(t *testing.T) {
	withEnv(t, func(_ *testing.T, s *env) {
		const users, poll = 20_000, 500
		s.loading = 10 * time.Millisecond
		s.answers(status(200))
		var at time.Duration
		for n := range int64(users / poll) {
			s.Handle(s.unknown(1000+n*poll, poll))
			for i := 0; i < 100 && s.Behind(); i++ {
				s.rest(time.Millisecond)
				at += time.Millisecond
			}
		}
		s.rest(time.Second)
		if got := s.counts(); got["not_configured"] != users {
			t.Errorf("ends %v after %v, want %d looked up", got, at, users)
		}
		s.redis(true)
		for n := range int64(6) {
			s.Handle(s.unknown(users+1000+n*poll, poll))
			s.rest(10 * time.Millisecond)
		}
		if s.Behind() {
			t.Error("the dispatcher is behind although Redis does not answer: events of known users wait")
		}
	})
}

// unknown returns events of n users who are not in memory, beginning with user from.
func (s *env) unknown(from, n int64) (events []*event.Event) {
	for user := range n {
		events = append(events, s.newEvent(webhook.DLR, from+user, from+user, fmt.Sprint(from+user)))
	}
	return events
}
