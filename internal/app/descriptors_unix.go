//go:build unix

package app

import (
	"math"
	"syscall"
)

// descriptorLimit is how many descriptors the process may open. The runtime has raised the limit as far as it may be.
func descriptorLimit() uint64 {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
		return math.MaxInt32
	}
	return uint64(limit.Cur) //nolint:unconvert // it is signed on some systems
}
