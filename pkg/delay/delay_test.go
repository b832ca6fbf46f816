package delay_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/smshooks/smshooks/pkg/delay"
)

func ExampleName() {
	fmt.Println(delay.Name(6 * time.Hour))
	fmt.Println(delay.Name(90 * time.Minute))
	fmt.Println(delay.Name(2 * time.Second))
	fmt.Println(delay.Name(500 * time.Millisecond))
	// Output:
	// 6h
	// 1h30m
	// 2s
	// 500ms
}

func ExampleParse() {
	month, err := delay.Parse("30d")
	fmt.Println(month, err)
	// Output: 720h0m0s <nil>
}

func ExampleParse_invalid() {
	_, err := delay.Parse("6 hours")
	fmt.Println(err)
	// Output: "6 hours" is not a duration (try 10s, 1h30m, 30d)
}

func TestName(t *testing.T) {
	for want, d := range map[string]time.Duration{
		"0s":     0,
		"1ms":    time.Millisecond,
		"1.5s":   1500 * time.Millisecond,
		"10s":    10 * time.Second,
		"10m":    10 * time.Minute,
		"1m30s":  90 * time.Second,
		"1m0.5s": time.Minute + 500*time.Millisecond,
		"20m10s": 20*time.Minute + 10*time.Second,
		"10h":    10 * time.Hour,
		"10h10m": 10*time.Hour + 10*time.Minute,
		"1h5s":   time.Hour + 5*time.Second,
		"1h1m1s": time.Hour + time.Minute + time.Second,
		"720h":   720 * time.Hour,
		"-6h":    -6 * time.Hour,
	} {
		if got := delay.Name(d); got != want {
			t.Errorf("Name(%v) = %q, want %q", d, got, want)
		}
		if back, err := delay.Parse(want); err != nil || back != d {
			t.Errorf("Parse(%q) = %v, %v, want %v", want, back, err, d)
		}
	}
}

func TestParse(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"30d":     720 * time.Hour,
		"1d12h":   36 * time.Hour,
		"0d":      0,
		"6h0m0s":  6 * time.Hour,
		"106751d": 106751 * 24 * time.Hour,
	} {
		if got, err := delay.Parse(text); err != nil || got != want {
			t.Errorf("Parse(%q) = %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "6", "abc", "d", "1.5d", "-1d", "1d-1h", "1dx", "1d1d", "106752d", "106751d24h", "99999999999d"} {
		if got, err := delay.Parse(text); err == nil {
			t.Errorf("Parse(%q) = %v, want an error", text, got)
		}
	}
}

func FuzzName(f *testing.F) {
	for _, seed := range []int64{0, 1, 1e6, 6e9, 36e11, 216e11, -36e11} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, ns int64) {
		name := delay.Name(time.Duration(ns))
		if back, err := delay.Parse(name); err != nil || int64(back) != ns {
			t.Errorf("Parse(Name(%d)) = Parse(%q) = %d, %v", ns, name, int64(back), err)
		}
	})
}
