package lanes

import (
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
