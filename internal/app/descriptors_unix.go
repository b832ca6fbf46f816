//go:build unix

package app

import (
	"math"
	"syscall"
)

// descriptorLimit returns how many descriptors the process may open. The Go runtime has raised the soft limit already.
func descriptorLimit() uint64 {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
		return math.MaxInt32
	}
	return uint64(limit.Cur) //nolint:unconvert // it is signed on some systems
}
