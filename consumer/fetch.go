package consumer

import (
	"errors"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/kafka"
	"github.com/smshooks/smshooks/internal/outage"
)

// fetchQuiet is how long no error must have come for a topic to count as fetched again. The client repeats them about
// once a second.
const fetchQuiet = 10 * time.Second

// unfetched logs, per topic, when fetching begins to fail and when it works again.
type unfetched struct {
	log    *zap.Logger
	mu     sync.Mutex
	topics map[string]*unfetchedTopic
}

type unfetchedTopic struct {
	*outage.Outage
	last time.Time
}

func (u *unfetched) met(topic string, partition int32, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	t := u.topics[topic]
	if t == nil {
		log := u.log.With(zap.String("topic", topic))
		t = &unfetchedTopic{Outage: outage.New(log, "cannot fetch, trying again", "records are fetched again")}
		if topic == "" {
			t.Outage = outage.New(u.log, "not in the group, trying again", "in the group again")
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

// sweep ends what has not been met for a while.
func (u *unfetched) sweep(now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for topic, t := range u.topics {
		if now.Sub(t.last) > fetchQuiet {
			t.Recover()
			delete(u.topics, topic)
		}
	}
}
