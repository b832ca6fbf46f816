package release

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/kafka"
	"github.com/smshooks/smshooks/pkg/webhook"
)

const (
	// unreadAfter is the age of a recovery at which units without a reader are ended: before, members may be joining.
	unreadAfter = 30 * time.Second
	// unreadInterval is the time between two searches for such units.
	unreadInterval = 10 * time.Second
)

// endUnread ends a unit that no member of the group owns: its topic was deleted, has fewer partitions now, or is only
// in the settings of the marker's writer. Otherwise the recovery would run until it is forgotten. Events delayed there
// are sent when they are due, if a member reads them then.
//
// Only the owner of the first partition of copies does so. It ends the unit in a transaction, like the unit's owner. So
// if an owner appears by then, one of the two is fenced.
func (w *Worker) endUnread(ctx context.Context) (ended bool, err error) {
	if w.releases.Running() == 0 || time.Since(w.lookedUnread) < w.unreadInterval {
		return false, nil
	}
	owned := w.partitions.Delayed()
	owns := func(u unit) bool {
		return slices.ContainsFunc(owned, func(p event.Partition) bool { return u == unit{p.Topic, p.Number} })
	}
	if !owns(unit{w.cfg.Released(webhook.DLR), 0}) {
		return false, nil
	}
	w.lookedUnread = time.Now()
	pending := slices.DeleteFunc(w.releases.pending(w.unreadAfter), owns)
	if len(pending) == 0 {
		return false, nil
	}
	if pending, err = w.unread(ctx, pending); err != nil || len(pending) == 0 {
		return false, err
	}
	w.lookedUnread = time.Time{} // there may be more
	return true, w.endUnit(ctx, pending[0])
}

// unread returns the units that no member of the group reads.
func (w *Worker) unread(ctx context.Context, units []unit) ([]unit, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	subscribed, err := kafka.Subscribed(ctx, w.cfg.Client, w.cfg.Group)
	if err != nil {
		return nil, err
	}
	details, err := kadm.NewClient(w.cfg.Client).ListTopics(ctx, subscribed...)
	if err != nil {
		return nil, fmt.Errorf("describe delay topics: %w", err)
	}
	return slices.DeleteFunc(units, func(u unit) bool {
		if !slices.Contains(subscribed, u.topic) {
			return false
		}
		d := details[u.topic]
		return d.Err != nil || int(u.partition) < len(d.Partitions) // a subscribed topic that is missing may come back
	}), nil
}

// endUnit ends a unit for all recoveries.
func (w *Worker) endUnit(ctx context.Context, u unit) error {
	for _, j := range w.releases.jobs(u) {
		if err := w.endJob(ctx, j); err != nil && !errors.Is(err, errChanged) {
			return fmt.Errorf("%s/%d: %w", u.topic, u.partition, err)
		}
	}
	return w.releases.AwaitEnd(ctx)
}

func (w *Worker) endJob(ctx context.Context, j *job) error {
	p := &pass{Worker: w, task: &task{job: j, owned: event.Partition{Owned: func() bool { return true }}}}
	defer p.close()
	if err := p.fence(ctx); err != nil {
		return err
	}
	for _, id := range j.ids {
		units := map[string][]int32{j.topic: {j.partition}}
		err := p.commit(ctx, record(w.releases.cfg.Topic, id, entry{Empty: &empty{ID: id, Units: units, Time: w.now()}}))
		if err != nil {
			return err
		}
	}
	return nil
}

// pending returns the units in which recoveries that are older than age have work left, in a fixed order.
func (s *State) pending(age time.Duration) (units []unit) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, r := range s.open {
		if time.Since(r.seen) < age {
			continue
		}
		for topic, partitions := range r.Topics {
			for n := range partitions {
				u := unit{topic, n}
				if d := r.units[u]; d == nil || !d.all {
					units = append(units, u)
				}
			}
		}
	}
	slices.SortFunc(units, func(a, b unit) int {
		return cmp.Or(cmp.Compare(a.topic, b.topic), cmp.Compare(a.partition, b.partition))
	})
	return slices.Compact(units)
}
