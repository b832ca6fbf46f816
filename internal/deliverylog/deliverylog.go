// Package deliverylog keeps each user's latest HTTP attempts in Redis: a list of lines, and a list of the replies of
// the latest failures.
//
// The dispatcher adds attempts, internal/api lists them. Writing never slows a delivery: Add puts an attempt into a
// bounded channel, and Run, in the caller's goroutine, writes batches of them in one round trip each. If Redis is not
// reachable or too slow, attempts are dropped and counted. The package holds no locks.
package deliverylog

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/outage"
)

const (
	// PerUser is how many of a user's attempts are kept.
	PerUser = 1000
	// RepliesPerUser is how many of a user's failures keep the beginning of their reply's body.
	RepliesPerUser = 100
	// Keep is how long a user's attempts are kept after the latest one.
	Keep = 7 * 24 * time.Hour

	room         = 16384 // attempts that are queued for Redis
	batchMax     = 4096
	linger       = 100 * time.Millisecond
	writeTimeout = 2 * time.Second
	slack        = PerUser / 4 // how many more a list may have before it is trimmed
	refresh      = time.Hour   // how often a list's expiry is renewed
	maxExpiry    = 200_000     // users whose last renewal is kept in memory
)

// Log is the log of deliveries. It is safe for concurrent use.
type Log struct {
	rdb     redis.UniversalClient
	prefix  string // of the lists of attempts
	replies string // of the lists of replies
	dropped func(n int)
	log     *zap.Logger
	pending chan event.Attempt
}

// New returns a log that keeps its keys under prefix; nothing is written unless Run runs. dropped receives the number
// of attempts that were dropped, and must not block.
func New(rdb redis.UniversalClient, prefix string, dropped func(n int), log *zap.Logger) *Log {
	return &Log{rdb: rdb, prefix: prefix + "deliveries:", replies: prefix + "replies:", dropped: dropped, log: log,
		pending: make(chan event.Attempt, room)}
}

// Add queues an attempt. It never blocks: if the queue is full, the attempt is dropped and counted.
func (l *Log) Add(a event.Attempt) {
	select {
	case l.pending <- a:
	default:
		l.dropped(1)
	}
}

// Run writes attempts until ctx ends, and then the rest of the queue.
func (l *Log) Run(ctx context.Context) {
	w := writer{
		Log: l, byUser: map[int64][]any{}, byReply: map[int64][]any{}, expiry: map[int64]time.Time{},
		failing: outage.New(l.log, "cannot write the delivery log to Redis, dropping attempts",
			"the delivery log is written to Redis again"),
	}
	for {
		select {
		case <-ctx.Done():
			for len(l.pending) > 0 {
				w.batch = append(w.batch, <-l.pending)
				if len(w.batch) == batchMax || len(l.pending) == 0 {
					w.write()
				}
			}
			return
		case a := <-l.pending:
			w.batch = append(w.batch, a)
			w.gather(ctx)
			w.write()
		}
	}
}

// writer is the state of Run, reused for each batch.
type writer struct {
	*Log
	batch   []event.Attempt
	byUser  map[int64][]any
	byReply map[int64][]any
	expiry  map[int64]time.Time // when it was last set
	failing *outage.Outage
}

// gather collects the attempts that are added within the linger after the first one of a batch.
func (w *writer) gather(ctx context.Context) {
	timer := time.NewTimer(linger)
	defer timer.Stop()
	for len(w.batch) < batchMax {
		select {
		case a := <-w.pending:
			w.batch = append(w.batch, a)
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// write sends the batch in one round trip. It is not repeated after an error: part of it may have been stored, and
// no attempt may be listed twice.
func (w *writer) write() {
	for i := range w.batch {
		a := &w.batch[i]
		w.byUser[a.UserID] = append(w.byUser[a.UserID], encode(a))
		if hasReply(a) {
			w.byReply[a.UserID] = append(w.byReply[a.UserID], encodeReply(a))
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	err := w.push(ctx)
	if err != nil {
		w.dropped(len(w.batch))
		w.failing.Fail(err, zap.Int("attempts", len(w.batch)))
	} else {
		w.failing.Recover()
	}
	clear(w.batch) // frees the texts
	w.batch = w.batch[:0]
	clear(w.byUser)
	clear(w.byReply)
}

// push writes the lines. It trims lists and renews their expiry only when necessary.
func (w *writer) push(ctx context.Context) error {
	now := time.Now()
	users, lengths := make([]int64, 0, len(w.byUser)), make([]*redis.IntCmd, 0, len(w.byUser))
	_, err := w.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for user, lines := range w.byUser {
			key := w.key(user)
			users, lengths = append(users, user), append(lengths, p.LPush(ctx, key, lines...))
			if now.Sub(w.expiry[user]) > refresh {
				p.Expire(ctx, key, Keep+refresh)
				w.expiry[user] = now
			}
		}
		for user, replies := range w.byReply {
			key := w.replyKey(user)
			p.LPush(ctx, key, replies[max(0, len(replies)-RepliesPerUser):]...)
			p.LTrim(ctx, key, 0, RepliesPerUser-1)
			p.Expire(ctx, key, Keep+refresh)
		}
		return nil
	})
	if err != nil {
		clear(w.expiry) // it is unknown what was stored
		for i, n := range lengths {
			if redis.HasErrorPrefix(n.Err(), "WRONGTYPE") { // another program wrote it, and every later write would fail
				err = errors.Join(err, w.rdb.Del(ctx, w.key(users[i])).Err(), w.rdb.Del(ctx, w.replyKey(users[i])).Err())
			}
		}
		return err
	}
	if len(w.expiry) > maxExpiry {
		clear(w.expiry)
	}
	_, err = w.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, n := range lengths {
			switch lines := int64(len(w.byUser[users[i]])); {
			case n.Val() > PerUser+slack:
				p.LTrim(ctx, w.key(users[i]), 0, PerUser-1)
			case n.Val() == lines && !w.expiry[users[i]].Equal(now): // a new list: it expired, or Redis was emptied
				p.Expire(ctx, w.key(users[i]), Keep+refresh)
			}
		}
		return nil
	})
	if err != nil {
		w.log.Warn("cannot trim the delivery log, trying again with the next attempts", zap.Error(err))
	}
	return nil
}

func (l *Log) key(userID int64) string { return l.prefix + strconv.FormatInt(userID, 10) }

func (l *Log) replyKey(userID int64) string { return l.replies + strconv.FormatInt(userID, 10) }

// setApart truncates times, sorted with the newest first, to whole milliseconds and moves equal ones forward, by at
// most shift in all: a user with more attempts than that sees pages of less than a second anyway.
func setApart(attempts []event.Attempt) {
	const shift = 100 * time.Millisecond
	var last time.Time
	for i := len(attempts) - 1; i >= 0; i-- {
		t := attempts[i].Time.Truncate(time.Millisecond)
		if next := last.Add(time.Millisecond); t.Before(next) {
			if most := t.Add(shift); next.After(most) {
				next = most
			}
			t = next
		}
		attempts[i].Time, last = t, t
	}
}
