package harness

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Clocks is the largest difference between the clocks of two processes on one machine. Instances read due times that
// other instances wrote, so an attempt is early only if it starts before its due time by more than this.
const Clocks = 5 * time.Millisecond

// Slack returns the time to add to a time limit because the machine is busy: three times the longest time since from
// that a record took from a producer through the shared Kafka to a web server, both in this process. A retried event
// goes through Kafka and to a web server twice. On a quiet machine the slack is some milliseconds. The measurement
// begins with the first use of the shared Kafka.
func Slack(from time.Time) time.Duration { return 3 * measuredPace.longest(from, time.Now()) }

// ChangeTakes is the time within which a change of settings takes effect, by contract.
const ChangeTakes = time.Second

// Settle waits until a change of settings has taken effect.
func Settle() {
	from := time.Now()
	Pass(ChangeTakes)
	Pass(Slack(from))
}

// pace sends a record through Kafka to a web server every 50 ms and remembers how long each took.
type pace struct {
	once sync.Once
	stop context.CancelFunc
	done sync.WaitGroup

	mu    sync.Mutex
	begun time.Time       // when the first record arrived; earlier ones waited for the new topic
	sent  []time.Time     // per record
	takes []time.Duration // per record; 0 while it is under way, -1 if it was not stored
}

var measuredPace pace

const beat = 50 * time.Millisecond

func (p *pace) start(addr string) (err error) {
	p.once.Do(func() { err = p.run(addr) })
	return err
}

func (p *pace) run(addr string) error {
	topic := "pace-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	producer, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ProducerLinger(0), kgo.DefaultProduceTopic(topic))
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	created, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if _, err := kadm.NewClient(producer).CreateTopic(created, 1, 1, nil, topic); err != nil {
		stop()
		producer.Close()
		return fmt.Errorf("create topic %s: %w", topic, err)
	}
	consumer, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AtStart()}}))
	if err != nil {
		stop()
		producer.Close()
		return err
	}
	web := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if n, err := strconv.Atoi(r.Header.Get("N")); err == nil {
			p.arrived(n)
		}
	}))
	p.stop = func() { stop(); p.done.Wait(); producer.Close(); consumer.Close(); web.Close() }
	p.done.Go(func() {
		tick := time.NewTicker(beat)
		defer tick.Stop()
		for ctx.Err() == nil {
			p.mu.Lock()
			n := len(p.sent)
			p.sent, p.takes = append(p.sent, time.Now()), append(p.takes, 0)
			p.mu.Unlock()
			producer.Produce(ctx, &kgo.Record{Value: []byte(strconv.Itoa(n))}, func(_ *kgo.Record, err error) {
				if err != nil {
					p.mu.Lock()
					defer p.mu.Unlock()
					p.takes[n] = -1
				}
			})
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
	})
	p.done.Go(func() {
		for ctx.Err() == nil {
			consumer.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
				req, err := http.NewRequestWithContext(ctx, http.MethodPost, web.URL, nil)
				if err != nil {
					return
				}
				req.Header.Set("N", string(r.Value))
				if resp, err := web.Client().Do(req); err == nil {
					_ = resp.Body.Close()
				}
			})
		}
	})
	return nil
}

// arrived records that record n reached the web server.
func (p *pace) arrived(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n < 0 || n >= len(p.sent) {
		return
	}
	p.takes[n] = time.Since(p.sent[n])
	if p.begun.IsZero() {
		p.begun = time.Now()
	}
}

// longest returns the longest time of a record that was under way between two times. A record that is still under way
// counts up to the second time.
func (p *pace) longest(from, to time.Time) (most time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for n, sent := range p.sent {
		took := p.takes[n]
		if p.begun.IsZero() || sent.Before(p.begun) || took < 0 {
			continue
		}
		if took == 0 {
			took = to.Sub(sent)
		}
		if sent.Before(to) && sent.Add(took).After(from) {
			most = max(most, took)
		}
	}
	return most
}

func (p *pace) end() {
	if p.stop != nil {
		p.stop()
	}
}
