package revocation

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/smshooks/smshooks/internal/event"
)

// open is the key of the segment of records above all cuts.
const open = int64(1<<63 - 1)

// partition holds the collected records of one partition, by segment and user. A segment is the range of offsets
// between two cuts.
type partition struct {
	cuts     []int64                          // ascending; a cut is above the last offset of its segment
	segments map[int64]map[int64]*userRecords // by the cut that ends it (or open), and by user id
	highest  int64                            // offset seen
	restored time.Time                        // when a previous owner's cuts were restored
}

// userRecords are one user's records of one segment, in the order of their offsets.
type userRecords struct{ records []*event.Event }

func newPartition() *partition {
	return &partition{segments: map[int64]map[int64]*userRecords{}, highest: -1}
}

func (p *partition) add(e *event.Event) {
	segment := open
	if i, _ := slices.BinarySearch(p.cuts, e.Offset+1); i < len(p.cuts) {
		segment = p.cuts[i] // the first cut above the offset
	}
	users := p.segments[segment]
	if users == nil {
		users = map[int64]*userRecords{}
		p.segments[segment] = users
	}
	u := users[e.UserID]
	if u == nil {
		u = &userRecords{}
		users[e.UserID] = u
	}
	u.records = append(u.records, e)
	p.highest = max(p.highest, e.Offset)
}

// cut closes the open segment. It returns false if the segment is empty.
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

// takeCut removes and returns the records below cuts. It leaves a restored segment until all of it has been read again.
func (p *partition) takeCut(now time.Time) []*userRecords {
	var out []*userRecords
	for _, segment := range slices.Sorted(maps.Keys(p.segments)) {
		users := p.segments[segment]
		if segment == open || p.highest < segment-1 && now.Sub(p.restored) < restoreTimeout {
			continue
		}
		for _, u := range users {
			out = append(out, u)
		}
		delete(p.segments, segment)
	}
	return out
}

// purge removes and returns the records whose partition is being revoked.
func (p *partition) purge() (revoked []*event.Event) {
	for segment, users := range p.segments {
		for id, u := range users {
			u.records = slices.DeleteFunc(u.records, func(e *event.Event) bool {
				if e.Lease.State() != event.Held {
					revoked = append(revoked, e)
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
	return revoked
}

// commitText returns the cuts above committed, such as "12.345.678". If room is too small for all, it has the newest.
func (p *partition) commitText(committed int64, room int) string {
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

// restore adds the cuts of a commit text. It ignores text that is not a cut.
func (p *partition) restore(committed string, now time.Time) {
	p.restored = now
	for text := range strings.SplitSeq(committed, ".") {
		if cut, err := strconv.ParseInt(text, 10, 64); err == nil && cut > 0 {
			p.cuts = append(p.cuts, cut)
		}
	}
	slices.Sort(p.cuts)
}
