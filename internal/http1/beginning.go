package http1

// MaxBeginning is how many bytes of a body a [Beginning] holds.
const MaxBeginning = 1 << 10

// Beginning is the beginning of a reply's body. It can be reused. A nil one keeps nothing.
type Beginning struct {
	data [MaxBeginning]byte
	n    int
	cut  bool
}

// Bytes returns the bytes until the next request; cut reports whether more of the body were received.
func (b *Beginning) Bytes() (data []byte, cut bool) { return b.data[:b.n], b.cut }

func (b *Beginning) reset() {
	if b != nil {
		b.n, b.cut = 0, false
	}
}

func (b *Beginning) add(p []byte) {
	if b != nil {
		n := copy(b.data[b.n:], p)
		b.n, b.cut = b.n+n, b.cut || n < len(p)
	}
}
