package demo

import (
	"context"
	"fmt"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// counts are metrics of the service.
type counts struct {
	consumed [webhook.NumKinds]int64
	settled  [webhook.NumKinds][webhook.NumFates]int64
	attempts [webhook.NumKinds][webhook.NumResults]int64
	buffered int64
	inFlight int64
}

// readCounts reads the metrics of the service.
func readCounts(from prometheus.Gatherer, plan *topics.Plan) (f counts, err error) {
	families, err := from.Gather()
	if err != nil {
		return f, fmt.Errorf("gather metrics: %w", err)
	}
	kinds, fates, results := map[string]webhook.Kind{}, map[string]webhook.Fate{}, map[string]webhook.Result{}
	for _, k := range webhook.Kinds() {
		kinds[k.String()] = k
	}
	for _, fate := range webhook.Fates() {
		fates[fate.String()] = fate
	}
	for _, r := range webhook.Results() {
		results[r.String()] = r
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			count := int64(m.GetCounter().GetValue())
			switch family.GetName() {
			case "smshooks_records_consumed_total":
				f.consumed[plan.Describe(labels["topic"]).Kind] += count
			case "smshooks_settled_total":
				f.settled[kinds[labels["kind"]]][fates[labels["fate"]]] = count
			case "smshooks_attempts_total":
				f.attempts[kinds[labels["kind"]]][results[labels["result"]]] = count
			case "smshooks_buffered_records":
				f.buffered = int64(m.GetGauge().GetValue())
			case "smshooks_in_flight_requests":
				f.inFlight = int64(m.GetGauge().GetValue())
			}
		}
	}
	return f, nil
}

// delayedRecords returns how many records were ever written to the delay topics, by kind.
func delayedRecords(ctx context.Context, client *kgo.Client, plan *topics.Plan) (n [webhook.NumKinds]int64, err error) {
	var delayed []string
	for _, t := range plan.Consumed() {
		if plan.Delayed(t) {
			delayed = append(delayed, t)
		}
	}
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, delayed...)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return n, fmt.Errorf("read end offsets of the delay topics: %w", err)
	}
	ends.Each(func(o kadm.ListedOffset) {
		kind := plan.Describe(o.Topic).Kind
		n[kind] += o.Offset
	})
	return n, nil
}

// letters reads the dead letter topic.
type letters struct {
	client *kgo.Client
	done   chan struct{}

	mu     sync.Mutex
	kinds  [webhook.NumKinds]int64 // dead letters
	byUser map[string]int64        // the gateway's records in them, by key
}

// readLetters reads until close is called. It takes ownership of client.
func readLetters(client *kgo.Client) *letters {
	l := &letters{client: client, done: make(chan struct{}), byUser: map[string]int64{}}
	go func() {
		defer close(l.done)
		for {
			fetches := l.client.PollFetches(context.Background())
			if fetches.IsClientClosed() {
				return
			}
			fetches.EachRecord(l.add)
		}
	}()
	return l
}

func (l *letters) add(r *kgo.Record) {
	kind := webhook.DLR
	for _, h := range r.Headers {
		if h.Key == "smshooks-kind" {
			if k, err := webhook.ParseKind(string(h.Value)); err == nil {
				kind = k
			}
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kinds[kind]++
	l.byUser[string(r.Key)] += recordsOf(kind, r.Value)
}

func (l *letters) counts() [webhook.NumKinds]int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.kinds
}

func (l *letters) of(key string) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.byUser[key]
}

func (l *letters) close() {
	l.client.Close()
	<-l.done
}
