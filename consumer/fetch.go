package consumer

import (
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/kafka"
	"github.com/smshooks/smshooks/internal/outage"
)

// fetchRecovered is how long a topic must be without an error to count as fetched again. The client repeats errors
// about once a second.
const fetchRecovered = 10 * time.Second

// fetchOutages logs, per topic, when fetching begins to fail and when it works again.
type fetchOutages struct {
	log    *zap.Logger
	mu     sync.Mutex
	topics map[string]*topicOutage
}

type topicOutage struct {
	*outage.Outage
	last time.Time
}

// fail records the error of a partition. The topic is "" if the group is the problem.
func (u *fetchOutages) fail(topic string, partition int32, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	t := u.topics[topic]
	if t == nil {
		log := u.log.With(zap.String("topic", topic))
		t = &topicOutage{Outage: outage.New(log, "cannot fetch; retrying", "records are fetched again")}
		if topic == "" {
			t.Outage = outage.New(u.log, "cannot join the group; retrying", "in the group again")
		}
		u.topics[topic] = t
	}
	t.last = time.Now()
	var session *kgo.ErrGroupSession
	if errors.As(err, &session) {
		t.Fail(kafka.Explain(session.Err))
		return
	}
	t.Fail(err, zap.Int32("partition", partition))
}

// sweep ends the outages of topics that have been without an error for a while. The client reports a refused offset
// once, so the topics in refused still fail.
func (u *fetchOutages) sweep(now time.Time, refused []string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for topic, t := range u.topics {
		if slices.Contains(refused, topic) {
			t.last = now
		}
		if now.Sub(t.last) > fetchRecovered {
			t.Recover()
			delete(u.topics, topic)
		}
	}
}
