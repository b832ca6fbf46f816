package offsets

import (
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
)

// track tracks the offsets of one generation and fails if one is not fresh.
func track(t *testing.T, tr *Tracker, offsets ...int64) (gen uint32) {
	t.Helper()
	for _, o := range offsets {
		g, fresh := tr.Track(o)
		if !fresh {
			t.Fatalf("Track(%d) is not fresh", o)
		}
		gen = g
	}
	return gen
}

func finish(tr *Tracker, gen uint32, offsets ...int64) {
	for _, o := range offsets {
		tr.Finish(gen, o)
	}
}

func TestCommittable(t *testing.T) {
	tests := []struct {
		name        string
		committed   int64
		track       []int64
		finish      []int64
		want        int64
		outstanding int
	}{
		{"nothing known", -1, nil, nil, -1, 0},
		{"nothing tracked", 7, nil, nil, 7, 0},
		{"first one is the base", -1, []int64{5}, nil, 5, 1},
		{"finished", -1, []int64{5}, []int64{5}, 6, 0},
		{"a hole at the front", -1, []int64{5, 6, 7}, []int64{7, 6}, 5, 1},
		{"the hole closes", -1, []int64{5, 6, 7}, []int64{7, 6, 5}, 8, 0},
		{"a hole in the middle", -1, []int64{5, 6, 7, 8}, []int64{8, 5, 6}, 7, 1},
		{"twice is once", -1, []int64{5, 6, 7}, []int64{6, 6, 6}, 5, 2},
		{"offsets never tracked", 5, []int64{5, 6}, []int64{9, 4, 7, -3}, 5, 2},
		{"a gap before the first", 5, []int64{9}, nil, 9, 1},
		{"a gap between", 5, []int64{5, 9}, nil, 5, 2},
		{"a gap between, lower one finished", 5, []int64{5, 9}, []int64{5}, 9, 1},
		{"finishing inside a gap", 5, []int64{5, 9}, []int64{7}, 5, 2},
		{"gaps on both sides", 5, []int64{5, 9, 20}, []int64{5, 9}, 20, 1},
		{"from zero", 0, []int64{0, 1}, []int64{0}, 1, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tr := New(tt.committed, "")
			gen := track(t, tr, tt.track...)
			finish(tr, gen, tt.finish...)
			if got := tr.Committable(); got != tt.want {
				t.Errorf("Committable() = %d, want %d", got, tt.want)
			}
			if got := tr.Outstanding(); got != tt.outstanding {
				t.Errorf("Outstanding() = %d, want %d", got, tt.outstanding)
			}
		})
	}
}

func TestRewind(t *testing.T) {
	tests := []struct {
		name       string
		finish     []int64 // of 10 … 19, generation 0, before the rewind
		to         int64
		late       []int64 // generation 0, after the rewind
		again      []int64 // offsets tracked after the rewind, besides to
		finishNew  []int64
		want       int64
		wantActive int
	}{
		{"below the base", []int64{10, 11, 15}, 5, nil, nil, nil, 5, 1},
		{"old completions above are ignored", []int64{10, 11}, 5, []int64{12, 13, 5}, []int64{6}, nil, 5, 2},
		{"new ones count", nil, 5, nil, []int64{6}, []int64{5, 6}, 7, 0},
		{"to the base", []int64{10, 12}, 11, []int64{11}, nil, nil, 11, 1},
		{"above the base, lower ones stay", []int64{10, 12, 17}, 14, nil, nil, nil, 11, 3},
		{"above the base, lower ones finish late", []int64{10, 12, 17}, 14, []int64{11, 13}, nil, nil, 14, 1},
		{"above the base, the target is the new one's", []int64{10}, 14, []int64{11, 12, 13, 14}, nil, nil, 14, 1},
		{"the same offset again", []int64{10, 11, 12, 13, 14, 15, 16, 17, 18}, 19, []int64{19}, nil, nil, 19, 1},
		{"the same offset again, finished before", []int64{10, 11, 12, 13, 14, 15, 16, 17, 18, 19}, 19, nil, nil, nil, 19, 1},
		{"inside a finished run", []int64{12, 13, 14, 15}, 14, nil, nil, []int64{14}, 10, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tr := New(10, "")
			old := track(t, tr, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19)
			finish(tr, old, tt.finish...)
			gen := track(t, tr, append([]int64{tt.to}, tt.again...)...)
			if gen == old {
				t.Fatal("the generation did not change")
			}
			finish(tr, old, tt.late...)
			finish(tr, gen, tt.finishNew...)
			if got := tr.Committable(); got != tt.want {
				t.Errorf("Committable() = %d, want %d", got, tt.want)
			}
			if got := tr.Outstanding(); got != tt.wantActive {
				t.Errorf("Outstanding() = %d, want %d", got, tt.wantActive)
			}
		})
	}
}

func TestConsecutiveRewinds(t *testing.T) {
	tr := New(0, "")
	g0 := track(t, tr, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
	g1 := track(t, tr, 8, 9)
	g2 := track(t, tr, 5, 6, 7)
	g3 := track(t, tr, 7)
	finish(tr, g0, 5, 6, 7, 8, 9) // forgotten by the second rewind
	finish(tr, g1, 8, 9)
	finish(tr, g2, 7) // forgotten by the third
	if got := tr.Outstanding(); got != 8 {
		t.Fatalf("Outstanding() = %d, want 8", got)
	}
	finish(tr, g0, 4, 3, 2, 1, 0)
	if got := tr.Committable(); got != 5 {
		t.Fatalf("Committable() = %d, want 5", got)
	}
	finish(tr, g0, 5) // its last valid offset is below the base
	finish(tr, g2, 6, 5)
	finish(tr, g3, 7)
	if got := tr.Committable(); got != 8 {
		t.Errorf("Committable() = %d, want 8", got)
	}
	if len(tr.cuts) != 0 {
		t.Errorf("%d cuts are kept, want none", len(tr.cuts))
	}
}

func TestStateRestores(t *testing.T) {
	previous := New(100, "")
	gen := track(t, previous, 100, 101, 102, 103, 104, 105, 110, 111)
	finish(previous, gen, 102, 103, 105, 111)
	next, state := previous.Snapshot(4096)
	if next != 100 || !strings.HasPrefix(state, "1:") {
		t.Fatalf("Snapshot() = %d, %q", next, state)
	}
	if _, got := previous.Snapshot(4096); got != state {
		t.Errorf("state = %q, want %q", got, state)
	}
	want := map[int64]bool{100: true, 101: true, 102: false, 103: false, 104: true, 105: false, 110: true, 111: false, 112: true}
	for _, tail := range []string{"", ";more"} {
		tr := New(next, state+tail)
		for _, o := range []int64{100, 101, 102, 103, 104, 105, 110, 111, 112} {
			if _, fresh := tr.Track(o); fresh != want[o] {
				t.Errorf("tail %q: Track(%d) fresh = %v, want %v", tail, o, fresh, want[o])
			}
		}
		if got := tr.Outstanding(); got != 5 {
			t.Errorf("Outstanding() = %d, want 5", got)
		}
		finish(tr, 0, 100, 101)
		if got := tr.Committable(); got != 104 {
			t.Errorf("Committable() = %d, want 104", got)
		}
	}
}

func TestRestoredBaseIsAheadOfTrack(t *testing.T) {
	previous := New(100, "")
	finish(previous, track(t, previous, 100, 101, 102), 101, 102)
	tr := New(previous.Snapshot(100))
	finish(tr, track(t, tr, 100), 100)
	// 101 and 102 are not fetched yet, but they are finished.
	if got := tr.Committable(); got != 103 {
		t.Fatalf("Committable() = %d, want 103", got)
	}
	if gen, fresh := tr.Track(101); gen != 0 || fresh {
		t.Errorf("Track(101) = %d, %v; want no rewind, not fresh", gen, fresh)
	}
	if gen, fresh := tr.Track(103); gen != 0 || !fresh {
		t.Errorf("Track(103) = %d, %v; want no rewind, fresh", gen, fresh)
	}
	if got := tr.Committable(); got != 103 {
		t.Errorf("Committable() = %d, want 103", got)
	}
}

func TestGapMergesRestoredRuns(t *testing.T) {
	previous := New(100, "")
	gen := track(t, previous, 100, 101, 102, 103, 104, 105, 106)
	finish(previous, gen, 102, 104, 106)
	tr := New(previous.Snapshot(100))
	track(t, tr, 100)
	track(t, tr, 105) // 101 … 104 are gone; 102 and 104 were finished anyway
	if got := tr.runs.all(); len(got) != 2 || got[0] != (run{101, 105}) || got[1] != (run{106, 107}) {
		t.Fatalf("runs = %v", got)
	}
	finish(tr, 0, 100)
	if got := tr.Committable(); got != 105 {
		t.Errorf("Committable() = %d, want 105", got)
	}
}

func TestInvalidStateIsIgnored(t *testing.T) {
	previous := New(100, "")
	finish(previous, track(t, previous, 100, 101), 101)
	_, good := previous.Snapshot(100)
	if New(100, good).runs.total() != 1 {
		t.Fatal("a valid state was rejected")
	}
	tests := []struct {
		name      string
		committed int64
		state     string
	}{
		{"another base", 101, good},
		{"unknown base", -1, good},
		{"empty", 100, ""},
		{"no version", 100, good[2:]},
		{"another version", 100, "2" + good[1:]},
		{"cut short", 100, good[:len(good)-1]},
		{"one byte more", 100, good + "A"},
		{"a line break", 100, good[:3] + "\n" + good[3:]},
		{"not base64", 100, "1:=?="},
		{"only a version", 100, "1:"},
		{"a run of length 0", 100, "1:" + encoding.EncodeToString([]byte{100, 1, 0})},
		{"a run that touches", 100, "1:" + encoding.EncodeToString([]byte{100, 0, 1})},
		{"half a run", 100, "1:" + encoding.EncodeToString([]byte{100, 1})},
		{"beyond int64", 100, "1:" + encoding.EncodeToString([]byte{100, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})},
		{"other text", 100, "consumer-1@host"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := New(tt.committed, tt.state).runs.all(); len(got) != 0 {
				t.Errorf("runs = %v, want none", got)
			}
		})
	}
}

func TestStateIsTruncated(t *testing.T) {
	tr := New(0, "")
	for o := range int64(5000) {
		tr.Track(o)
		if o%2 == 1 {
			tr.Finish(0, o)
		}
	}
	for _, limit := range []int{-1, 0, 1, 2, 3, 5, 6, 7, 100, 4096, 1 << 20} {
		_, state := tr.Snapshot(limit)
		if len(state) > max(limit, 0) {
			t.Errorf("state of %d bytes has %d bytes", limit, len(state))
		}
		got := New(0, state).runs.all()
		if state == "" && limit > 6 {
			t.Errorf("state of %d bytes is empty", limit)
		}
		for i, r := range got {
			if want := int64(2*i + 1); r != (run{want, want + 1}) {
				t.Fatalf("state of %d bytes: run %d is %v", limit, i, r)
			}
		}
		if limit == 1<<20 && len(got) != 2500 {
			t.Errorf("the whole state holds %d runs, want 2500", len(got))
		}
	}
}

func TestBoundedMemory(t *testing.T) {
	tr := New(0, "")
	track(t, tr, 0) // a record that hangs
	for o := int64(1); o < 200_000; o++ {
		tr.Track(o)
		tr.Finish(0, o)
	}
	if c := cap(tr.runs.list); c > 8 {
		t.Errorf("capacity for %d runs with one outstanding offset", c)
	}
	tr.Finish(0, 0)
	if got := tr.Committable(); got != 200_000 {
		t.Errorf("Committable() = %d", got)
	}
}

func TestNoAllocation(t *testing.T) {
	for _, window := range []int64{1, 1000} {
		tr := New(0, "")
		next := int64(0)
		for ; next < 4*window; next++ {
			tr.Track(next)
			if next >= window {
				tr.Finish(0, next-window^1)
			}
		}
		allocs := testing.AllocsPerRun(1000, func() {
			tr.Track(next)
			tr.Finish(0, next-window^1)
			next++
		})
		if allocs != 0 {
			t.Errorf("window %d: %v allocations", window, allocs)
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	const n, workers = 10_000, 4
	tr := New(0, "")
	work := make(chan int64, 100)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for o := range work {
				tr.Finish(0, o)
				if o%100 == 0 {
					tr.Snapshot(1000)
					tr.Outstanding()
				}
			}
		})
	}
	for o := range int64(n) {
		tr.Track(o)
		work <- o
	}
	close(work)
	wg.Wait()
	if got := tr.Committable(); got != n {
		t.Errorf("Committable() = %d, want %d", got, n)
	}
}

func BenchmarkOutstanding(b *testing.B) {
	for name, window := range map[string]int{"1": 1, "20k": 20_000} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			tr := New(0, "")
			open := make([]int64, window)
			for i := range open {
				open[i] = int64(i)
				tr.Track(int64(i))
			}
			r := rand.New(rand.NewPCG(1, 2))
			next := int64(window)
			for b.Loop() {
				i := r.IntN(window)
				tr.Finish(0, open[i])
				tr.Track(next)
				open[i] = next
				next++
			}
		})
	}
}

func BenchmarkSnapshot20k(b *testing.B) {
	tr := New(0, "")
	for o := range int64(20_000) {
		tr.Track(o)
		if o%3 == 2 {
			tr.Finish(0, o)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		tr.Snapshot(4000)
	}
}

func TestFinished(t *testing.T) {
	tr := New(10, "")
	gen, _ := tr.Track(10)
	tr.Track(11)
	tr.Track(12)
	tr.Finish(gen, 11)
	for offset, want := range map[int64]bool{9: true, 10: false, 11: true, 12: false, 13: false} {
		if got := tr.Finished(offset); got != want {
			t.Errorf("Finished(%d) = %v, want %v", offset, got, want)
		}
	}
}

// TestOmitted checks that the number of omitted offsets is reported for a truncated state.
func TestOmitted(t *testing.T) {
	tr := New(0, "")
	var gen uint32
	for o := range int64(1000) {
		gen, _ = tr.Track(o)
	}
	for o := int64(1); o < 1000; o += 2 {
		tr.Finish(gen, o)
	}
	next, whole := tr.Snapshot(4096)
	if n := tr.Omitted(next, whole); n != 0 {
		t.Errorf("%d omitted from a complete state, want 0", n)
	}
	_, short := tr.Snapshot(len(whole) / 2)
	n := tr.Omitted(next, short)
	again := New(next, short)
	lost := int64(0)
	for o := int64(1); o < 1000; o += 2 {
		if !again.Finished(o) {
			lost++
		}
	}
	if n == 0 || n != lost {
		t.Errorf("%d omitted, want %d", n, lost)
	}
	if n := tr.Omitted(next, ""); n != 500 {
		t.Errorf("%d omitted from an empty state, want 500", n)
	}
}
