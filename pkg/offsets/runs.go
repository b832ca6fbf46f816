package offsets

import "slices"

// runs is a sorted set of runs that neither overlap nor touch. list[:head] is free space left by runs removed from the
// front.
type runs struct {
	list []run
	head int
}

func (r *runs) all() []run { return r.list[r.head:] }

func (r *runs) reset() { r.list, r.head = r.list[:0], 0 }

// search returns the index in all() of the first run that ends at or after offset.
func (r *runs) search(offset int64) int {
	list := r.all()
	// Most calls concern the highest run or an offset above it.
	if n := len(list); n == 0 || list[n-1].hi < offset {
		return n
	}
	lo, hi := 0, len(list)
	for lo < hi {
		if mid := int(uint(lo+hi) >> 1); list[mid].hi < offset {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

func (r *runs) contains(offset int64) bool {
	list := r.all()
	i := r.search(offset + 1)
	return i < len(list) && list[i].lo <= offset
}

// add adds [lo, hi) to the set and merges it with the runs that it touches.
func (r *runs) add(lo, hi int64) {
	list := r.all()
	first := r.search(lo)
	last := first // list[first:last] touch [lo, hi)
	for last < len(list) && list[last].lo <= hi {
		last++
	}
	if first < last {
		list[first] = run{min(lo, list[first].lo), max(hi, list[last-1].hi)}
		if last > first+1 {
			r.list = slices.Delete(r.list, r.head+first+1, r.head+last)
		}
		return
	}
	if r.head > 0 && first <= len(list)/2 { // the front is the shorter part to move
		r.head--
		copy(r.list[r.head:], list[:first])
		r.list[r.head+first] = run{lo, hi}
		return
	}
	if len(r.list) == cap(r.list) && r.head >= len(list)/4 {
		// Reuse the space at the front instead of growing.
		r.list, r.head = r.list[:copy(r.list, list)], 0
	}
	r.list = slices.Insert(r.list, r.head+first, run{lo, hi})
}

// takeUpTo removes the runs below offset and those that continue it without a gap. It returns the lowest offset, at or
// above offset, that is not in the set.
func (r *runs) takeUpTo(offset int64) int64 {
	for r.head < len(r.list) && r.list[r.head].lo <= offset {
		offset = max(offset, r.list[r.head].hi)
		r.head++
	}
	if r.head == len(r.list) {
		r.reset()
	}
	return offset
}

// truncate removes everything from offset on.
func (r *runs) truncate(offset int64) {
	i := r.head + r.search(offset+1)
	if i < len(r.list) && r.list[i].lo < offset {
		r.list[i].hi = offset
		i++
	}
	r.list = r.list[:i]
}

// total returns the number of offsets in the set.
func (r *runs) total() (n int64) {
	for _, x := range r.all() {
		n += x.hi - x.lo
	}
	return n
}
