package settings

import (
	"encoding/hex"

	"github.com/smshooks/smshooks/internal/compacted"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// kinds is a set of kinds, a bit for each.
type kinds uint8

// all returns the kinds of a set.
func (ks kinds) all() (list []webhook.Kind) {
	for _, kind := range webhook.Kinds() {
		if ks&(1<<kind) != 0 {
			list = append(list, kind)
		}
	}
	return list
}

// pauses remembers which kinds each user has paused, for users who have paused any. Only the goroutine that reads the
// topic uses it.
type pauses struct {
	now map[int64]kinds
	// before holds the previous pauses while the topic is read again from its start. They are compared only at the
	// end: until then a later document may follow.
	before map[int64]kinds
}

func newPauses() pauses { return pauses{now: map[int64]kinds{}, before: map[int64]kinds{}} }

// begin prepares for a topic with other records than those read so far.
func (p *pauses) begin() {
	for userID, was := range p.now {
		p.before[userID] |= was
	}
	p.now = map[int64]kinds{}
}

// see records the kinds that a user's newest document pauses, and returns those that it no longer pauses.
func (p *pauses) see(c *change) (resumed kinds) {
	var now kinds
	for _, kind := range webhook.Kinds() {
		if !c.removed && c.document.IsPaused(kind) {
			now |= 1 << kind
		}
	}
	resumed = p.now[c.userID] &^ now
	p.set(c.userID, now)
	return resumed
}

func (p *pauses) set(userID int64, now kinds) {
	if now == 0 {
		delete(p.now, userID)
	} else {
		p.now[userID] = now
	}
}

// end compares the previous pauses with the current ones at the end of the topic. It calls resumed with the users who
// no longer pause a kind. A user without a usable document, according to known, keeps his pauses: his settings may be
// written later.
func (p *pauses) end(known func(userID int64) bool, resumed func(userID int64, resumed kinds)) {
	for userID, was := range p.before {
		if !known(userID) {
			p.set(userID, was)
		} else if ended := was &^ p.now[userID]; ended != 0 {
			resumed(userID, ended)
		}
	}
	p.before = map[int64]kinds{}
}

// noteResumed reports the kinds whose pause a change has ended. Changes from before the start are not reported.
func (s *Store) noteResumed(c *change) {
	if newest, _ := s.newest(c.userID); s.cfg.Resumed == nil || c.locked != nil || !newest.Is(c.ver) {
		return
	}
	if resumed := s.pauses.see(c); s.topic.Read() {
		s.resumed(c.userID, resumed, c.ver)
	}
}

// reportResumed reports the kinds that are no longer paused in a topic that was created again or has lost records.
func (s *Store) reportResumed() {
	s.pauses.end(func(userID int64) bool {
		ver, _ := s.newest(userID)
		return ver.Offset > 0 && !s.unusable[userID].lockedAt(ver)
	}, func(userID int64, resumed kinds) {
		ver, _ := s.newest(userID)
		s.resumed(userID, resumed, ver)
	})
}

func (s *Store) resumed(userID int64, resumed kinds, ver compacted.Version) {
	topic := s.topic.ID()
	for _, kind := range resumed.all() {
		s.cfg.Resumed(userID, kind, hex.EncodeToString(topic[:])+"/"+ver.String())
	}
}

// Resumed is called when a user's pause of a kind has ended. It must not block. All instances call it with the same
// unique name of the document that ended it.
type Resumed func(userID int64, kind webhook.Kind, document string)
