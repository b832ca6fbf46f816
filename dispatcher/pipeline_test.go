package dispatcher

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/metrics"
	"github.com/smshooks/smshooks/internal/sender"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// TestFinishOfRevokedEvent checks that an event whose lease cannot be acquired is abandoned, whatever its verdict, and
// is not stored.
func TestFinishOfRevokedEvent(t *testing.T) {
	verdicts := map[string]verdict{
		"delivered": {kind: delivered}, "settled": settle(webhook.Filtered), "retried": {kind: retried}, "overflowed": {kind: overflowed},
		"dead": deadLetter(webhook.WindowExpired), "invalid": {kind: invalid, why: "bad"}, "abandoned": abandon,
	}
	for name, v := range verdicts {
		t.Run(name, func(t *testing.T) {
			withEnv(t, func(_ *testing.T, s *env) {
				s.lease.closed = true
				s.finish(s.newEvent(webhook.DLR, 7, 1, "1"), v)
				s.want("dlr/0/7", "abandoned")
			})
		})
	}
}

// TestFinishNeedsVerdict checks that finish does not accept an event without a verdict.
func TestFinishNeedsVerdict(t *testing.T) {
	withEnv(t, func(t *testing.T, s *env) {
		defer func() {
			if recover() == nil {
				t.Error("an event without a verdict was ignored")
			}
		}()
		s.finish(s.newEvent(webhook.DLR, 7, 1, "1"), verdict{})
	})
}

// benchDispatcher has one endpoint that no request can be made to, so that a benchmark measures the pipeline and not
// the network.
func benchDispatcher(end func()) *Dispatcher {
	b := bench{settings: &webhook.Settings{UserID: 1}, end: end}
	b.settings.Endpoints[webhook.DLR] = &webhook.Endpoint{}
	return New(
		Config{Parallel: 3, MaxInFlight: 100, Timeout: time.Second, QueuePerEndpoint: 1024, Tiers: tiers},
		Parts{
			Sender: sender.New(sender.Config{Timeout: time.Second, MaxInFlight: 100}), Policy: policy{&env{}}, Forwarder: b, Settings: b,
			Metrics: metrics.New(prometheus.NewRegistry(), metrics.Topics{}), Log: zap.NewNop(),
		})
}

type bench struct {
	Forwarder
	Settings
	settings *webhook.Settings
	end      func()
}

func (b bench) Lookup(int64) (*webhook.Settings, bool) { return b.settings, true }
func (b bench) Retry(*event.Event, int)                { b.end() }

// BenchmarkAttempt measures the delivery stages and finish.
func BenchmarkAttempt(b *testing.B) {
	d := benchDispatcher(func() {})
	e := &event.Event{Delivery: event.Delivery{Kind: webhook.DLR, UserID: 1, ID: "evt_1", Time: time.Now()}, Lease: still{}}
	b.ReportAllocs()
	for b.Loop() {
		e.Attempts = 0
		d.attempt(e)
	}
}

// BenchmarkPipeline measures an event from Handle to its end, with its lane.
func BenchmarkPipeline(b *testing.B) {
	ended := make(chan struct{}, 1000)
	d := benchDispatcher(func() { ended <- struct{}{} })
	events := make([]*event.Event, 100)
	for i := range events {
		events[i] = &event.Event{Record: event.Record{Key: []byte("1"), Value: []byte(`{"user_id":1,"sms":{"id":"7f3"}}`)}, Lease: still{}}
	}
	b.ReportAllocs()
	for b.Loop() {
		for _, e := range events {
			e.Delivery = event.Delivery{Kind: webhook.DLR, ID: "evt_1", Time: e.Time}
		}
		d.Handle(events)
		for range events {
			<-ended
		}
	}
}
