package lanes

import "time"

// maxIdle is the number of idle workers that are kept for the next items.
const maxIdle = 256

// job is a running item.
type job[G comparable, T any] struct {
	g       *group[G, T]
	e       entry[T]
	slot    slot
	class   slotClass
	number  uint64        // sequence number of the start, for recent
	pacedBy time.Duration // of classPaced: by how much it delayed the next one
}

func (l *Lanes[G, T]) launch(j job[G, T]) {
	if n := len(l.idle); n > 0 {
		l.idle[n-1] <- j // never blocks: the channel of an idle worker is empty and holds one
		l.idle = l.idle[:n-1]
		return
	}
	go l.work(j)
}

// work runs j and then the items that follow, until there is none and enough other workers are idle.
func (l *Lanes[G, T]) work(j job[G, T]) {
	var mine chan job[G, T]
	for {
		report := l.run(j.e.item)
		var more bool
		if j, more = l.finished(j, report); more {
			continue
		}
		l.mu.Lock()
		if l.closed || len(l.idle) >= maxIdle {
			l.mu.Unlock()
			return
		}
		if mine == nil {
			mine = make(chan job[G, T], 1)
		}
		l.idle = append(l.idle, mine)
		l.mu.Unlock()
		if j, more = <-mine; !more {
			return
		}
	}
}

// finished frees j's slot and returns the worker's next item, if one may start.
func (l *Lanes[G, T]) finished(j job[G, T], r Report) (job[G, T], bool) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.release(j, now)
	if r.Called {
		l.learn(j.g, r)
	}
	l.markReady(j.g)
	mine, ok := l.next(now)
	if ok {
		l.fill(now)
	}
	return mine, ok
}
