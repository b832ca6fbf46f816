package revocation

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/smshooks/smshooks/internal/event"
)

// open is the segment of the records above all cuts.
const open = int64(1<<63 - 1)

// partition holds the records collected of one partition: per segment, the stretch of offsets below a cut and not
// below the cut before it, and per user.
type partition struct {
	cuts     []int64                      // ascending
	segments map[int64]map[int64]*userIDs // cut (or open) -> user id
	highest  int64                        // offset seen
	restored time.Time                    // when cuts came from a former owner
}

// userIDs are one user's records of one segment, in the order of their offsets.
type userIDs struct{ records []*event.Event }

func newPartition() *partition {
	return &partition{segments: map[int64]map[int64]*userIDs{}, highest: -1}
}

func (p *partition) add(e *event.Event) {
	segment := open
	if i, _ := slices.BinarySearch(p.cuts, e.Offset+1); i < len(p.cuts) {
		segment = p.cuts[i] // the first cut above the offset
	}
	users := p.segments[segment]
	if users == nil {
		users = map[int64]*userIDs{}
		p.segments[segment] = users
	}
	u := users[e.UserID]
	if u == nil {
		u = &userIDs{}
		users[e.UserID] = u
	}
	u.records = append(u.records, e)
	p.highest = max(p.highest, e.Offset)
}

// cut closes the open segment; false if it is empty.
func (p *partition) cut() bool {
	users := p.segments[open]
	if len(users) == 0 {
		return false
	}
	at := p.highest + 1
	p.cuts = append(p.cuts, at)
	p.segments[at] = users
	delete(p.segments, open)
	return true
}

// takeCut takes out what lies below cuts. A segment restored from a former owner is left until all of it has been
// read again.
func (p *partition) takeCut(now time.Time) []*userIDs {
	var out []*userIDs
	for _, segment := range slices.Sorted(maps.Keys(p.segments)) {
		users := p.segments[segment]
		if segment == open || p.highest < segment-1 && now.Sub(p.restored) < restoreWait {
			continue
		}
		for _, u := range users {
			out = append(out, u)
		}
		delete(p.segments, segment)
	}
	return out
}

func (p *partition) purge() []*event.Event {
	var gone []*event.Event
	for segment, users := range p.segments {
		for id, u := range users {
			u.records = slices.DeleteFunc(u.records, func(e *event.Event) bool {
				if e.Lease.State() != event.Held {
					gone = append(gone, e)
					return true
				}
				return false
			})
			if len(u.records) == 0 {
				delete(users, id)
			}
		}
		if len(users) == 0 {
			delete(p.segments, segment)
		}
	}
	return gone
}

// note writes the cuts above committed, the newest if there is no room for all: "12.345.678".
func (p *partition) note(committed int64, room int) string {
	p.cuts = slices.DeleteFunc(p.cuts, func(c int64) bool { return c <= committed })
	text := ""
	for i := len(p.cuts) - 1; i >= 0; i-- {
		one := strconv.FormatInt(p.cuts[i], 10)
		if text != "" {
			one += "." + text
		}
		if len(one) > room {
			break
		}
		text = one
	}
	return text
}

// restore reads a note; what cannot be read is no cut.
func (p *partition) restore(note string, now time.Time) {
	p.restored = now
	for text := range strings.SplitSeq(note, ".") {
		if cut, err := strconv.ParseInt(text, 10, 64); err == nil && cut > 0 {
			p.cuts = append(p.cuts, cut)
		}
	}
	slices.Sort(p.cuts)
}
