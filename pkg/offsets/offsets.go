// Package offsets keeps the lowest contiguous finished offset of one
// assignment of one partition, with out-of-order completion and bounded memory.
//
// It knows no Kafka client. A consumer calls Track for every record it gets,
// Finish once the record's fate is stored, and commits what Snapshot returns.
package offsets

import (
	"slices"
	"sync"
)

// run is a stretch of finished offsets, lo included, hi not.
type run struct{ lo, hi int64 }

// cut is a rewind: generations before gen have no say from offset at on.
type cut struct {
	gen uint32
	at  int64
}

// Tracker follows one assignment of one partition. Its memory grows with the
// number of outstanding offsets, not with how many are finished. It is safe
// for concurrent use.
type Tracker struct {
	mu sync.Mutex

	// Every offset in [base, next) is either outstanding or in a run. Runs at
	// or above next come from a former owner and are still to be tracked.
	base, next  int64 // -1: unknown
	runs        runs
	outstanding int

	gen uint32
	// cuts tells which offsets of older generations are still valid, by
	// generation and by offset rising; generations below oldest have none.
	cuts   []cut
	oldest uint32
}

// New returns a tracker for a partition whose committed offset (the next one
// to read) is committed, or -1 if that is unknown: then the first tracked
// offset is the base. finished is the state that Snapshot gave a former owner, with
// or without a tail that starts with ';'; text that is empty, damaged or goes
// with another committed offset counts as none.
func New(committed int64, finished string) *Tracker {
	t := &Tracker{base: committed, next: committed}
	if committed < 0 {
		t.base, t.next = -1, -1
		return t
	}
	t.runs.list = parse(committed, finished)
	return t
}

// Track says that the consumer got offset now; offsets come in rising order.
// It returns the generation to hand to Finish. fresh is false when a former
// owner finished the offset: skip the record, Finish is not needed.
//
// Offsets between the last tracked one and this one are never shown by the
// partition (compacted away, control records) and count as finished. An offset
// that is not above the last tracked one is a rewind, since the log was cut
// back: all that is known from it on is forgotten, a new generation begins and
// it is fresh. Records below it keep their place until they are finished.
func (t *Tracker) Track(offset int64) (gen uint32, fresh bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.next < 0:
		t.base = offset
	case offset < t.next:
		t.rewind(offset)
	case offset > t.next:
		t.finish(t.next, offset)
	}
	t.next = offset + 1
	if offset < t.base || t.runs.contains(offset) {
		return t.gen, false
	}
	t.outstanding++
	return t.gen, true
}

// Forget drops what a former owner finished from offset on, as far as it was not tracked yet. Call it before Track when
// the record at offset shows that the log was cut back and written anew since.
func (t *Tracker) Forget(offset int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.next >= 0 {
		t.runs.truncate(max(offset, t.next))
	}
}

// Rewind says that the log was cut back to offset, as Track does of the record that comes there then: until it comes,
// nothing from offset on may be committed.
func (t *Tracker) Rewind(offset int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if offset < t.next {
		t.rewind(offset)
		t.next = offset
	}
}

// Pass says that the partition will never show the offsets from ≤ o < to (aborted, control records), so they count as
// finished. It changes nothing unless from is the committable offset and nothing is outstanding.
func (t *Tracker) Pass(from, to int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.base != from || t.outstanding > 0 || to <= t.next:
	case t.next < 0:
		t.base, t.next = to, to
	default:
		t.finish(t.next, to)
		t.next = to
	}
}

// rewind forgets everything from offset on. What is outstanding below it is
// still being worked on, so the base may not jump over that.
func (t *Tracker) rewind(offset int64) {
	t.gen++
	if offset <= t.base {
		t.base = offset
		t.outstanding = 0
		t.runs.reset()
		t.cuts = t.cuts[:0]
		t.oldest = t.gen
		return
	}
	t.runs.truncate(offset)
	t.outstanding = int(offset-t.base) - int(t.runs.total())
	for len(t.cuts) > 0 && t.cuts[len(t.cuts)-1].at >= offset {
		t.cuts = t.cuts[:len(t.cuts)-1]
	}
	t.cuts = append(t.cuts, cut{t.gen, offset})
}

// Finish says that the fate of the record tracked as offset in generation gen
// is stored. A second call, an offset never tracked, and an offset that a
// rewind has since forgotten change nothing.
func (t *Tracker) Finish(gen uint32, offset int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if offset < t.base || offset >= t.next || t.stale(gen, offset) || t.runs.contains(offset) {
		return
	}
	t.outstanding--
	t.finish(offset, offset+1)
}

func (t *Tracker) stale(gen uint32, offset int64) bool {
	if gen == t.gen {
		return false
	}
	if gen < t.oldest || gen > t.gen {
		return true
	}
	for _, c := range t.cuts { // the first later cut is the lowest
		if c.gen > gen {
			return offset >= c.at
		}
	}
	return false
}

// finish adds [lo, hi) and moves the base over what is now contiguous.
func (t *Tracker) finish(lo, hi int64) {
	if lo > t.base {
		t.runs.add(lo, hi)
		return
	}
	t.base = t.runs.takeUpTo(max(t.base, hi))
	passed := 0
	for passed < len(t.cuts) && t.cuts[passed].at <= t.base {
		t.oldest = t.cuts[passed].gen
		passed++
	}
	t.cuts = slices.Delete(t.cuts, 0, passed)
}

// Committable returns the next offset to commit, which is the lowest that is
// not finished; -1 while nothing is known.
func (t *Tracker) Committable() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.base
}

// Snapshot returns Committable, and the state: what is finished above it, as
// printable ASCII without ';', at most limit bytes. If it does not fit, the
// highest offsets are left out, which sends them again after a restart. It is
// "" if there is nothing, and good only together with next.
func (t *Tracker) Snapshot(limit int) (next int64, state string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.base, format(t.base, t.runs.all(), limit)
}

// Omitted returns how many finished offsets a state that Snapshot returned leaves out, as far as nothing was finished
// since.
func (t *Tracker) Omitted(next int64, state string) int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if next != t.base {
		return 0
	}
	kept := runs{list: parse(next, state)}
	return t.runs.total() - kept.total()
}

// Finished tells whether the offset is finished; one that was never tracked is
// if it lies below the committable offset.
func (t *Tracker) Finished(offset int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return offset < t.base || t.runs.contains(offset)
}

// Outstanding returns how many tracked offsets are not finished.
func (t *Tracker) Outstanding() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.outstanding
}
