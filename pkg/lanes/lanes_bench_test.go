package lanes

import (
	"runtime"
	"sync"
	"testing"
	"time"
)

// TestSubmitDoesNotAllocate checks that an item of a known idle group runs without an allocation.
func TestSubmitDoesNotAllocate(t *testing.T) {
	ran := make(chan struct{})
	cfg := Config{Parallel: 3, MaxRunning: 100, HealthySlots: 10, MaxQueue: 64, MaxWait: time.Second}
	l := New[int](cfg, func(int) Report {
		ran <- struct{}{}
		return Report{Took: time.Microsecond, OK: true, Called: true}
	})
	defer l.Close()
	n := 0
	allocs := testing.AllocsPerRun(2000, func() {
		n++
		if !l.Submit(n%10, uint64(n)|1, n) {
			t.Fatal("refused")
		}
		<-ran
	})
	if allocs != 0 {
		t.Errorf("%v allocations per item", allocs)
	}
}

// TestIdleGroupSize measures the memory of an idle group that has queued and run items before.
func TestIdleGroupSize(t *testing.T) {
	const groups, most = 100_000, 180 // bytes
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	var open sync.WaitGroup
	l := New[int](Config{Parallel: 3, MaxRunning: 100, MaxQueue: 64, MaxWait: time.Second}, func(int) Report {
		open.Done()
		return Report{Took: time.Microsecond, OK: true, Called: true}
	})
	defer l.Close()
	before := heap()
	for n := range groups {
		open.Add(3)
		for range 3 {
			if !l.Submit(n, 1, n) {
				t.Fatal("refused")
			}
		}
		if n%100 == 0 {
			open.Wait()
		}
	}
	open.Wait()
	each := (heap() - before) / groups
	t.Logf("%d bytes for an idle group", each)
	if each > most {
		t.Errorf("%d bytes for an idle group, want at most %d", each, most)
	}
}
