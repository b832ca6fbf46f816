// Package offsets computes the offset to commit when the records of a partition are finished out of order.
//
// It depends on no Kafka client. A consumer calls [Tracker.Track] for every record that it fetches, [Tracker.Finish]
// once the record's fate is stored, and commits the result of [Tracker.Snapshot].
package offsets

import (
	"slices"
	"sync"
)

// run is a range of finished offsets: lo ≤ offset < hi.
type run struct{ lo, hi int64 }

// cut is a rewind: generations before gen are invalid from offset at on.
type cut struct {
	gen uint32
	at  int64
}

// Tracker tracks the offsets of one assignment of one partition. Its memory grows with the number of outstanding
// offsets, not with the number of finished ones. It is safe for concurrent use.
type Tracker struct {
	mu sync.Mutex

	// Every offset in [base, next) is either outstanding or in a run. Runs at or above next were finished by a previous
	// owner of the partition.
	base, next  int64 // -1: unknown
	runs        runs
	outstanding int

	gen uint32
	// cuts determines which offsets of older generations are still valid. It ascends by generation and by offset.
	// Generations below oldest have no valid offset.
	cuts   []cut
	oldest uint32
}

// New returns a tracker for a partition with this committed offset, which is the next offset to read. If committed is
// -1, it is unknown, and the first tracked offset takes its place.
//
// finished is the state that Snapshot returned to a previous owner. A tail that starts with ';' is ignored. A state
// that is empty, damaged or belongs to another committed offset counts as none.
func New(committed int64, finished string) *Tracker {
	t := &Tracker{base: committed, next: committed}
	if committed < 0 {
		t.base, t.next = -1, -1
		return t
	}
	t.runs.list = parse(committed, finished)
	return t
}

// Track records that the consumer fetched offset. Offsets come in ascending order. It returns the generation to pass
// to Finish. fresh is false if a previous owner finished the offset: skip the record and do not call Finish.
//
// Offsets between the last tracked one and this one do not exist in the partition (compacted, control records) and
// count as finished. An offset at or below the last tracked one is a rewind, see [Tracker.Rewind]; it is fresh.
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

// Forget drops the offsets at or above offset that a previous owner finished and that are not tracked yet. Call it
// before Track if the record at offset shows that the log was truncated and rewritten since.
func (t *Tracker) Forget(offset int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forget(offset)
}

func (t *Tracker) forget(offset int64) {
	if t.next < 0 {
		return
	}
	from := max(offset, t.next)
	t.runs.truncate(from)
	// The base is above next if all before it was finished: the previous owner's offsets then count as committable.
	t.base = min(t.base, from)
}

// Rewind records that the log was truncated to offset. Everything from offset on is forgotten, and a new generation
// begins. Outstanding offsets below it stay outstanding. Nothing from offset on is committable until it is tracked
// again.
func (t *Tracker) Rewind(offset int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if offset >= t.next {
		t.forget(offset)
		return
	}
	t.rewind(offset)
	t.next = offset
}

// Pass records that the offsets from ≤ offset < to will never be fetched (aborted or control records). They count as
// finished. It does nothing unless from is the committable offset and no offset is outstanding.
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

// rewind forgets everything from offset on. The base does not move past outstanding offsets below it.
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

// Finish marks the offset, tracked in generation gen, as finished. It does nothing if the offset is already finished,
// was never tracked, or was forgotten by a rewind.
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
	for _, c := range t.cuts { // the first cut after gen is the lowest
		if c.gen > gen {
			return offset >= c.at
		}
	}
	return false
}

// finish adds [lo, hi) and moves the base to the end of the contiguous run.
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

// Committable returns the offset to commit: the lowest one that is not finished. It returns -1 while that is unknown.
func (t *Tracker) Committable() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.base
}

// Snapshot returns the committable offset and the state: the finished offsets above it, as printable ASCII without ';'
// and at most limit bytes long. If they do not fit, the highest are omitted, and the next owner processes those records
// again. The state is "" if no offset above next is finished. It is valid only together with next.
func (t *Tracker) Snapshot(limit int) (next int64, state string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.base, format(t.base, t.runs.all(), limit)
}

// Omitted returns the number of finished offsets that a state returned by Snapshot omits. The result is exact if no
// offset was finished since.
func (t *Tracker) Omitted(next int64, state string) int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if next != t.base {
		return 0
	}
	kept := runs{list: parse(next, state)}
	return t.runs.total() - kept.total()
}

// Finished reports whether the offset is finished. Offsets below the committable one are, even if never tracked.
func (t *Tracker) Finished(offset int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return offset < t.base || t.runs.contains(offset)
}

// Outstanding returns the number of tracked offsets that are not finished.
func (t *Tracker) Outstanding() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.outstanding
}
