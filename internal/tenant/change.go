package tenant

import (
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/pkg/webhook"
)

// change is what one record says, ready for memory and for Redis.
type change struct {
	name string // of the Redis key, without prefix
	ver  Version
	doc  []byte // as Redis holds it, nil for a tombstone

	key      keyHash // of a record of the keys topic
	userID   int64
	settings *webhook.Settings // nil for a record of the keys topic
}

// decode reads a record of either topic. An error names what is unreadable
// without repeating it.
func (s *Store) decode(r *kgo.Record) (c change, err error) {
	c.ver = versionOf(r)
	if r.Topic == s.cfg.KeysTopic {
		if c.key, err = parseKeyHash(r.Key); err != nil {
			return c, err
		}
		c.name = keyName(c.key)
		if r.Value != nil {
			if c.userID, err = parseKeyRecord(r.Value); err != nil {
				return c, err
			}
			c.doc = strconv.AppendInt(nil, c.userID, 10)
		}
		return c, nil
	}
	if c.userID, err = parseUserKey(r.Key); err != nil {
		return c, err
	}
	c.name = userName(c.userID)
	if r.Value == nil {
		c.settings = &webhook.Settings{UserID: c.userID}
		return c, nil
	}
	d, err := parseDocument(c.userID, r.Value, s.cfg.Secrets)
	if err != nil {
		return c, err
	}
	c.settings = d.Settings()
	if s.cfg.Materialise {
		c.doc = d.AppendJSON(nil, s.cfg.Secrets)
	} else {
		c.doc = r.Value
	}
	return c, nil
}

// hear takes a change from the topic over into memory. at is when it was heard,
// zero for one so old that Redis is sure to have it.
func (s *Store) hear(c *change, at time.Time) {
	if c.settings == nil {
		s.keys.put(c.key, entry[int64]{c.userID, c.ver, c.doc != nil}, at)
	} else {
		s.users.put(c.userID, entry[*webhook.Settings]{c.settings, c.ver, c.doc != nil}, at)
	}
}

// heal corrects what memory took over from a Redis that had lost records.
func (s *Store) heal(c *change) {
	if c.settings == nil {
		s.keys.refresh(c.key, entry[int64]{c.userID, c.ver, c.doc != nil})
	} else {
		s.users.refresh(c.userID, entry[*webhook.Settings]{c.settings, c.ver, c.doc != nil})
	}
}

// skip counts an unreadable record, and logs it unless many are.
func (s *Store) skip(r *kgo.Record, err error) {
	s.obs.UnreadableRecord(r.Topic)
	if suppressed, ok := s.unreadable.allow(); ok {
		s.log.Warn("unreadable settings record skipped, the former one stays",
			zap.String("topic", r.Topic), zap.Int32("partition", r.Partition), zap.Int64("offset", r.Offset),
			zap.String("reason", err.Error()), zap.Int("not_logged_before", suppressed))
	}
}

// limiter lets through ten log lines at once and then one a second.
type limiter struct {
	mu         sync.Mutex
	spent      int
	last       time.Time
	suppressed int
}

func (l *limiter) allow() (suppressed int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	const burst = 10
	now := time.Now()
	l.spent = max(0, l.spent-int(now.Sub(l.last)/time.Second))
	if l.spent >= burst {
		l.suppressed++
		return 0, false
	}
	suppressed, l.suppressed = l.suppressed, 0
	l.spent++
	l.last = now
	return suppressed, true
}

// queueLimit is how many changes wait for a Redis that is away. Beyond it, it
// is cheaper to read the topics again.
const queueLimit = 20_000

// queue holds changes on their way to Redis. Only what the topic said after the
// reader began goes through it; the rest is written by a rebuild.
type queue struct {
	wake    chan struct{}
	mu      sync.Mutex
	waiting []change
	busy    bool // a batch is out of the queue but not yet written
	drops   int  // how often changes were dropped
	healed  int  // the value of drops that a rebuild has made good
}

// push appends changes, or drops everything when the queue is full.
func (q *queue) push(changes []change) {
	q.mu.Lock()
	if len(q.waiting)+len(changes) > queueLimit {
		q.waiting = nil
		q.drops++
	} else {
		q.waiting = append(q.waiting, changes...)
	}
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take moves at most n changes out; finished must be called after them.
func (q *queue) take(n int) []change {
	q.mu.Lock()
	defer q.mu.Unlock()
	n = min(n, len(q.waiting))
	batch := q.waiting[:n:n]
	q.waiting = q.waiting[n:]
	q.busy = n > 0
	if len(q.waiting) == 0 {
		q.waiting = nil // lets go of the array
	}
	return batch
}

func (q *queue) finished() {
	q.mu.Lock()
	q.busy = false
	q.mu.Unlock()
}

// reset drops everything: the next rebuild writes it all.
func (q *queue) reset() {
	q.mu.Lock()
	q.waiting, q.busy = nil, false
	q.drops++
	q.mu.Unlock()
}

// idle says whether Redis has everything that was ever pushed.
func (q *queue) idle() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting) == 0 && !q.busy && q.drops == q.healed
}

func (q *queue) dropped() (drops int, unhealed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.drops, q.drops != q.healed
}

// heal notes that a rebuild which began when drops was n is complete.
func (q *queue) heal(n int) {
	q.mu.Lock()
	q.healed = n
	q.mu.Unlock()
}

// keyHash is the SHA-256 of an API key.
type keyHash [32]byte

func userName(id int64) string    { return "user:" + strconv.FormatInt(id, 10) }
func keyName(hash keyHash) string { return fmt.Sprintf("key:%x", hash[:]) }
