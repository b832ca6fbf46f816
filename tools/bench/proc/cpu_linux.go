package proc

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// CPU returns the user and system time of all threads of a process, to the nanosecond.
func CPU(pid int) (time.Duration, error) {
	const wholeProcess = 2 // the low bits of a CPU clock's id: precise time, not of one thread
	var used unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|wholeProcess), &used); err != nil {
		return 0, fmt.Errorf("CPU time of process %d: %w", pid, err)
	}
	return time.Duration(used.Nano()), nil
}
