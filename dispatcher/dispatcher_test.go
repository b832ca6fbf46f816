package dispatcher

import (
	"fmt"
	"net/http"
	"reflect"
	"slices"
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
		{"superseded dead letter", func(s *env, e *event.Event) { latest(topics.Overflow)(s, e); e.Replayed = time.Now() }, webhook.DLR, 1, "delivered", true},
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
		want := []event.LogEntry{{
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
		{"paused", func(s *env, _ *event.Event) { s.memory[1] = pausedSettings(1, webhook.DLR) }, "paused", true},
		{"exhausted process", func(s *env, _ *event.Event) { s.noDial = syscall.EMFILE }, "waiting", true},
		{"too old, never attempted", func(s *env, e *event.Event) { e.Attempts, s.dead[e.Identity()] = 0, webhook.WindowExpired }, "dead", true},
		{"too old, replayed", func(s *env, e *event.Event) {
			e.Attempts, e.Replayed, s.dead[e.Identity()] = 0, time.Now(), webhook.WindowExpired
		}, "dead", true},
		{"never attempted, paused", func(s *env, e *event.Event) { first(e); s.memory[1] = pausedSettings(1, webhook.DLR) }, "paused", true},
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
