// Package proc is the interface between the benchmark and its child processes: their notes, and their cost according to
// the kernel.
package proc

import (
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
	Event   string                    `json:"event"` // listening, armed, first, done, counted
	Addr    string                    `json:"addr,omitempty"`
	First   time.Time                 `json:"first,omitzero"` // the first request
	Last    time.Time                 `json:"last,omitzero"`  // the last one
	Count   int64                     `json:"count,omitempty"`
	Figures result.Figures            `json:"figures,omitempty"`
	Cases   map[string]result.Figures `json:"cases,omitempty"` // by class of host
}

// Peak returns the peak of a process's resident memory (VmHWM), in bytes.
func Peak(pid int) (float64, error) {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
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
