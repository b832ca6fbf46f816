package lanes

// maxKept is the capacity of the largest buffer that an empty fifo keeps.
const maxKept = 64

// fifo is a growing ring buffer.
type fifo[E any] struct {
	buf  []E
	head int
	n    int
}

func (f *fifo[E]) len() int { return f.n }

func (f *fifo[E]) at(i int) *E { return &f.buf[(f.head+i)%len(f.buf)] }

func (f *fifo[E]) push(e E) {
	if f.n == len(f.buf) {
		grown := make([]E, max(4, 2*f.n))
		for i := range f.n {
			grown[i] = *f.at(i)
		}
		f.buf, f.head = grown, 0
	}
	f.n++
	*f.at(f.n - 1) = e
}

// removeAt removes and returns the i-th element; the others keep their order.
func (f *fifo[E]) removeAt(i int) E {
	e := *f.at(i)
	for ; i > 0; i-- {
		*f.at(i) = *f.at(i - 1)
	}
	var zero E
	*f.at(0) = zero
	f.head = (f.head + 1) % len(f.buf)
	f.n--
	if f.n == 0 && len(f.buf) > maxKept {
		f.buf, f.head = nil, 0
	}
	return e
}

func (f *fifo[E]) pop() E { return f.removeAt(0) }

func (f *fifo[E]) removeLast() E {
	e := *f.at(f.n - 1)
	var zero E
	*f.at(f.n - 1) = zero
	f.n--
	return e
}

// filter keeps the elements for which keep returns true, in their order.
func (f *fifo[E]) filter(keep func(*E) bool) {
	var kept fifo[E]
	for i := range f.n {
		if e := f.at(i); keep(e) {
			kept.push(*e)
		}
	}
	*f = kept
}
