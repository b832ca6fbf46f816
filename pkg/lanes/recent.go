package lanes

import "time"

// recent counts the running items that were started within the last pace.
type recent struct {
	pace   time.Duration
	starts fifo[start] // in their order, the first one running and young
	first  uint64      // number of the first
	young  int         // of starts, those that run
}

type start struct {
	at    time.Time
	ended bool
}

// started notes a start and numbers it.
func (r *recent) started(now time.Time) uint64 {
	r.starts.push(start{at: now})
	r.young++
	return r.first + uint64(r.starts.len()) - 1
}

// ended notes that the item of the number has ended.
func (r *recent) ended(number uint64) {
	if number < r.first {
		return
	}
	s := r.starts.at(int(number - r.first))
	s.ended = true
	r.young--
	r.trim()
}

// count is how many run that were started within the last pace.
func (r *recent) count(now time.Time) int {
	for r.starts.len() > 0 && now.Sub(r.starts.at(0).at) >= r.pace {
		r.starts.at(0).ended = true
		r.young--
		r.trim()
	}
	return r.young
}

// trim drops the starts before the first that is running and young.
func (r *recent) trim() {
	for r.starts.len() > 0 && r.starts.at(0).ended {
		r.starts.pop()
		r.first++
	}
}

// next is the time until count falls if no item ends.
func (r *recent) next(now time.Time) time.Duration {
	if r.starts.len() == 0 {
		return 0
	}
	return r.starts.at(0).at.Add(r.pace).Sub(now)
}
