//go:build !unix

package app

import "math"

// descriptorLimit returns a number that limits nothing: the limit is unknown on this system.
func descriptorLimit() uint64 { return math.MaxInt32 }
