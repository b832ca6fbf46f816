package lanes

import "time"

const (
	lagStretch     = 10 // the burst window grows by this many times the lag
	maxBurstWindow = 100 * time.Millisecond
)

// recent counts the running items that started within the last window.
type recent struct {
	window time.Duration
	starts fifo[start] // in their order; the first one is running and recent
	first  uint64      // sequence number of starts' first element
	live   int         // elements of starts that have not ended
}

// start is the start of one item.
type start struct {
	at    time.Time
	ended bool // or older than the window
}

// started records a start and returns its sequence number.
func (r *recent) started(now time.Time) uint64 {
	r.starts.push(start{at: now})
	r.live++
	return r.first + uint64(r.starts.len()) - 1
}

// ended records that the item with this sequence number has ended.
func (r *recent) ended(number uint64) {
	if number < r.first {
		return
	}
	s := r.starts.at(int(number - r.first))
	s.ended = true
	r.live--
	r.trim()
}

// count returns the number of running items that started within the last window.
func (r *recent) count(now time.Time) int {
	for r.starts.len() > 0 && now.Sub(r.starts.at(0).at) >= r.window {
		r.starts.at(0).ended = true
		r.live--
		r.trim()
	}
	return r.live
}

// trim drops the starts before the first one that is running and recent.
func (r *recent) trim() {
	for r.starts.len() > 0 && r.starts.at(0).ended {
		r.starts.pop()
		r.first++
	}
}

// next returns the time until count falls if no item ends.
func (r *recent) next(now time.Time) time.Duration {
	if r.starts.len() == 0 {
		return 0
	}
	return r.starts.at(0).at.Add(r.window).Sub(now)
}

// scheduleBurst sets a timer for the items that Burst holds back, in case no running item ends before. The timer's own
// delay measures how far the machine lags behind.
func (l *Lanes[G, T]) scheduleBurst(now time.Time) {
	if l.burstTimer != nil || l.readyGroups() == 0 {
		return
	}
	wait := l.recent.next(now)
	l.burstTimer = time.AfterFunc(wait, func() {
		woken := time.Now()
		l.mu.Lock()
		defer l.mu.Unlock()
		l.adaptBurst(woken.Sub(now) - wait)
		l.burstTimer = nil
		l.fill(woken)
	})
}

// readyGroups returns the number of ready groups, stale entries included.
func (l *Lanes[G, T]) readyGroups() (n int) {
	for i := range l.ready {
		n += l.ready[i].len()
	}
	return n
}

// adaptBurst stretches the burst window in proportion to how late timers fire.
func (l *Lanes[G, T]) adaptBurst(late time.Duration) {
	l.lag += (late - l.lag) / 8
	l.recent.window = min(l.cfg.BurstWindow+lagStretch*l.lag, maxBurstWindow)
}
