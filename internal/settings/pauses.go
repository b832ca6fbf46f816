package settings

import (
	"github.com/smshooks/smshooks/internal/compacted"
	"github.com/smshooks/smshooks/pkg/webhook"
)

// pauses remembers which kinds each user has paused, for users who have paused any. Only the goroutine that reads the
// topic uses it.
type pauses map[int64]uint8 // a bit for each kind

// see records what a user's newest document pauses, and returns the kinds that it does not pause any more.
func (p pauses) see(c *change) (resumed []webhook.Kind) {
	var now uint8
	for _, kind := range webhook.Kinds() {
		if !c.removed && c.document.IsPaused(kind) {
			now |= 1 << kind
		}
	}
	for _, kind := range webhook.Kinds() {
		if p[c.userID]&^now&(1<<kind) != 0 {
			resumed = append(resumed, kind)
		}
	}
	if now == 0 {
		delete(p, c.userID)
	} else {
		p[c.userID] = now
	}
	return resumed
}

// noteResumed reports the kinds whose pause a change has ended. Changes from before the start are not reported.
func (s *Store) noteResumed(c *change) {
	if newest, _ := s.newest(c.userID); s.cfg.Resumed == nil || c.locked != nil || !newest.Is(c.ver) {
		return
	}
	for _, kind := range s.pauses.see(c) {
		if s.topic.Read() {
			s.cfg.Resumed(c.userID, kind, c.ver)
		}
	}
}

// Resumed is called when a user's pause of a kind has ended. It must not block. All instances call it with the version
// of the same document.
type Resumed func(userID int64, kind webhook.Kind, ver compacted.Version)
