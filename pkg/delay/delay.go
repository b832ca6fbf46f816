// Package delay formats and parses durations as topic names and settings spell them: 6h, 1h30m, 2s, 500ms.
package delay

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

const day = 24 * time.Hour

// Name formats d as a Go duration without zero units: 6h rather than 6h0m0s. The zero duration is 0s. [Parse] reads
// every name back.
func Name(d time.Duration) string {
	text := d.String()
	// Only durations of a minute or more contain zero units, and always after an h or an m.
	if rest, ok := strings.CutSuffix(text, "m0s"); ok {
		text = rest + "m"
	}
	if rest, ok := strings.CutSuffix(text, "h0m"); ok {
		return rest + "h"
	}
	return strings.Replace(text, "h0m", "h", 1)
}

// Parse reads a Go duration. It may begin with a whole number of days of 24 hours: 500ms, 1h30m, 30d, 1d12h.
func Parse(text string) (time.Duration, error) {
	number, rest, hasDays := strings.Cut(text, "d")
	if !hasDays {
		d, err := time.ParseDuration(text)
		if err != nil {
			return 0, notADuration(text)
		}
		return d, nil
	}
	days, err := strconv.ParseUint(number, 10, 32)
	if err != nil || days > uint64(math.MaxInt64/day) {
		return 0, notADuration(text)
	}
	d := time.Duration(days) * day
	if rest == "" {
		return d, nil
	}
	more, err := time.ParseDuration(rest)
	if err != nil || more < 0 || d > math.MaxInt64-more {
		return 0, notADuration(text)
	}
	return d + more, nil
}

func notADuration(text string) error {
	return fmt.Errorf("%q is not a duration (try 10s, 1h30m, 30d)", text)
}
