// Package delay writes and reads durations the way topic names and settings
// spell them: `6h`, `1h30m`, `2s`, `500ms`.
package delay

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

const day = 24 * time.Hour

// Name returns d as a Go duration without its zero units: 6h rather than
// 6h0m0s. The zero duration is 0s. Parse reads every name back.
func Name(d time.Duration) string {
	text := d.String()
	// Only a duration of a minute or more has zero units to lose, and Go
	// writes them as whole numbers after an h or an m.
	if rest, ok := strings.CutSuffix(text, "m0s"); ok {
		text = rest + "m"
	}
	if rest, ok := strings.CutSuffix(text, "h0m"); ok {
		return rest + "h"
	}
	return strings.Replace(text, "h0m", "h", 1)
}

// Parse reads a Go duration, which may start with a whole number of days
// of 24 hours: 500ms, 1h30m, 30d, 1d12h.
func Parse(text string) (time.Duration, error) {
	number, rest, hasDays := strings.Cut(text, "d")
	if !hasDays {
		d, err := time.ParseDuration(text)
		if err != nil {
			return 0, fmt.Errorf("%q is no duration", text)
		}
		return d, nil
	}
	days, err := strconv.ParseUint(number, 10, 32)
	if err != nil || days > uint64(math.MaxInt64/day) {
		return 0, fmt.Errorf("%q is no duration", text)
	}
	d := time.Duration(days) * day
	if rest == "" {
		return d, nil
	}
	more, err := time.ParseDuration(rest)
	if err != nil || more < 0 || d > math.MaxInt64-more {
		return 0, fmt.Errorf("%q is no duration", text)
	}
	return d + more, nil
}
