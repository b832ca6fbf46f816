//go:build !linux

package proc

import (
	"errors"
	"time"
)

// CPU is not supported.
func CPU(int) (time.Duration, error) { return 0, errors.ErrUnsupported }
