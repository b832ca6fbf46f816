package deliverylog

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// Filter selects attempts; the zero value selects all.
type Filter struct {
	Kind    *webhook.Kind   // nil: all kinds
	Result  *webhook.Result // nil: all results
	Message string          // only attempts for this message; "": all
	Status  int             // only attempts with this HTTP status; 0: all
	Before  time.Time       // only attempts that began before; zero: no bound
	Limit   int             // the most attempts; 0: no limit
}

// List returns a user's latest attempts, newest first. Their times are whole milliseconds in UTC and, where several
// attempts began within the same one, set apart by a millisecond each, so that Before with the time of a page's last
// attempt selects the next page. Next is set only in the latest attempt of an event that is delayed. Errors are those
// of Redis.
func (l *Log) List(ctx context.Context, userID int64, f Filter) ([]event.LogEntry, error) {
	all, complete, err := l.rows(ctx, userID)
	if err != nil {
		return nil, err
	}
	next := make(map[string]time.Time, len(all)) // by event, until its latest attempt has it
	rows := all
	all = all[:0]
	for i := range rows {
		a := rows[i]
		if _, known := next[a.ID]; !known {
			next[a.ID] = a.Next
		}
		if a.Number > 0 && !a.Time.Before(complete) {
			a.Next, next[a.ID] = next[a.ID], time.Time{}
			all = append(all, a)
		}
	}
	setApart(all)
	kept := make([]event.LogEntry, 0, min(len(all), max(f.Limit, 16)))
	for i := range all {
		if f.Limit > 0 && len(kept) == f.Limit {
			break
		}
		if f.matches(&all[i]) {
			kept = append(kept, all[i])
		}
	}
	return kept, nil
}

func (f *Filter) matches(a *event.LogEntry) bool {
	return (f.Kind == nil || a.Kind == *f.Kind) &&
		(f.Result == nil || a.Failure.Result() == *f.Result) &&
		(f.Message == "" || a.Message.String() == f.Message) &&
		(f.Status == 0 || a.Status == f.Status) &&
		(f.Before.IsZero() || a.Time.Before(f.Before))
}

// Rows returns everything that the log has of a user, newest first, as it was added but without replies,
// including rows that are not attempts. Times are in microseconds, those of events and of next attempts in
// milliseconds.
func (l *Log) Rows(ctx context.Context, userID int64) ([]event.LogEntry, error) {
	all, _, err := l.rows(ctx, userID)
	return all, err
}

// rows returns what Rows does, and the time since when the log has all attempts. Of the time before, it only has those
// of events that waited.
func (l *Log) rows(ctx context.Context, userID int64) (all []event.LogEntry, complete time.Time, err error) {
	var read [2]*redis.StringSliceCmd
	_, err = l.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, prefix := range []string{l.attempts, l.notes} {
			read[i] = p.LRange(ctx, key(prefix, userID), 0, PerUser-1)
		}
		return nil
	})
	if err != nil {
		return nil, complete, fmt.Errorf("read the delivery log in Redis: %w", err)
	}
	seen := map[string]bool{} // the attempts of an event that waits are in both lists
	for i, lines := range read {
		full := i == 0 && len(lines.Val()) == PerUser
		for _, line := range lines.Val() {
			if seen[line] {
				continue
			}
			seen[line] = true
			// An unreadable line was written by another version, whose instances run at the same time.
			if a, ok := decode(line); ok {
				a.UserID = userID
				all = append(all, a)
				if full && (complete.IsZero() || a.Time.Before(complete)) {
					complete = a.Time
				}
			}
		}
	}
	// Instances write at different times: the lists are only nearly in order.
	slices.SortStableFunc(all, func(a, b event.LogEntry) int { return b.Time.Compare(a.Time) })
	return all, complete, nil
}

// Event is an event with its logged attempts.
type Event struct {
	ID        string
	Kind      webhook.Kind
	Message   string       // "" for revocations
	Recipient string       // phone number or short code; "" if unknown
	Time      time.Time    // of the event; zero if unknown
	Fate      webhook.Fate // of its latest record
	Changed   time.Time    // time of its latest row
	Next      time.Time    // earliest time of the next attempt; zero if none is planned, or while it is paused
	Partition int32        // of the source record
	Offset    int64        // of the source record; -1 = unknown
	IDs       int          // of a batch of revocations; 0 = unknown
	End       int64        // offset after the last source record of a batch of revocations; 0 = unknown
	Attempts  []Attempt    // oldest first
}

// Attempt is an attempt with its reply.
type Attempt struct {
	event.LogEntry
	HasReply bool // Reply is known: only those of the latest failures are kept
	Extra    bool // older than the latest PerUser attempts: kept because the event waited
}

// Events returns the user's events whose rows are wanted, in the order of their first rows. Errors are
// those of Redis.
func (l *Log) Events(ctx context.Context, userID int64, wanted func(*event.LogEntry) bool) ([]Event, error) {
	rows, complete, err := l.rows(ctx, userID)
	if err != nil {
		return nil, err
	}
	rows = slices.DeleteFunc(rows, func(a event.LogEntry) bool { return !wanted(&a) })
	if len(rows) == 0 {
		return nil, nil
	}
	replies, err := l.readReplies(ctx, userID)
	if err != nil {
		return nil, err
	}
	var events []Event
	index := map[string]int{}
	for _, a := range slices.Backward(rows) {
		i, known := index[a.ID]
		if !known {
			i = len(events)
			index[a.ID] = i
			events = append(events, Event{ID: a.ID, Kind: a.Kind, Message: a.Message.String(),
				Recipient: a.Recipient.String(), Offset: -1})
		}
		e := &events[i]
		if e.Time.IsZero() {
			e.Time = a.EventTime
		}
		e.Fate, e.Changed, e.Next = a.Fate, a.Time, a.Next
		if a.Offset >= 0 {
			e.Partition, e.Offset = a.Partition, a.Offset
		}
		e.End, e.IDs = max(e.End, a.End), max(e.IDs, a.IDs)
		if a.Number > 0 {
			reply, kept := replies[keyOf(&a)]
			a.Reply = reply
			e.Attempts = append(e.Attempts, Attempt{a, kept, a.Time.Before(complete)})
		}
	}
	return events, nil
}

func (l *Log) readReplies(ctx context.Context, userID int64) (map[replyKey]string, error) {
	texts, err := l.rdb.LRange(ctx, l.replyKey(userID), 0, RepliesPerUser-1).Result()
	if err != nil {
		return nil, fmt.Errorf("read the replies in Redis: %w", err)
	}
	replies := make(map[replyKey]string, len(texts))
	for _, text := range texts {
		if key, reply, ok := decodeReply(text); ok {
			replies[key] = reply
		}
	}
	return replies, nil
}
