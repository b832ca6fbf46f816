// Package latest remembers which receipt of each message was delivered last, for users with dlr_order latest.
//
// There is one Redis key per user, message and source partition. It holds the highest offset that was delivered, and
// expires once no earlier receipt can be waiting. If a key is lost, an earlier receipt is sent, and nothing else
// happens.
//
// The dispatcher calls Delivered and Superseded from many goroutines. Run, in the caller's goroutine, asks Redis for
// all of them in pipelines: one at a time, each with the requests that have arrived by then. The package holds no
// locks.
package latest

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/outage"
)

const (
	room     = 4096 // requests that are queued; more wait
	batchMax = 512
	// answer bounds one pipeline, and patience one call and thus the delay of an attempt.
	answer   = 400 * time.Millisecond
	patience = 500 * time.Millisecond
	// pause is the time without requests to Redis after it did not answer.
	pause = time.Second
	// maxUnstored is the number of deliveries that are remembered until Redis answers again.
	maxUnstored = 100_000
)

// storeScript raises the offset at KEYS[1] to ARGV[1] and lets it expire after ARGV[2] milliseconds. A key of another
// type was written by another program and is deleted.
var storeScript = redis.NewScript(`
if redis.call('TYPE', KEYS[1])['ok'] ~= 'string' then redis.call('DEL', KEYS[1]) end
local highest = tonumber(redis.call('GET', KEYS[1]) or '-1') or -1
if highest < tonumber(ARGV[1]) then redis.call('SET', KEYS[1], ARGV[1]) end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])`)

// Memory is the memory of delivered receipts. It is safe for concurrent use.
type Memory struct {
	rdb      redis.UniversalClient
	prefix   string
	keep     time.Duration
	requests chan *request

	// Of Run only.
	unstored map[string]int64 // offsets that Redis does not know yet, by key
	closed   time.Time        // until when Redis is not asked
	failing  *outage.Outage
}

// request stores an offset, or asks for the highest one.
type request struct {
	key     string
	offset  int64 // to store, -1 to ask
	highest int64 // the answer, -1 if there is none
	done    chan struct{}
}

// New returns a memory that keeps its keys under prefix and forgets a delivery after keep, the longest time that a
// receipt may wait. Nothing is stored or known unless Run runs.
func New(rdb redis.UniversalClient, prefix string, keep time.Duration, log *zap.Logger) *Memory {
	return &Memory{
		rdb: rdb, prefix: prefix + "latest:", keep: keep, requests: make(chan *request, room), unstored: map[string]int64{},
		failing: outage.New(log, "latest-receipt lookup failed; receipts that waited are sent",
			"latest-receipt lookup works again"),
	}
}

// Delivered stores that receipt e was delivered. It returns when that is stored, or after half a second, so that an
// earlier receipt of the message which is attempted next finds it. What Redis does not accept is stored later.
func (m *Memory) Delivered(e *event.Event) {
	if at, known := e.Source(); known {
		m.ask(e, at, at.Offset)
	}
}

// Superseded reports whether a later receipt of e's message was delivered. It returns false if that is not known within
// half a second.
func (m *Memory) Superseded(e *event.Event) bool {
	at, known := e.Source()
	return known && m.ask(e, at, -1) > at.Offset
}

// ask makes a request and returns the answer.
func (m *Memory) ask(e *event.Event, at event.Place, offset int64) (highest int64) {
	r := &request{key: m.key(e, at), offset: offset, highest: -1, done: make(chan struct{})}
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	select {
	case m.requests <- r:
	case <-timeout.C:
		return -1
	}
	select {
	case <-r.done:
		return r.highest
	case <-timeout.C:
		return -1
	}
}

func (m *Memory) key(e *event.Event, at event.Place) string {
	b := make([]byte, 0, 128)
	b = append(b, m.prefix...)
	b = base64.RawURLEncoding.AppendEncode(b, []byte(at.Topic))
	b = strconv.AppendInt(append(b, '/'), int64(at.Partition), 10)
	return string(event.AppendMessageKey(append(b, ':'), e.UserID, e.Message.ID(e.Value)))
}

// Run answers requests until ctx ends.
func (m *Memory) Run(ctx context.Context) {
	for {
		var again <-chan time.Time
		if len(m.unstored) > 0 {
			again = time.After(pause)
		}
		select {
		case <-ctx.Done():
			m.storeUnstored()
			return
		case <-again:
			m.storeUnstored()
		case r := <-m.requests:
			m.serve(m.gather(r))
		}
	}
}

// gather returns r and the requests that are queued.
func (m *Memory) gather(r *request) []*request {
	batch := []*request{r}
	for len(batch) < batchMax && len(m.requests) > 0 {
		batch = append(batch, <-m.requests)
	}
	return batch
}

// serve answers a batch. Without Redis, it keeps offsets for later and returns no answers.
func (m *Memory) serve(batch []*request) {
	m.storeUnstored()
	if len(m.unstored) > 0 || time.Now().Before(m.closed) || !m.pipeline(batch) {
		for _, r := range batch {
			m.remember(r)
		}
	}
	for _, r := range batch {
		close(r.done)
	}
}

// remember keeps an offset until Redis answers again.
func (m *Memory) remember(r *request) {
	if _, known := m.unstored[r.key]; r.offset >= 0 && (known || len(m.unstored) < maxUnstored) {
		m.unstored[r.key] = max(m.unstored[r.key], r.offset)
	}
}

// storeUnstored stores the offsets that are kept, as long as Redis answers.
func (m *Memory) storeUnstored() {
	if time.Now().Before(m.closed) {
		return
	}
	var batch []*request
	for key, offset := range m.unstored {
		if batch = append(batch, &request{key: key, offset: offset}); len(batch) == batchMax {
			if !m.storeKept(batch) {
				return
			}
			batch = batch[:0]
		}
	}
	m.storeKept(batch)
}

func (m *Memory) storeKept(batch []*request) bool {
	if len(batch) > 0 && !m.pipeline(batch) {
		return false
	}
	for _, r := range batch {
		delete(m.unstored, r.key)
	}
	return true
}

// pipeline sends a batch to Redis in its order; false if it did not answer all of it.
func (m *Memory) pipeline(batch []*request) bool {
	ctx, cancel := context.WithTimeout(context.Background(), answer)
	defer cancel()
	cmds := make([]redis.Cmder, len(batch))
	_, _ = m.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, r := range batch {
			if r.offset >= 0 {
				cmds[i] = storeScript.Eval(ctx, p, []string{r.key}, r.offset, m.keep.Milliseconds())
			} else {
				cmds[i] = p.Get(ctx, r.key)
			}
		}
		return nil
	})
	for i, r := range batch {
		err := cmds[i].Err()
		if err != nil && !errors.Is(err, redis.Nil) && !redis.HasErrorPrefix(err, "WRONGTYPE") {
			m.closed = time.Now().Add(pause)
			m.failing.Fail(fmt.Errorf("ask Redis for receipts: %w", err))
			return false
		}
		if get, asked := cmds[i].(*redis.StringCmd); asked && err == nil {
			if offset, err := get.Int64(); err == nil {
				r.highest = offset
			}
		}
	}
	m.failing.Recover()
	return true
}
