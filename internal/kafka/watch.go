package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/webhook"
)

const (
	watchInterval = 3 * time.Second
	watchTimeout  = 10 * time.Second
	adoptTimeout  = 25 * time.Second
)

// Watcher checks every few seconds which of the service's topics exist, their ids, and the rights on them. A topic
// that was deleted and created again has another id. A client never uses it by itself: the functions of OnRecreated
// make the clients forget the old one.
type Watcher struct {
	client *kgo.Client
	topics []string
	needs  map[string]Rights
	log    *zap.Logger
	adopt  []func(ctx context.Context, topics []string) error
	reads  map[string]func() [16]byte

	ids       map[string][16]byte // the last adopted one
	switching []recreation        // that are not adopted yet
	adopted   int                 // functions of adopt that have adopted them
	stuck     bool                // adopting them has failed

	mu       sync.Mutex
	retired  map[[16]byte]bool // previous ids: a broker that lags behind may still name them
	problems []string
}

// NeededRights returns the rights on each topic that an instance needs to consume, to serve the API, or both. Every
// instance reads the settings.
func NeededRights(plan *topics.Plan, consumes, serves bool) map[string]Rights {
	rights := map[string]Rights{plan.Config: Read, plan.Keys: Read, plan.Releases: Read}
	if consumes || serves {
		rights[plan.Releases] |= Write
	}
	if consumes {
		for _, topic := range plan.Consumed() {
			rights[topic] |= Read
		}
		for _, topic := range plan.Written() {
			rights[topic] |= Write
		}
		rights[plan.DeadLetter] |= Write
		rights[plan.Events] |= Write
	}
	if serves {
		rights[plan.Config] |= Write
		rights[plan.DeadLetter] |= Read
		for _, kind := range webhook.Kinds() {
			rights[plan.Overflow(kind, 0)] |= Write // replayed events go there
			rights[plan.Sources()[kind]] |= Read    // the bodies of events come from there
		}
		for _, topic := range plan.Delays(webhook.RevokeClick) {
			rights[topic] |= Read // and those of batches
		}
	}
	return rights
}

// NewWatcher returns a Watcher of the topics in needs, with the rights that are needed on each.
func NewWatcher(cl *kgo.Client, needs map[string]Rights, log *zap.Logger) *Watcher {
	w := &Watcher{
		client: cl, needs: needs, log: log, reads: map[string]func() [16]byte{}, ids: map[string][16]byte{},
		retired: map[[16]byte]bool{},
	}
	for topic := range needs {
		w.topics = append(w.topics, topic)
	}
	slices.Sort(w.topics)
	return w
}

// OnRecreated adds a function that makes clients use the new topics of those names. It is called again while it fails.
// It must be set before Run.
func (w *Watcher) OnRecreated(adopt func(ctx context.Context, topics []string) error) {
	w.adopt = append(w.adopt, adopt)
}

// Reads adds a reader that detects by itself that its topic was created again. The topic is not in use before id
// returns the id of the new one. id returns zero while the topic was never read. It must be set before Run.
func (w *Watcher) Reads(topic string, id func() [16]byte) { w.reads[topic] = id }

// Problem returns an error that names the topics that the service cannot use now, nil if there are none.
func (w *Watcher) Problem() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.problems) == 0 {
		return nil
	}
	return errors.New(strings.Join(w.problems, "; "))
}

// Retired reports whether id belongs to a topic that was deleted and created again while Run was watching.
func (w *Watcher) Retired(id [16]byte) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.retired[id]
}

func (w *Watcher) retire(topics []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, topic := range topics {
		w.retired[w.ids[topic]] = true
	}
}

// Run checks the topics until ctx ends. While Kafka does not answer, it keeps the last result.
func (w *Watcher) Run(ctx context.Context) {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for {
		w.look(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (w *Watcher) look(ctx context.Context) {
	asking, cancel := context.WithTimeout(ctx, watchTimeout)
	seen, err := TopicMetadata(asking, w.client, w.topics...)
	cancel()
	if err != nil {
		return // another check reports that Kafka does not answer
	}
	recreated := w.compare(seen)
	w.report(w.judge(seen, recreated))
	if len(recreated) == 0 {
		w.switching = nil
		return
	}
	changes := make([]recreation, len(recreated))
	for i, topic := range recreated {
		changes[i] = recreation{topic, seen[topic].TopicID}
	}
	if !slices.Equal(changes, w.switching) {
		w.log.Warn("topics were deleted and created again: switching to the new ones", zap.Strings("topics", recreated))
		w.switching, w.adopted, w.stuck = changes, 0, false
	}
	w.retire(recreated)
	adopting, cancel := context.WithTimeout(ctx, adoptTimeout)
	defer cancel()
	for _, adopt := range w.adopt[w.adopted:] {
		if err := adopt(adopting, slices.Clone(recreated)); err != nil {
			if ctx.Err() == nil && !w.stuck {
				w.stuck = true
				w.log.Warn("cannot switch to topics that were created again; retrying", zap.Strings("topics", recreated),
					zap.Error(err))
			}
			return
		}
		w.adopted++ // it is not called again although another one fails
	}
	for _, topic := range recreated {
		w.ids[topic] = seen[topic].TopicID
	}
	w.report(w.judge(seen, nil))
	w.switching = nil
	w.log.Info("switched to the topics that were created again", zap.Strings("topics", recreated))
}

// recreation is a topic that was created again, with its new id.
type recreation struct {
	topic string
	id    [16]byte
}

// compare returns the topics whose id has changed, and records the ids of those seen for the first time.
func (w *Watcher) compare(seen map[string]kmsg.MetadataResponseTopic) (recreated []string) {
	for _, topic := range w.topics {
		t := seen[topic]
		id, known := w.ids[topic]
		switch {
		case t.ErrorCode != 0 || t.TopicID == [16]byte{} || t.TopicID == id || w.Retired(t.TopicID):
		case known:
			recreated = append(recreated, topic)
		default:
			w.ids[topic] = t.TopicID
		}
	}
	return recreated
}

// judge returns what is wrong with each topic.
func (w *Watcher) judge(seen map[string]kmsg.MetadataResponseTopic, recreated []string) (problems []string) {
	for _, topic := range w.topics {
		t := seen[topic]
		switch err := kerr.ErrorForCode(t.ErrorCode); {
		case errors.Is(err, kerr.UnknownTopicOrPartition):
			problems = append(problems, fmt.Sprintf("topic %s does not exist: create it (smshooks topics ensure)", topic))
		case slices.Contains(recreated, topic), w.readsDeleted(topic):
			problems = append(problems, fmt.Sprintf("topic %s was deleted and created again and is not in use yet", topic))
		default:
			if missing := lacking(w.needs[topic], t.ErrorCode, t.AuthorizedOperations); missing != 0 {
				problems = append(problems, lacks("topic "+topic, missing))
			}
		}
	}
	return problems
}

// readsDeleted reports whether the reader of a topic still reads the one that was deleted.
func (w *Watcher) readsDeleted(topic string) bool {
	reads := w.reads[topic]
	if reads == nil || w.ids[topic] == [16]byte{} {
		return false
	}
	id := reads()
	return id != [16]byte{} && id != w.ids[topic]
}

func (w *Watcher) report(problems []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.problems = problems
}
