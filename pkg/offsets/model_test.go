package offsets

import "testing"

// model is a naive tracker that stores every offset.
type model struct {
	base, next int64 // -1: unknown
	done       map[int64]bool
	gen        uint32
	open       map[int64]uint32 // outstanding offset → generation it belongs to
}

func newModel(committed int64, done map[int64]bool) *model {
	m := &model{base: committed, next: committed, done: map[int64]bool{}, open: map[int64]uint32{}}
	if committed >= 0 {
		for o := range done {
			m.done[o] = true
		}
	}
	return m
}

func (m *model) settle() {
	for m.done[m.base] {
		m.base++
	}
}

func (m *model) rewind(o int64) {
	if o >= m.next {
		m.forget(o)
		return
	}
	m.gen++
	for d := range m.done {
		if d >= o {
			delete(m.done, d)
		}
	}
	for d := range m.open {
		if d >= o {
			delete(m.open, d)
		}
	}
	m.base, m.next = min(m.base, o), o
}

func (m *model) track(o int64) (uint32, bool) {
	switch {
	case m.next < 0:
		m.base = o
	case o < m.next:
		m.rewind(o)
	default:
		for g := m.next; g < o; g++ {
			m.done[g] = true
		}
	}
	m.next = o + 1
	m.settle()
	if m.done[o] {
		return m.gen, false
	}
	m.open[o] = m.gen
	return m.gen, true
}

func (m *model) finish(gen uint32, o int64) {
	if g, ok := m.open[o]; ok && g == gen {
		delete(m.open, o)
		m.done[o] = true
		m.settle()
	}
}

func (m *model) forget(o int64) {
	if m.next < 0 {
		return
	}
	from := max(o, m.next)
	for d := range m.done {
		if d >= from {
			delete(m.done, d)
		}
	}
	m.base = min(m.base, from)
}

func (m *model) pass(from, to int64) {
	if m.base != from || len(m.open) > 0 || to <= m.next {
		return
	}
	if m.next < 0 {
		m.base = to
	}
	for o := max(m.next, m.base); o < to; o++ {
		m.done[o] = true
	}
	m.next = to
	m.settle()
}

// above returns the finished offsets above the base.
func (m *model) above() map[int64]bool {
	out := map[int64]bool{}
	for o := range m.done {
		if o > m.base {
			out[o] = true
		}
	}
	return out
}

func check(t *testing.T, step int, tr *Tracker, m *model) {
	t.Helper()
	if got := tr.Committable(); got != m.base {
		t.Fatalf("step %d: Committable() = %d, want %d", step, got, m.base)
	}
	if got := tr.Outstanding(); got != len(m.open) {
		t.Fatalf("step %d: Outstanding() = %d, want %d", step, got, len(m.open))
	}
	all := tr.runs.all()
	want := int64(0)
	for o := range m.done {
		if o > m.base {
			want++
		}
	}
	if got := tr.runs.total(); got != want {
		t.Fatalf("step %d: %d finished in runs, want %d", step, got, want)
	}
	for i, r := range all {
		if r.lo >= r.hi || r.lo <= tr.base || i > 0 && all[i-1].hi >= r.lo {
			t.Fatalf("step %d: run %d of %v is out of order, base %d", step, i, all, tr.base)
		}
		for o := r.lo; o < r.hi; o++ {
			if !m.done[o] {
				t.Fatalf("step %d: %d is in a run but not finished", step, o)
			}
		}
	}
}

// play runs a program of two bytes per step on the tracker and on the model.
func play(t *testing.T, program []byte) {
	tr, m := New(-1, ""), newModel(-1, nil)
	if len(program) > 0 && program[0]&1 == 1 {
		tr, m = New(40, ""), newModel(40, nil)
	}
	for step := 0; step+1 < len(program) && step < 600; step += 2 {
		op, arg := program[step]%16, int64(program[step+1])
		switch {
		case op < 7: // track the next offset, sometimes after a gap
			o := max(m.next, 40)
			if arg >= 224 {
				o += arg & 15
			}
			gen, fresh := tr.Track(o)
			if wantGen, want := m.track(o); gen != wantGen || fresh != want {
				t.Fatalf("step %d: Track(%d) = %d, %v; want %d, %v", step, o, gen, fresh, wantGen, want)
			}
		case op == 12 && arg >= 192: // the log was rewritten
			o := m.base + arg&31
			tr.Forget(o)
			m.forget(o)
		case op == 12 && arg >= 128: // a range that is never fetched
			to := max(m.base, 40) + arg&15
			tr.Pass(m.base, to)
			m.pass(m.base, to)
		case op < 13: // finish an offset near the base, sometimes of an old generation
			o := m.base + arg&31 - 1
			gen := m.gen
			if g, ok := m.open[o]; ok {
				gen = g
			}
			if arg >= 128 {
				gen -= uint32(arg >> 5 & 3)
			}
			tr.Finish(gen, o)
			m.finish(gen, o)
		case op == 13 && arg >= 192: // a rewind before the next offset is tracked
			o := max(m.next-arg&31, 0)
			tr.Rewind(o)
			m.rewind(o)
		case op == 13: // a rewind
			if m.next > 0 {
				o := max(m.next-arg&63, 0)
				gen, fresh := tr.Track(o)
				if wantGen, want := m.track(o); gen != wantGen || fresh != want {
					t.Fatalf("step %d: Track(%d) = %d, %v; want %d, %v", step, o, gen, fresh, wantGen, want)
				}
			}
		case op == 14: // a new owner
			next, state := tr.Snapshot(1 << 20)
			tr, m = New(next, state), newModel(m.base, m.above())
		default: // a new owner that lost the tail of the state
			next, state := tr.Snapshot(int(arg) & 31)
			known := map[int64]bool{}
			tr = New(next, state+";x")
			for _, r := range tr.runs.all() {
				for o := r.lo; o < r.hi; o++ {
					if !m.done[o] {
						t.Fatalf("step %d: state %q contains %d, which is not finished", step, state, o)
					}
					known[o] = true
				}
			}
			m = newModel(m.base, known)
		}
		check(t, step, tr, m)
	}
}

func FuzzModel(f *testing.F) {
	f.Add([]byte{1, 0, 1, 0, 1, 0, 8, 3, 8, 2, 14, 0, 1, 0, 8, 1, 1, 0})
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 3, 13, 2, 8, 1, 8, 2, 8, 131, 13, 40, 0, 230, 15, 9})
	f.Fuzz(play)
}

// TestModel plays random programs, so that a plain test run covers what a short fuzzing run would.
func TestModel(t *testing.T) {
	seed := uint64(1)
	for range 1000 {
		program := make([]byte, 400)
		for i := range program {
			seed = seed*6364136223846793005 + 1442695040888963407
			program[i] = byte(seed >> 56)
		}
		play(t, program)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(int64(100), "1:ZAEB")
	f.Add(int64(0), "1:AAEB;tail")
	f.Fuzz(func(t *testing.T, base int64, state string) {
		if base < 0 {
			return
		}
		list := parse(base, state)
		last := base
		for _, r := range list {
			if r.lo <= last || r.hi <= r.lo {
				t.Fatalf("parse(%d, %q) = %v", base, state, list)
			}
			last = r.hi
		}
		if again := parse(base, format(base, list, 1<<20)); len(again) != len(list) {
			t.Fatalf("%v was read back as %v", list, again)
		}
	})
}
