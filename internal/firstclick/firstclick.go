// Package firstclick remembers the first click of each message.
//
// There is one Redis key per user and message. Its value names the event that was the first, so that a redelivery of
// that event does not count as a second click.
//
// The dispatcher claims clicks in batches. The package runs no goroutines and holds no locks.
package firstclick

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/smshooks/smshooks/internal/event"
)

// Claim asks whether one click is the first of its message.
type Claim struct {
	UserID    int64
	MessageID string // sms.id as it is in the record: any text of any length
	Event     *event.Event
}

// owner returns the text that identifies the event of the first click: its id and, if that is derived from the record's
// position, a mark of the topic and one of the record. The marks identify copies of the record that have another id, on
// another cluster or in a topic that was created again.
func (c *Claim) owner() string {
	b := make([]byte, 0, 64)
	b = append(b, c.Event.Identity()...)
	if !c.Event.Derived() {
		return string(b)
	}
	b = append(b, ' ')
	b = strconv.AppendUint(b, uint64(topicMark(c.Event.Namespace)), 36)
	b = append(b, ' ')
	return string(strconv.AppendUint(b, uint64(recordMark(c.Event)), 36))
}

// owns reports whether the text was written for the claim's event.
func (c *Claim) owns(text string) bool {
	id, _, _ := strings.Cut(text, " ")
	return id == c.Event.Identity() || id == c.Event.SourcePosition() // earlier versions wrote the position
}

// copies reports whether the text was written for a record of another topic, of which the claim's is a copy.
func (c *Claim) copies(text string) bool {
	_, source, full := strings.Cut(text, " ")
	_, own, derived := strings.Cut(c.owner(), " ")
	topic, record, _ := strings.Cut(source, " ")
	ownTopic, ownRecord, _ := strings.Cut(own, " ")
	return full && derived && topic != ownTopic && record == ownRecord
}

// topicMark is a short hash of a topic's namespace.
func topicMark(space event.Namespace) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(space))
	return h.Sum32()
}

// recordMark is a short hash of what copies of a record have in common: value and time.
func recordMark(e *event.Event) uint32 {
	var at [8]byte
	binary.BigEndian.PutUint64(at[:], uint64(e.Time.UnixMilli()))
	return crc32.Update(crc32.Checksum(e.Value, castagnoli), castagnoli, at[:])
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli) // processors have an instruction for it

// dropScript deletes a key that is not a claim.
const dropScript = `
if redis.call('TYPE', KEYS[1])['ok'] ~= 'string' then return redis.call('DEL', KEYS[1]) end
return 0
`

// Memory is the memory of first clicks. It is safe for concurrent use.
type Memory struct {
	rdb      redis.UniversalClient
	prefix   string
	remember time.Duration
	drop     *redis.Script
}

// New returns a memory that keeps its keys under prefix and forgets a click
// after remember. Redis must be 7.0 or later (SET with NX and GET together).
func New(rdb redis.UniversalClient, prefix string, remember time.Duration) *Memory {
	return &Memory{rdb: rdb, prefix: prefix + "click:", remember: remember, drop: redis.NewScript(dropScript)}
}

// Claim takes the message of each claim, in one round trip, and sets first[i]:
// true when the message was free or already belongs to claims[i].Event, false
// when another event was first. Of two claims to a message in one call, the
// earlier one wins. first must be as long as claims.
//
// After an error no result is valid, and the caller repeats the whole call: the
// claims that were stored belong to the same owners.
func (m *Memory) Claim(ctx context.Context, claims []Claim, first []bool) error {
	if len(first) != len(claims) {
		return fmt.Errorf("claim clicks: %d claims, but room for %d answers", len(claims), len(first))
	}
	if len(claims) == 0 {
		return nil
	}
	cmds := make([]*redis.StatusCmd, len(claims))
	args := redis.SetArgs{Mode: "NX", Get: true, TTL: m.remember}
	// The error that Pipelined returns is that of the first failed command, and
	// a free key fails with redis.Nil: each command is looked at below instead.
	_, err := m.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i := range claims {
			cmds[i] = p.SetArgs(ctx, m.key(&claims[i]), claims[i].owner(), args)
		}
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) && !redis.HasErrorPrefix(err, "WRONGTYPE") {
		return fmt.Errorf("claim clicks in Redis: %w", err)
	}
	moved := map[string]string{} // messages whose first click has another id here
	for i, cmd := range cmds {
		owner, err := cmd.Result()
		switch {
		case redis.HasErrorPrefix(err, "WRONGTYPE"):
			// Another program wrote it. It is deleted, or all claims of the same call would fail forever.
			return fmt.Errorf("claim clicks in Redis: %w",
				errors.Join(err, m.drop.Run(ctx, m.rdb, []string{m.key(&claims[i])}).Err()))
		case errors.Is(err, redis.Nil):
			first[i] = true
		case err != nil:
			return fmt.Errorf("claim clicks in Redis: %w", err)
		default:
			if first[i] = claims[i].owns(owner); !first[i] {
				first[i] = m.take(&claims[i], owner, moved)
			}
		}
	}
	return m.move(ctx, moved)
}

// take reports whether the claim's event is a copy of the one that was the first, and takes its place. An equal click
// of the same millisecond looks like a copy, too: the one that takes the place is the first of them.
func (m *Memory) take(c *Claim, owner string, moved map[string]string) bool {
	if !c.copies(owner) {
		return false
	}
	key := m.key(c)
	if by, ok := moved[key]; ok {
		return by == c.owner()
	}
	moved[key] = c.owner()
	return true
}

// move stores the ids of copies that took the place of the first click.
func (m *Memory) move(ctx context.Context, moved map[string]string) error {
	if len(moved) == 0 {
		return nil
	}
	cmds, _ := m.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for key, owner := range moved {
			p.SetArgs(ctx, key, owner, redis.SetArgs{Mode: "XX", KeepTTL: true})
		}
		return nil
	})
	for _, cmd := range cmds {
		if err := cmd.Err(); err != nil && !errors.Is(err, redis.Nil) { // a key that has expired by now is ignored
			return fmt.Errorf("claim clicks in Redis: %w", err)
		}
	}
	return nil
}

func (m *Memory) key(c *Claim) string {
	return string(event.AppendMessageKey([]byte(m.prefix), c.UserID, c.MessageID))
}
