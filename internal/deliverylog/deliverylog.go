// Package deliverylog keeps in Redis each user's latest HTTP attempts, the replies of the latest failures, and notes:
// all that is known of events that wait or have waited. Each is a list. Notes are the states of these events without an
// attempt, and their attempts, which are in both lists: so attempts of other events do not push out those that wait,
// and an outage with many waiting events does not push out the attempts.
//
// The dispatcher adds attempts and notes; releases and replays add notes. internal/api lists them. Writing
// never slows a delivery: Add and Note put a row into a bounded queue, and Run, in the caller's goroutine, writes
// batches of rows in one round trip each. If Redis is not reachable or too slow, rows are dropped and counted. The
// queue's lock is held only while rows are put in or taken out.
package deliverylog

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/outage"
	"github.com/smshooks/smshooks/pkg/webhook"
)

const (
	// PerUser is the number of attempts kept for each user, and the number of notes.
	PerUser = 1000
	// RepliesPerUser is the number of failures of a user that keep the beginning of the reply's body.
	RepliesPerUser = 100
	// Keep is how long a user's attempts are kept after the latest one.
	Keep = 7 * 24 * time.Hour

	batchMax     = 4096 // rows; a batch may have a chunk more
	linger       = 100 * time.Millisecond
	writeTimeout = 2 * time.Second
	slack        = PerUser / 4 // how many more a list may have before it is trimmed
	refresh      = time.Hour   // how often a list's expiry is renewed
	maxExpiry    = 200_000     // users whose last renewal is kept in memory
)

// Log is the delivery log. It is safe for concurrent use.
type Log struct {
	rdb      redis.UniversalClient
	attempts string // prefix of the lists of attempts
	notes    string // prefix of the lists of notes
	replies  string // prefix of the lists of replies
	dropped  func(n int)
	log      *zap.Logger
	queue    *queue
	full     atomic.Int64 // Unix ms since when rows have been dropped because the queue is full; 0 if none is
}

// New returns a log that keeps its keys under prefix; nothing is written unless Run runs. dropped receives the number
// of attempts and notes that were dropped, and must not block.
func New(rdb redis.UniversalClient, prefix string, dropped func(n int), log *zap.Logger) *Log {
	return &Log{rdb: rdb, attempts: prefix + "deliveries:", notes: prefix + "notes:", replies: prefix + "replies:",
		dropped: dropped, log: log, queue: newQueue()}
}

// Add queues an attempt, or the end of an event that was attempted. It never blocks: if the queue is full, the attempt
// is dropped and counted.
func (l *Log) Add(a event.LogEntry) {
	if !l.queue.push(&l.queue.attempts, a) {
		l.overflow()
	}
}

// Note queues an event that waits, or the end of one that was never attempted. Like Add, it never blocks.
func (l *Log) Note(a event.LogEntry) {
	if !l.queue.push(&l.queue.notes, a) {
		l.overflow()
	}
}

// overflow counts a row for which the queue has no room. The first one is logged.
func (l *Log) overflow() {
	l.dropped(1)
	if l.full.CompareAndSwap(0, time.Now().UnixMilli()) {
		l.log.Warn("the queue of the delivery log is full, dropping attempts: Redis is slower than they are made")
	}
}

// drained ends what overflow has begun.
func (l *Log) drained() {
	if since := l.full.Swap(0); since != 0 {
		l.log.Info("the queue of the delivery log is empty again", zap.Duration("after", time.Since(time.UnixMilli(since))))
	}
}

// Run writes attempts and notes until ctx ends, and then the rest of the queues.
func (l *Log) Run(ctx context.Context) {
	w := writer{
		Log: l, attempts: newLists(l.attempts), notes: newLists(l.notes), byReply: map[int64][]any{},
		failing: outage.New(l.log, "cannot write the delivery log to Redis, dropping attempts",
			"the delivery log is written to Redis again"),
	}
	for {
		if l.queue.len() == 0 {
			l.drained()
			select {
			case <-ctx.Done():
			case <-l.queue.wake:
			}
		}
		w.linger(ctx)
		if w.take() {
			w.write()
		} else if ctx.Err() != nil {
			return
		}
	}
}

// writer is the state of Run, reused for each batch.
type writer struct {
	*Log
	attempts, notes lists
	byReply         map[int64][]any
	rows            int // in the batch
	failing         *outage.Outage
}

// lists are the new lines of one kind of list.
type lists struct {
	prefix string
	lines  map[int64]lines     // by user
	expiry map[int64]time.Time // of users' lists, as set last
}

// lines are the new lines of a user's list.
type lines struct {
	text []any
	rows int // rows of the batch among them, without copies of rows in another list
}

func newLists(prefix string) lists { return lists{prefix, map[int64]lines{}, map[int64]time.Time{}} }

func (l *lists) key(userID int64) string { return key(l.prefix, userID) }

func (l *lists) add(a *event.LogEntry, line []byte, rows int) {
	of := l.lines[a.UserID]
	l.lines[a.UserID] = lines{append(of.text, line), of.rows + rows}
}

func (w *writer) add(to *lists, a *event.LogEntry) {
	w.rows++
	line := encode(a)
	to.add(a, line, 1)
	if to == &w.attempts && (a.Waited || a.Fate == webhook.Retry) {
		w.notes.add(a, line, 0)
	}
	if hasReply(a) {
		w.byReply[a.UserID] = append(w.byReply[a.UserID], encodeReply(a))
	}
}

// linger waits for rows to write together, until a batch is full.
func (w *writer) linger(ctx context.Context) {
	timer := time.NewTimer(linger)
	defer timer.Stop()
	for w.queue.len() < batchMax {
		select {
		case <-w.queue.wake:
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// take fills the batch with queued rows, and reports whether there were any.
func (w *writer) take() bool {
	// Notes first: they are older than the attempts that are notes, too.
	for _, list := range []struct {
		from *rows
		to   *lists
	}{{&w.queue.notes, &w.notes}, {&w.queue.attempts, &w.attempts}} {
		for w.rows < batchMax {
			c := w.queue.pop(list.from)
			if c == nil {
				break
			}
			for i := range c {
				w.add(list.to, &c[i])
			}
			w.queue.recycle(c)
		}
	}
	return w.rows > 0
}

// write sends the batch in one round trip. It is not repeated after an error: part of it may have been stored, and
// no attempt may be listed twice.
func (w *writer) write() {
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	dropped, err := w.push(ctx)
	if dropped > 0 {
		w.dropped(dropped)
	}
	if err != nil {
		w.failing.Fail(err, zap.Int("attempts", dropped))
	} else {
		w.failing.Recover()
	}
	w.rows = 0
	clear(w.attempts.lines)
	clear(w.notes.lines)
	clear(w.byReply)
}

// pushed is a list that was extended.
type pushed struct {
	*lists
	user   int64
	length *redis.IntCmd
	expire *redis.BoolCmd // nil if the expiry was not renewed
}

// push writes the lines. It trims lists and renews their expiry only when necessary. It returns the number of rows that
// were not stored, and the error, which may concern a few lists only.
func (w *writer) push(ctx context.Context) (dropped int, err error) {
	now := time.Now()
	var all []pushed
	replies := make(map[string]*redis.IntCmd, len(w.byReply))
	_, err = w.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, l := range []*lists{&w.attempts, &w.notes} {
			for user, of := range l.lines {
				list := pushed{lists: l, user: user}
				list.length = p.LPush(ctx, l.key(user), of.text[max(0, len(of.text)-PerUser):]...)
				if now.Sub(l.expiry[user]) > refresh {
					list.expire = p.Expire(ctx, l.key(user), Keep+refresh)
					l.expiry[user] = now
				}
				all = append(all, list)
			}
		}
		for user, text := range w.byReply {
			key := w.replyKey(user)
			replies[key] = p.LPush(ctx, key, text[max(0, len(text)-RepliesPerUser):]...)
			p.LTrim(ctx, key, 0, RepliesPerUser-1)
			p.Expire(ctx, key, Keep+refresh)
		}
		return nil
	})
	if err != nil {
		err = errors.Join(err, w.repair(ctx, all, replies))
	}
	dropped = w.trim(ctx, all, now)
	for _, l := range []*lists{&w.attempts, &w.notes} {
		if len(l.expiry) > maxExpiry {
			clear(l.expiry)
		}
	}
	return dropped, err
}

// repair deletes the keys that are not lists: another program wrote them, and every later write would fail.
func (w *writer) repair(ctx context.Context, all []pushed, replies map[string]*redis.IntCmd) error {
	_, err := w.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, l := range all {
			if redis.HasErrorPrefix(l.length.Err(), "WRONGTYPE") {
				p.Del(ctx, l.key(l.user))
			}
		}
		for key, length := range replies {
			if redis.HasErrorPrefix(length.Err(), "WRONGTYPE") {
				p.Del(ctx, key)
			}
		}
		return nil
	})
	return err
}

// trim trims the lists that were extended and have become too long, and lets new ones expire. It returns the number of
// rows of the lists that were not extended.
func (w *writer) trim(ctx context.Context, all []pushed, now time.Time) (dropped int) {
	_, err := w.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, l := range all {
			of := l.lines[l.user]
			switch {
			case l.length.Err() != nil:
				dropped += of.rows
				delete(l.expiry, l.user) // some rows may be stored
				continue
			case l.expire != nil && l.expire.Err() != nil:
				delete(l.expiry, l.user)
			}
			switch stored := int64(min(len(of.text), PerUser)); {
			case l.length.Val() > PerUser+slack:
				p.LTrim(ctx, l.key(l.user), 0, PerUser-1)
			case l.length.Val() == stored && !l.expiry[l.user].Equal(now): // a new list: it expired, or Redis was emptied
				p.Expire(ctx, l.key(l.user), Keep+refresh)
			}
		}
		return nil
	})
	if err != nil {
		w.log.Warn("cannot trim the delivery log; retrying with the next attempts", zap.Error(err))
	}
	return dropped
}

func key(prefix string, userID int64) string { return prefix + strconv.FormatInt(userID, 10) }

func (l *Log) replyKey(userID int64) string { return key(l.replies, userID) }

// setApart truncates times, sorted with the newest first, to whole milliseconds and moves equal ones forward. However
// many attempts began at once, no time is moved by more milliseconds than a log has rows.
func setApart(attempts []event.LogEntry) {
	var last time.Time
	for i := len(attempts) - 1; i >= 0; i-- {
		t := attempts[i].Time.Truncate(time.Millisecond)
		if next := last.Add(time.Millisecond); t.Before(next) {
			t = next
		}
		attempts[i].Time, last = t, t
	}
}
