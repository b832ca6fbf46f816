// Package explain finds what became of an event: its copies in the source, delay and dead letter topics, and the state
// that follows from them.
//
// It reads as little as it can. An id that was derived from a position is found by computing the ids of offsets, not by
// reading records. The copies of an event are in partitions with the number of its source partition, so only these are
// read. A message is searched in the partition that the user's key hashes to, and in the others only if nothing is
// found.
//
// The command "smshooks explain" calls it. A search runs in goroutines of its own, which end before it returns.
package explain

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/topics"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// Config configures a search.
type Config struct {
	Plan  *topics.Plan
	Group string // whose committed offsets show what is finished
	Epoch string // topics.epoch
	// NewClient returns a Kafka client without a group that has the given options as well.
	NewClient func(extra ...kgo.Opt) (*kgo.Client, error)
	// Log returns a user's rows of the delivery log, newest first; nil: the log is not read.
	Log func(ctx context.Context, userID int64) ([]event.LogEntry, error)
	// Warn receives what could not be read and is not needed; nil drops it.
	Warn func(error)
}

// Query selects one event by ID, or the events of one message by UserID and MessageID.
type Query struct {
	ID        string // of the event, or the position of its source record
	UserID    int64  // with ID it selects where to search first; 0 = unknown
	MessageID string
	Kind      *webhook.Kind // nil: all kinds
	Since     time.Time     // records written before are not read; zero: all
}

// Event is an event that was found.
type Event struct {
	ID        string
	UserID    int64 // 0 if unknown
	Kind      webhook.Kind
	MessageID string    // "" for revocations
	From, To  string    // phone numbers; "" if unknown
	Time      time.Time // of the source record; zero if unknown
	State     State
	Attempts  int              // since the latest replay, if there was one
	Next      time.Time        // earliest time of the next attempt; zero if none is planned
	Failure   webhook.Failure  // of the last of Attempts; "" if it succeeded or none was made
	Reason    webhook.Reason   // if the state is Dead
	Copies    []Copy           // the source record first, then by time
	Log       []event.LogEntry // the attempts that the delivery log still has, oldest first
	last      *event.LogEntry  // the latest row of the log; it may be no attempt
	logged    bool             // the state comes from the log
}

// Copy is one record of an event.
type Copy struct {
	Topic     string
	Partition int32
	Offset    int64
	Class     string    // source, retry, overflow …, or dead letter
	Time      time.Time // of the record
	Due       time.Time // of a delayed record; zero if absent
	Committed bool      // the group has committed that it is finished; never so for a dead letter
	attempts  int
	failure   webhook.Failure
	reason    webhook.Reason
	replayed  time.Time // when the replay was requested that the record comes from; zero: none
}

// DeadLetter is the class of the copies in the dead letter topic.
const DeadLetter = "dead letter"

// State is the state of an event.
type State string

// The states. Others are fates from the delivery log.
const (
	Pending   State = "pending"   // the source record is not finished yet
	Waiting   State = "waiting"   // a delayed record will be attempted
	Paused    State = "paused"    // a delayed record is held back until its user ends the pause
	Dead      State = "dead"      // given up
	Delivered State = "delivered" // according to the delivery log
	Settled   State = "settled"   // finished in an unknown way: delivered, or settled on purpose
)

// Find returns the events that q selects, oldest first; none if nothing was found.
func Find(ctx context.Context, cfg Config, q Query) ([]Event, error) {
	client, err := cfg.NewClient()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	f := &finder{cfg: cfg, query: q, client: client, found: map[identity]*Event{}}
	if err := f.survey(ctx); err != nil {
		return nil, err
	}
	if q.ID != "" {
		err = f.byID(ctx)
	} else {
		err = f.byMessage(ctx)
	}
	if err != nil {
		return nil, err
	}
	events := make([]Event, 0, len(f.found))
	for _, e := range f.found {
		f.conclude(ctx, e)
		events = append(events, *e)
	}
	slices.SortFunc(events, func(a, b Event) int { return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.ID, b.ID)) })
	return events, nil
}

// conclude sorts the copies of e and derives its state from them and from the delivery log.
func (f *finder) conclude(ctx context.Context, e *Event) {
	slices.SortFunc(e.Copies, func(a, b Copy) int {
		return cmp.Or(order(a.Class)-order(b.Class), a.Time.Compare(b.Time), cmp.Compare(a.Topic, b.Topic))
	})
	f.addLog(ctx, e)
	open := e.judge()
	e.count()
	if open != nil {
		if drain := f.cfg.Plan.Drain(open.Topic); drain != "" {
			f.warn(fmt.Errorf("event %s is in topic %s, which these settings do not name: use the settings of the service, "+
				"or add %s to both", e.ID, open.Topic, drain))
		}
	}
}

// order sorts the source first.
func order(class string) int {
	if class == topics.Source.String() {
		return 0
	}
	return 1
}

// addLog adds the rows of e in the delivery log.
func (f *finder) addLog(ctx context.Context, e *Event) {
	if f.cfg.Log == nil || e.UserID == 0 {
		return
	}
	all, err := f.attempts(ctx, e.UserID)
	if err != nil {
		f.warn(fmt.Errorf("the delivery log is not shown: %w", err))
		return
	}
	for _, a := range slices.Backward(all) {
		message := a.Message.String()
		if a.ID != e.ID || a.Kind != e.Kind || message != "" && message != e.MessageID {
			continue
		}
		if e.last = &a; a.Number > 0 {
			e.Log = append(e.Log, a)
		}
	}
}

// count sets the attempts and the last failure since the latest replay. A replay counts attempts from 1 again.
func (e *Event) count() {
	var replayed, since time.Time // of the latest replay: when it was requested, and the time of its first record
	for _, c := range e.Copies {
		if c.replayed.After(replayed) {
			replayed, since = c.replayed, c.Time
		}
	}
	for _, c := range e.Copies {
		if c.replayed.Equal(replayed) {
			e.Attempts = max(e.Attempts, c.attempts)
			e.Failure = cmp.Or(c.failure, e.Failure)
		}
	}
	for _, a := range e.Log {
		if !a.Time.Before(since) {
			e.Attempts = max(e.Attempts, a.Number)
		}
	}
	if e.logged && e.last.Number > 0 { // the records of the latest replay may be deleted
		e.Attempts = e.last.Number
	}
	if e.State == Delivered {
		e.Failure = ""
	}
}

func (f *finder) warn(err error) {
	if f.cfg.Warn != nil {
		f.cfg.Warn(err)
	}
}

// judge sets the state. It returns the delayed record that an event waits in, or nil.
func (e *Event) judge() (delayed *Copy) {
	// The newest delayed or source record, if it is not finished, and the newest dead letter. Older records that are not
	// finished were left behind when the event was released, except those from before a replay.
	var open, dead *Copy
	last := time.Time{}
	for i := range e.Copies {
		c := &e.Copies[i]
		switch {
		case c.Class == DeadLetter:
			dead = c
		case !c.Committed:
			open = c
		case open != nil && c.replayed.IsZero() && c.Class != topics.Source.String():
			open = nil
		}
		if c.Time.After(last) {
			last = c.Time
		}
	}
	ended := e.last != nil && !e.last.Fate.Stored() // the log has the fate
	switch {
	case ended && e.last.Time.After(last): // its offset may not be committed yet
		e.State, e.logged = State(e.last.Fate.State()), true
	case dead != nil && (open == nil || !open.Time.After(dead.Time)) && !e.replayedAfter(dead):
		e.State = Dead
	case open != nil && open.Class == topics.Source.String():
		e.State = Pending
	case open != nil:
		delayed = open
		e.State, e.Next = Waiting, open.Due
		if open.Class == topics.Paused.String() {
			e.State = Paused
		}
	case ended:
		e.State, e.logged = State(e.last.Fate.State()), true
	default:
		e.State = Settled
	}
	if e.State == Dead && dead != nil {
		e.Reason = dead.reason
	}
	return delayed
}

// replayedAfter reports whether a replay followed the dead letter.
func (e *Event) replayedAfter(dead *Copy) bool {
	return slices.ContainsFunc(e.Copies, func(c Copy) bool {
		return c.Class != DeadLetter && !c.replayed.IsZero() && c.Time.After(dead.Time)
	})
}
