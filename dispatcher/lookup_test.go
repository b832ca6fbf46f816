package dispatcher

import (
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/webhook"
)

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

// parted is a lease shared by several batches, one of which is in progress.
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

// TestOrderAfterEviction checks that the receipts of a message are sent in order, also if their user is evicted from
// memory while they wait in the lane, and Redis does not answer for a moment.
func TestOrderAfterEviction(t *testing.T) {
	withEnv(t, func(t *testing.T, s *env) {
		s.answers(slow(time.Second))
		s.stored[1] = settings(1)
		s.mu.Lock()
		s.loading = 150 * time.Millisecond
		s.mu.Unlock()
		events := s.dlrs(0, 3, 1) // take the three slots for a second
		for offset := range int64(4) {
			events = append(events, s.newEvent(webhook.DLR, 3+offset, 1, "77"))
		}
		s.Handle(events)
		s.rest(500 * time.Millisecond)
		s.mu.Lock()
		delete(s.memory, 1)
		s.away = true
		s.mu.Unlock()
		s.rest(700 * time.Millisecond) // the load for the fourth has failed
		s.redis(false)
		s.rest(time.Minute)
		if got, want := s.seen()[3:], []string{"dlr/0/3", "dlr/0/4", "dlr/0/5", "dlr/0/6"}; !slices.Equal(got, want) {
			t.Errorf("receipts of one message in the order %v, want %v", got, want)
		}
	})
}

// TestPurgeStoresParts checks that a batch that shares its lease with one in progress is stored when the partition is
// revoked.
func TestPurgeStoresParts(t *testing.T) {
	withEnv(t, func(t *testing.T, s *env) {
		s.answers(func(http.ResponseWriter, *http.Request) { time.Sleep(5 * time.Second) })
		lease := &parted{Lease: s.lease}
		var batches []*event.Event
		for n := range int64(5) {
			e := s.newEvent(webhook.RevokeClick, n, 1, "1")
			if err := e.Decode(); err != nil {
				t.Fatal(err)
			}
			e.Lease = lease
			batches = append(batches, e)
		}
		s.Submit(batches)
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
