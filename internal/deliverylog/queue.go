package deliverylog

import (
	"sync"

	"github.com/smshooks/smshooks/internal/event"
)

const (
	room   = 16384 // attempts that are queued for Redis, and notes
	chunk  = 256   // rows that are allocated together
	spares = 16    // empty chunks that are kept
)

// queue holds the rows that are not written yet. It takes memory only for those. Channels with as much room would take
// 10 MB, which each garbage collection would scan, and would wake the writer for each row.
type queue struct {
	wake chan struct{} // receives when there is a first row, and when there are batchMax

	mu              sync.Mutex
	attempts, notes rows
	spare           [][]event.LogEntry
}

func newQueue() *queue { return &queue{wake: make(chan struct{}, 1)} }

// rows is a list of rows in chunks, of which only the last has room.
type rows struct {
	chunks [][]event.LogEntry
	n      int
}

// push appends a row to a list of q. It returns false if the list is full.
func (q *queue) push(to *rows, a event.LogEntry) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if to.n == room {
		return false
	}
	last := len(to.chunks) - 1
	if last < 0 || len(to.chunks[last]) == chunk {
		to.chunks = append(to.chunks, q.empty())
		last++
	}
	to.chunks[last] = append(to.chunks[last], a)
	to.n++
	if n := q.attempts.n + q.notes.n; n == 1 || n == batchMax {
		select {
		case q.wake <- struct{}{}:
		default:
		}
	}
	return true
}

// empty returns a chunk without rows.
func (q *queue) empty() []event.LogEntry {
	last := len(q.spare) - 1
	if last < 0 {
		return make([]event.LogEntry, 0, chunk)
	}
	c := q.spare[last]
	q.spare = q.spare[:last]
	return c
}

// pop removes and returns the first chunk of a list of q, nil if there is none. The caller passes it to recycle.
func (q *queue) pop(from *rows) (c []event.LogEntry) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(from.chunks) == 0 {
		return nil
	}
	c = from.chunks[0]
	from.chunks[0] = nil
	from.chunks = from.chunks[1:]
	from.n -= len(c)
	return c
}

// recycle keeps a chunk for later rows.
func (q *queue) recycle(c []event.LogEntry) {
	clear(c)
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.spare) < spares {
		q.spare = append(q.spare, c[:0])
	}
}

// len returns the number of rows.
func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.attempts.n + q.notes.n
}
