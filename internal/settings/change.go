package settings

import (
	"bytes"
	"errors"
	"strconv"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/internal/compacted"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// change is a record of the topic.
type change struct {
	ver      compacted.Version
	userID   int64
	removed  bool // a tombstone
	document Document
	locked   []byte // the record's value, if its auth is sealed with an unknown key
	unsigned bool   // a signing secret that counts cannot be used
}

// decode parses a record. Its error names what is invalid without repeating it.
func (s *Store) decode(r *kgo.Record) (c change, err error) {
	c.ver, c.removed = compacted.VersionOf(r), r.Value == nil
	if c.userID, err = parseUserKey(r.Key); err == nil && !c.removed {
		c.document, err = parseDocument(c.userID, r.Value, s.cfg.Secrets)
	}
	if errors.Is(err, errSealed) {
		// The record is valid, but this instance lacks the key. The previous record no longer applies: the user's settings
		// are unknown until the right key is set, and nothing is lost.
		c.locked, err = bytes.Clone(r.Value), nil
	}
	if c.document.SigningSecrets != nil {
		_, all := c.document.usable()
		c.unsigned = !all
	}
	return c, err
}

// stored returns the document in the form for Redis, nil for a tombstone.
func (c *change) stored(sealer *Sealer) []byte {
	switch {
	case c.removed:
		return nil
	case c.locked != nil:
		return c.locked
	}
	return c.document.AppendJSON(nil, sealer)
}

func (c *change) entry() entry[*webhook.Settings] {
	if c.removed {
		return withoutDocument(c.userID, c.ver)
	}
	if c.locked != nil {
		return entry[*webhook.Settings]{nil, c.ver, true} // Lookup does not know the user
	}
	return entry[*webhook.Settings]{c.document.Settings(), c.ver, true}
}

// withoutDocument is the entry of a user who has no document.
func withoutDocument(userID int64, ver compacted.Version) entry[*webhook.Settings] {
	return entry[*webhook.Settings]{value: &webhook.Settings{UserID: userID}, ver: ver}
}

// apply brings a change from the topic into memory. The index goes first: from then on nothing older is accepted.
func (s *Store) apply(c *change) {
	s.index.Put(c.userID, struct{}{}, c.ver, c.removed)
	if s.users.stale(c.userID, c.ver) {
		s.users.put(c.userID, c.entry())
	}
}

// unusable is the part of a record that this instance cannot use.
type unusable struct {
	ver    compacted.Version
	locked bool // the whole document; false: a signing secret
}

// lockedAt reports whether u is an entire document of that version.
func (u unusable) lockedAt(v compacted.Version) bool { return u.locked && u.ver.Is(v) }

// reportUnusable counts and logs records, by user, that this instance cannot use in full. Superseded ones
// do not matter: after a rotation of keys they stay in the topic until it is compacted.
func (s *Store) reportUnusable(records map[int64]unusable) {
	for userID, r := range records {
		if newest, _ := s.newest(userID); !newest.Is(r.ver) {
			continue
		}
		s.obs.UnreadableRecord(s.cfg.Topic)
		text := "a signing secret cannot be used and signs nothing: set the key it was sealed with in secrets.key or " +
			"secrets.previous_keys, or rotate the secret"
		if r.locked {
			text = "credentials are sealed with an unknown key: the user's events are delayed until secrets.key or " +
				"secrets.previous_keys has it"
		}
		s.sampled.Error(text, zap.Int64("user_id", userID))
	}
}

// queueLimit is the number of changes that are queued while Redis is unreachable. Beyond it, reading the topic again is
// cheaper.
const queueLimit = 20_000

// queue holds the changes for Redis that were written to the topic after the reader started. A rebuild writes the older
// ones.
type queue struct {
	wake    chan struct{}
	mu      sync.Mutex
	waiting []change
	busy    bool // a batch is out of the queue but not yet written
	drops   int  // how often changes were dropped
	healed  int  // the value of drops up to which a rebuild has restored them
}

// push appends a change, or drops everything when the queue is full.
func (q *queue) push(c change) {
	q.mu.Lock()
	if len(q.waiting) >= queueLimit {
		q.waiting = nil
		q.drops++
	} else {
		q.waiting = append(q.waiting, c)
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
		q.waiting = nil // release the array
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

// idle reports whether Redis has everything that was ever pushed.
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

// heal records that a rebuild which began when drops was n is complete.
func (q *queue) heal(n int) {
	q.mu.Lock()
	q.healed = n
	q.mu.Unlock()
}

func userName(id int64) string { return "user:" + strconv.FormatInt(id, 10) }
