// Package proc is the interface between the benchmark and its child processes: what they report, and what the kernel
// reports they cost.
package proc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/smshooks/smshooks/tools/bench/result"
)

// Note is a line of JSON that a child writes.
type Note struct {
	Event   string         `json:"event"` // listening, armed, first, done
	Addr    string         `json:"addr,omitempty"`
	First   time.Time      `json:"first,omitzero"` // the first request
	Last    time.Time      `json:"last,omitzero"`  // the last one
	Figures result.Figures `json:"figures,omitempty"`
}

// CPU is the user and system time of a process ("self" = this one), all threads together. The kernel counts it in
// ticks of 10 ms.
func CPU(pid string) (time.Duration, error) {
	data, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
	if err != nil {
		return 0, fmt.Errorf("CPU time: %w", err)
	}
	// The name in parentheses may hold spaces; utime and stime are the 14th and 15th field.
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("CPU time: /proc/%s/stat has %d fields", pid, len(fields))
	}
	user, errUser := strconv.ParseInt(fields[11], 10, 64)
	system, errSystem := strconv.ParseInt(fields[12], 10, 64)
	if err := errors.Join(errUser, errSystem); err != nil {
		return 0, fmt.Errorf("CPU time: %w", err)
	}
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every architecture Go runs on
	return time.Duration(user+system) * tick, nil
}

// Peak is the most memory a process ever had resident (VmHWM), in bytes.
func Peak(pid string) (float64, error) {
	data, err := os.ReadFile(filepath.Join("/proc", pid, "status"))
	if err != nil {
		return 0, fmt.Errorf("peak memory: %w", err)
	}
	_, rest, found := strings.Cut(string(data), "VmHWM:")
	var kib float64
	if _, err := fmt.Sscanf(rest, "%f kB", &kib); !found || err != nil {
		return 0, errors.New("peak memory: /proc has no VmHWM")
	}
	return kib * 1024, nil
}
