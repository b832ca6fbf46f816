package api

import (
	"strconv"
	"testing"
	"time"
)

func TestLimiter(t *testing.T) {
	now := time.Now()
	l := newLimiter(5)
	for i := range 5 {
		if ok, _ := l.take("a", now); !ok {
			t.Fatalf("request %d is refused", i)
		}
	}
	if ok, wait := l.take("a", now); ok || wait != 200*time.Millisecond {
		t.Errorf("the sixth: %v, wait %v", ok, wait)
	}
	if ok, _ := l.take("b", now); !ok {
		t.Error("another key is refused")
	}
	now = now.Add(200 * time.Millisecond)
	if ok, _ := l.take("a", now); !ok {
		t.Error("refused after the wait")
	}
	if ok, _ := l.take("a", now.Add(-time.Hour)); ok {
		t.Error("a clock that goes back gives tokens")
	}
}

func TestNoLimit(t *testing.T) {
	l := newLimiter(0)
	for range 1000 {
		if ok, _ := l.take("a", time.Time{}); !ok {
			t.Fatal("refused")
		}
	}
}

func TestLimiterForgets(t *testing.T) {
	now := time.Now()
	l := newLimiter(1)
	for i := range 3 * maxBuckets {
		l.take(strconv.Itoa(i), now)
		if len(l.buckets) > maxBuckets {
			t.Fatalf("%d buckets", len(l.buckets))
		}
	}
	for i := range 5000 {
		now = now.Add(time.Second)
		l.take("x"+strconv.Itoa(i), now)
	}
	l.take("last", now.Add(time.Second))
	if len(l.buckets) > 2*1024 && len(l.buckets) > maxBuckets/2 {
		t.Errorf("%d idle buckets are kept", len(l.buckets))
	}
}
