package lanes

// maxSpare is the number of unused buffers of each kind that are kept.
const maxSpare = 1024

// spare keeps the buffers of idle groups for groups that become busy. At any time most groups are idle, and there may
// be very many.
type spare[T any] struct {
	queues [][]entry[T]
	slots  [][]slot
}

// lendQueue gives an empty queue a buffer if there is one.
func (s *spare[T]) lendQueue(q *fifo[entry[T]]) {
	if n := len(s.queues); n > 0 && q.buf == nil {
		q.buf, s.queues = s.queues[n-1], s.queues[:n-1]
	}
}

// returnQueue takes the buffer of an empty queue.
func (s *spare[T]) returnQueue(q *fifo[entry[T]]) {
	if q.buf != nil && len(q.buf) <= maxKept && len(s.queues) < maxSpare {
		s.queues = append(s.queues, q.buf)
	}
	*q = fifo[entry[T]]{}
}

func (s *spare[T]) lendSlots(slots *[]slot) {
	if n := len(s.slots); n > 0 && *slots == nil {
		*slots, s.slots = s.slots[n-1], s.slots[:n-1]
	}
}

// returnSlots takes the slots of a group without a running item.
func (s *spare[T]) returnSlots(slots *[]slot) {
	if len(*slots) > 0 {
		return
	}
	if len(s.slots) < maxSpare {
		s.slots = append(s.slots, *slots)
	}
	*slots = nil
}
