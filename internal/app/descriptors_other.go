//go:build !unix

package app

import "math"

// descriptorLimit is how many descriptors the process may open: not known here.
func descriptorLimit() uint64 { return math.MaxInt32 }
