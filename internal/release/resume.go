package release

import (
	"context"
	"fmt"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/internal/compacted"
	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/kafka"
	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// resumption is the end of a pause.
type resumption struct {
	marker Marker
	topics []string
}

// resumptions holds ends of pauses whose markers are not stored yet.
type resumptions struct {
	wake    chan struct{}
	mu      sync.Mutex
	waiting []resumption
}

// Resume releases the records in the paused topics of a kind, because the user's pause has ended. document names the
// settings that ended it. It returns at once. All instances may call it.
func (l *Log) Resume(userID int64, kind webhook.Kind, document string, topics []string) {
	l.resumed.mu.Lock()
	l.resumed.waiting = append(l.resumed.waiting, resumption{
		Marker{ID: resumeID(userID, kind, document), Cause: Resume, User: userID}, topics,
	})
	l.resumed.mu.Unlock()
	select {
	case l.resumed.wake <- struct{}{}:
	default:
	}
}

// writeResumptions stores the markers of ended pauses until ctx ends.
func (l *Log) writeResumptions(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.resumed.wake:
		}
		l.resumed.mu.Lock()
		waiting := l.resumed.waiting
		l.resumed.waiting = nil
		l.resumed.mu.Unlock()
		for _, r := range waiting {
			for pause := compacted.NewBackoff(); ; {
				if _, known := l.Status(r.marker.ID); known {
					break // another instance was first
				}
				_, err := l.Begin(ctx, r.marker, r.topics)
				if err == nil {
					l.unwritten.Recover()
					break
				}
				l.unwritten.Fail(kafka.Explain(err))
				if pause.Wait(ctx) != nil {
					return
				}
			}
		}
	}
}

// Pauses reports which endpoints are paused.
type Pauses interface {
	Paused(ctx context.Context, userID int64, kind webhook.Kind) (bool, error)
}

// sweep searches once, after each assignment of a partition of a paused topic, for events of users whose pause ended
// while no instance ran, and begins recoveries for them. It ends when it has read a partition, so that recoveries do
// not wait for all of them; swept is true then.
func (w *Worker) sweep(ctx context.Context) (swept bool, err error) {
	for _, p := range w.partitions.Delayed() {
		u := unit{p.Topic, p.Number}
		if p.Class != topics.Paused || w.swept[u] == p.Lease {
			continue
		}
		if swept, err = w.sweepPartition(ctx, p); err != nil {
			return false, fmt.Errorf("look for paused events in %s/%d: %w", p.Topic, p.Number, err)
		}
		if w.swept[u] = p.Lease; swept {
			return true, nil
		}
	}
	return false, nil
}

// sweepPartition does the work of sweep in a partition; swept is false if it holds no delayed records.
func (w *Worker) sweepPartition(ctx context.Context, p event.Partition) (swept bool, err error) {
	t := &task{job: &job{unit: unit{p.Topic, p.Number}}, owned: p}
	if _, err := w.locate(ctx, []*task{t}); err != nil {
		return false, err
	}
	if t.span.Next >= t.span.End {
		return false, nil
	}
	users := map[int64]bool{}
	err = w.read(ctx, t, func(r *kgo.Record) error {
		e := eventOf(r, p, t.space)
		if released, undecided := w.releases.Decide(e); released || undecided || p.Finished(t.id, r.Offset, r.LeaderEpoch) {
			return nil
		}
		if userID := userOf(e); userID > 0 {
			users[userID] = true
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	for userID := range users {
		paused, err := w.cfg.Pauses.Paused(ctx, userID, p.Kind)
		if err != nil {
			return false, err
		}
		if paused {
			continue
		}
		if _, err := w.releases.Begin(ctx, Marker{Cause: Resume, User: userID}, []string{p.Topic}); err != nil {
			return false, err
		}
	}
	return true, nil
}
