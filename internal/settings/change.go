package settings

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/pkg/webhook"
)

// change is what one record says.
type change struct {
	ver     Version
	removed bool // a tombstone
	isKey   bool // of the keys topic

	key      keyHash  // of a record of the keys topic
	userID   int64    // of either topic; 0 for a key's tombstone
	document Document // of a record of the config topic
	locked   []byte   // the value of one whose auth is sealed with another secrets.key
}

// decode reads a record of either topic. An error names what is unreadable
// without repeating it.
func (s *Store) decode(r *kgo.Record) (c change, err error) {
	c.ver, c.removed, c.isKey = versionOf(r), r.Value == nil, r.Topic == s.cfg.KeysTopic
	if c.isKey {
		if c.key, err = parseKeyHash(r.Key); err == nil && !c.removed {
			c.userID, err = parseKeyRecord(r.Value)
		}
		return c, err
	}
	if c.userID, err = parseUserKey(r.Key); err == nil && !c.removed {
		c.document, err = parseDocument(c.userID, r.Value, s.cfg.Secrets)
	}
	if errors.Is(err, errSealed) {
		// It is no bad record, the fault is with this instance. What the former one said doesn't count any
		// more: nothing is concluded about the user until the right key is set, and nothing is lost.
		c.locked, err = bytes.Clone(r.Value), nil
	}
	return c, err
}

// stored returns the change as Redis holds it: the key's name without prefix,
// and the document, nil for a tombstone.
func (c *change) stored(sealer *Sealer) (name string, doc []byte) {
	switch {
	case c.isKey && c.removed:
		return keyName(c.key), nil
	case c.isKey:
		return keyName(c.key), strconv.AppendInt(nil, c.userID, 10)
	case c.removed:
		return userName(c.userID), nil
	case c.locked != nil:
		return userName(c.userID), c.locked
	}
	return userName(c.userID), c.document.AppendJSON(nil, sealer)
}

func (c *change) userEntry() entry[*webhook.Settings] {
	if c.removed {
		return entry[*webhook.Settings]{value: &webhook.Settings{UserID: c.userID}, ver: c.ver}
	}
	if c.locked != nil {
		return entry[*webhook.Settings]{nil, c.ver, true} // Lookup doesn't know the user
	}
	return entry[*webhook.Settings]{c.document.Settings(), c.ver, true}
}

// subject returns whom the change is about.
func (c *change) subject() subject {
	if c.isKey {
		return subject{isKey: true, key: c.key}
	}
	return subject{user: c.userID}
}

// hear takes a change from the topic over into memory. The index goes first:
// from then on nothing older is believed.
func (s *Store) hear(c *change) {
	if c.isKey {
		s.keyIndex.put(c.key.id(), c.ver, c.removed)
		s.keys.put(c.key, entry[int64]{c.userID, c.ver, !c.removed})
		return
	}
	s.userIndex.put(c.userID, c.ver, c.removed)
	if s.users.stale(c.userID, c.ver) {
		s.users.put(c.userID, c.userEntry())
	}
}

// reportLocked counts and logs the records, by their users, that this instance
// has no key for. Superseded ones don't matter: after a rotation they stay in
// the topic until it is compacted.
func (s *Store) reportLocked(records map[int64]Version) {
	for userID, ver := range records {
		if newest, _ := s.userIndex.get(userID); !newest.is(ver) {
			continue
		}
		s.obs.UnreadableRecord(s.cfg.ConfigTopic)
		if suppressed, ok := s.unreadable.allow(); ok {
			s.log.Error("credentials are sealed with another secrets.key: the user's events wait until the right one is set",
				zap.Int64("user_id", userID), zap.Int("not_logged_before", suppressed))
		}
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

// keyID is as much of a key's hash as the index needs: two keys with the same
// half of a SHA-256 can't be made.
type keyID [16]byte

func (h keyHash) id() keyID { return keyID(h[:16]) }

func userName(id int64) string    { return "user:" + strconv.FormatInt(id, 10) }
func keyName(hash keyHash) string { return fmt.Sprintf("key:%x", hash[:]) }
