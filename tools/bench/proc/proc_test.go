package proc

import (
	"os"
	"runtime"
	"testing"
	"time"
)

func TestSelf(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("reads /proc")
	}
	self := os.Getpid()
	before, err := CPU(self)
	if err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); ; {
		after, err := CPU(self)
		if err != nil {
			t.Fatal(err)
		}
		if after-before >= 50*time.Millisecond {
			break
		}
		if time.Since(began) > 30*time.Second {
			t.Fatalf("half a minute of work cost %v", after-before)
		}
	}
	peak, err := Peak(self)
	if err != nil || peak < 1<<20 || peak > 1<<40 {
		t.Errorf("peak memory %v, %v", peak, err)
	}
	if _, err := CPU(1 << 23); err == nil {
		t.Error("no error for a process that does not exist")
	}
}
