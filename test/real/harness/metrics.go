package harness

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Metrics holds the samples of one scrape by name or name{label="value",…}, as printed.
type Metrics map[string]float64

// Sum returns the sum of a metric's samples whose labels have the given pairs of values: Sum("x_total", "kind", "dlr").
func (m Metrics) Sum(name string, labels ...string) float64 {
	var sum float64
	for sample, v := range m {
		base, rest, _ := strings.Cut(sample, "{")
		if base == name && hasLabels(rest, labels) {
			sum += v
		}
	}
	return sum
}

// Samples returns the number of a metric's samples whose labels have the given pairs of values.
func (m Metrics) Samples(name string, labels ...string) int {
	n := 0
	for sample := range m {
		base, rest, _ := strings.Cut(sample, "{")
		if base == name && hasLabels(rest, labels) {
			n++
		}
	}
	return n
}

// Has reports whether a metric has any sample.
func (m Metrics) Has(name string) bool {
	for sample := range m {
		if base, _, _ := strings.Cut(sample, "{"); base == name {
			return true
		}
	}
	return false
}

// Ledger returns the two sides of the contract's balance. They are equal if nothing is buffered.
func (m Metrics) Ledger() (consumed, settled float64) {
	return m.Sum("smshooks_records_consumed_total"), m.Sum("smshooks_settled_total")
}

// hasLabels looks for each pair in `a="1",b="2"}`. The comma before it keeps `kind` from matching in `subkind`.
func hasLabels(printed string, pairs []string) bool {
	printed = "," + printed
	for i := 0; i+1 < len(pairs); i += 2 {
		if !strings.Contains(printed, ","+pairs[i]+"="+strconv.Quote(pairs[i+1])) {
			return false
		}
	}
	return true
}

// parseMetrics parses Prometheus's text format without timestamps.
func parseMetrics(r io.Reader) (Metrics, error) {
	m := Metrics{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		at := strings.LastIndexByte(line, ' ')
		if at < 0 {
			return nil, fmt.Errorf("metrics line without a value: %q", line)
		}
		v, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("metrics line %q: %w", line, err)
		}
		m[line[:at]] = v
	}
	return m, lines.Err()
}
